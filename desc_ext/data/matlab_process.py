"""Reads a MATLAB file; see isolated.py. SciPy's parser can be led to end its process by a damaged one.

Arrays of numbers or words go to FOLDER/0.npy, 1.npy, ...; found.json has by its name for every array that of its file, or in
words what it is instead.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.io import loadmat, whosmat


def main(path: str, folder: str) -> None:
    wanted = [name for name, _, kind in whosmat(path) if kind not in ("function", "opaque", "unknown")]
    found: dict[str, str] = {}
    for name, value in loadmat(path, variable_names=wanted).items():
        if name.startswith("__"):
            continue
        if sparse.issparse(value):
            found[name] = "a sparse array"
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biufcU":
            found[name] = f"{len(found)}.npy"
            np.save(Path(folder) / found[name], value)
        else:
            found[name] = "an array of cells or structures"
    (Path(folder) / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[4]),) * 2)
    try:
        main(*sys.argv[1:3])
    except Exception as error:  # whatever the bytes of a damaged file lead SciPy to
        sys.exit(f"{type(error).__name__}: {error}")
