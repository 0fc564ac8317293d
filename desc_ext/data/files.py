"""Reads tables and arrays from .npy, .npz, .csv and .parquet files."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from desc_ext.data.dataset import DataError, Dataset

__all__ = ["FILE_SUFFIXES", "read_file"]

FILE_SUFFIXES = (".npy", ".npz", ".csv", ".parquet")


def read_file(path: Path, labels: str | None) -> Dataset:
    """The rows of a file with one of :data:`FILE_SUFFIXES`, and its known classes where ``labels`` names them.

    Raises:
        DataError: a file that is missing or damaged, or a column that is missing or not numeric.
    """
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


def _load_numpy(path: Path, **options: Any) -> Any:
    try:
        return np.load(path, allow_pickle=False, **options)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a NumPy file: {error}") from error


def _labels_file(labels: str) -> np.ndarray:
    if not Path(labels).is_file():
        raise DataError(f"the known classes {labels} do not exist as a file")
    return _load_numpy(Path(labels))


def _read_npy(path: Path, labels: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    if labels is not None and not labels.endswith(".npy"):
        raise DataError(
            f"{path} has no column '{labels}': give the known classes as a .npy file, --labels FILE.npy"
        )
    return _load_numpy(path, mmap_mode="r"), None if labels is None else _labels_file(labels)


def _read_npz(path: Path, labels: str | None) -> tuple[np.ndarray, np.ndarray | None]:
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


def _read_csv(path: Path, labels: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    delimiter, names, has_header, second = _csv_layout(path)
    label_column = None if labels is None else _csv_column(path, names, labels)
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
    options: dict[str, Any] = {
        "delimiter": delimiter, "skiprows": int(has_header), "encoding": "utf-8-sig", "quotechar": '"',
        "comments": None,
    }  # fmt: skip
    try:
        X = np.loadtxt(path, dtype=np.float32, usecols=columns, ndmin=2, **options)
        y = None if label_column is None else np.loadtxt(path, dtype=str, usecols=label_column, **options)
    except (ValueError, IndexError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return X, None if y is None else np.char.strip(np.atleast_1d(y))


def _csv_layout(path: Path) -> tuple[str, list[str], bool, list[str]]:
    """Delimiter, names of the columns (their numbers without a header), whether there is a header, the second line."""
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
    return delimiter, head if has_header else [str(i) for i in range(len(head))], has_header, second


def _csv_column(path: Path, names: list[str], labels: str) -> int:
    """The number of the column of the known classes: by name, or by number, -1 being the last."""
    if labels in names:
        return names.index(labels)
    if labels.lstrip("-").isdigit() and -len(names) <= int(labels) < len(names):
        return int(labels) % len(names)
    raise DataError(f"{path} has no column '{labels}'; its columns are {_listed(names)}")


def _read_parquet(path: Path, labels: str | None) -> tuple[np.ndarray, np.ndarray | None]:
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


def _numeric_columns(path: Path, name: str, column: Any) -> np.ndarray:
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


def _listed(names: Iterable[Any]) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
