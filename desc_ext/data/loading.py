"""The door of the data: a name, a file or a folder becomes a data set."""

from __future__ import annotations

import difflib
import mimetypes
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from desc_ext.data.arrays import ARRAY_SUFFIXES, read_array_file, read_npy_folder
from desc_ext.data.catalogue import KNOWN, load_known
from desc_ext.data.classes import is_label_file
from desc_ext.data.columnar import COLUMNAR_SUFFIXES, PARQUET_SUFFIXES, read_columnar
from desc_ext.data.dataset import Dataset
from desc_ext.data.delimited import DELIMITED_SUFFIXES, lines_of_words, read_delimited
from desc_ext.data.folders import files_of, members
from desc_ext.data.image_files import IMAGE_SUFFIXES
from desc_ext.data.messages import DataError, note
from desc_ext.data.pictures import read_images
from desc_ext.data.preparation import Preparation, Reading
from desc_ext.data.tables import Table, rows_of_table, text_column
from desc_ext.data.text import (
    TEXT_SUFFIXES,
    Documents,
    as_rows,
    documents_of_lines,
    documents_of_table,
    read_jsonl,
    read_text_folder,
)

__all__ = ["load_dataset", "read_documents"]

# Files that a folder of texts does not consist of.
_NO_TEXTS = (
    *(s for s in DELIMITED_SUFFIXES if s != ".txt"), *COLUMNAR_SUFFIXES, *ARRAY_SUFFIXES,
    ".json", ".jsonl", ".xls", ".xlsx", ".svg", ".gz", ".bz2", ".zst", ".zip",
)  # fmt: skip
_COMPRESSED = (".gz", ".bz2", ".zst")


def load_dataset(
    source: str | os.PathLike,
    labels: str | int | None = None,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    *,
    external: str | os.PathLike | None = None,
    external_labels: str | int | None = None,
    dimension: int | None = None,
    array: str | None = None,
    columns: str | int | Sequence[str | int] | None = None,
    drop: str | int | Sequence[str | int] = (),
    id: str | int | None = None,
    text: str | int | None = None,
    image_size: tuple[int, int] | None = None,
    header: bool | None = None,
    preparation: Preparation | None = None,
) -> Dataset:
    """Reads a known data set, a file, or a folder.

    Texts become rows by :class:`desc_ext.features.TextFeatures`: tf-idf, truncated SVD, unit rows. Vocabulary and singular
    directions are those of ``source``, and the texts of ``external`` are put into that space.

    Of four axes of an array, axis 1 or axis 3 has the channels, as :func:`desc_ext.features.channels_first` says. Images of
    bytes become float32 in [0, 1]; all other numbers stay in the dtype of the file, those of text files are float64.

    Args:
        source: a name of :data:`KNOWN`, or the path of

            - a table: .csv, .tsv, .txt (each also .gz, .bz2, .zst), .arrow, .feather, and .parquet or a folder of Parquet
              files (above 64 MiB of numbers :class:`StoredRows`, of a file in ``TMPDIR`` that goes with them);
            - an array of rows or images: .npy (a memory map; above 64 MiB :class:`StoredRows`), .npz, .mat, .h5ad (needs
              anndata), a folder of .npy files of rows: shards, as :func:`stored_rows` reads them;
            - images (above 64 MiB :class:`StoredRows`, decoded once, see :func:`stored_rows`): a folder of PNG, JPEG, TIFF or
              WebP files, or of one folder of them for each class;
            - texts: a .jsonl file (an object a line), a .txt file (a text a line, where most lines hold no number), a table
              with a column "text", a folder of text files, or of one folder of them for each class.
        labels: where the known classes are: the name or number (-1 is the last) of a column, the name of an array (.npz,
            .mat), of a key (.jsonl), of a column of obs (.h5ad), or a .npy file. Folders of classes need none.
        data_dir: the folder to look into first for a known data set.
        download: fetch a known data set of images through scikit-learn from OpenML where no folder has it.
        external: other data, named as ``source`` is; they become ``external`` of the result.
        external_labels: as ``labels``, of the external data.
        dimension: columns of the rows of texts; None: 256, and 512 for 20 Newsgroups.
        array: the array of the rows (.npz, .mat), or X, layers/NAME, obsm/NAME (.h5ad).
        columns: columns that are features: names, numbers, ranges 2-5; None: all but the others.
        drop: columns that are not.
        id: the column that names the rows in results.
        text: the column or key that holds texts; None: "text", in capitals or not.
        image_size: (height, width) that images of a folder are brought to.
        header: whether the first row of a text file holds names; None finds out.
        preparation: ``Dataset.preparation`` of the data that a model was fitted to: columns are taken by their names and in
            its order, texts are put into its space, images brought to its size.

    Raises:
        DataError: a name that is not known, a file that is missing or damaged, a column that is missing or not numeric, or
            data that do not fit ``preparation``; the message says what was found, where, and what would help.
        OSError: the disk has no room for decoded images or columns.
    """
    chosen = None if columns is None else _words(columns)
    reading = Reading(_word(labels), array, chosen, _words(drop), _word(id), _word(text), image_size, header)
    target = _read(source, reading, data_dir, download, preparation)
    other = None
    if external is not None:
        other = _read(
            external, Reading(labels=_word(external_labels)), data_dir, download, _columns_alone(target)
        )
    features = None if preparation is None else preparation.text_features
    if isinstance(target, Documents) and not isinstance(other, Dataset):
        if preparation is not None and features is None:
            raise DataError(f"{source} holds texts, and the result was fitted to numbers")
        dataset, of_external = as_rows(target, dimension, other, features)
    elif isinstance(target, Dataset) and not isinstance(other, Documents):
        if features is not None:
            raise DataError(f"{source} holds numbers, and the result was fitted to texts")
        dataset, of_external = target, other
    else:
        raise DataError(
            f"'{source}' and the external data '{external}' do not fit: one is text, the other is not"
        )
    if preparation is not None and preparation.columns is not None and dataset.columns is None:
        note(f"{source} has no names of columns; they are taken to be those of the fit, in its order")
    return dataset if of_external is None else replace(dataset, external=of_external)


