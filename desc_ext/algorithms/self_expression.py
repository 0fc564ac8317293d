"""The closed form of self-expression: what follows from y of ``ridge_self_expression`` without storing C [n, n].

With y from :func:`desc_ext.ops.ridge_self_expression`, C_ij = y_i·y_j / (1 − ‖y_i‖²) for i ≠ j.
"""

from __future__ import annotations

import torch
from scipy import sparse
from torch import Tensor

from desc_ext import ops
from desc_ext.algorithms.spectral import join_small_components, symmetric_affinity

__all__ = [
    "affinities_to_all", "closed_form_coefficients", "closed_form_expression", "leverage_scale", "ridge_affinity",
    "ridge_inverse", "sparse_affinity",
]  # fmt: skip

_GRAM_ROWS = 8192  # added to a Gram matrix at a time


def leverage_scale(leverage: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """1 / (1 − ‖y_i‖²) for ‖y_i‖² = ``leverage``, at most the reciprocal of the rounding unit of ``dtype`` (its own)."""
    return 1 / (1 - leverage).clamp_min(torch.finfo(dtype or leverage.dtype).eps)


def closed_form_coefficients(y: Tensor, out: Tensor) -> Tensor:
    """C [n, n], written to ``out``."""
    scale = leverage_scale(y.square().sum(1, keepdim=True))
    return torch.matmul(scale * y, y.T, out=out).fill_diagonal_(0)


def closed_form_expression(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """C z [n, p] and ‖C‖²_F for C_ij = y_i·y_j / (1 − ‖y_i‖²), C_ii = 0, in O(n p²) and without C.

    With h_i = ‖y_i‖², (C z)_i = (y_i (yᵀz) − h_i z_i) / (1 − h_i), and row i of C has the squared norm
    (y_i (yᵀy) y_iᵀ − h_i²) / (1 − h_i)².
    """
    h = y.square().sum(1, keepdim=True)
    scale = leverage_scale(h)
    expressed = scale * (y @ (y.T @ z) - h * z)
    squared = ((y @ (y.T @ y)) * y).sum(1, keepdim=True) - h.square()
    return expressed, (scale.square() * squared).sum()


def affinities_to_all(y: Tensor, rows: Tensor) -> Tensor:
    """(|C_ij| + |C_ji|)/2 [m, n] of the rows with the numbers ``rows`` [m] to all."""
    scale = leverage_scale(y.square().sum(1))
    return (y[rows] @ y.T).abs() * (scale[rows, None] + scale) / 2


def sparse_affinity(
    y: Tensor, indices: Tensor, values: Tensor, n_clusters: int
) -> tuple[sparse.csr_array, int]:
    """(|C| + |Cᵀ|)/2 of coefficients [n, k] from y, and how many rows of small components were joined to others."""
    affinity = symmetric_affinity(indices.cpu().numpy(), values.cpu().numpy())
    return join_small_components(affinity, lambda rows: affinities_to_all(y, rows), n_clusters, y.device)


def ridge_affinity(z: Tensor, ridge: float, n_neighbors: int, n_clusters: int) -> sparse.csr_array:
    """:func:`sparse_affinity` of the ``n_neighbors`` largest coefficients of each row of ``z`` [n, p]."""
    y = ops.ridge_self_expression(z, ridge)
    indices, values = ops.coefficient_topk(y, min(n_neighbors, len(z) - 1))
    return sparse_affinity(y, indices, values, n_clusters)[0]


def ridge_inverse(z: Tensor, ridge: float) -> Tensor:
    """(zᵀz + ridge·I)⁻¹ [p, p], or (z zᵀ + ridge·I)⁻¹ [n, n] where n < p."""
    parts = z.split(_GRAM_ROWS) if len(z) >= z.shape[1] else [z.T]
    size = min(z.shape)
    gram = torch.zeros(size, size, dtype=torch.float64, device=z.device)
    for part in parts:
        gram += part.double().T @ part.double()
    gram.diagonal().add_(ridge)
    return torch.cholesky_inverse(torch.linalg.cholesky(gram)).to(z.dtype).contiguous()
