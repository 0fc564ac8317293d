"""Arrays from MATLAB files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from desc_ext.data.isolated import read_apart
from desc_ext.data.messages import DataError

__all__ = ["matlab_arrays"]


@contextmanager
def matlab_arrays(path: Path) -> Iterator[dict[str, np.ndarray | str]]:
    """The arrays of a MATLAB file by their names: memory maps, or words for what is no array of numbers.

    Raises:
        DataError: a damaged file, or one of the formats 4 and 7.3.
    """
    from scipy.io.matlab import matfile_version

    try:
        version = matfile_version(path)[0]
    except Exception as error:  # whatever the bytes of a damaged file lead SciPy to
        raise DataError(f"{path} cannot be read as a MATLAB file: {error}") from error
    if version != 1:
        name = "7.3 (HDF5)" if version else "4"
        raise DataError(f"{path} is of MATLAB's format {name}; write it with save(..., '-v7')")
    with read_apart("matlab_process.py", path, "a MATLAB file") as (folder, found):
        yield {
            name: np.load(folder / kind, mmap_mode="r") if kind.endswith(".npy") else kind
            for name, kind in found.items()
        }