def _word(name: str | int | None) -> str | None:
    """A name, or a number, of a column as a word."""
    return None if name is None else str(name)


def _words(names: str | int | Sequence[str | int]) -> tuple[str, ...]:
    return (str(names),) if isinstance(names, (str, int)) else tuple(map(str, names))


def read_documents(
    source: str | os.PathLike,
    labels: str | None = None,
    classes: Iterable[str] | None = None,
    *,
    id: str | None = None,
    text: str | None = None,
) -> Documents:
    """The texts of a file or folder, for which :func:`load_dataset` makes rows; arguments and errors are as there.

    Args:
        classes: only the texts of these classes.

    Raises:
        DataError: also where ``source`` holds no texts.
    """
    found = _read(source, Reading(labels=labels, id=id, text=text), None, False, None)
    if not isinstance(found, Documents):
        raise DataError(f"{source} holds no texts")
    return found if classes is None else found.of_classes(classes)


def _columns_alone(target: Dataset | Documents) -> Preparation | None:
    """What external data share with the rows: the names of their columns."""
    if isinstance(target, Documents) or target.preparation is None or target.preparation.columns is None:
        return None
    return Preparation(columns=target.preparation.columns, left_out=target.preparation.left_out)


def _read(
    source: str | os.PathLike,
    reading: Reading,
    data_dir: str | os.PathLike | None,
    download: bool,
    preparation: Preparation | None,
) -> Dataset | Documents:
    path = Path(source)
    if str(source) in KNOWN:
        if reading.labels is not None and preparation is None:
            raise DataError(f"{source} brings its own known classes; leave out --labels")
        return load_known(KNOWN[str(source)], data_dir, download)
    if path.is_dir():
        return _read_folder(path, reading, preparation)
    name = path.name.lower()
    bare = name.removesuffix(next((s for s in _COMPRESSED if name.endswith(s)), ""))
    known = bare.endswith((*DELIMITED_SUFFIXES, ".jsonl")) or name.endswith(
        (*COLUMNAR_SUFFIXES, *ARRAY_SUFFIXES)
    )
    if not known:
        raise DataError(_no_such_kind(source, path))
    if not path.is_file():
        raise DataError(f"the file {path} does not exist (looked in {path.absolute().parent})")
    if name.endswith(TEXT_SUFFIXES):
        return read_jsonl(path, reading, preparation)
    if name.endswith(ARRAY_SUFFIXES):
        return read_array_file(path, reading, preparation)
    reading.refuse(path, "a table", "array", "image_size")
    if name.endswith(COLUMNAR_SUFFIXES):
        reading.refuse(path, "a table with names", "header")
        return _of_table(read_columnar(path), reading, preparation)
    if bare.endswith(".txt") and _may_be_lines(reading, preparation):
        lines = lines_of_words(path)
        if lines is not None:
            return documents_of_lines(path, lines, reading)
    saved = Reading() if preparation is None else preparation.reading
    words = {word for r in (reading, saved) for word in (r.labels, r.id, r.text) if word is not None}
    header = saved.header if reading.header is None else reading.header
    names = None if preparation is None or preparation.width is None else (preparation.columns or ())
    return _of_table(read_delimited(path, header, frozenset(words), names), reading, preparation)


