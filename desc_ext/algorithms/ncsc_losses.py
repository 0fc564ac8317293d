"""NCSC's two affinities and the losses between them, beside the operators."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from desc_ext import ops
from desc_ext.algorithms.self_expression import leverage_scale

__all__ = [
    "CollaborationOptions", "collaborative_terms", "dense_affinity", "dense_collaborative_loss", "imbalance",
    "nearly_equal", "separation_limit",
]  # fmt: skip

# Rows that each row is compared with to find the affinity below which a given share of the pairs lies.
_SAMPLED_PARTNERS = 16


class CollaborationOptions(Protocol):
    """The options of NCSC that its losses read."""

    lower: float
    soft_indicator: bool
    negative_weight: float
    separation_weight: float
    balance_weight: float


def nearly_equal(index: Tensor, size: int) -> list[Tensor]:
    """Pieces of at most ``size`` that differ by one at most: a short last batch could not express its rows."""
    return list(index.tensor_split(max(1, math.ceil(len(index) / size))))


def collaborative_terms(
    nu: Tensor,
    rows: Tensor,
    row_max: Tensor | None,
    upper: float,
    limit: float,
    options: CollaborationOptions,
) -> tuple[dict[str, tuple[float, Tensor]], Tensor]:
    """Ω (eq. 5) with its two further terms, name → (weight, mean over pairs), and the numbers of pairs, int64 [3].

    ``nu`` [n, K] are predictions of length 1. ``rows`` are y of the closed form with ``row_max`` its largest
    affinities, or the stored affinity [n, n] where ``row_max`` is None.
    """
    lower, soft = options.lower, options.soft_indicator
    if row_max is None:
        found = dense_collaborative_loss(nu, rows, upper, lower, limit, soft)
    else:
        found = ops.collaborative_loss(nu, rows, upper, lower, limit, row_max, soft)
    positive, negative, separation, counts = found
    terms = {"positive": (1.0, positive), "negative": (options.negative_weight, negative)}
    if options.separation_weight:
        terms["separation"] = (options.separation_weight, separation)
    if options.balance_weight:
        terms["balance"] = (options.balance_weight, imbalance(nu))
    return terms, counts


def dense_collaborative_loss(
    prediction: Tensor, affinity: Tensor, upper: float, lower: float, limit: float, soft_indicator: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`desc_ext.ops.collaborative_loss` for an affinity [n, n] that is stored: the same four results."""
    a_c, off = prediction @ prediction.T, ~torch.eye(len(affinity), dtype=torch.bool, device=affinity.device)
    a_s = affinity / affinity.amax(1, keepdim=True).clamp_min(torch.finfo(affinity.dtype).tiny)
    teacher_s, teacher_c = (a_s, a_c) if soft_indicator else (a_s.detach(), a_c.detach())
    chosen = [off & (a_s > upper), off & (a_c < lower), off & (a_s < limit)]

    def log(x: Tensor) -> Tensor:
        return x.clamp(1e-6, 1).log()

    means = [
        -(teacher_s * log(a_c))[chosen[0]].sum(),
        -((1 - teacher_c) * log(1 - a_s))[chosen[1]].sum(),
        -log(1 - a_c)[chosen[2]].sum(),
    ]
    counts = torch.stack([mask.sum() for mask in chosen])
    return *(total / count.clamp_min(1) for total, count in zip(means, counts, strict=True)), counts


@torch.no_grad()
def separation_limit(rows: Tensor, row_max: Tensor | None, share: float) -> float:
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
        s = leverage_scale(rows.square().sum(1))
        sampled = [(rows * rows.roll(-t, 0)).sum(1).abs() * (s + s.roll(-t, 0)) / 2 for t in steps]
    ratio = torch.cat(sampled) / row_max.clamp_min(torch.finfo(rows.dtype).tiny).repeat(len(sampled))
    return float(ratio.quantile(share))


def dense_affinity(z: Tensor, weight: float) -> Tensor:
    """A_s of eq. 4 [n, n] from the closed form of the codes z [n, p], λ1 = ``weight``."""
    coefficient = ops.dense_coefficients(ops.ridge_self_expression(z, 2 / weight)).abs()
    affinity = (coefficient + coefficient.T) / 2
    affinity /= affinity.amax(1, keepdim=True).clamp_min(torch.finfo(affinity.dtype).tiny)
    return affinity.fill_diagonal_(1)


def imbalance(nu: Tensor) -> Tensor:
    """log K − entropy(mean ν²) of ν [n, K], rows of length 1: zero for clusters of equal weight, log K for a single one."""
    mean = nu.square().mean(0)
    entropy = -(mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum()
    return math.log(nu.shape[1]) - entropy
