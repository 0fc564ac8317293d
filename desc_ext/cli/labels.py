"""Clusters as a table that people read: id, cluster, confidence."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np

__all__ = ["write_labels_csv"]

_BLOCK_ROWS = 2**16


def write_labels_csv(
    file: BinaryIO, labels: np.ndarray, ids: Iterable[Any] | None, confidence: np.ndarray | None
) -> None:
    """Writes a line a row with the header ``id,cluster,confidence``.

    Args:
        ids: what names the rows; None: their numbers from 0.
        confidence: how certain each row's cluster is; None leaves the column out.
    """
    names = range(len(labels)) if ids is None else np.asarray(ids)
    header = "id,cluster" if confidence is None else "id,cluster,confidence"
    # a file may be called by bytes that are no letters
    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
    text.write(f"{header}\n")
    # Every name is in quotes: what it consists of, commas, quotes or ends of lines, does not matter.
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    for start in range(0, len(labels), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        columns = [map(_named, _listed(names[block])), _listed(labels[block])]
        if confidence is not None:
            columns.append(map(_digits, _listed(confidence[block])))
        writer.writerows(zip(*columns, strict=True))
    text.flush()
    text.detach()  # which leaves the file open


def _listed(values: Any) -> Any:
    """Values of Python's own types, few at a time: each takes ten times as much memory as in an array."""
    return values if isinstance(values, range) else np.asarray(values).tolist()


def _named(name: Any) -> int | str:
    return name if isinstance(name, int) and not isinstance(name, bool) else str(name)


def _digits(value: float) -> float | None:
    """Six digits, more than a confidence of float32 rows has; nothing for NaN."""
    return None if math.isnan(value) else float(f"{value:.6g}")
