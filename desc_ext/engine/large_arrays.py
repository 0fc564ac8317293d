"""Results with a row for each row of the data: in memory, or in a file where they are large."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
import weakref
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "RowWriter", "file_of", "free_memory", "has_moved", "move_array", "remove_left_over", "require_memory", "require_room",
]  # fmt: skip

LARGEST_IN_MEMORY = 2**30  # bytes
_PREFIX = "desc-ext-"


def require_room(shape: tuple[int, int], dtype: np.dtype, folder: Path | None) -> None:
    """Raises OSError where a result of ``shape`` will be too large for memory and for the disk of ``folder``."""
    wanted, place = shape[0] * shape[1] * np.dtype(dtype).itemsize, folder or Path(tempfile.gettempdir())
    free = shutil.disk_usage(place).free
    if wanted > LARGEST_IN_MEMORY and wanted > free:
        raise OSError(
            f"a result of {wanted / 2**30:.1f} GiB, {list(shape)} of {np.dtype(dtype)}, needs as much room in {place}, where "
            f"{free / 2**30:.1f} GiB are free; make room there, or set TMPDIR to a folder with room"
        )


# The limit of a container and what it uses, of the two versions of control groups.
_GROUPS = [
    (
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory.current",
        "/sys/fs/cgroup/memory.stat",
        "inactive_file",
    ),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
        "total_inactive_file",
    ),
]


def free_memory() -> int | None:
    """Bytes of memory that programs can still have, in a container those of its limit; None where no one says."""
    found = [
        free
        for free in (_free_of_machine(), *(_free_of_group(*files) for files in _GROUPS))
        if free is not None
    ]
    return min(found) if found else None


def _free_of_machine() -> int | None:
    free = _entry("/proc/meminfo", "MemAvailable:")
    return None if free is None else free * 1024


def _free_of_group(limit: str, used: str, statistics: str, pages_of_files: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):  # no such group, or "max": no limit
        free = int(Path(limit).read_text()) - int(Path(used).read_text())
        # which the system gives back at will
        return max(free + (_entry(statistics, pages_of_files) or 0), 0)
    return None


def _entry(path: str, name: str) -> int | None:
    """The number after ``name`` at the beginning of a line of a file of the system."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(path).read_text(encoding="ascii").splitlines():
            words = line.split()
            if words[0] == name:
                return int(words[1])
    return None


def require_memory(model: Any, shape: tuple[int, ...], dtype: np.dtype, instead: str) -> None:
    """Raises MemoryError where rows on disk, which ``model`` takes all at once, are too many for the memory that is free.

    Else the system would end the process, and say nothing.

    Args:
        shape: of the rows, [n, m].
        dtype: that they are computed in.
        instead: what would help.
    """
    wanted, free = shape[0] * shape[1] * np.dtype(dtype).itemsize, free_memory()
    if free is not None and wanted > free:
        raise MemoryError(
            f"{type(model).__name__}: all {shape[0]:,} rows of {shape[1]:,} columns are taken at once, {wanted / 2**30:.1f} "
            f"GiB of memory, and {free / 2**30:.1f} GiB are free; {instead}"
        )


class RowWriter:
    """An array [n, m] that is written from its first row to its last.

    Above 1 GiB it becomes a memory map, only to be read, of a file. It is written like any file: pages of a map would count
    as memory. Without ``folder`` the file has no name: it goes with the last array that needs it, even if Python is killed.

    Args:
        folder: where a .npy file is to lie, which :func:`move_array` may move, and which else goes with the array or with
            Python; None: the system's folder for temporary files (``TMPDIR``).
    """

    def __init__(self, shape: tuple[int, int], dtype: np.dtype, folder: Path | None = None) -> None:
        self._shape, self._dtype, self._row = shape, np.dtype(dtype), 0
        self._array: np.ndarray | None = None
        self._name: str | None = None
        self._file: Any = None
        if shape[0] * shape[1] * self._dtype.itemsize <= LARGEST_IN_MEMORY:
            self._array = np.empty(shape, self._dtype)
            return
        if folder is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end of the writing
        else:
            # not by tempfile, whose files are for their owner alone: this one becomes a result
            self._name = str(folder / f"{_PREFIX}{uuid.uuid4().hex}.npy")
            self._file = open(self._name, "xb")  # noqa: SIM115 - closed at the end of the writing
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._offset = self._file.tell()

    def append(self, rows: np.ndarray) -> None:
        """The next rows [.., m].

        Raises:
            OSError: the disk is full; the file is gone.
        """
        if self._array is not None:
            self._array[self._row : self._row + len(rows)] = rows
        else:
            try:
                self._file.write(np.ascontiguousarray(rows, self._dtype).data)
            except BaseException:
                self.discard()
                raise
        self._row += len(rows)

    def discard(self) -> None:
        """Removes the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be written is not wanted any more
                self._file.close()
        if self._name is not None:
            _remove(self._name)

    def finished(self) -> np.ndarray:
        """The array, all of whose rows were written."""
        assert self._row == self._shape[0]
        if self._array is not None:
            return self._array
        self._file.flush()
        array: Any = np.memmap(self._name or self._file, self._dtype, "r", self._offset, self._shape)
        self._file.close()
        if self._name is not None:
            weakref.finalize(array, _remove, self._name)
        return array


def _remove(name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name)


def remove_left_over(folder: Path) -> None:
    """Removes from ``folder`` the files of arrays of a process that was killed."""
    for file in folder.glob(f"{_PREFIX}*.npy"):
        _remove(str(file))


def file_of(array: Any) -> Path | None:
    """The file of an array that :class:`RowWriter` wrote to a folder, else None."""
    if not isinstance(array, np.memmap) or array.filename is None:
        return None
    return Path(array.filename)


def move_array(array: np.ndarray, path: Path) -> None:
    """Moves the file of an array to ``path``, in the same file system, where it stays; the array remains usable.

    Raises:
        OSError: it could not be moved, or written to the disk.
    """
    file = file_of(array)
    assert file is not None
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(file, path)
    has_moved(array, path)


def has_moved(array: np.ndarray, path: Path) -> None:
    """Tells an array whose file was moved where it lies now, for :func:`desc_ext.stored.rows_at`."""
    array.filename = path.absolute()  # type: ignore[attr-defined]
