"""NumPy's files, without the Python objects that they may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from desc_ext.data.messages import DataError

__all__ = ["load_numpy", "reason"]


def load_numpy(path: Path, **options: Any) -> Any:
    """What :func:`numpy.load` reads from ``path``, without Python objects.

    Raises:
        DataError: no NumPy file, a damaged one, or one of Python objects.
    """
    try:
        return np.load(path, allow_pickle=False, **options)
    except Exception as error:  # whatever the bytes of a damaged file lead NumPy to
        raise DataError(f"{path} cannot be read as a NumPy file: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Why NumPy refuses a file, for the user."""
    if "pickle" in str(error) or "object" in str(error).lower():
        return (
            "it holds Python objects, which are not loaded because they may run any code; save numbers or words in it, "
            "numpy.save(path, X.astype(float)) or y.astype(str)"
        )
    return str(error)
