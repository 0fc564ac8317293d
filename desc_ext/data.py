"""Reads data sets: known ones by name, others from files of rows, of images or of texts."""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from desc_ext.text import TEXT_SUFFIXES, Documents, as_rows, is_text, read_documents

__all__ = ["KNOWN", "DataError", "Dataset", "KnownDataset", "data_folders", "find_folder", "load_dataset"]

FILE_SUFFIXES = (".npy", ".npz", ".csv", ".parquet")


class DataError(ValueError):
    """Data that cannot be found or read; the message is one sentence for the user."""


@dataclass(frozen=True)
class Dataset:
    """Rows to cluster, and what is known about them.

    Attributes:
        name: what the data set is called in messages and results.
        X: rows [n, m], float32; a memory map where the file allows it.
        labels: known classes [n], for evaluation only, or None.
        class_names: names of the classes 0, 1, ..., or None.
        image_shape: (height, width) or (height, width, channels) of a row that is an image, else None.
        source: the file or folder that was read.
        of_text: whether the rows are those of texts (:class:`desc_ext.text.TextFeatures`).
        external: other data in the space of these rows, for methods that learn from such, or None.
    """

    name: str
    X: np.ndarray
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    image_shape: tuple[int, ...] | None = None
    source: str = ""
    of_text: bool = False
    external: Dataset | None = None

    @property
    def images(self) -> np.ndarray:
        """X as a stack [n, H, W], or [n, C, H, W] of several colours; rows that are no images stay rows [n, m]."""
        if self.image_shape is None:
            return self.X
        stack = self.X.reshape(len(self.X), *self.image_shape)
        return stack if stack.ndim == 3 else stack.transpose(0, 3, 1, 2)


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
_NEWSGROUPS_PLACE = {
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


def load_dataset(
    source: str | os.PathLike,
    labels: str | None = None,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    *,
    external: str | os.PathLike | None = None,
    external_labels: str | None = None,
    dimension: int | None = None,
) -> Dataset:
    """Reads a known data set, a file, or a folder of texts.

    Texts become rows by :class:`desc_ext.text.TextFeatures`: tf-idf, truncated SVD, unit rows. Vocabulary and singular
    directions are those of ``source``, and the texts of ``external`` are put into that space.

    Args:
        source: a name of :data:`KNOWN`; the path of a .npy, .npz, .csv or .parquet file of numbers; or texts: a .jsonl
            or .jsonl.gz file (an object a line with the key "text"), a .csv file with a column "text", or a folder
            with a folder of text files for each class.
        labels: where a file's known classes are: the name of a column (.csv, .parquet), array (.npz) or key (.jsonl),
            the number of a column (.csv without a header; -1 is the last), or a .npy file (.npy, .npz).
        data_dir: the folder to look into first for a known data set.
        download: fetch a known data set of images through scikit-learn from OpenML where no folder has it.
        external: other data, named as ``source`` is; they become ``external`` of the result.
        external_labels: as ``labels``, of the external data.
        dimension: columns of the rows of texts; None: 256, and 512 for 20 Newsgroups.

    Raises:
        DataError: for a name that is not known, a file that is missing or damaged, or a column that is
            missing or not numeric; the message says where it looked and what would help.
    """
    target = _read(source, labels, data_dir, download)
    other = None if external is None else _read(external, external_labels, data_dir, download)
    of_text = isinstance(target, Documents)
    if other is not None and isinstance(other, Documents) != of_text:
        raise DataError(
            f"'{source}' and the external data '{external}' do not fit: one is text, the other is not"
        )
    if of_text:
        target, other = as_rows(target, dimension, other)
    return target if other is None else replace(target, external=other)


def _read(source: str | os.PathLike, labels: str | None, data_dir, download: bool) -> Dataset | Documents:
    path = Path(source)
    if str(source) in KNOWN:
        if labels is not None:
            raise DataError(f"{source} brings its own known classes; leave out --labels")
        return _load_known(KNOWN[str(source)], data_dir, download)
    if is_text(path):
        return read_documents(path, labels)
    if path.suffix.lower() not in FILE_SUFFIXES:
        raise DataError(
            f"'{source}' is neither a known data set ({', '.join(KNOWN)}) "
            f"nor a {', '.join((*FILE_SUFFIXES, *TEXT_SUFFIXES))} file nor a folder of texts"
        )
    if not path.is_file():
        raise DataError(f"the file {path} does not exist (looked in {path.absolute().parent})")
    read = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv, ".parquet": _read_parquet}
    X, y = read[path.suffix.lower()](path, labels)
    X, image_shape = _as_rows(X, path)
    if y is not None:
        y = np.asarray(y)
        if y.ndim != 1 or len(y) != len(X):
            raise DataError(
                f"the known classes '{labels}' must be one value a row, [{len(X)}]; got shape {list(y.shape)}"
            )
    return Dataset(path.stem, X, y, image_shape=image_shape, source=str(path))


