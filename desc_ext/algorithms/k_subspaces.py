"""k-subspaces with restarts, and the bases of a given partition."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from desc_ext import ops
from desc_ext.algorithms.distinct import distinct_rows
from desc_ext.algorithms.kmeans import kmeans, one_thread
from desc_ext.algorithms.self_expression import self_expressive_clusters
from desc_ext.algorithms.subspace_passes import SubspaceRows, as_passes
from desc_ext.norms import unit_rows

__all__ = [
    "AfterIteration", "KSubspacesOptions", "OnIteration", "Progress", "Subspaces", "k_subspaces", "leading_directions",
    "lloyd", "nearest_in_angle", "search", "self_expressive_labels", "subspace_bases", "subspace_seeds",
    "typical_dimension",
]  # fmt: skip

# Restarts see no more rows than this, which bounds their time; the best one is continued on all rows.
_RESTART_ROWS = 10_000
# Fewer rows than this for each dimension of a subspace fit it by chance.
_ROWS_PER_DIMENSION = 5
# Lloyd's iteration ends by itself; this bounds one that re-seeding of empty clusters keeps from settling.
_MAX_ITERATIONS = 60
# Sums over more values than this are split among threads, and their bits would depend on how many there are.
_SUM_ROWS = 16_384


def leading_directions(gram: Tensor, dim: int) -> Tensor:
    """Orthonormal eigenvectors [K, p, dim] of the ``dim`` largest eigenvalues of ``gram`` [K, p, p]."""
    # float64 on the CPU: the same bits on every device, and no trouble with nearly singular matrices
    vectors = torch.linalg.eigh(gram.cpu().double())[1]
    return vectors[..., -dim:].flip(-1).to(gram).contiguous()


def subspace_bases(rows: Tensor, labels: Tensor, n_clusters: int, dim: int) -> Tensor:
    """S_k [p, dim] of every cluster: leading left singular vectors of its rows, not centred."""
    return leading_directions(ops.segment_gram(rows, labels, n_clusters), dim)


@dataclass(frozen=True)
class KSubspacesOptions:
    """Options of a k-subspaces search; the defaults are those that DESC's first clusters are found with."""

    n_clusters: int
    dim: int
    n_init: int
    seed: int
    init: str = "k-means"  # or "k-subspaces++" or "self-expressive"
    max_iter: int = _MAX_ITERATIONS
    tol: float = 0.0  # an alternation ends when no larger share of the labels changes
    one_thread: bool = False  # decompositions on one thread, for bits that do not depend on their number

    @property
    def threads(self) -> contextlib.AbstractContextManager[None]:
        """The context of the decompositions."""
        return one_thread() if self.one_thread else contextlib.nullcontext()


@dataclass
class Subspaces:
    """Where Lloyd's iteration began and ended."""

    start: Tensor  # labels [n]
    labels: Tensor  # [n], int64 of rows in memory
    bases: Tensor  # [K, p, dim]
    residual: float  # mean over the rows
    n_iter: int
    n_reseeded: int  # empty clusters that were given rows

    def to(self, device: torch.device | str) -> Subspaces:
        """The same on ``device``."""
        start, labels, bases = (tensor.to(device) for tensor in (self.start, self.labels, self.bases))
        return replace(self, start=start, labels=labels, bases=bases)


@dataclass(frozen=True)
class Progress:
    """All that an alternation goes on from: a pass over the rows finds its labels and Gram matrices anew, with equal bits."""

    bases: Tensor  # [K, p, dim], of the last iteration
    residual: float  # of that iteration
    n_iter: int  # of this alternation so far
    n_reseeded: int  # in this alternation so far
    ended: bool
    # iterations of the restart that it continues, and re-seeded clusters of all restarts
    before: tuple[int, int] = (0, 0)


# Is called with the state at the end of an iteration.
AfterIteration = Callable[[Progress], None]
# Is called with a history record and the labels (None for a restart); a true return value ends that stage.
OnIteration = Callable[[dict[str, Any], Tensor | None], bool]


