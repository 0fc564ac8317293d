"""Label-free starts: k-means, k-subspaces with restarts, and the bases of a given partition."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from desc_ext import ops
from desc_ext.models.rows import Rows

__all__ = ["k_subspaces", "kmeans", "leading_directions", "reduced_directions", "subspace_bases"]

_RESTART_ROWS = 10_000
_MAX_REDUCED = 100
_MAX_ITERATIONS = 60


def kmeans(rows: Tensor, n_clusters: int, n_init: int, seed: int) -> tuple[Tensor, Tensor]:
    """k-means on ``rows`` [n, p]: labels int64 [n] and centroids [n_clusters, p]."""
    model = KMeans(n_clusters, n_init=n_init, random_state=seed)
    # One thread: sklearn adds the threads' partial sums in the order in which they finish.
    with threadpool_limits(limits=1, user_api="openmp"):
        labels = model.fit_predict(rows.cpu().numpy())
    return (
        torch.from_numpy(labels.astype(np.int64)).to(rows.device),
        torch.from_numpy(model.cluster_centers_).to(rows),
    )


def leading_directions(gram: Tensor, dim: int) -> Tensor:
    """Orthonormal eigenvectors [K, p, dim] of the ``dim`` largest eigenvalues of ``gram`` [K, p, p]."""
    # float64 on the CPU: the same bits on every device, and no trouble with nearly singular matrices
    vectors = torch.linalg.eigh(gram.cpu().double())[1]
    return vectors[..., -dim:].flip(-1).to(gram).contiguous()


def subspace_bases(rows: Tensor, labels: Tensor, n_clusters: int, dim: int) -> Tensor:
    """S_k [p, dim] of every cluster: leading left singular vectors of its rows, not centred."""
    return leading_directions(ops.segment_gram(rows, labels, n_clusters), dim)


def reduced_directions(rows: Rows, generator: torch.Generator) -> Tensor:
    """Unit rows [n, q] of the input, q = min(n_features, 100).

    Wider input is projected onto its leading (uncentred) principal directions, found by three rounds of
    subspace iteration; angles between rows and linear subspaces then stay what they were, up to the
    energy left out.
    """
    n_features = rows.X.shape[1]
    if n_features <= _MAX_REDUCED:
        return torch.cat([rows.directions(block) for block in _blocks(len(rows))])
    basis = torch.randn(n_features, _MAX_REDUCED + 10, generator=generator, dtype=rows.dtype).to(rows.device)
    for _ in range(3):
        image = torch.zeros_like(basis)
        for block in _blocks(len(rows)):
            part = rows.directions(block)
            image += part.T @ (part @ basis)
        basis = torch.linalg.qr(image)[0]
    reduced = torch.cat([rows.directions(block) @ basis for block in _blocks(len(rows))])
    return reduced @ leading_directions((reduced.T @ reduced)[None], _MAX_REDUCED)[0]


def _blocks(n: int, size: int = 4096) -> list[slice]:
    return [slice(start, start + size) for start in range(0, n, size)]


def k_subspaces(rows: Tensor, n_clusters: int, dim: int, n_init: int, seed: int) -> tuple[Tensor, Tensor]:
    """k-subspaces with restarts: labels int64 [n] and bases [n_clusters, p, dim].

    Each restart begins at the clusters of one k-means run and alternates between the bases of the clusters
    and the nearest subspace of every row until no label changes. The restart with the smallest mean
    residual is kept: no label of the data is used. With more than 10,000 rows the restarts see a random
    subset, and the best one is continued on all rows.
    """
    dim = min(dim, rows.shape[1])
    subset = rows
    if len(rows) > _RESTART_ROWS:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(rows), generator=generator)[:_RESTART_ROWS].sort().values
        subset = rows[chosen.to(rows.device)]
    seeds = np.random.default_rng(seed).integers(2**31 - 1, size=n_init).tolist()
    best: tuple[float, Tensor] | None = None
    for restart_seed in seeds:
        labels, _ = kmeans(subset, n_clusters, 1, restart_seed)
        _, bases, residual = _alternate(subset, labels, n_clusters, dim)
        if best is None or residual < best[0]:
            best = (residual, bases)
    labels, _ = ops.nearest_subspace(rows, best[1])
    labels, bases, _ = _alternate(rows, labels, n_clusters, dim)
    return labels, bases


def _alternate(rows: Tensor, labels: Tensor, n_clusters: int, dim: int) -> tuple[Tensor, Tensor, float]:
    for _ in range(_MAX_ITERATIONS):
        bases = subspace_bases(rows, labels, n_clusters, dim)
        new_labels, residual = ops.nearest_subspace(rows, bases)
        empty = torch.bincount(new_labels, minlength=n_clusters) == 0
        if empty.any():
            _refill(new_labels, residual, empty, dim)
        if torch.equal(new_labels, labels):
            break
        labels = new_labels
    return new_labels, bases, float(residual.double().mean())


def _refill(labels: Tensor, residual: Tensor, empty: Tensor, dim: int) -> None:
    """Gives every empty cluster the ``dim`` worst fitting rows that no other empty cluster has taken."""
    worst = residual.argsort(descending=True, stable=True)
    for i, cluster in enumerate(empty.nonzero().flatten().tolist()):
        labels[worst[i * dim : (i + 1) * dim]] = cluster
