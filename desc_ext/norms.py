"""Rows divided by their norm, whatever the norm is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["unit_rows", "unit_rows_of_narrow"]


def unit_rows(x: Tensor) -> Tensor:
    """Rows x_i / ‖x_i‖ of ``x`` [.., p]: every norm > 0 gives a row of length 1, and a row of zeros stays.

    ``torch.nn.functional.normalize`` divides by 1e-12 at least, and squares that underflow or overflow give it no norm at
    all. Here each row is divided by a power of two near its largest entry first, which changes no bit of other rows.
    Differentiable; a row of zeros passes its gradient on as it is.
    """
    if not x.shape[-1]:
        return x
    largest = x.detach().abs().amax(-1, keepdim=True)
    # so that both the power of two and its inverse are normal numbers
    limit = int(-math.log2(torch.finfo(x.dtype).tiny)) - 1
    factor = torch.exp2(-torch.frexp(largest).exponent.clamp(-limit, limit).to(x.dtype))
    # Two products rather than one: a gradient then reaches x in the two parts in which normalize's does, and is added up
    # with others in the same order.
    scaled = x * factor
    norm = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return (x * factor if x.requires_grad else scaled) / torch.where(norm > 0, norm, 1)


def unit_rows_of_narrow(x: Tensor) -> Tensor:
    """:func:`unit_rows`, with the same bits in half the time, of rows ``x`` [.., p] in float64 that were of a narrower dtype.

    No square of a float32, float16 or integer value of 32 bits overflows or underflows there. Not for gradients.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / norm.masked_fill_(norm == 0, 1)
