"""Files, folders and data sets as rows that are never loaded whole."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from desc_ext.data.dataset import Dataset
from desc_ext.data.folders import files_of, members
from desc_ext.data.image_files import IMAGE_SUFFIXES
from desc_ext.data.messages import DataError
from desc_ext.data.pictures import read_images
from desc_ext.data.preparation import Reading
from desc_ext.data.shards import in_natural_order, npy_rows
from desc_ext.stored import Part, StoredRows, part_of_map, written_rows

__all__ = ["parquet_rows", "stored_rows"]

_PARQUET = (".parquet", ".pq")
_CACHED_GROUPS = 2  # row groups of Parquet files that stay in memory


def stored_rows(
    source: Any, columns: Sequence[str] | None = None, *, image_size: tuple[int, int] | None = None
) -> StoredRows:
    """Rows [n, m] that are read from ``source`` as they are needed.

    KSubspaces clusters them in memory that grows by a few bytes a row. The other estimators take them too: mini-batch methods
    read mini-batches of them, shuffled by blocks, and keep codes, targets and scattering features of all rows in files;
    methods of an affinity load them whole (``numpy.asarray``), but for landmarks.

    Args:
        source: one of

            - a .npy file [n, m], or a folder of them: shards of one dtype and width, in the natural order of their names
              (``part-2`` before ``part-10``);
            - a Parquet file, or a folder of them in the same order: numeric columns in their common dtype. Row groups are
              read whole, and the last two are kept: write groups of at most some tens of MB;
            - a folder of images, or of one folder of them for each class, in the order of their paths: float32 rows in
              [0, 1], channel after channel (for ``image_shape=(C, H, W)``). They are decoded once, into shards that stay
              (``$DESC_EXT_CACHE``, else ``desc_ext`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; at most 64 MiB of them: into a
              file that goes with the rows);
            - a memory map [n, m] of consecutive rows (numpy.memmap, ``numpy.load(mmap_mode="r")``), read from its file;
            - a torch ``Dataset`` of known length: items x or (x, ...), numbers of any shape, flattened.
        columns: of Parquet files, the names of those that are read; None: all.
        image_size: (height, width) that images are brought to; needed where sizes differ.

    Returns:
        Rows in the dtype of the source; of Parquet columns of several dtypes, in their common one.

    Raises:
        DataError: what ``source`` names is missing, damaged, empty, of another kind or dimension, holds Python objects, its
            parts differ in dtype or columns, or a column is missing, not numeric or has no value in some row.
    """
    if isinstance(source, StoredRows):
        return source
    if isinstance(source, (str, os.PathLike)):
        # absolute: what is read later does not depend on the folder that is then the current one
        return _of_path(Path(source).absolute(), columns, image_size)
    if image_size is not None:
        raise DataError("stored_rows: image_size means nothing for what is no folder of images; leave it out")
    if columns is not None:
        raise DataError("stored_rows: columns means nothing for what is no Parquet file; leave it out")
    if isinstance(source, np.ndarray):
        part = part_of_map(source)
        if part is None:
            raise DataError(
                f"stored_rows: source must be a path, a memory map of rows [n, m] that lie one after the other in a file, "
                f"or a torch Dataset; got {type(source).__name__} of shape {list(source.shape)}; give arrays to the estimator"
            )
        return StoredRows([part], part.n_columns, part.dtype)
    return _of_items(source)


def _of_path(path: Path, columns: Sequence[str] | None, image_size: tuple[int, int] | None) -> StoredRows:
    if not path.exists():
        raise DataError(f"{path} does not exist (looked in {path.absolute().parent})")
    files = files_of(path) if path.is_dir() else [path]
    kinds = {_kind(file) for file in files}
    if kinds == {"images"} and path.is_dir():
        reading = Reading(columns=None if columns is None else tuple(columns), image_size=image_size)
        return _of_images(read_images(path, members(path, files), reading, None))
    if image_size is not None:
        raise DataError(
            f"{path} is no folder of images, for which alone image_size means something; leave it out"
        )
    files = in_natural_order(files)
    if kinds == {"parquet"}:
        return parquet_rows(files, columns)
    if kinds != {"npy"}:
        other = next((file for file in files if _kind(file) in (None, "images")), files[0])
        raise DataError(
            f"{path} must be a .npy or .parquet file, or a folder of files of one of these kinds or of images; got {other}"
        )
    if columns is not None:
        raise DataError(f"{path}: columns of .npy files have no names; leave columns out")
    return npy_rows(files)


def _kind(file: Path) -> str | None:
    suffix = file.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "images"
    return "parquet" if suffix in _PARQUET else "npy" if suffix == ".npy" else None


def _of_images(found: Dataset) -> StoredRows:
    images = found.images
    if isinstance(images, StoredRows):
        return images
    return written_rows(len(images), [images.reshape(len(images), -1)])


# Parquet


class _Groups:
    """The row groups that were read last; for several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type, tuple]:
        return _Groups, ()  # another process reads its own

    def get(self, key: tuple[Path, int], read: Callable[[], np.ndarray]) -> np.ndarray:
        with self._lock:
            if key not in self._kept:
                while len(self._kept) >= _CACHED_GROUPS:
                    self._kept.popitem(last=False)
                self._kept[key] = read()
            self._kept.move_to_end(key)
            return self._kept[key]


@dataclass(frozen=True)
class _GroupPart:
    """A row group of a Parquet file."""

    path: Path
    group: int
    n_rows: int
    columns: tuple[str, ...]
    dtype: np.dtype
    groups: _Groups = field(repr=False)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._rows()[start:stop].copy()

    def take(self, index: np.ndarray) -> np.ndarray:
        return self._rows()[index]

    def _rows(self) -> np.ndarray:
        return self.groups.get((self.path, self.group), self._load)

    def _load(self) -> np.ndarray:
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                table = file.read_row_group(self.group, list(self.columns), use_threads=False)
            table.validate(full=True)
        except Exception as error:  # whatever the bytes of a damaged file lead pyarrow to
            raise DataError(f"{self.path} cannot be read as parquet: {error}") from error
        rows = np.empty((len(table), len(self.columns)), self.dtype)
        for i, name in enumerate(self.columns):
            column = table.column(name)
            if column.null_count:
                raise DataError(
                    f"{self.path}: column '{name}' has no value in {column.null_count} rows of its row group {self.group}; "
                    "fill them, drop the rows, or choose other columns"
                )
            rows[:, i] = column.to_numpy()
        return rows


def parquet_rows(files: Sequence[Path], columns: Sequence[str] | None = None) -> StoredRows:
    """The rows of Parquet files, one after the other; see :func:`stored_rows`."""
    import pyarrow.parquet as pq

    groups, parts, dtypes = _Groups(), list[tuple[Path, int, int]](), list[np.dtype]()
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                schema, metadata = opened.schema_arrow, opened.metadata
        except Exception as error:  # whatever the bytes of a damaged file lead pyarrow to
            raise DataError(f"{file} cannot be read as parquet: {error}") from error
        columns = tuple(schema.names if columns is None else columns)
        missing = [name for name in columns if schema.names.count(name) != 1]
        if missing or not columns:
            what = f"lacks the column '{missing[0]}'" if missing else "has no columns"
            raise DataError(
                f"{file} {what} (or has it twice); its columns are {', '.join(schema.names[:12])}"
            )
        dtypes += [_dtype_of(file, name, schema.field(name).type) for name in columns]
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        parts += [(file, group, size) for group, size in enumerate(sizes) if size]
    if not parts:
        raise DataError(f"{files[0]} has no rows")
    assert columns is not None
    dtype, names = np.result_type(*dtypes), tuple(columns)
    found: list[Part] = [_GroupPart(file, group, size, names, dtype, groups) for file, group, size in parts]
    return StoredRows(found, len(names), dtype)


def _dtype_of(file: Path, name: str, kind: Any) -> np.dtype:
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        return np.dtype(np.uint8)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(f"{file}: column '{name}' is not numeric ({kind}); choose others with columns")
    return np.dtype(kind.to_pandas_dtype())


# torch


@dataclass(frozen=True)
class _Items:
    """The items of a torch Dataset."""

    items: Any
    n_rows: int
    n_columns: int
    dtype: np.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.take(np.arange(start, stop))

    def take(self, index: np.ndarray) -> np.ndarray:
        rows = np.empty((len(index), self.n_columns), self.dtype)
        for place, number in enumerate(index.tolist()):
            row = _row(self.items, number)
            if row.shape != (self.n_columns,) or not np.can_cast(row.dtype, self.dtype):
                raise DataError(
                    f"item {number} of {type(self.items).__name__} has {row.size} numbers of {row.dtype}, but the first has "
                    f"{self.n_columns} of {self.dtype}; all items must be alike"
                )
            rows[place] = row
        return rows


def _row(items: Any, number: int) -> np.ndarray:
    item = items[number]
    in_order = isinstance(item, (tuple, list)) and len(item)
    x = item[0] if in_order else item
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    if in_order and np.ndim(x) == 0:
        raise DataError(
            f"item {number} of {type(items).__name__} begins with a single number; items must be rows x, or (x, ...), as "
            "arrays or tensors"
        )
    return np.asarray(x).reshape(-1)


def _of_items(items: Any) -> StoredRows:
    plain = isinstance(items, (list, tuple, range, bytes, bytearray, Mapping)) or hasattr(items, "iloc")
    if plain or not (hasattr(items, "__getitem__") and hasattr(items, "__len__")):
        raise DataError(
            "stored_rows: source must be a path, a memory map or a torch Dataset of known length; got "
            f"{type(items).__name__}; give tables and arrays to the estimator"
        )
    name, n = type(items).__name__, len(items)
    if not n:
        raise DataError(f"{name} is empty: it has no items")
    first = _row(items, 0)
    if first.dtype.kind not in "biuf" or not first.size:
        raise DataError(
            f"{name}: items must be numbers x, or (x, ...); the first has {first.size} of {first.dtype}"
        )
    dtype = np.dtype(np.uint8) if first.dtype == bool else first.dtype
    return StoredRows([_Items(items, n, first.size, dtype)], first.size, dtype)
