"""NumPy files, one after the other, as rows that are never loaded whole."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from desc_ext.data.messages import DataError
from desc_ext.data.numpy_files import reason
from desc_ext.stored import FilePart, StoredRows

__all__ = ["in_natural_order", "npy_rows"]


def in_natural_order(files: Sequence[Path]) -> list[Path]:
    """The files in the order of their paths, numbers in them by their value: ``part-2`` before ``part-10``."""
    return sorted(files, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key that orders numbers in names by their value."""
    words = re.split(r"(\d+)", str(path))
    return [(int(word), "") if i % 2 else (0, word) for i, word in enumerate(words)]


def npy_rows(files: Sequence[Path]) -> StoredRows:
    """The rows of .npy files, one after the other, without a look at more than their headers.

    Raises:
        DataError: a file that holds no rows [n, m] of real numbers in C order, is cut short, or differs from the first.
    """
    other = next((file for file in files if file.parent != files[0].parent), None)
    if other is not None:
        raise DataError(
            f"{files[0]} and {other} lie in different folders; name one folder of shards, or move them together"
        )
    parts = [_npy_part(file) for file in files]
    for file, part in zip(files, parts, strict=True):
        if (part.dtype, part.n_columns) != (parts[0].dtype, parts[0].n_columns):
            raise DataError(
                f"{file} has {part.n_columns} columns of {part.dtype}, but {files[0]} has {parts[0].n_columns} of "
                f"{parts[0].dtype}; shards must have one width and dtype"
            )
    return StoredRows(parts, parts[0].n_columns, parts[0].dtype)


def _npy_part(path: Path) -> FilePart:
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in read:
                raise ValueError(f"its format has version {version}, and versions 1 and 2 are read")
            shape, fortran, dtype = read[version](file)
            offset, status = file.tell(), os.fstat(file.fileno())
    except Exception as error:  # whatever the bytes of a damaged file lead NumPy to
        raise DataError(f"{path} cannot be read as a NumPy file: {reason(error)}") from error
    if dtype.hasobject:
        raise DataError(f"{path} cannot be read as a NumPy file: {reason(ValueError('object'))}")
    if dtype.kind not in "biuf":
        raise DataError(f"{path} must hold real numbers; got dtype {dtype}")
    if dtype.kind == "f" and dtype.itemsize > 8:  # which torch lacks, and other processors lay out otherwise
        raise DataError(
            f"{path} holds {dtype} (longdouble), and at most float64 is read; save it again: numpy.save(path, "
            "X.astype(numpy.float64))"
        )
    if len(shape) != 2:
        raise DataError(
            f"{path} must hold rows and columns, [n, m]; got shape {list(shape)}; keep labels in a file beside the folder, "
            "--labels FILE.npy"
        )
    if 0 in shape:
        raise DataError(f"{path} is empty: shape {list(shape)}; remove it")
    if fortran and min(shape) > 1:
        raise DataError(
            f"{path} holds its array column by column (Fortran order), of which rows cannot be read one after the other; "
            "save it again: numpy.save(path, numpy.ascontiguousarray(X))"
        )
    wanted = offset + shape[0] * shape[1] * dtype.itemsize
    if status.st_size < wanted:
        raise DataError(
            f"{path} cannot be read as a NumPy file: it has {status.st_size:,} bytes, and {list(shape)} of {dtype} need "
            f"{wanted:,}; it was cut short, write it again"
        )
    dtype = np.dtype(np.uint8) if dtype.kind == "b" else dtype
    return FilePart(path.absolute(), offset, shape[0], shape[1], dtype, status.st_mtime_ns)
