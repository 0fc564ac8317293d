"""Arrays from MATLAB files."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from desc_ext.data.messages import DataError

__all__ = ["matlab_arrays"]

_READER = Path(__file__).with_name("matlab_process.py")


@contextmanager
def matlab_arrays(path: Path) -> Iterator[dict[str, np.ndarray | str]]:
    """The arrays of a MATLAB file by their names: memory maps, or words for what is no array of numbers.

    Raises:
        DataError: no such file, a damaged one, or one of the formats 4 and 7.3.
    """
    from scipy.io.matlab import matfile_version

    try:
        version = matfile_version(path)[0]
    except Exception as error:  # whatever the bytes of a damaged file lead SciPy to
        raise DataError(f"{path} cannot be read as a MATLAB file: {error}") from error
    if version != 1:
        found = "7.3 (HDF5)" if version else "4"
        raise DataError(f"{path} is of MATLAB's format {found}; write it with save(..., '-v7')")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(_READER), str(path), folder]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["it is damaged"])[-1]
            raise DataError(f"{path} cannot be read as a MATLAB file: {reason}")
        kinds = json.loads((Path(folder) / "arrays.json").read_text())
        yield {
            name: np.load(Path(folder) / kind, mmap_mode="r") if kind.endswith(".npy") else kind
            for name, kind in kinds.items()
        }
