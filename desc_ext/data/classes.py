"""Known classes, from whatever file: one comparable value a row, none missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from desc_ext.data.messages import DataError
from desc_ext.data.numpy_files import load_numpy

__all__ = ["is_label_file", "known_classes", "labels_of_file"]

# What stands for no class where classes are words.
_MISSING = ("", "nan", "NaN", "NA", "N/A", "n/a", "<NA>", "None", "null", "NULL")


def known_classes(
    values: Any, n: int, what: str, place: Callable[[int], str] = "row {}".format
) -> np.ndarray:
    """Known classes [n] as numbers or words.

    Args:
        values: an array, a list, or a column of pyarrow.
        n: rows.
        what: is named in messages, such as "d.csv: column 'kind'".
        place: the words for row i (the first is 0).

    Raises:
        DataError: not one value a row, a missing one, or none that can be compared.
    """
    values = values.to_pylist() if hasattr(values, "to_pylist") else values
    if isinstance(values, list):  # of anything, lists too, which NumPy would make axes of
        values = np.array([*values, None], dtype=object)[:-1]
    y = np.asarray(values)
    if y.ndim == 2 and 1 in y.shape:
        y = y.ravel()
    if y.ndim != 1 or len(y) != n:
        raise DataError(
            f"{what}: known classes must be one value a row, [{n}]; got shape {list(y.shape)} (--labels)"
        )
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8", "replace")
    if y.dtype.kind == "O":
        y = _plain(y, what, place)
    if y.dtype.kind == "U":
        y = np.char.strip(y)
        missing = np.isin(y, _MISSING)
    elif y.dtype.kind in "biuf":
        missing = ~np.isfinite(y) if y.dtype.kind == "f" else np.zeros(n, dtype=bool)
    else:
        raise DataError(f"{what}: known classes must be numbers or words, got {y.dtype} (--labels)")
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        raise DataError(
            f"{what}: the known class is missing in {int(missing.sum())} of {n} rows, the first {place(row)}; fill them in, "
            "drop these rows, or leave out --labels"
        )
    return y


def _plain(y: np.ndarray, what: str, place: Callable[[int], str]) -> np.ndarray:
    """Python objects as an array of numbers or words; what is None becomes a missing word."""
    texts = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in y]
    for row, value in enumerate(texts):
        if not isinstance(value, (str, int, float, np.generic, type(None))):
            raise DataError(
                f"{what}: known classes must be numbers or words, got {type(value).__name__}, {place(row)} (--labels)"
            )
    if all(isinstance(value, (int, float, np.generic)) for value in texts):
        return np.array(texts)
    return np.array(["" if value is None else str(value) for value in texts])


def is_label_file(labels: str | None, names: Iterable[str] = ()) -> bool:
    """Whether ``labels`` is a .npy file rather than one of the ``names`` of columns or arrays."""
    return labels is not None and labels.endswith(".npy") and labels not in names


def labels_of_file(path: str, n: int) -> np.ndarray:
    """Known classes [n] from a .npy file; errors as for :func:`known_classes`."""
    if not Path(path).is_file():
        raise DataError(f"the known classes {path} do not exist as a file")
    return known_classes(load_numpy(Path(path)), n, path)