def k_subspaces(rows: Tensor, n_clusters: int, dim: int, n_init: int, seed: int) -> tuple[Tensor, Tensor]:
    """k-subspaces from k-means, with restarts: labels int64 [n] and bases [n_clusters, p, min(dim, p)]."""
    found = search(rows, KSubspacesOptions(n_clusters, min(dim, rows.shape[1]), n_init, seed))
    return found.labels, found.bases


def search(
    rows: Tensor | SubspaceRows,
    options: KSubspacesOptions,
    on_iteration: OnIteration | None = None,
    after_iteration: AfterIteration | None = None,
    begun: Progress | None = None,
) -> Subspaces:
    """k-subspaces with restarts on ``rows`` [n, p].

    Each restart begins at the clusters of one k-means run, at the subspaces of :func:`subspace_seeds`, or at the clusters of
    :func:`self_expressive_labels`, and alternates between the bases of the clusters and the nearest subspace of every
    row until no label changes. The restart with the smallest mean residual is kept: no label of the data is used. With more
    than 10,000 rows the restarts see a random subset, and the best one is continued on all rows.
    ``on_iteration`` is called after every restart, and after every iteration of the one kept; ``after_iteration`` after every
    iteration of a continuation on all rows, which goes on where it was with what it was given, ``begun``.
    """
    passes = as_passes(rows)
    if begun is not None:
        return _continued(passes, None, options, begun, on_iteration, after_iteration)
    subset, is_all = _seen_by_restarts(passes, options.seed)

    def agreed(function: Callable[[], Subspaces]) -> Subspaces:
        return passes.agreed(lambda: function().to("cpu")).to(passes.device)

    best = agreed(lambda: _best_restart(subset, options, on_iteration))
    if on_iteration is not None and is_all:
        # already where it ends; run again for the sake of its records
        found = agreed(lambda: lloyd(subset, best.start, options, on_iteration))
        found.n_reseeded = best.n_reseeded
        return found
    labels, _ = passes.nearest(best.bases)
    before = Progress(best.bases, best.residual, 0, 0, False, (best.n_iter, best.n_reseeded))
    return _continued(passes, labels, options, before, on_iteration, after_iteration)


def _best_restart(subset: Tensor, options: KSubspacesOptions, on_iteration: OnIteration | None) -> Subspaces:
    """The restart with the smallest mean residual; its ``n_reseeded`` is that of all restarts."""
    best: Subspaces | None = None
    n_reseeded = 0
    for i, seed in enumerate(
        np.random.default_rng(options.seed).integers(2**31 - 1, size=options.n_init).tolist()
    ):
        if options.init == "k-means":
            labels, _ = kmeans(subset, options.n_clusters, 1, seed)
        elif options.init == "self-expressive":
            labels = self_expressive_labels(subset, options.n_clusters, seed)
        else:
            labels, _ = ops.nearest_subspace(
                subset, subspace_seeds(subset, options.n_clusters, options.dim, seed)
            )
        found = lloyd(subset, labels, options)
        n_reseeded += found.n_reseeded
        if best is None or found.residual < best.residual:
            best = found
        record = {"stage": "restart", "epoch": i + 1, "loss": found.residual}
        record |= {"n_iter": found.n_iter, "n_reseeded": found.n_reseeded}
        if on_iteration is not None and on_iteration(record, None):
            break
    assert best is not None  # there is one restart at least
    return replace(best, n_reseeded=n_reseeded)


def _continued(
    passes: SubspaceRows,
    labels: Tensor | None,
    options: KSubspacesOptions,
    begun: Progress,
    on_iteration: OnIteration | None,
    after_iteration: AfterIteration | None,
) -> Subspaces:
    """The continuation on all rows, from ``labels``, or from those that the bases of ``begun`` give (None)."""
    if labels is None:
        labels = _assign(passes, begun.bases, options).labels
    if begun.ended:
        found = Subspaces(labels, labels, begun.bases, begun.residual, begun.n_iter, begun.n_reseeded)
    else:

        def after(progress: Progress) -> None:
            if after_iteration is not None:
                after_iteration(replace(progress, before=begun.before))

        found = lloyd(passes, labels, options, on_iteration, after, begun)
    found.n_iter += begun.before[0]
    found.n_reseeded += begun.before[1]
    return found