# Known data sets


def data_folders(data_dir: str | os.PathLike | None = None) -> list[Path]:
    """The folders where known data sets are looked for, first to last; they need not exist."""
    folders = [Path(data_dir)] if data_dir is not None else []
    if os.environ.get("DESC_EXT_DATA"):
        folders.append(Path(os.environ["DESC_EXT_DATA"]))
    repository = Path(__file__).resolve().parents[1]
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


def _load_known(known: KnownDataset, data_dir, download: bool) -> Dataset | Documents:
    if data_dir is not None and not Path(data_dir).is_dir():
        raise DataError(f"the data folder {data_dir} does not exist")
    if known.name == "digits":
        from sklearn.datasets import load_digits

        bunch = load_digits()
        X, labels, source = bunch.data.astype(np.float32) / 16, bunch.target, "scikit-learn"
    elif (folder := find_folder(known, data_dir)) is not None:
        if known.documents is not None:
            found = read_documents(folder / known.documents, "label", known.class_names)
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
    return Dataset(known.name, X, labels.astype(np.int64), known.class_names, known.image_shape, source)


def _read_idx_folder(known: KnownDataset, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    for part in known.parts:
        images.append(read_idx(_idx_file(folder, f"{part}-images-idx3")))
        labels.append(read_idx(_idx_file(folder, f"{part}-labels-idx1")))
        if images[-1].shape[1:] != known.image_shape or labels[-1].shape != images[-1].shape[:1]:
            raise DataError(
                f"the {part} files in {folder} do not fit {known.name}: images {list(images[-1].shape)}, "
                f"labels {list(labels[-1].shape)}, wanted {['n', *known.image_shape]} and ['n']"
            )
    X = np.concatenate(images).reshape(-1, int(np.prod(known.image_shape))).astype(np.float32)
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
    if X.shape != (known.n, int(np.prod(known.image_shape))):
        raise DataError(
            f"OpenML's {known.openml} has shape {list(X.shape)}; wanted {known.n} rows of {known.image_shape}"
        )
    return X, labels


# Files


def _as_rows(X: np.ndarray, path: Path) -> tuple[np.ndarray, tuple[int, ...] | None]:
    """float32 rows [n, m], and the image shape of X [n, height, width] or [n, height, width, channels]."""
    if not (np.issubdtype(X.dtype, np.number) or X.dtype == bool) or np.iscomplexobj(X):
        raise DataError(f"{path} must hold real numbers; got dtype {X.dtype}")
    if X.ndim == 1:
        raise DataError(f"{path} must hold rows and columns, [n, m]; got one dimension, [{len(X)}]")
    image_shape = None
    if X.ndim in (3, 4):
        image_shape = X.shape[1:]
        if X.ndim == 4 and image_shape[-1] not in (1, 3, 4):
            raise DataError(
                f"{path}: images must be [n, height, width, 1, 3 or 4 channels]; got {list(X.shape)}"
            )
    elif X.ndim != 2:
        raise DataError(f"{path} must hold rows [n, m] or images [n, height, width]; got {list(X.shape)}")
    if 0 in X.shape:
        raise DataError(f"{path} is empty: shape {list(X.shape)}")
    X = X.reshape(len(X), -1)
    if X.dtype == np.uint8 and image_shape is not None:
        return X.astype(np.float32) / 255, image_shape
    return (X if X.dtype == np.float32 else X.astype(np.float32)), image_shape


def _load_numpy(path: Path, **options):
    try:
        return np.load(path, allow_pickle=False, **options)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a NumPy file: {error}") from error


def _labels_file(labels: str) -> np.ndarray:
    if not Path(labels).is_file():
        raise DataError(f"the known classes {labels} do not exist as a file")
    return _load_numpy(Path(labels))


def _read_npy(path: Path, labels: str | None):
    if labels is not None and not labels.endswith(".npy"):
        raise DataError(
            f"{path} has no column '{labels}': give the known classes as a .npy file, --labels FILE.npy"
        )
    return _load_numpy(path, mmap_mode="r"), None if labels is None else _labels_file(labels)


def _read_npz(path: Path, labels: str | None):
    with _load_numpy(path) as archive:
        from_file = labels is not None and labels.endswith(".npy")
        if labels is not None and not from_file and labels not in archive.files:
            raise DataError(
                f"{path} has no array '{labels}' for the known classes; it has {', '.join(archive.files)}"
            )
        rest = [name for name in archive.files if name != labels]
        chosen = [name for name in ("X", "x", "data", "images") if name in rest] or rest
        if len(rest) > 1 and chosen is rest:
            raise DataError(
                f"{path} has several arrays ({', '.join(rest)}) and none is called X: rename the rows to X"
            )
        if not chosen:
            raise DataError(f"{path} has no array with the rows")
        try:
            X = archive[chosen[0]]
            y = None if labels is None else _labels_file(labels) if from_file else archive[labels]
        except (OSError, ValueError, zlib.error) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        return X, y


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_csv(path: Path, labels: str | None):
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            delimiter = max(",;\t", key=first.count)
            head = next(csv.reader([first], delimiter=delimiter), [])
            second = next(csv.reader([file.readline()], delimiter=delimiter), [])
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}") from error
    head = [name.strip() for name in head]
    # A header is a first row with a word where the second row has a number, or with nothing but words.
    has_header = any(not _is_number(a) and _is_number(b) for a, b in zip(head, second, strict=False)) or (
        bool(head) and not any(map(_is_number, head))
    )
    if not head or (has_header and not second):
        raise DataError(f"{path} has no rows{' below its header' if head else ''}")
    names = head if has_header else [str(i) for i in range(len(head))]
    if labels is None:
        label_column = None
    elif labels in names:
        label_column = names.index(labels)
    elif labels.lstrip("-").isdigit() and -len(names) <= int(labels) < len(names):
        label_column = int(labels) % len(names)
    else:
        raise DataError(f"{path} has no column '{labels}'; its columns are {_listed(names)}")
    columns = [i for i in range(len(names)) if i != label_column]
    if not columns:
        raise DataError(f"{path} has no column besides the known classes '{labels}'")
    # An empty field is left to loadtxt, whose message names its row and column.
    words = [names[i] for i in columns if i < len(second) and second[i] and not _is_number(second[i])]
    if words:
        raise DataError(
            f"{path}: column {_listed(words)} is not numeric; take it out, encode it as numbers, "
            "or, if it holds the known classes, name it with --labels"
        )
    options = {
        "delimiter": delimiter, "skiprows": int(has_header), "encoding": "utf-8-sig", "quotechar": '"',
        "comments": None,
    }  # fmt: skip
    try:
        X = np.loadtxt(path, dtype=np.float32, usecols=columns, ndmin=2, **options)
        y = None if label_column is None else np.loadtxt(path, dtype=str, usecols=label_column, **options)
    except (ValueError, IndexError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return X, None if y is None else np.char.strip(np.atleast_1d(y))


def _read_parquet(path: Path, labels: str | None):
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise DataError(
            'reading .parquet needs pyarrow, which is not installed: pip install "desc-ext[parquet]"'
        ) from error
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}") from error
    if labels is not None and labels not in table.column_names:
        raise DataError(f"{path} has no column '{labels}'; its columns are {_listed(table.column_names)}")
    columns = [_numeric_columns(path, name, table[name]) for name in table.column_names if name != labels]
    if not columns:
        raise DataError(f"{path} has no column besides the known classes '{labels}'")
    y = None
    if labels is not None:
        if table[labels].null_count:
            raise DataError(
                f"{path}: {table[labels].null_count} values of the known classes '{labels}' are missing"
            )
        y = np.asarray(table[labels].to_pylist())
    return np.concatenate(columns, axis=1), y


def _numeric_columns(path: Path, name: str, column) -> np.ndarray:
    """One parquet column as float32 [n, 1], or [n, w] when each of its values is a list of w numbers."""
    import pyarrow as pa

    kind, is_list = column.type, False
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, is_list = kind.value_type, True
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(
            f"{path}: column '{name}' is not numeric ({column.type}); take it out, encode it as "
            "numbers, or, if it holds the known classes, name it with --labels"
        )
    if column.null_count:
        raise DataError(f"{path}: column '{name}' has {column.null_count} missing values")
    if not is_list:
        return column.to_numpy().astype(np.float32)[:, None]
    widths = np.unique([len(value) for chunk in column.chunks for value in chunk])
    if len(widths) != 1:
        raise DataError(f"{path}: the lists of column '{name}' have different lengths: {_listed(widths)}")
    flat = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks])
    return flat.astype(np.float32).reshape(len(column), widths[0])


def _listed(names) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
