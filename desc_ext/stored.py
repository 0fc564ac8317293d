"""Rows that lie on disk and are never loaded whole: read block by block, and by number."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

__all__ = [
    "BLOCK_BYTES",
    "READ_WHOLE",
    "ChangedPart",
    "FilePart",
    "Part",
    "StoredRows",
    "blocks",
    "finite_sample",
    "part_of_map",
    "rows_at",
    "written_rows",
]

BLOCK_BYTES = 2**21
READ_WHOLE = 2**26  # bytes: rows on disk that are no more than this are rows in memory
_LOOKED_THROUGH = 10**6  # rows that a sample is taken of after a look at all of them
# Rows that are asked for by number are read together where they lie within so many bytes of the file.
_SPAN_BYTES = 2**20


class Part(Protocol):
    """Consecutive rows of one source: a file, a row group, a data set."""

    @property
    def n_rows(self) -> int:
        """Rows of the part."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` - 1 [stop − start, m], within the part, as a new array."""

    def take(self, index: np.ndarray) -> np.ndarray:
        """Rows ``index`` (int64, ascending, within the part)."""


@dataclass(frozen=True)
class FilePart:
    """Rows that lie one after the other in a file. They are read (preadv), not mapped: pages of a map would count as memory.

    Attributes:
        path: of the file.
        offset: bytes before the first row.
        n_rows, n_columns, dtype: of the rows.
        changed: when the file was last changed, in ns; None where it may be while it is read.
    """

    path: Path
    offset: int
    n_rows: int
    n_columns: int
    dtype: np.dtype
    changed: int | None = None

    @property
    def _row_bytes(self) -> int:
        return self.n_columns * self.dtype.itemsize

    def read(self, start: int, stop: int) -> np.ndarray:
        """As :meth:`Part.read`.

        Raises:
            OSError: the file cannot be read, or has become shorter.
        """
        found = np.empty((stop - start, self.n_columns), self.dtype)
        with self._opened() as descriptor:
            self._fill(descriptor, found, start)
        return found

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise OSError(
                f"{self.path} is gone since it was opened; put it back, and start again (a fit with a checkpoint: with "
                "--resume)"
            ) from error
        try:
            now, end = os.fstat(descriptor), self.offset + self.n_rows * self._row_bytes
            if self.changed not in (None, now.st_mtime_ns) and now.st_size >= end:
                raise OSError(
                    f"{self.path} has changed since it was opened; start anew with what it holds now"
                )
            yield descriptor
        finally:
            os.close(descriptor)

    def take(self, index: np.ndarray) -> np.ndarray:
        """As :meth:`Part.take`; errors as for :meth:`read`."""
        found = np.empty((len(index), self.n_columns), self.dtype)
        span = max(_SPAN_BYTES // self._row_bytes, 1)
        # a span ends where the next row is farther than it is worth reading what lies between, or where it is full
        apart = (np.diff(index) > max(span // 64, 1)) | (np.diff(index // span) != 0)
        ends = [0, *(np.flatnonzero(apart) + 1).tolist(), len(index)]
        with self._opened() as descriptor:
            for first, last in itertools.pairwise(ends):
                if last - first == 1:
                    self._fill(descriptor, found[first:last], int(index[first]))
                elif last > first:
                    start = int(index[first])
                    rows = np.empty((int(index[last - 1]) + 1 - start, self.n_columns), self.dtype)
                    self._fill(descriptor, rows, start)
                    found[first:last] = rows[index[first:last] - start]
        return found

    def _fill(self, descriptor: int, rows: np.ndarray, start: int) -> None:
        left, place = memoryview(rows.reshape(-1).view(np.uint8).data), self.offset + start * self._row_bytes
        while left:
            n = os.preadv(descriptor, [left], place)
            if n == 0:
                raise OSError(
                    f"{self.path} ends at byte {place}, before its row {start + len(rows) - 1}: it has become shorter since "
                    "it was opened; write it again, and start anew"
                )
            left, place = left[n:], place + n


@dataclass(frozen=True)
class ChangedPart:
    """Rows of a part as ``change`` makes them of rows [t, m] as they are read: each for itself, none more and none less."""

    part: Part
    change: Callable[[np.ndarray], np.ndarray]

    @property
    def n_rows(self) -> int:
        return self.part.n_rows

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.change(self.part.read(start, stop))

    def take(self, index: np.ndarray) -> np.ndarray:
        return self.change(self.part.take(index))


@dataclass(frozen=True)
class _Stretch:
    """Consecutive rows of a part, ``first`` and the next ones."""

    part: Part
    first: int
    n_rows: int

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.part.read(self.first + start, self.first + stop)

    def take(self, index: np.ndarray) -> np.ndarray:
        return self.part.take(self.first + index)


class StoredRows:
    """Rows [n, m] of parts that lie on disk, as far as an array is needed: shape, slices, rows by number.

    ``numpy.asarray`` loads all of them.

    Args:
        parts: at least one, each of at least one row.
        n_columns, dtype: m and the dtype, the same of all parts.
        block_bytes: of consecutive rows that a random order of them may keep together. Large blocks are read faster; of
            rows that lie class by class, small ones give mini-batches of all classes.
    """

    ndim = 2

    def __init__(
        self, parts: Sequence[Part], n_columns: int, dtype: np.dtype, block_bytes: int = BLOCK_BYTES
    ) -> None:
        self.parts, self.dtype, self.block_bytes = tuple(parts), np.dtype(dtype), block_bytes
        self._ends = np.cumsum([part.n_rows for part in self.parts], dtype=np.int64)
        self.shape = (int(self._ends[-1]), n_columns)

    @property
    def size(self) -> int:
        """Entries, n·m."""
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the entries."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __deepcopy__(self, memo: Any) -> StoredRows:
        # nothing of them changes, and open files have no copy; scikit-learn's clone copies options
        return self

    def __repr__(self) -> str:
        return f"StoredRows({self.shape[0]:,} rows of {self.shape[1]:,} columns, {self.dtype}, {len(self.parts)} parts)"

    def __getitem__(self, index: slice | np.ndarray | Sequence[int] | int) -> np.ndarray:
        """Rows [.., m] in the dtype of the file, as a new array.

        Args:
            index: a slice, whole numbers in any order (negative ones count from the end), or one of them.

        Raises:
            IndexError: a number that no row has, or an index that is none of these.
            OSError: a file cannot be read any more.
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self._between(start, max(start, stop))
            return self._take(np.arange(start, stop, step))
        number = np.asarray(index)
        if number.ndim > 1 or (number.dtype.kind not in "iu" and number.size):
            raise IndexError(
                f"StoredRows: index must be a slice or whole numbers, the numbers of rows; got {index!r}"
            )
        rows = self._take(number.reshape(-1).astype(np.int64))
        return rows[0] if number.ndim == 0 else rows

    def between(self, start: int, stop: int) -> StoredRows:
        """Rows ``start`` to ``stop`` - 1, at least one, which stay where they are."""
        parts, first = list[Part](), 0
        for part, end in zip(self.parts, self._ends.tolist(), strict=True):
            low, high = max(start, first) - first, min(stop, end) - first
            if low < high:
                whole = high - low == part.n_rows
                parts.append(part if whole else _Stretch(part, low, high - low))
            first = end
        return StoredRows(parts, self.shape[1], self.dtype, self.block_bytes)

    def changed(
        self, change: Callable[[np.ndarray], np.ndarray], n_columns: int, dtype: np.dtype
    ) -> StoredRows:
        """These rows as ``change`` makes them of some at a time ([t, m] to [t, ``n_columns``]), where they are read."""
        parts = [ChangedPart(part, change) for part in self.parts]
        return StoredRows(parts, n_columns, dtype, self.block_bytes)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows, in memory."""
        if copy is False:
            raise ValueError("StoredRows: rows on disk become an array by a copy; leave out copy=False")
        return self._between(0, len(self)).astype(dtype or self.dtype, copy=False)

    def _between(self, start: int, stop: int) -> np.ndarray:
        pieces, first = [], 0
        for part, end in zip(self.parts, self._ends.tolist(), strict=True):
            if first < stop and end > start:
                pieces.append(part.read(max(start, first) - first, min(stop, end) - first))
            first = end
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty((0, self.shape[1]), self.dtype)

    def _take(self, index: np.ndarray) -> np.ndarray:
        n = len(self)
        outside = (index < -n) | (index >= n)
        if outside.any():
            raise IndexError(
                f"StoredRows: row {int(index[outside][0])} is out of range, there are {n:,} rows"
            )
        index = np.where(index < 0, index + n, index)
        order = np.argsort(index, kind="stable")
        found, ordered = np.empty((len(index), self.shape[1]), self.dtype), index[order]
        bounds = np.searchsorted(ordered, [0, *self._ends.tolist()])
        for i, part in enumerate(self.parts):
            low, high = bounds[i], bounds[i + 1]
            if high > low:
                first = int(self._ends[i]) - part.n_rows
                found[order[low:high]] = part.take(ordered[low:high] - first)
        return found


def blocks(X: np.ndarray | StoredRows, n_rows: int) -> Iterator[np.ndarray]:
    """All rows of ``X`` [n, m] in order, ``n_rows`` at a time; the next block of stored rows is read meanwhile."""
    starts = range(0, len(X), n_rows)
    if not isinstance(X, StoredRows):
        for start in starts:
            yield X[start : start + n_rows]
        return
    with ThreadPoolExecutor(1, "read-ahead") as reader:
        ahead = reader.submit(X.__getitem__, slice(0, n_rows))
        for start in starts[1:]:
            block, ahead = ahead.result(), reader.submit(X.__getitem__, slice(start, start + n_rows))
            yield block
        yield ahead.result()


@dataclass(frozen=True)
class _OpenPart(FilePart):
    """A file that lies there as long as it is open, in this process."""

    file: IO[bytes] | None = None

    def __reduce__(self) -> tuple[type, tuple]:
        # Another process of this machine finds it among the open files of this one; ``changed`` refuses any other file.
        assert self.file is not None
        path = Path(f"/proc/{os.getpid()}/fd/{self.file.fileno()}")
        changed = os.fstat(self.file.fileno()).st_mtime_ns
        return FilePart, (path, self.offset, self.n_rows, self.n_columns, self.dtype, changed)


def written_rows(n: int, parts: Iterable[np.ndarray], folder: Path | None = None) -> StoredRows:
    """Rows [n, m] in a file without a name: it goes with the rows that are returned, even if Python is killed.

    Args:
        n: rows, at least one.
        parts: arrays [.., m] of one dtype, which are the rows one after the other.
        folder: where the file lies; None: the system's folder for temporary files (``TMPDIR``).

    Raises:
        OSError: the disk is full.
    """
    file, n_written = tempfile.TemporaryFile(dir=folder), 0  # noqa: SIM115 - is open as long as its rows are read
    for part in parts:
        array = np.ascontiguousarray(part)
        try:
            file.write(array.data)
            file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):  # what could not be written is not wanted any more
                file.close()
            raise OSError(
                f"{n * array.shape[1] * array.itemsize / 2**30:.1f} GiB of values of the rows could not be written to "
                f"{folder or tempfile.gettempdir()}: {error}; make room there, or set TMPDIR to a folder with room"
            ) from error
        n_written += len(array)
    assert n_written == n
    # the descriptor stands for a name, which the file does not have
    place = _OpenPart(Path(f"/dev/fd/{file.fileno()}"), 0, n, array.shape[1], array.dtype, file=file)
    return StoredRows([place], place.n_columns, place.dtype)


def part_of_map(X: Any) -> FilePart | None:
    """The rows [n, m] of a memory map as part of its file; None where they do not lie there one after the other.

    A map whose changes the file does not get (mode "c") is none either.
    """
    if not isinstance(X, np.memmap) or X.ndim != 2 or not X.size or not X.flags.c_contiguous:
        return None
    if X.dtype.hasobject or X.filename is None or X.mode not in ("r", "r+", "w+"):
        return None
    path, mapped = Path(X.filename), getattr(X, "_mmap", None)
    if not isinstance(mapped, mmap.mmap) or not path.is_file():
        return None
    # the attribute ``offset`` of a slice is that of the whole map, so that the address decides
    address = np.frombuffer(mapped, np.uint8).ctypes.data
    offset = X.offset - X.offset % mmap.ALLOCATIONGRANULARITY + X.ctypes.data - address
    if (
        not 0 <= offset <= path.stat().st_size - X.nbytes
    ):  # a result of arithmetic keeps the attributes of its map
        return None
    if not address <= X.ctypes.data <= address + len(mapped) - X.nbytes:
        return None
    part = FilePart(path, offset, len(X), X.shape[1], X.dtype)
    ends = [(0, 1), (len(X) - 1, len(X))]  # another file may have taken the name of the one that is mapped
    return part if all(part.read(*rows).tobytes() == X[slice(*rows)].tobytes() for rows in ends) else None


def rows_at(array: np.ndarray, index: np.ndarray) -> np.ndarray:
    """``array[index]``; of a memory map from its file: a page of it that is touched brings others into memory."""
    part = part_of_map(array)
    return array[index] if part is None else StoredRows([part], part.n_columns, part.dtype)[index]


def finite_sample(array: np.ndarray, most: int, seed: int = 0) -> np.ndarray:
    """Numbers (ascending) of at most ``most`` rows of ``array`` [n, p] without NaN or infinity, at random.

    Of more than a million rows, which may lie in a file, a few times as many are looked at as are wanted.
    """
    random, n = np.random.default_rng(seed), len(array)
    rows = np.arange(n) if n <= _LOOKED_THROUGH else np.sort(random.choice(n, 4 * most, replace=False))
    rows = rows[np.isfinite(array if len(rows) == n else rows_at(array, rows)).all(axis=1)]
    return rows if len(rows) <= most else np.sort(random.choice(rows, most, replace=False))
