"""Data sets known by name: where their files lie, how they are read, where they can be fetched."""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from desc_ext.data.dataset import Dataset
from desc_ext.data.messages import DataError
from desc_ext.data.preparation import Preparation, Reading
from desc_ext.data.text import Documents, read_jsonl

__all__ = ["KNOWN", "KnownDataset", "data_folders", "find_folder", "load_known", "read_idx"]


@dataclass(frozen=True)
class KnownDataset:
    """A data set that is known by name: digits from scikit-learn, others as idx files (images) or .jsonl.gz (text)."""

    name: str
    n: int
    image_shape: tuple[int, int] | None
    class_names: tuple[str, ...]
    licence: str
    folders: tuple[str, ...] = ()  # names that its folder goes by, the first being the usual one
    parts: tuple[str, ...] = ()  # "train" and "t10k", the prefixes of the idx files
    openml: str | None = None
    documents: str | None = None  # the name of its .jsonl.gz file
    dimension: int = 0  # columns of its rows, if it is text

    @property
    def n_columns(self) -> int:
        """Columns of its rows."""
        return self.dimension if self.image_shape is None else self.image_shape[0] * self.image_shape[1]


_DIGITS = tuple("0123456789")
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_MNIST_FOLDERS, _FASHION_FOLDERS = ("mnist", "MNIST"), ("fashion-mnist", "fashion_mnist", "FashionMNIST")
_BOTH, _TEST = ("train", "t10k"), ("t10k",)
_MNIST_LICENCE, _FASHION_LICENCE = "CC BY-SA 3.0", "MIT"
_BBC = ("business", "entertainment", "politics", "sports", "tech")
# LRSC's paper draws 10 groups at random and does not name them; these are one such draw (NumPy's default_rng(0)).
_NEWSGROUPS_A = (
    "comp.os.ms-windows.misc", "comp.sys.ibm.pc.hardware", "comp.sys.mac.hardware", "misc.forsale", "rec.motorcycles",
    "rec.sport.hockey", "sci.crypt", "sci.med", "talk.politics.guns", "talk.religion.misc",
)  # fmt: skip
_NEWSGROUPS_B = (
    "alt.atheism", "comp.graphics", "comp.windows.x", "rec.autos", "rec.sport.baseball", "sci.electronics",
    "sci.space", "soc.religion.christian", "talk.politics.mideast", "talk.politics.misc",
)  # fmt: skip
_NEWSGROUPS = tuple(sorted(_NEWSGROUPS_A + _NEWSGROUPS_B))
_NEWSGROUPS_PLACE: dict[str, Any] = {
    "licence": "no licence given",
    "folders": ("20newsgroups", "20-newsgroups"),
    "documents": "20newsgroups.jsonl.gz",
    "dimension": 512,
}
KNOWN: dict[str, KnownDataset] = {
    known.name: known
    for known in (
        KnownDataset("digits", 1797, (8, 8), _DIGITS, "CC BY 4.0"),
        KnownDataset(
            "mnist", 70_000, (28, 28), _DIGITS, _MNIST_LICENCE, _MNIST_FOLDERS, _BOTH, "mnist_784"
        ),
        KnownDataset(
            "mnist-test", 10_000, (28, 28), _DIGITS, _MNIST_LICENCE, _MNIST_FOLDERS, _TEST, "mnist_784"
        ),
        KnownDataset(
            "fashion-mnist", 70_000, (28, 28), _FASHION, _FASHION_LICENCE,
            _FASHION_FOLDERS, _BOTH, "Fashion-MNIST",
        ),
        KnownDataset(
            "fashion-mnist-test", 10_000, (28, 28), _FASHION, _FASHION_LICENCE,
            _FASHION_FOLDERS, _TEST, "Fashion-MNIST",
        ),
        KnownDataset(
            "bbc-news", 2225, None, _BBC, "research use", ("bbc-news", "bbc_news"),
            documents="bbc-news.jsonl.gz", dimension=256,
        ),
        KnownDataset("20newsgroups", 18_821, None, _NEWSGROUPS, **_NEWSGROUPS_PLACE),
        KnownDataset("20newsgroups-a", 9399, None, _NEWSGROUPS_A, **_NEWSGROUPS_PLACE),
        KnownDataset("20newsgroups-b", 9422, None, _NEWSGROUPS_B, **_NEWSGROUPS_PLACE),
    )
}  # fmt: skip
"""The data sets that :func:`~desc_ext.data.load_dataset` knows, by name."""


def data_folders(data_dir: str | os.PathLike | None = None) -> list[Path]:
    """The folders where known data sets are looked for, first to last; they need not exist."""
    folders = [Path(data_dir)] if data_dir is not None else []
    if os.environ.get("DESC_EXT_DATA"):
        folders.append(Path(os.environ["DESC_EXT_DATA"]))
    repository = Path(__file__).resolve().parents[2]
    folders.append(Path.cwd().parent / "shared" / "data")
    if (repository / "CMakeLists.txt").is_file():
        folders.append(repository.parent / "shared" / "data")
    folders.append(Path("/usr/share/datasets"))  # Debian's package dataset-fashion-mnist
    return list(dict.fromkeys(folders))


