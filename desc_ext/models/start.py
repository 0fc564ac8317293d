"""Label-free clusters: k-means, k-subspaces with restarts, and the bases of a given partition."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from desc_ext import ops
from desc_ext.models.rows import Rows

__all__ = [
    "Search", "alternate", "k_subspaces", "kmeans", "leading_directions", "neighbours", "one_thread",
    "reduced_directions", "reduced_rows", "search", "subspace_bases", "subspace_seeds",
]  # fmt: skip

_RESTART_ROWS = 10_000
_MAX_REDUCED = 100
_MAX_ITERATIONS = 60
# Sums over more values than this are split among threads, and their bits would depend on how many there are.
_SUM_ROWS = 16_384


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Matrix products and decompositions in here give the same bits for every number of threads."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


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
    """Unit rows [n, q] of the input, q = min(n_features, 100); wider input as in :func:`reduced_rows`."""
    return reduced_rows(rows, _MAX_REDUCED, generator, directions=True)[0]


def reduced_rows(
    rows: Rows, n_components: int, generator: torch.Generator, directions: bool
) -> tuple[Tensor, Tensor | None]:
    """The rows, or their directions, as [n, q] with q = min(n_features, n_components), and the axes [p, q].

    Wider input is projected onto its leading (uncentred) principal directions, found by three rounds of
    subspace iteration; angles between rows and linear subspaces then stay what they were, up to the
    energy left out. Input that is not wider stays as it is, and the axes are None.
    """
    n_features, n = rows.X.shape[1], len(rows)
    read = rows.directions if directions else rows.take
    if n_features <= n_components:
        return torch.cat([read(block) for block in _blocks(n)]), None
    basis = torch.randn(n_features, n_components + 10, generator=generator, dtype=rows.dtype).to(rows.device)
    for _ in range(3):
        image = torch.zeros_like(basis)
        for block in _blocks(n):
            part = read(block)
            image += part.T @ (part @ basis)
        basis = torch.linalg.qr(image)[0]
    reduced = torch.cat([read(block) @ basis for block in _blocks(n)])
    turn = leading_directions((reduced.T @ reduced)[None], n_components)[0]
    return reduced @ turn, basis @ turn


def _blocks(n: int, size: int = 4096) -> list[slice]:
    return [slice(start, start + size) for start in range(0, n, size)]


@dataclass(frozen=True)
class Search:
    """How k-subspaces looks for its clusters; the defaults are those of DESC's start."""

    n_clusters: int
    dim: int
    n_init: int
    seed: int
    init: str = "k-means"  # or "k-subspaces++"
    max_iter: int = _MAX_ITERATIONS
    tol: float = 0.0  # an alternation ends when no larger share of the labels changes
    one_thread: bool = False  # decompositions on one thread, for bits that do not depend on their number


@dataclass
class Clusters:
    """Where an alternation began and ended."""

    start: Tensor  # labels, int64 [n]
    labels: Tensor  # int64 [n]
    bases: Tensor  # [K, p, dim]
    residual: float  # mean over the rows
    n_iter: int
    n_repaired: int  # empty clusters that were given rows


# Called with a history record and the labels (None for a restart); a true answer ends that stage.
Report = Callable[[dict[str, Any], Tensor | None], bool]


def k_subspaces(rows: Tensor, n_clusters: int, dim: int, n_init: int, seed: int) -> tuple[Tensor, Tensor]:
    """k-subspaces from k-means, with restarts: labels int64 [n] and bases [n_clusters, p, min(dim, p)]."""
    found = search(rows, Search(n_clusters, min(dim, rows.shape[1]), n_init, seed))
    return found.labels, found.bases


def search(rows: Tensor, how: Search, report: Report | None = None) -> Clusters:
    """k-subspaces with restarts on ``rows`` [n, p].

    Each restart begins at the clusters of one k-means run, or at the subspaces of :func:`subspace_seeds`, and
    alternates between the bases of the clusters and the nearest subspace of every row until no label
    changes. The restart with the smallest mean residual is kept: no label of the data is used. With more
    than 10,000 rows the restarts see a random subset, and the best one is continued on all rows. ``report``
    hears of every restart, and of every iteration of the one kept.
    """
    subset = rows
    if len(rows) > _RESTART_ROWS:
        generator = torch.Generator().manual_seed(how.seed)
        chosen = torch.randperm(len(rows), generator=generator)[:_RESTART_ROWS].sort().values
        subset = rows[chosen.to(rows.device)]
    best: Clusters | None = None
    n_repaired = 0
    for i, seed in enumerate(np.random.default_rng(how.seed).integers(2**31 - 1, size=how.n_init).tolist()):
        if how.init == "k-means":
            labels, _ = kmeans(subset, how.n_clusters, 1, seed)
        else:
            labels, _ = ops.nearest_subspace(subset, subspace_seeds(subset, how.n_clusters, how.dim, seed))
        found = alternate(subset, labels, how)
        n_repaired += found.n_repaired
        if best is None or found.residual < best.residual:
            best = found
        record = {"stage": "restart", "epoch": i + 1, "loss": found.residual}
        record |= {"n_iter": found.n_iter, "n_repaired": found.n_repaired}
        if report is not None and report(record, None):
            break
    if report is not None and subset is rows:
        # already where it ends; run again for the sake of its records
        found = alternate(rows, best.start, how, report)
        found.n_repaired = n_repaired
        return found
    labels, _ = ops.nearest_subspace(rows, best.bases)
    found = alternate(rows, labels, how, report)
    found.n_iter += best.n_iter
    found.n_repaired += n_repaired
    return found


