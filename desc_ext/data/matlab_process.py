"""A process of its own that reads a MATLAB file: SciPy's parser can be led to end its process by a damaged one.

    python matlab_process.py FILE FOLDER

writes the arrays of numbers to FOLDER/0.npy, 1.npy, ... and to FOLDER/arrays.json the kind of every array by its name: the
name of such a file, "a sparse array", or words for what is no array of numbers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.io import loadmat, whosmat


def main(path: str, folder: str) -> None:
    wanted = [name for name, _, kind in whosmat(path) if kind not in ("function", "opaque", "unknown")]
    kinds: dict[str, str] = {}
    for name, value in loadmat(path, variable_names=wanted).items():
        if name.startswith("__"):
            continue
        if sparse.issparse(value):
            kinds[name] = "a sparse array"
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biufcU":
            kinds[name] = f"{len(kinds)}.npy"
            np.save(Path(folder) / kinds[name], value)
        else:
            kinds[name] = "an array of cells or structures"
    (Path(folder) / "arrays.json").write_text(json.dumps(kinds))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:  # whatever the bytes of a damaged file lead SciPy to
        sys.exit(f"{type(error).__name__}: {error}")