def find_folder(known: KnownDataset, data_dir: str | os.PathLike | None = None) -> Path | None:
    """The folder that holds all files of ``known``, or None.

    A folder counts only under the data set's own name: MNIST and Fashion-MNIST name their files alike.
    """
    for base in data_folders(data_dir):
        candidates = [base] if base.resolve().name in known.folders else []
        candidates += [base / name for name in known.folders]
        candidates += [base / name / "raw" for name in known.folders]  # as torchvision keeps them
        for folder in candidates:
            names = [f"{part}-{kind}" for part in known.parts for kind in ("images-idx3", "labels-idx1")]
            if known.documents is not None and not (folder / known.documents).is_file():
                continue
            if all(_idx_file(folder, name) is not None for name in names):
                return folder
    return None


def _idx_file(folder: Path, name: str) -> Path | None:
    candidates = (folder / f"{name}-ubyte{suffix}" for suffix in (".gz", ""))
    return next((path for path in candidates if path.is_file()), None)


def load_known(
    known: KnownDataset, data_dir: str | os.PathLike | None, download: bool
) -> Dataset | Documents:
    if data_dir is not None and not Path(data_dir).is_dir():
        raise DataError(f"the data folder {data_dir} does not exist")
    if known.name == "digits":
        from sklearn.datasets import load_digits

        bunch = load_digits()
        X, labels, source = bunch.data.astype(np.float32) / 16, bunch.target, "scikit-learn"
    elif (folder := find_folder(known, data_dir)) is not None:
        if known.documents is not None:
            found = read_jsonl(folder / known.documents, Reading(labels="label")).of_classes(
                known.class_names
            )
            return replace(found, name=known.name, dimension=known.dimension)
        X, labels, source = *_read_idx_folder(known, folder), str(folder)
    elif download and known.openml is not None:
        X, labels, source = *_fetch_openml(known), "OpenML"
    else:
        looked = ", ".join(str(base / known.folders[0]) for base in data_folders(data_dir))
        files = known.documents or f"{known.parts[-1]}-images-idx3-ubyte.gz ..."
        fetch = "" if known.openml is None else ", or fetch them with --download"
        raise DataError(
            f"{known.name} was not found: its {'file' if known.documents else 'idx files'} ({files}) "
            f"{'is' if known.documents else 'are'} in none of {looked}; "
            f"name their folder with --data-dir or DESC_EXT_DATA{fetch}"
        )
    prepared = Preparation(image_shape=known.image_shape, of_bytes=True)
    return Dataset(
        known.name,
        X,
        labels.astype(np.int64),
        known.class_names,
        known.image_shape,
        source,
        preparation=prepared,
    )


def _read_idx_folder(known: KnownDataset, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for part in known.parts:
        for kind, arrays in (("images-idx3", images), ("labels-idx1", labels)):
            file = _idx_file(folder, f"{part}-{kind}")
            if file is None:
                raise DataError(f"the file {part}-{kind}-ubyte of {known.name} is not in {folder}")
            arrays.append(read_idx(file))
        if images[-1].shape[1:] != known.image_shape or labels[-1].shape != images[-1].shape[:1]:
            raise DataError(
                f"the {part} files in {folder} do not fit {known.name}: images {list(images[-1].shape)}, "
                f"labels {list(labels[-1].shape)}, wanted {['n', *(known.image_shape or ())]} and ['n']"
            )
    X = np.concatenate(images).reshape(-1, known.n_columns).astype(np.float32)
    X /= 255
    return X, np.concatenate(labels)


def read_idx(path: Path) -> np.ndarray:
    """Reads an idx file of bytes (magic number, sizes, values), gzipped or not.

    Raises:
        DataError: for a file that is cut off, damaged or not of bytes.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"the idx file {path} is damaged: {error}") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} is not an idx file of bytes (it begins with {content[:4].hex()})")
    header = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:header], dtype=">u4").astype(np.int64)
    if len(shape) != content[3] or len(content) - header != shape.prod():
        raise DataError(
            f"the idx file {path} is damaged: {max(len(content) - header, 0)} values, but its header says "
            f"{' x '.join(map(str, shape))}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _fetch_openml(known: KnownDataset) -> tuple[np.ndarray, np.ndarray]:
    from importlib.util import find_spec

    from sklearn.datasets import fetch_openml

    # scikit-learn's faster parser is pandas's, which desc_ext does not need otherwise.
    parser = "pandas" if find_spec("pandas") else "liac-arff"
    try:
        bunch = fetch_openml(known.openml, version=1, as_frame=False, parser=parser)
    except (OSError, ValueError) as error:
        raise DataError(f"{known.name} could not be fetched from OpenML: {error}") from error
    # OpenML keeps the training images first and the 10,000 test images last, as they were published.
    X = np.asarray(bunch.data[-known.n :], dtype=np.float32) / 255
    labels = np.asarray(bunch.target[-known.n :]).astype(np.int64)
    if X.shape != (known.n, known.n_columns):
        raise DataError(
            f"OpenML's {known.openml} has shape {list(X.shape)}; wanted {known.n} rows of {known.image_shape}"
        )
    return X, labels
