"""What NCSC's two affinities need beside the operators: C's closed form without C, and the loss of a stored affinity."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["apart_limit", "closed_form_expression", "dense_collaborative_loss"]

# Rows that each row is compared with to find the affinity below which a given share of the pairs lies.
_SAMPLED_PARTNERS = 16


def closed_form_expression(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """C z [n, p] and ‖C‖²_F for C_ij = y_i·y_j / (1 − ‖y_i‖²), C_ii = 0, in O(n p²) and without C.

    With h_i = ‖y_i‖², (C z)_i = (y_i (yᵀz) − h_i z_i) / (1 − h_i), and row i of C has the squared norm
    (y_i (yᵀy) y_iᵀ − h_i²) / (1 − h_i)².
    """
    h = y.square().sum(1, keepdim=True)
    scale = 1 / (1 - h).clamp_min(torch.finfo(y.dtype).eps)
    expressed = scale * (y @ (y.T @ z) - h * z)
    squared = ((y @ (y.T @ y)) * y).sum(1, keepdim=True) - h.square()
    return expressed, (scale.square() * squared).sum()


def dense_collaborative_loss(
    prediction: Tensor, affinity: Tensor, upper: float, lower: float, apart: float, soft_indicator: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`desc_ext.ops.collaborative_loss` for an affinity [n, n] that is stored: the same four results."""
    a_c, off = prediction @ prediction.T, ~torch.eye(len(affinity), dtype=torch.bool, device=affinity.device)
    a_s = affinity / affinity.amax(1, keepdim=True).clamp_min(torch.finfo(affinity.dtype).tiny)
    teacher_s, teacher_c = (a_s, a_c) if soft_indicator else (a_s.detach(), a_c.detach())
    chosen = [off & (a_s > upper), off & (a_c < lower), off & (a_s < apart)]

    def log(x: Tensor) -> Tensor:
        return x.clamp(1e-6, 1).log()

    means = [
        -(teacher_s * log(a_c))[chosen[0]].sum(),
        -((1 - teacher_c) * log(1 - a_s))[chosen[1]].sum(),
        -log(1 - a_c)[chosen[2]].sum(),
    ]
    counts = torch.stack([mask.sum() for mask in chosen])
    return *(total / count.clamp_min(1) for total, count in zip(means, counts, strict=True)), counts


def apart_limit(rows: Tensor, row_max: Tensor | None, share: float) -> float:
    """The value of A_s below which about ``share`` of the pairs lie, from pairs (i, i + t) of rows in random order.

    ``rows`` are y of the closed form, or the stored affinity where ``row_max`` is None.
    """
    n = len(rows)
    if share == 0 or n < 3:
        return 0.0
    steps = range(1, min(_SAMPLED_PARTNERS, n - 1) + 1)
    if row_max is None:
        i = torch.arange(n, device=rows.device)
        sampled = [rows[i, (i + t) % n] for t in steps]
        row_max = rows.amax(1)
    else:
        s = 1 / (1 - rows.square().sum(1)).clamp_min(torch.finfo(rows.dtype).eps)
        sampled = [(rows * rows.roll(-t, 0)).sum(1).abs() * (s + s.roll(-t, 0)) / 2 for t in steps]
    ratio = torch.cat(sampled) / row_max.clamp_min(torch.finfo(rows.dtype).tiny).repeat(len(sampled))
    return float(ratio.quantile(share))
