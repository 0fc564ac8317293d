"""The closed form of self-expression: what follows from y of ``ridge_self_expression`` without storing C [n, n].

With y from :func:`desc_ext.ops.ridge_self_expression`, C_ij = y_i·y_j / (1 − ‖y_i‖²) for i ≠ j.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.cluster import KMeans
from torch import Tensor

from desc_ext import ops
from desc_ext.algorithms.distinct import DistinctRows
from desc_ext.algorithms.spectral import (
    hold_copies,
    join_small_components,
    leading_eigenvectors,
    spectral_kmeans,
    symmetric_affinity,
)

__all__ = [
    "SelfExpressiveClusters", "affinities_to_all", "closed_form_coefficients", "closed_form_expression",
    "cluster_by_self_expression", "leverage_scale", "ridge_affinity", "ridge_inverse", "sparse_affinity",
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
    y: Tensor, indices: Tensor, values: Tensor, n_clusters: int, weights: np.ndarray | None = None
) -> tuple[sparse.csr_array, int]:
    """(|C| + |Cᵀ|)/2 of coefficients [n, k] from y, and how many rows of small components were joined to others.

    ``weights`` are those of :func:`~desc_ext.algorithms.spectral.hold_copies`.
    """
    affinity = symmetric_affinity(indices.cpu().numpy(), values.cpu().numpy())
    candidates = partial(affinities_to_all, y)
    affinity, n_joined = join_small_components(affinity, candidates, n_clusters, y.device, weights)
    return hold_copies(affinity, weights), n_joined


def ridge_affinity(
    z: Tensor, ridge: float, n_neighbors: int, n_clusters: int, weights: np.ndarray | None = None
) -> sparse.csr_array:
    """:func:`sparse_affinity` of the ``n_neighbors`` largest coefficients of each row of ``z`` [n, p]."""
    y = ops.ridge_self_expression(z, ridge)
    indices, values = ops.coefficient_topk(y, min(n_neighbors, len(z) - 1))
    return sparse_affinity(y, indices, values, n_clusters, weights)[0]


@dataclass
class SelfExpressiveClusters:
    """Clusters by the closed form of d distinct rows: the affinity, its leading eigenvectors, and k-means of their rows."""

    distinct: DistinctRows  # of the n rows
    affinity: sparse.csr_array  # [d, d]
    eigenvalues: np.ndarray  # [m], descending
    vectors: np.ndarray  # [d, m]
    embedding: np.ndarray  # [d, m], rows of the eigenvectors divided by their norm
    kmeans: KMeans

    @property
    def labels(self) -> np.ndarray:
        """int64 [n]."""
        return self.kmeans.labels_.astype(np.int64)[self.distinct.number]


# Times a part of the clustering by its name; what is put into its dictionary is recorded with it.
TimedStage = Callable[[str], AbstractContextManager[dict[str, Any]]]


def cluster_by_self_expression(
    z: Tensor,
    distinct: DistinctRows,
    n_clusters: int,
    *,
    ridge: float,
    n_neighbors: int,
    n_components: int,
    n_init: int,
    seed: int,
    eigen_solver: str = "arpack",
    stage: TimedStage = lambda name: nullcontext({}),
) -> SelfExpressiveClusters:
    """Ridge regression of every row on all others, spectral clustering of the largest coefficients.

    A row that repeats an earlier one is in the cluster of that one, since beside its copies nothing else would express
    it; copies count in the graph (:func:`~desc_ext.algorithms.spectral.hold_copies`) and in k-means.

    Args:
        z: rows [n, p].
        distinct: which of them differ, K at least.
        ridge: ε of ‖C‖² + ‖z − C z‖²/ε.
        n_neighbors: coefficients kept of each row; n − 1 at most.
        n_components: eigenvectors, m.
        n_init: k-means runs.
        eigen_solver: of :func:`~desc_ext.algorithms.spectral.leading_eigenvectors`.
        stage: times "coefficients", "affinity", "eigenvectors" and "k-means".
    """
    with stage("coefficients"):
        z = distinct.take(z)
        y = ops.ridge_self_expression(z, ridge)
        indices, values = ops.coefficient_topk(y, min(n_neighbors, len(z) - 1))
    with stage("affinity") as record:
        affinity, record["n_joined"] = sparse_affinity(y, indices, values, n_clusters, distinct.weights)
        del y
    with stage("eigenvectors") as record:
        eigenvalues, vectors = leading_eigenvectors(affinity, n_components, eigen_solver, seed)
        record["eigenvalues"] = eigenvalues.tolist()
    with stage("k-means") as record:
        embedding, kmeans = spectral_kmeans(vectors, n_clusters, n_init, seed, distinct.weights)
        found = SelfExpressiveClusters(distinct, affinity, eigenvalues, vectors, embedding, kmeans)
        record["loss"] = float(kmeans.inertia_)
        record["cluster_sizes"] = np.bincount(found.labels, minlength=n_clusters).tolist()
    return found


def ridge_inverse(z: Tensor, ridge: float) -> Tensor:
    """(zᵀz + ridge·I)⁻¹ [p, p], or (z zᵀ + ridge·I)⁻¹ [n, n] where n < p."""
    parts = z.split(_GRAM_ROWS) if len(z) >= z.shape[1] else [z.T]
    size = min(z.shape)
    gram = torch.zeros(size, size, dtype=torch.float64, device=z.device)
    for part in parts:
        gram += part.double().T @ part.double()
    gram.diagonal().add_(ridge)
    return torch.cholesky_inverse(torch.linalg.cholesky(gram)).to(z.dtype).contiguous()
