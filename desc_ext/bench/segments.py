"""What the Gram matrices of segments are measured against: loops over the segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SEGMENTS = 10
_STEP = 7919  # a prime: rows of a segment do not lie beside each other


_made: dict[tuple[int, str], Tensor] = {}  # torch.compile looks into no cache of functools


def labels(n: int, device: torch.device) -> Tensor:
    """The segment of each of ``n`` rows, int64 [n]; all segments are about as large. Made once, as they are not measured."""
    key = (n, device.type)
    if key not in _made:
        _made[key] = torch.arange(n, device=device) * _STEP // 10 % SEGMENTS
    return _made[key]


def gram(module: Any) -> Callable:
    """``segment_gram`` of ``ops`` or ``reference``, over :data:`SEGMENTS` segments."""
    return lambda z: module.segment_gram(z, labels(len(z), z.device), SEGMENTS)


def loop(z: Tensor) -> Tensor:
    """The rows of one segment after the other."""
    of_row = labels(len(z), z.device)
    parts = [z[of_row == k] for k in range(SEGMENTS)]
    return torch.stack([own.T @ own for own in parts])


def sorted_loop(z: Tensor) -> Tensor:
    """The same, the rows sorted by segment first."""
    of_row = labels(len(z), z.device)
    sizes = of_row.bincount(minlength=SEGMENTS).tolist()
    return torch.stack([own.T @ own for own in z[of_row.argsort()].split(sizes)])
