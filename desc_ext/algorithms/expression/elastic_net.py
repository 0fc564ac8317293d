"""Elastic net subspace clustering (EnSC): the coefficients of every row, by an active set that an oracle point guides."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from desc_ext.algorithms.expression.rows import (
    by_tiles,
    check_count,
    check_expressed_rows,
    largest,
)
from desc_ext.messages import warn_user
from desc_ext.ops.checks import check_finite

__all__ = ["elastic_net_coefficients"]

_OPERATOR = "elastic_net_coefficients"
_MOST_ROWS = 64
# Rows that a problem begins with, and that join it at a time, those with the largest products first.
_FIRST, _JOINING = 32, 16
# Each round lowers the objective, so the sets of a row never repeat; a handful is usual.
_MOST_ROUNDS = 100
_MOST_STEPS, _MOST_HALVINGS = 100, 30
# c is the solution on its candidates where it differs from the c of its own oracle point by no more, relative to its largest.
_SOLVED = 1e-9


@torch.no_grad()
def elastic_net_coefficients(
    z: Tensor, k: int, l1_share: float = 0.9, weight: float = 50.0, tolerance: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """The k largest coefficients of every row under the elastic net (EnSC), largest first.

    You, Li, Robinson and Vidal, "Oracle based active set algorithm for scalable elastic net subspace clustering", CVPR
    2016, eq. 2: c minimises λ‖c‖₁ + (1 − λ)/2 ‖c‖² + γ_i/2 ‖z_i − Σ_j c_j z_j‖² with c_i = 0, for γ_i = ``weight`` times
    λ / max_{j ≠ i} |z_i · z_j|, the smallest γ that gives a coefficient other than 0.

    ORGEN, their algorithm 1: the problem is solved on a few candidates; δ = γ_i (z_i − Σ_j c_j z_j) is the oracle point,
    and c solves the whole problem when no row outside has |z_j · δ| > λ. Such rows join the candidates, the rest of
    which are those with c_j ≠ 0, until there are none. Each of these problems is solved exactly, by Newton's method on
    its dual, a convex function with a piecewise constant second derivative (float64).

    Memory is O(n (p + k)) and tiles. The bits are the same for any number of threads.

    Args:
        z: rows [n, p], n ≥ 2; float32 or float64, finite. The paper's have unit length.
        k: coefficients kept of each row, 1 to n − 1; equal |c_j| go to the lowest j.
        l1_share: λ, above 0 and below 1. Smaller: more coefficients, which join a class better and others sooner.
        weight: γ_i in units of the smallest that counts; above 1, or all coefficients are 0.
        tolerance: rows outside with |z_j · δ| ≤ (1 + ``tolerance``) λ are let be.

    Returns:
        (indices int64 [n, k], values [n, k] of the dtype of ``z``). Where there are fewer coefficients, the rest has the
            value 0 and the index i; a row that is orthogonal to all others has none.

    Raises:
        TypeError: ``z`` is no tensor or neither float32 nor float64.
        ValueError: ``z`` has another rank, one row, NaN or infinity; an option is out of range.
    """
    check_expressed_rows(_OPERATOR, z)
    k = check_count(_OPERATOR, "k", k, z)
    if not 0 < l1_share < 1:
        raise ValueError(
            f"{_OPERATOR}: l1_share must be above 0 and below 1, got {l1_share}; the ridge regression of "
            "ops.ridge_self_expression is that without an l1 part"
        )
    weight = check_finite(_OPERATOR, "weight", weight, 1.0, open_end=True)
    tolerance = check_finite(_OPERATOR, "tolerance", tolerance, 0.0, open_end=False)
    return by_tiles(partial(_expressed, z, k, float(l1_share), weight, tolerance), z, _MOST_ROWS)


@dataclass
class _Problems:
    """Elastic nets on m candidates each, in float64; a candidate that is none has zeros in its place."""

    gram: Tensor  # [t, m, m], products of the candidates
    products: Tensor  # [t, m], theirs with the row
    gamma: Tensor  # [t, 1]
    l1_share: float

    def take(self, kept: Tensor) -> _Problems:
        return _Problems(self.gram[kept], self.products[kept], self.gamma[kept], self.l1_share)

    def of_oracle(self, oracle: Tensor) -> Tensor:
        """c of the oracle's products with the candidates, z_j · δ: soft(z_j · δ, λ) / (1 − λ)."""
        return torch.nn.functional.softshrink(oracle, self.l1_share) / (1 - self.l1_share)


