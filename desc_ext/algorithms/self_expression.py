"""The closed form of self-expression: what follows from y of ``ridge_self_expression`` without storing C [n, n].

With y from :func:`desc_ext.ops.ridge_self_expression`, C_ij = y_i·y_j / (1 − ‖y_i‖²) for i ≠ j.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import brentq
from sklearn.cluster import KMeans
from torch import Tensor

from desc_ext import ops
from desc_ext.algorithms.cluster_number import MOST_CLUSTERS, ClusterNumber, cluster_number
from desc_ext.algorithms.diffusion import Diffusion, diffusion_clusters, diffusion_coordinates
from desc_ext.algorithms.distinct import DistinctRows
from desc_ext.algorithms.expression import (
    elastic_net_coefficients,
    low_rank_coefficients,
    orthogonal_matching_pursuit,
)
from desc_ext.algorithms.gram import smaller_gram
from desc_ext.algorithms.graph import (
    hold_copies,
    join_small_components,
    row_maxima,
    row_normalised,
    symmetric_affinity,
)
from desc_ext.algorithms.smoothed_codes import SmoothedCodes, clusters_of_lower_cut, smoothed_codes
from desc_ext.norms import unit_rows

__all__ = [
    "ExpressionOptions",
    "SelfExpressiveClusters",
    "closed_form_coefficients",
    "closed_form_expression",
    "cluster_by_self_expression",
    "expressed_affinity",
    "expression_options",
    "gram_eigenvalues",
    "leverage_scale",
    "mean_square",
    "number_of_clusters",
    "ridge_affinity",
    "ridge_inverse",
    "ridge_of_dimension",
    "self_expressive_clusters",
    "usual_expression",
    "usual_neighbors",
]

# Coefficients kept of each row, below and above so many rows a cluster.
_FEW_ROWS, _NEIGHBORS_OF_FEW, _NEIGHBORS = 100, 5, 10
# Of rows that are no images one in so many of a cluster, up to a largest number: 20 Newsgroups-b (942 rows a cluster) rose
# from .676/.702 with 10 to .732/.722 with 20 and .772/.758 with 40, digits (180) fell from .947 with 10 to .935 with 20, and
# images of MNIST (1,000) from .984 with 10 to .983 and .980.
_ROWS_PER_NEIGHBOR, _MOST_NEIGHBORS = 25, 40
# Effective dimensions that the ridge leaves: so many a cluster, and of all dimensions no larger share.
_DIMENSIONS_PER_CLUSTER, _LARGEST_SHARE = 7, 0.25
_LOW_RANK_THRESHOLD = 1.0
# From so many rows on eigenvectors are found by a block method; see chebyshev.py.
_BLOCK_SOLVER_ROWS = 100_000
# Where the number of clusters is not known, the first graph is that of clusters of so many rows.
_USUAL_ROWS = 100


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


def affinities_to_all(y: Tensor, rows: Tensor, largest: Tensor) -> Tensor:
    """(|C_ij| / c_i + |C_ji| / c_j)/2 [m, n] of the rows with the numbers ``rows`` [m] to all, c = ``largest`` [n]."""
    scale = leverage_scale(y.square().sum(1)) / torch.where(largest > 0, largest, 1)
    return (y[rows] @ y.T).abs() * (scale[rows, None] + scale) / 2


def _row_normalised_affinity(
    indices: Tensor,
    values: Tensor,
    candidates: Callable[[Tensor], Tensor],
    n_clusters: int,
    weights: np.ndarray | None,
) -> tuple[sparse.csr_array, int]:
    """(|C| + |Cᵀ|)/2 of coefficients [n, k], each row divided by its largest one, and how many rows were joined.

    Rows have very different norms of C: without the division those of small norms, at the borders and in sparse regions,
    would hardly be in the graph (as in SSC's code and in eq. 4 of NCSC).

    Those of small components are joined to others by ``candidates``, as
    :func:`~desc_ext.algorithms.graph.join_small_components` does; ``weights`` are those of
    :func:`~desc_ext.algorithms.graph.hold_copies`.
    """
    affinity = symmetric_affinity(indices.cpu().numpy(), row_normalised(values).cpu().numpy())
    affinity, n_joined = join_small_components(affinity, candidates, n_clusters, values.device, weights)
    return hold_copies(affinity, weights), n_joined


def ridge_affinity(
    z: Tensor, ridge: float, n_neighbors: int, n_clusters: int, weights: np.ndarray | None = None
) -> sparse.csr_array:
    """The affinity of the ``n_neighbors`` largest coefficients of each row of ``z`` [n, p], divided by the largest."""
    found = _ridge_coefficients(z, min(n_neighbors, len(z) - 1), ridge)
    return _row_normalised_affinity(*found, n_clusters, weights)[0]


def _ridge_coefficients(z: Tensor, k: int, ridge: float) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """Indices and values [n, k] of the largest of each row, and what a row of a small component is joined by."""
    y = ops.ridge_self_expression(z, ridge)
    indices, values = ops.coefficient_topk(y, k)
    return indices, values, partial(affinities_to_all, y, largest=row_maxima(values))


@dataclass(frozen=True)
class ExpressionOptions:
    """How rows are expressed by each other and their graph is clustered."""

    ridge: float  # ε of ‖C‖² + ‖z − C z‖²/ε, in units of the mean ‖z_i‖²
    n_neighbors: int  # coefficients kept of each row; n − 1 at most
    n_components: int  # eigenvectors; n at most
    ratio: float = 0.65  # of desc_ext.algorithms.diffusion.diffusion_time
    n_init: int | None = None  # restarts of k-means
    eigen_solver: str = "arpack"  # of desc_ext.algorithms.spectral.leading_eigenvectors
    expression: str = "ridge"  # or "omp", "elastic-net", "low-rank"
    smoothing: bool = False  # whether smoothed rows may take the place of diffusion coordinates


def expression_options(
    n: int, n_clusters: int, eigenvalues: np.ndarray | None, images: bool, **given: Any
) -> ExpressionOptions:
    """Options for n distinct rows of K clusters where they are not ``given`` (None is not).

    Neighbours: 5 below 100 rows a cluster, where with more of them clusters join; above, 10 of images, and of other rows a
    25th of a cluster's, from 10 to 40. Smoothing: but for images. Eigenvectors: by ARPACK below 100,000 rows. The ridge: see
    :func:`ridge_of_dimension`, with 7 dimensions a cluster, but a quarter of all at most; as the threshold of "low-rank",
    which takes more of the spectrum away than a ridge of the same size, 1.

    Args:
        eigenvalues: of :func:`gram_eigenvalues`, in units of the mean ‖z_i‖²; not needed where the ridge is given, or for
            "low-rank".
        images: whether rows are images, or features of images.
    """
    chosen: dict[str, Any] = {
        "n_neighbors": usual_neighbors(n / n_clusters, images),
        "n_components": 2 * n_clusters,
        "smoothing": not images,
        "eigen_solver": "arpack" if n < _BLOCK_SOLVER_ROWS else "chebyshev",
    }
    if given.get("expression") == "low-rank":
        chosen["ridge"] = _LOW_RANK_THRESHOLD
    elif given.get("ridge") is None:
        assert eigenvalues is not None
        dimension = min(_DIMENSIONS_PER_CLUSTER * n_clusters, _LARGEST_SHARE * len(eigenvalues))
        chosen["ridge"] = ridge_of_dimension(eigenvalues, dimension)
    chosen |= {name: value for name, value in given.items() if value is not None}
    chosen["n_components"] = min(chosen["n_components"], n)
    return ExpressionOptions(**chosen)


def usual_neighbors(rows: float, images: bool) -> int:
    """Coefficients kept of each row where a cluster has ``rows``."""
    if rows < _FEW_ROWS:
        return _NEIGHBORS_OF_FEW
    return _NEIGHBORS if images else min(max(round(rows / _ROWS_PER_NEIGHBOR), _NEIGHBORS), _MOST_NEIGHBORS)


def mean_square(z: Tensor) -> float:
    """The mean ‖z_i‖² of rows [n, p], the unit of a ridge."""
    # NumPy adds on one thread: the same bits for any number of them
    return float(z.double().square().sum(1).cpu().numpy().mean())


def gram_eigenvalues(z: Tensor) -> np.ndarray:
    """Eigenvalues of zᵀz, or of z zᵀ where n < p, of rows [n, p]; float64 [min(n, p)], ascending."""
    return torch.linalg.eigvalsh(smaller_gram(z)).clamp_min(0).cpu().numpy()


def ridge_of_dimension(eigenvalues: np.ndarray, dimension: float) -> float:
    """ε such that the ridge regression has Σ_j λ_j/(λ_j + ε) = ``dimension`` effective dimensions, to three digits.

    What is too large a ridge for few rows or a steep spectrum is too small for many rows or a flat one; the number of
    dimensions that it leaves means the same for all.
    """
    positive = eigenvalues[eigenvalues > eigenvalues.max() * np.finfo(np.float32).eps]
    dimension = min(dimension, 0.9 * len(positive))

    def excess(log: float) -> float:
        return float((positive / (positive + math.exp(log))).sum()) - dimension

    # of rank r, the dimension is r·λ_min/(λ_min + ε) at least and r·λ_max/(λ_max + ε) at most
    left = len(positive) / dimension - 1
    low, high = (math.log(value * left) for value in (positive.min() / 2, positive.max() * 2))
    return float(f"{math.exp(brentq(excess, low, high)):.3g}")


@dataclass
class SelfExpressiveClusters:
    """Clusters by the closed form of d distinct rows: their graph, coordinates in it, and k-means of these."""

    distinct: DistinctRows  # of the n rows
    affinity: sparse.csr_array  # [d, d]
    diffusion: Diffusion
    coordinates: Diffusion | SmoothedCodes  # which of the two k-means has clustered
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
    options: ExpressionOptions,
    seed: int,
    stage: TimedStage = lambda name: nullcontext({}),
) -> SelfExpressiveClusters:
    """Ridge regression of every row on all others, then clusters of the diffusion coordinates of their graph.

    A row that repeats an earlier one is in the cluster of that one, since beside its copies nothing else would express
    it; copies count in the graph (:func:`~desc_ext.algorithms.graph.hold_copies`) and in k-means.

    Args:
        z: rows [n, p].
        distinct: which of them differ, K at least.
        stage: times "coefficients", "affinity", "eigenvectors" and "k-means".
    """
    affinity = expressed_affinity(z, distinct, n_clusters, options, stage)
    with stage("eigenvectors") as record:
        diffusion = diffusion_coordinates(
            affinity,
            n_clusters,
            options.n_components,
            options.ratio,
            options.eigen_solver,
            seed,
            distinct.weights,
            z.device,
        )
        record["eigenvalues"] = diffusion.eigenvalues.tolist()
        record["time"] = diffusion.time
    with stage("k-means") as record:
        kmeans = diffusion_clusters(diffusion.embedding, n_clusters, options.n_init, seed, distinct.weights)
        found = SelfExpressiveClusters(distinct, affinity, diffusion, diffusion, kmeans)
        if options.smoothing:
            _smooth(found, z, n_clusters)
        record["smoothed"] = isinstance(found.coordinates, SmoothedCodes)
        record["loss"] = float(found.kmeans.inertia_)
        record["cluster_sizes"] = np.bincount(found.labels, minlength=n_clusters).tolist()
    return found


def _smooth(found: SelfExpressiveClusters, z: Tensor, n_clusters: int) -> None:
    """Clusters of the smoothed rows in the place of those of the diffusion coordinates, where they cut the graph less."""
    weights, labels = found.distinct.weights, found.kmeans.labels_.astype(np.int64)
    codes = smoothed_codes(found.affinity, found.distinct.take(z).cpu().numpy(), weights)
    kmeans = clusters_of_lower_cut(found.affinity, codes.embedding, labels, n_clusters, weights)
    if kmeans is not None:
        found.coordinates, found.kmeans = codes, kmeans


def expressed_affinity(
    z: Tensor,
    distinct: DistinctRows,
    n_clusters: int,
    options: ExpressionOptions,
    stage: TimedStage = lambda name: nullcontext({}),
) -> sparse.csr_array:
    """The affinity [d, d] of the distinct rows of ``z`` [n, p]; arguments as for :func:`cluster_by_self_expression`."""
    with stage("coefficients"):
        ridge = options.ridge * mean_square(z)
        z = distinct.take(z)
        k = min(options.n_neighbors, len(z) - 1)
        if options.expression == "ridge":
            indices, values, candidates = _ridge_coefficients(z, k, ridge)
        else:
            indices, values = _few_coefficients(z, k, ridge, options.expression)
            # most of the other coefficients are 0: rows are joined by their products
            candidates = partial(_cosines_to_all, unit_rows(z))
    with stage("affinity") as record:
        affinity, record["n_joined"] = _row_normalised_affinity(
            indices, values, candidates, n_clusters, distinct.weights
        )
    return affinity


def _few_coefficients(z: Tensor, k: int, ridge: float, expression: str) -> tuple[Tensor, Tensor]:
    if expression == "omp":
        return orthogonal_matching_pursuit(z, k)
    if expression == "elastic-net":
        return elastic_net_coefficients(z, k)
    return low_rank_coefficients(z, k, ridge)


def _cosines_to_all(directions: Tensor, rows: Tensor) -> Tensor:
    return (directions[rows] @ directions.T).abs()


def self_expressive_clusters(
    directions: Tensor, distinct: DistinctRows, n_clusters: int, seed: int, images: bool
) -> SelfExpressiveClusters:
    """Clusters of unit rows [n, p], ``images`` or their features or others, by the closed form with its default options.

    Where no more rows differ than there are clusters, ``distinct`` has the clusters already: ask it first.
    """
    options = usual_expression(directions, distinct, n_clusters, images)
    return cluster_by_self_expression(directions, distinct, n_clusters, options, seed)


def usual_expression(
    directions: Tensor, distinct: DistinctRows, n_clusters: int, images: bool
) -> ExpressionOptions:
    """The default options of unit rows [n, p], more of which differ than there are clusters."""
    spectrum = gram_eigenvalues(distinct.take(directions)) / mean_square(directions)
    return expression_options(len(distinct), n_clusters, spectrum, images)


def number_of_clusters(
    z: Tensor,
    distinct: DistinctRows,
    choose: Callable[[int], ExpressionOptions],
    seed: int,
    record: dict[str, Any],
) -> ClusterNumber:
    """The number of clusters by the graph for clusters of 100 rows and more, or, if they are smaller, by theirs.

    Args:
        z, distinct: of :func:`cluster_by_self_expression`; at least 3 rows differ.
        choose: the options for a number of clusters.
        record: gets the candidates and the eigenvalues.
    """
    n = len(distinct)
    guess = max(n // _USUAL_ROWS, 1)
    while True:
        options = choose(guess)
        affinity = expressed_affinity(z, distinct, guess, options)
        m = min(MOST_CLUSTERS + 1, n)
        values = diffusion_coordinates(
            affinity, guess, m, options.ratio, options.eigen_solver, seed, distinct.weights, z.device
        ).eigenvalues
        found = cluster_number(values)
        if guess >= found.best or n >= _USUAL_ROWS * found.best:
            break
        guess = found.best
    record["candidates"] = [list(pair) for pair in found.candidates]
    record["eigenvalues"] = values.tolist()
    return found


def ridge_inverse(z: Tensor, ridge: float) -> Tensor:
    """(zᵀz + ridge·I)⁻¹ [p, p], or (z zᵀ + ridge·I)⁻¹ [n, n] where n < p."""
    gram = smaller_gram(z)
    gram.diagonal().add_(ridge)
    return torch.cholesky_inverse(torch.linalg.cholesky(gram)).to(z.dtype).contiguous()
