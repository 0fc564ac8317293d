"""The smaller one of a matrix's two Gram matrices."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["GRAM_ROWS", "smaller_gram"]

GRAM_ROWS = 8192  # added to a Gram matrix at a time


def smaller_gram(z: Tensor) -> Tensor:
    """zᵀz [p, p] of rows ``z`` [n, p], or z zᵀ [n, n] where n < p; float64, no float64 copy of all rows."""
    parts = z.split(GRAM_ROWS) if len(z) >= z.shape[1] else [z.T]
    size = min(z.shape)
    gram = torch.zeros(size, size, dtype=torch.float64, device=z.device)
    for part in parts:
        gram += part.double().T @ part.double()
    return gram