def _seen_by_restarts(rows: SubspaceRows, seed: int) -> tuple[Tensor, bool]:
    """All rows, or a random subset of 10,000 of them, and whether it is all."""
    n = rows.shape[0]
    if n <= _RESTART_ROWS:
        return rows.take(torch.arange(n)), True
    generator = torch.Generator().manual_seed(seed)
    return rows.take(torch.randperm(n, generator=generator)[:_RESTART_ROWS].sort().values), False


def typical_dimension(rows: Tensor | SubspaceRows, n_clusters: int, seed: int) -> int:
    """The dimension d of subspaces for ``rows`` [n, p], from the spectra of the clusters of one k-means run.

    λ_1 ≥ … ≥ λ_p are the eigenvalues of Σ x xᵀ over a cluster's rows. Its leading direction is about its mean; the others
    count as (Σ_{j>1} λ_j)² / Σ_{j>1} λ_j² directions of equal energy would (participation ratio). d is 1 more than the mean
    of these over the clusters, rounded, at most n/(5 K), at most p/2, and at least 1. With more than 10,000 rows a random
    subset is clustered.

    Chosen on digits, ORL, MNIST's first 10,000 and 20 Newsgroups-b, against d = 8, log2(n/K) and shares of 0.6 to 1.3 of
    this one. Shares of energy and held-out likelihoods did not follow what was best: it had .96 of the energy on
    digits, and .3 on 20 Newsgroups.
    """
    subset, _ = _seen_by_restarts(as_passes(rows), seed)
    labels, _ = kmeans(subset, n_clusters, 1, seed)
    with one_thread():
        energy = torch.linalg.eigvalsh(ops.segment_gram(subset, labels, n_clusters).cpu().double())
    # in units of the largest: squares of small eigenvalues would underflow
    energy = (energy / energy[:, -1:].clamp_min(torch.finfo(torch.float64).tiny)).clamp_min(0)[:, :-1]
    squares = energy.square().sum(1)
    ratio = energy.sum(1).square() / torch.where(squares > 0, squares, 1)
    most = min(rows.shape[0] // (_ROWS_PER_DIMENSION * n_clusters), rows.shape[1] // 2)
    return max(1, min(round(1 + float(ratio.mean())), most))


def lloyd(
    rows: Tensor | SubspaceRows,
    labels: Tensor,
    options: KSubspacesOptions,
    on_iteration: OnIteration | None = None,
    after_iteration: AfterIteration | None = None,
    begun: Progress | None = None,
) -> Subspaces:
    """Lloyd's iteration for subspaces, from ``labels``: the mean residual never rises."""
    start, passes = labels, as_passes(rows)
    n_begun, n_reseeded = (0, 0) if begun is None else (begun.n_iter, begun.n_reseeded)
    for n_iter in range(n_begun + 1, options.max_iter + 1):
        gram = passes.gram(labels, options.n_clusters)
        with options.threads:
            bases = leading_directions(gram, options.dim).to(passes.dtype)
        found = _assign(passes, bases, options)
        n_reseeded += found.n_empty
        change = int((found.labels != labels).sum()) / len(labels)
        mean = sum(float(part.double().sum()) for part in found.residual.split(_SUM_ROWS)) / len(labels)
        labels = found.labels
        record = {"stage": "refine", "epoch": n_iter, "loss": mean, "label_change": change}
        record |= {"n_reseeded": found.n_empty, "cluster_sizes": found.sizes}
        ended = on_iteration is not None and on_iteration(record, found.nearest)
        ended = passes.agreed(partial(bool, ended)) or change <= options.tol or n_iter == options.max_iter
        if after_iteration is not None:
            after_iteration(Progress(bases, mean, n_iter, n_reseeded, ended))
        if ended:
            break
    return Subspaces(start, labels, bases, mean, n_iter, n_reseeded)


@dataclass(frozen=True)
class _Assigned:
    """Rows under bases: the nearest subspace [n] and its squared residual [n], labels [n] without empty clusters."""

    nearest: Tensor
    residual: Tensor
    labels: Tensor
    sizes: list[int]  # of the clusters before rows were given to the empty ones
    n_empty: int


def _assign(passes: SubspaceRows, bases: Tensor, options: KSubspacesOptions) -> _Assigned:
    nearest, residual = passes.nearest(bases)
    sizes = torch.bincount(nearest, minlength=options.n_clusters)
    labels, empty = nearest, sizes == 0
    if empty.any():
        labels = nearest.clone()
        _reseed_empty(labels, residual, empty, options.dim)
    return _Assigned(nearest, residual, labels, sizes.tolist(), int(empty.sum()))


def _reseed_empty(labels: Tensor, residual: Tensor, empty: Tensor, dim: int) -> None:
    """Gives every empty cluster the ``dim`` worst fitting rows that no other empty cluster has taken."""
    n_worst = min(int(empty.sum()) * dim, len(residual))
    # rows that fit as badly as the last of them, which are few: what sorting all of them would put first
    bad = (residual >= residual.topk(n_worst).values[-1]).nonzero().flatten()
    worst = bad[residual[bad].argsort(descending=True, stable=True)]
    for i, cluster in enumerate(empty.nonzero().flatten().tolist()):
        labels[worst[i * dim : (i + 1) * dim]] = cluster


def subspace_seeds(rows: Tensor, n_clusters: int, dim: int, seed: int) -> Tensor:
    """First subspaces [n_clusters, p, dim], k-means++ carried over to subspaces.

    Rows are drawn with probability proportional to their squared residual to the subspaces so far (the first
    one to its squared norm); a drawn row and the rows nearest to it in angle span the next subspace. Of
    2 + log K drawn rows the one is taken that leaves the smallest sum of residuals, as in greedy k-means++.
    """
    random = np.random.default_rng(seed)
    directions = unit_rows(rows)
    residual = rows.square().sum(1)
    bases = []
    for _ in range(n_clusters):
        drawn = torch.from_numpy(
            _draw(residual.cpu().double().numpy(), 2 + int(math.log(n_clusters)), random)
        )
        candidates = _spanned(rows, nearest_in_angle(directions, drawn.to(rows.device), dim), dim)
        left = torch.minimum(residual[:, None], ops.projection_residual(rows, candidates))
        best = int(left.cpu().double().numpy().sum(0).argmin())
        bases.append(candidates[best])
        residual = left[:, best]
    return torch.stack(bases)


def self_expressive_labels(rows: Tensor, n_clusters: int, seed: int) -> Tensor:
    """Clusters int64 [n] of ``rows`` [n, p] by ridge regression of each on all others, as SelfExpressiveClustering does."""
    directions = unit_rows(rows)
    distinct = distinct_rows(directions)
    if len(distinct) <= n_clusters:
        return torch.from_numpy(distinct.number).to(rows.device)
    # k-subspaces refines them itself: what is for images will do for all
    found = self_expressive_clusters(directions, distinct, n_clusters, seed, images=True)
    return torch.from_numpy(found.labels).to(rows.device)


def _draw(weight: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """Row numbers [size] with probability proportional to ``weight``; row 0 where all weights are 0."""
    total = np.cumsum(weight)
    # the last row of weight > 0 at most, though the product may round up to the total
    last = int(np.searchsorted(total, total[-1]))
    return np.minimum(np.searchsorted(total, random.random(size) * total[-1], side="right"), last)


def nearest_in_angle(directions: Tensor, of: Tensor, dim: int) -> Tensor:
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