def _expressed(
    z: Tensor, k: int, l1_share: float, weight: float, tolerance: float, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Indices and values of the rows with the numbers ``rows`` [t]."""
    size = (z[rows] @ z.T).abs_().scatter_(1, rows[:, None], -1.0)
    found, candidates = largest(size, min(_FIRST, len(z) - 1))
    del size
    # a row that is orthogonal to all others has no γ: its products are 0 with any
    smallest = found[:, :1].double()
    gamma = weight * l1_share / torch.where(smallest > 0, smallest, 1)
    indices = rows[:, None].repeat(1, k)
    values = z.new_zeros(len(rows), k)
    tile = torch.arange(len(rows), device=z.device)  # which rows are not yet solved
    coefficients = torch.zeros_like(found, dtype=torch.float64)
    present = torch.ones_like(candidates, dtype=torch.bool)
    for _ in range(_MOST_ROUNDS):
        part = z[candidates].double() * present[:, :, None]
        target = z[rows[tile]].double()
        problems = _Problems(part @ part.mT, (part @ target[:, :, None])[:, :, 0], gamma[tile], l1_share)
        coefficients = _solved(problems, coefficients)
        oracle = gamma[tile] * (target - (coefficients[:, None, :] @ part)[:, 0])
        joining, outside = _outside(z, oracle, rows[tile], candidates, (1 + tolerance) * l1_share)
        solved = ~outside.any(1)
        if solved.any():
            _keep(indices, values, tile[solved], candidates[solved], coefficients[solved])
        left = ~solved
        if not left.any():
            return indices, values
        tile = tile[left]
        candidates, coefficients, present = _next_candidates(
            rows[tile], candidates[left], coefficients[left], joining[left], outside[left]
        )
    warn_user(
        f"{_OPERATOR}: the coefficients of {len(tile)} rows were not settled after {_MOST_ROUNDS} rounds; a larger "
        "tolerance or a smaller weight settles them sooner",
        ConvergenceWarning,
    )
    _keep(indices, values, tile, candidates, coefficients)
    return indices, values


def _outside(
    z: Tensor, oracle: Tensor, rows: Tensor, candidates: Tensor, bound: float
) -> tuple[Tensor, Tensor]:
    """The rows with the largest |z_j · δ| beside the candidates [t, j], and which of them pass ``bound``."""
    size = (oracle.to(z.dtype) @ z.T).abs_()
    size.scatter_(1, candidates, -1.0).scatter_(1, rows[:, None], -1.0)
    found, joining = largest(size, min(_JOINING, size.shape[1]))
    return joining, found > bound


def _next_candidates(
    rows: Tensor, candidates: Tensor, coefficients: Tensor, joining: Tensor, outside: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates with c_j ≠ 0 and the rows that join them [t, m], their c, and which places of [t, m] are taken.

    The other places have the row's own number, which is never looked for outside.
    """
    candidates = torch.cat([candidates, joining], 1)
    coefficients = torch.cat([coefficients, torch.zeros_like(joining, dtype=coefficients.dtype)], 1)
    present = torch.cat([coefficients[:, : -joining.shape[1]] != 0, outside], 1)
    order = present.sort(dim=1, descending=True, stable=True).indices[:, : int(present.sum(1).max())]
    present = present.gather(1, order)
    return (
        torch.where(present, candidates.gather(1, order), rows[:, None]),
        coefficients.gather(1, order),
        present,
    )


def _keep(indices: Tensor, values: Tensor, tile: Tensor, candidates: Tensor, coefficients: Tensor) -> None:
    """Writes the largest coefficients into ``indices`` and ``values``."""
    order = candidates.sort(dim=1).indices  # so that equal coefficients go to the lowest row
    candidates, coefficients = candidates.gather(1, order), coefficients.gather(1, order)
    k = min(indices.shape[1], candidates.shape[1])
    _, columns = largest(coefficients.abs(), k)
    kept = coefficients.gather(1, columns).to(values.dtype)
    indices[tile, :k] = torch.where(kept != 0, candidates.gather(1, columns), indices[tile, :k])
    values[tile, :k] = kept


def _solved(problems: _Problems, coefficients: Tensor) -> Tensor:
    """c [t, m] of each problem, from a guess.

    With the oracle point δ = γ (z − Σ_j v_j z_j) of any v, the dual to be minimised is
    D(v) = γ/2 vᵀ G v + ‖soft(G-products of δ, λ)‖² / (2 (1 − λ)). Newton's step leads to the c that solves the
    equations of the active candidates, |z_j · δ| > λ, with their signs; it is shortened where D would rise again.
    """
    found = torch.zeros_like(coefficients)
    tile = torch.arange(len(found), device=found.device)
    point = coefficients
    for _ in range(_MOST_STEPS):
        oracle = problems.gamma * (problems.products - _times(problems.gram, point))
        target = _newton_target(problems, oracle)
        step = target - point
        change = problems.gamma * _times(problems.gram, step)  # of the oracle's products, downwards
        difference = (target - problems.of_oracle(oracle - change)).abs().amax(1)
        solved = difference <= _SOLVED * target.abs().amax(1)
        found[tile] = target
        open_ = ~solved
        if not open_.any():
            break
        tile, problems = tile[open_], problems.take(open_)
        point, step, oracle, change = (part[open_] for part in (point, step, oracle, change))
        point = point + _length(problems, point, step, oracle, change) * step
    return found


def _newton_target(problems: _Problems, oracle: Tensor) -> Tensor:
    """c with (γ G_AA + (1 − λ) I) c_A = γ b_A − λ sign(z_A · δ) for the active A, 0 elsewhere."""
    share = problems.l1_share
    active = oracle.abs() > share
    order = active.sort(dim=1, descending=True, stable=True).indices[:, : max(1, int(active.sum(1).max()))]
    active, sign = active.gather(1, order), oracle.gather(1, order).sign()
    gram = problems.gram.gather(1, order[:, :, None].expand(-1, -1, problems.gram.shape[2]))
    gram = gram.gather(2, order[:, None, :].expand(-1, order.shape[1], -1))
    equations = problems.gamma[:, :, None] * gram * (active[:, :, None] & active[:, None, :])
    equations.diagonal(dim1=1, dim2=2).add_(1 - share)
    right = (problems.gamma * problems.products.gather(1, order) - share * sign) * active
    solution = torch.cholesky_solve(right[:, :, None], torch.linalg.cholesky(equations))[:, :, 0]
    return torch.zeros_like(oracle).scatter_(1, order, solution)


def _length(problems: _Problems, point: Tensor, step: Tensor, oracle: Tensor, change: Tensor) -> Tensor:
    """How far along ``step`` [t, 1] D is smallest, at most 1, by halving an interval."""

    def rising(length: Tensor) -> Tensor:
        moved = problems.of_oracle(oracle - length * change)
        return (change * (point + length * step - moved)).sum(1, keepdim=True) > 0

    low = torch.zeros_like(oracle[:, :1])
    high = torch.ones_like(low)
    whole = ~rising(high)
    for _ in range(_MOST_HALVINGS):
        middle = (low + high) / 2
        up = rising(middle)
        low, high = torch.where(up, low, middle), torch.where(up, middle, high)
    return torch.where(whole, 1.0, low)


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors[:, :, None])[:, :, 0]
