"""How the command line's options name data, and what of them a folder of results keeps for new data."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from desc_ext.data import Dataset, Preparation

__all__ = [
    "ArrayOption",
    "ColumnsOption",
    "DataArgument",
    "DataDirOption",
    "DownloadOption",
    "DropOption",
    "HeaderOption",
    "IdOption",
    "ImageSizeOption",
    "LabelsOption",
    "TextOption",
    "image_size",
    "load_preparation",
    "naming_data",
    "new_data",
    "reading_options",
    "result_folder",
    "save_preparation",
    "shard_bounds",
]

DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A known name (see `desc-ext datasets`), or a file or folder: a table (.csv, .tsv, .txt, .parquet, .arrow), an "
        "array (.npy, .npz, .mat, .h5ad), texts (.jsonl, .txt with a text a line, a table with a column `text`, "
        "a folder), a folder of images or of .npy shards.",
    ),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Where the known classes are: a column, an array of the .npz or .mat, or a .npy file. For evaluation only: the "
        "clustering never sees them.",
    ),
]
ColumnsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAMES",
        help="The columns that are features: names, numbers or ranges 2-5, with commas between them.",
    ),
]
DropOption = Annotated[
    list[str] | None, typer.Option(metavar="NAMES", help="Columns to leave out, named as for --columns.")
]
IdOption = Annotated[
    str | None,
    typer.Option("--id", metavar="COLUMN", help="The column that names the rows; it is kept in labels.csv."),
]
ArrayOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The array of the rows in a .npz, .mat or .h5ad file (obsm/X_pca for one)."
    ),
]
TextOption = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="The column or key that holds texts, where it is not `text`."),
]
ImageSizeOption = Annotated[
    str | None,
    typer.Option(
        "--image-size",
        metavar="HxW",
        help="Bring the images of a folder to this height and width, such as 32x32.",
    ),
]
HeaderOption = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="Whether the first row of a text file holds names; found out where left open.",
    ),
]
DataDirOption = Annotated[
    Path | None, typer.Option(help="The folder with the idx files of known data sets, searched first.")
]
DownloadOption = Annotated[
    bool, typer.Option("--download", help="Fetch a known data set from OpenML if need be.")
]


def shard_bounds(text: str, n: int) -> tuple[int, int]:
    """First row of the shard I of N parts of ``n`` rows, of the words I/N, and the first row behind it.

    The parts follow each other, and their lengths differ by one row at most.

    Raises:
        ValueError: other words, a part that is not there, or more parts than rows.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"--shard must be I/N, the part I (from 1) of N parts, such as 2/8; got {text}")
    number, parts = int(found[1]), int(found[2])
    if parts > n:
        raise ValueError(f"--shard {text}: there are only {n} rows, which make no {parts} parts")
    return (number - 1) * n // parts, number * n // parts


def image_size(text: str | None) -> tuple[int, int] | None:
    """(height, width) of the words 32x32 or 32.

    Raises:
        ValueError: other words.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})(?:[xX×,]([1-9]\d{0,4}))?", text.strip())
    if found is None:
        raise ValueError(f"--image-size must be HEIGHTxWIDTH, such as 32x32; got {text}")
    return int(found[1]), int(found[2] or found[1])


def reading_options(**asked: Any) -> dict[str, Any]:
    """What was asked of how data are read: arguments of ``load_dataset``, those alone that were given."""
    return {name: value for name, value in asked.items() if value not in (None, [])}


@contextlib.contextmanager
def naming_data(source: str) -> Iterator[None]:
    """Puts the file that was read before an error of an estimator that speaks of its rows, which are called X there."""
    try:
        yield
    except ValueError as error:
        found = re.match(r"(Input )?X (?=contains|is|has)", str(error))
        if found is None:
            raise
        raise ValueError(f"{source} {str(error)[found.end() :]}") from error


# What a folder of results keeps

_FOLDER = "input"


def save_preparation(folder: Path, preparation: Preparation | None) -> None:
    """Writes to ``folder/input`` what turned the data into rows, so that new data become rows in the same way."""
    from desc_ext.data import Preparation
    from desc_ext.engine.state_folder import write_state_folder

    config, tensors = (preparation or Preparation()).state()
    write_state_folder(folder / _FOLDER, "input", config, tensors)


def load_preparation(folder: Path) -> Preparation:
    """What :func:`save_preparation` wrote; nothing particular where an older version wrote the results.

    Raises:
        ValueError: it is damaged; the message names the file.
    """
    from desc_ext.data import Preparation
    from desc_ext.engine.state_folder import read_state_folder

    kept = Path(folder) / _FOLDER
    if not kept.exists():
        return Preparation()
    config, tensors = read_state_folder(kept, "input")
    try:
        return Preparation.from_state(config, tensors)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{kept / 'config.json'} is damaged: {error}") from error


def result_folder(folder: Path) -> Path:
    """``result`` where ``result/model``, the saved model of a folder of results, is named; else ``folder`` itself.

    The results say how new data become rows, which the model alone does not.
    """
    parent = folder.absolute().parent
    inside = folder.absolute().name == "model" and (parent / _FOLDER).is_dir()
    return parent if inside and (parent / "config.json").is_file() else folder


def new_data(folder: Path, source: str, evaluate: bool, **asked: Any) -> Dataset:
    """Data for the model in ``folder``, read as those that it was fitted to.

    Args:
        evaluate: whether known classes are wanted: then the column that the fit named counts again.
        asked: further arguments of :func:`desc_ext.data.load_dataset`.
    """
    from desc_ext import data

    preparation = load_preparation(folder)
    if evaluate and asked.get("labels") is None and source not in data.KNOWN:
        asked["labels"] = preparation.reading.labels
    return data.load_dataset(source, **asked, preparation=preparation)