def _may_be_lines(reading: Reading, preparation: Preparation | None) -> bool:
    """Whether neither an option nor the result names columns, or numbers, of a .txt file."""
    named = (reading.columns, reading.drop or None, reading.id, reading.text, reading.header)
    if any(name is not None for name in named) or (reading.labels and not is_label_file(reading.labels)):
        return False
    return preparation is None or preparation.text_features is not None


def _no_such_kind(source: object, path: Path) -> str:
    kinds = (*DELIMITED_SUFFIXES, *COLUMNAR_SUFFIXES, *ARRAY_SUFFIXES, ".jsonl")
    hint = ""
    if path.suffix.lower() in (".xls", ".xlsx", ".ods"):
        hint = "; save the sheet as .csv"
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        hint = "; name the folder that holds the images"
    elif path.suffix.lower() in (".pt", ".pth", ".pkl", ".pickle"):
        hint = "; save the array with numpy.save"
    close = difflib.get_close_matches(str(source), KNOWN, n=1, cutoff=0.7)
    if close:
        hint = f" (did you mean {close[0]}?)"
    return f"'{source}' is neither a known data set ({', '.join(KNOWN)}) nor a {', '.join(kinds)} file nor a folder{hint}"


def _of_table(table: Table, reading: Reading, preparation: Preparation | None) -> Dataset | Documents:
    column = text_column(table, reading, preparation)
    if column is None:
        return rows_of_table(table, reading, preparation)
    return documents_of_table(table, column, reading)


def _may_be_image(file: Path) -> bool:
    kind = mimetypes.guess_type(file.name)[0]
    return kind is not None and kind.startswith("image/")


def _read_folder(path: Path, reading: Reading, preparation: Preparation | None) -> Dataset | Documents:
    """A folder of Parquet or NumPy parts, of images, or of texts: all its files are of one kind."""
    files = files_of(path)
    kinds = {
        "Parquet files": [file for file in files if file.suffix.lower() in PARQUET_SUFFIXES],
        "images": [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES],
        "NumPy files": [file for file in files if file.suffix.lower() == ".npy"],
    }
    for kind, found in kinds.items():
        if found and len(found) < len(files):
            others = [file for file in files if file not in set(found)]
            known = f" ({', '.join(IMAGE_SUFFIXES)} are read)" if kind == "images" else ""
            more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
            raise DataError(
                f"{path} holds {len(found):,} {kind}{known} and other files, such as {others[0]}{more}; move these out of "
                f"the folder{', or save them as .png' if _may_be_image(others[0]) else ''}"
            )
    other_kind = next((file for file in files if file.name.lower().endswith(_NO_TEXTS)), None)
    if other_kind is not None and not any(kinds.values()):
        raise DataError(
            f"{path} holds files such as {other_kind}: of folders, those of Parquet parts, of .npy parts, of images and of "
            "texts are read; join tables to one file, or name a single one"
        )
    if kinds["Parquet files"]:
        reading.refuse(path, "a table with names", "array", "image_size", "header")
        return _of_table(read_columnar(path, files), reading, preparation)
    if kinds["NumPy files"]:
        return read_npy_folder(path, files, reading, preparation)
    if preparation is not None:  # whose labels may be a column; folders are classes without being named
        reading = replace(reading, labels=None)
    if kinds["images"]:
        return read_images(path, members(path, files), reading, preparation)
    return read_text_folder(path, files, reading)