def alternate(rows: Tensor, labels: Tensor, how: Search, report: Report | None = None) -> Clusters:
    """Lloyd's iteration for subspaces, from ``labels``: the mean residual never rises."""
    start, n_repaired = labels, 0
    for n_iter in range(1, how.max_iter + 1):
        with one_thread() if how.one_thread else contextlib.nullcontext():
            bases = subspace_bases(rows, labels, how.n_clusters, how.dim)
        nearest, residual = ops.nearest_subspace(rows, bases)
        sizes = torch.bincount(nearest, minlength=how.n_clusters)
        new_labels, empty = nearest, sizes == 0
        if empty.any():
            new_labels = nearest.clone()
            _refill(new_labels, residual, empty, how.dim)
            n_repaired += int(empty.sum())
        change = float((new_labels != labels).double().mean())
        mean = sum(float(part.sum()) for part in residual.double().split(_SUM_ROWS)) / len(rows)
        labels = new_labels
        record = {"stage": "refine", "epoch": n_iter, "loss": mean, "label_change": change}
        record |= {"n_repaired": int(empty.sum()), "cluster_sizes": sizes.tolist()}
        asked = report is not None and report(record, nearest)
        if asked or change <= how.tol:
            break
    return Clusters(start, labels, bases, mean, n_iter, n_repaired)


def _refill(labels: Tensor, residual: Tensor, empty: Tensor, dim: int) -> None:
    """Gives every empty cluster the ``dim`` worst fitting rows that no other empty cluster has taken."""
    worst = residual.argsort(descending=True, stable=True)
    for i, cluster in enumerate(empty.nonzero().flatten().tolist()):
        labels[worst[i * dim : (i + 1) * dim]] = cluster


def subspace_seeds(rows: Tensor, n_clusters: int, dim: int, seed: int) -> Tensor:
    """First subspaces [n_clusters, p, dim], k-means++ carried over to subspaces.

    Rows are drawn with probability proportional to their squared residual to the subspaces so far (the first
    one to its squared norm); a drawn row and the rows nearest to it in angle span the next subspace. Of
    2 + log K drawn rows the one is taken that leaves the smallest sum of residuals, as in greedy k-means++.
    """
    random = np.random.default_rng(seed)
    directions = torch.nn.functional.normalize(rows, dim=1)
    residual = rows.square().sum(1)
    bases = []
    for _ in range(n_clusters):
        drawn = torch.from_numpy(
            _draw(residual.cpu().double().numpy(), 2 + int(math.log(n_clusters)), random)
        )
        candidates = _spanned(rows, neighbours(directions, drawn.to(rows.device), dim), dim)
        left = torch.minimum(residual[:, None], ops.projection_residual(rows, candidates))
        best = int(left.cpu().double().numpy().sum(0).argmin())
        bases.append(candidates[best])
        residual = left[:, best]
    return torch.stack(bases)


def _draw(weight: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """Row numbers [size] with probability proportional to ``weight``; row 0 where all weights are 0."""
    total = np.cumsum(weight)
    # the last row of weight > 0 at most, though the product may round up to the total
    last = int(np.searchsorted(total, total[-1]))
    return np.minimum(np.searchsorted(total, random.random(size) * total[-1], side="right"), last)


def neighbours(directions: Tensor, of: Tensor, dim: int) -> Tensor:
    """The 2·dim rows [t, min(2·dim, n)] of largest cos² to each of the unit rows ``of`` [t], itself among them."""
    # as one-dimensional subspaces: a kernel, whose bits do not depend on the number of threads
    energy = ops.projection_energy(directions, directions[of][:, :, None])
    return energy.topk(min(2 * dim, len(directions)), dim=0).indices.T


def _spanned(rows: Tensor, members: Tensor, dim: int) -> Tensor:
    """Orthonormal bases [t, p, dim] of the leading directions of rows ``members`` [t, m]."""
    parts = rows[members].cpu().double()
    if parts.shape[1] < dim:  # fewer rows than dimensions: any directions will do for the rest
        parts = torch.nn.functional.pad(parts, (0, 0, 0, dim - parts.shape[1]))
    with one_thread():
        directions = torch.linalg.svd(parts, full_matrices=False).Vh[:, :dim]
    return directions.mT.to(rows).contiguous()
