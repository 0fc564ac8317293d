"""Spectral clustering of an affinity, sparse or dense: normalised Laplacian, eigenvectors, k-means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import linalg, sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackError, eigsh, lobpcg
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits
from torch import Tensor

from desc_ext.algorithms.kmeans import kmeans_model
from desc_ext.messages import warn_user

__all__ = [
    "degree_roots",
    "hold_copies",
    "join_small_components",
    "leading_eigenvectors",
    "learned_affinity",
    "spectral_kmeans",
    "symmetric_affinity",
]

# Up to this many rows the dense decomposition is quicker than the iterations, and needs no convergence.
_DENSE_ROWS = 300
# Where ARPACK has not converged after so many restarts it seldom will; up to so many rows dense is then a matter of seconds.
_ARPACK_RESTARTS = 1000
_MOST_DENSE_ROWS = 3000
_LOBPCG_ITERATIONS, _LOBPCG_TOLERANCE = 500, 1e-5
# A component of fewer rows than this share of an even cluster is no cluster of its own.
_SMALL_SHARE = 0.1
_JOIN_ROUNDS = 8
_JOIN_ROWS = 256
# Rows of C that are looked at together, where a copy of all of C would be needed.
_BLOCK_ROWS = 512


def symmetric_affinity(indices: np.ndarray, values: np.ndarray) -> sparse.csr_array:
    """(|C| + |Cᵀ|)/2 [n, n] of the coefficients C that have ``values`` [n, k] in the columns ``indices`` [n, k]."""
    n, k = indices.shape
    coefficients = sparse.csr_array(
        (
            np.abs(values).ravel(),
            indices.ravel().astype(np.int32),
            np.arange(n + 1, dtype=np.int32) * k,
        ),
        shape=(n, n),
    )
    affinity = (coefficients + coefficients.T).tocsr()
    affinity.data /= 2  # in its own dtype
    affinity.eliminate_zeros()
    affinity.sort_indices()
    return affinity


def join_small_components(
    affinity: sparse.csr_array,
    candidates: Callable[[Tensor], Tensor],
    n_clusters: int,
    device: torch.device,
    weights: np.ndarray | None = None,
) -> tuple[sparse.csr_array, int]:
    """The affinity without components of fewer than n/(10 K) rows, and the rows that were joined to others.

    Rows count as often as ``weights`` [n] say (None: once).

    A row of such a component is joined to the row outside of it with the largest of ``candidates(rows)`` [m, n], its
    affinities to all rows.
    """
    n, n_joined = affinity.shape[0], 0
    total = n if weights is None else weights.sum()
    for _ in range(_JOIN_ROUNDS):
        _, component = connected_components(affinity, directed=False)
        size = np.bincount(component, weights)[component]
        rows = np.flatnonzero(size < _SMALL_SHARE * total / n_clusters)
        if not len(rows):
            break
        component = torch.from_numpy(component).to(device)
        found = []
        for part in torch.from_numpy(rows).to(device).split(_JOIN_ROWS):
            found.append(candidates(part).masked_fill_(component[part, None] == component, 0).max(1))
        links = torch.cat([values for values, _ in found]).cpu().numpy()
        others = torch.cat([indices for _, indices in found]).cpu().numpy()
        if not links.any():
            break
        new = sparse.csr_array((links, (rows, others)), shape=(n, n))
        affinity = affinity.maximum(new).maximum(new.T).tocsr()
        affinity.eliminate_zeros()
        n_joined += int((links > 0).sum())
    return affinity, n_joined


def hold_copies(
    affinity: np.ndarray | sparse.csr_array, weights: np.ndarray | None
) -> np.ndarray | sparse.csr_array:
    """The affinity of rows of which row i comes w_i times, ``weights`` [n]: (w_i − 1) Σ_j W_ij is its affinity to itself.

    It then weighs as much as its copies would, and they hold together: a random walk leaves it with the probability
    1/w_i. Where all rows come equally often, no eigenvector changes.
    """
    if weights is None:
        return affinity
    own = ((weights - 1) * np.asarray(affinity.sum(axis=1)).ravel()).astype(affinity.dtype)
    if isinstance(affinity, np.ndarray):
        return affinity + np.diag(own)
    held = (affinity + sparse.diags_array(own)).tocsr()
    held.eliminate_zeros()
    return held


@torch.no_grad()
def learned_affinity(
    coefficient: Tensor,
    kept_share: float,
    n_neighbors: int,
    n_clusters: int,
    weights: np.ndarray | None = None,
) -> np.ndarray | sparse.csr_array:
    """½(|C| + |C|ᵀ) [n, n] of the coefficients that are kept: an array, or with ``n_neighbors`` a CSR array.

    Kept are of each row the ``n_neighbors`` largest |C_ij| at most (0: all), and of those the largest that together make
    up the share ``kept_share`` of Σ_j |C_ij|. ``weights`` are those of :func:`hold_copies`.
    """
    if not n_neighbors:
        size = coefficient.abs()
        if kept_share < 1:
            for block in size.split(_BLOCK_ROWS):
                ordered, order = _largest(block, block.shape[1], kept_share)
                block.scatter_(1, order, ordered)
        affinity = size + size.T
        return hold_copies(affinity.div_(2).cpu().numpy(), weights)
    k = min(n_neighbors, len(coefficient) - 1)
    kept = [_largest(block.abs(), k, kept_share) for block in coefficient.split(_BLOCK_ROWS)]
    values = torch.cat([ordered for ordered, _ in kept])
    indices = torch.cat([order for _, order in kept])

    def candidates(rows: Tensor) -> Tensor:
        return (coefficient[rows].abs() + coefficient[:, rows].abs().T) / 2

    affinity = symmetric_affinity(indices.cpu().numpy(), values.cpu().numpy())
    affinity, _ = join_small_components(affinity, candidates, n_clusters, coefficient.device, weights)
    return hold_copies(affinity, weights)


def _largest(size: Tensor, k: int, kept_share: float) -> tuple[Tensor, Tensor]:
    """The k largest of each row, largest first and zero beyond ``kept_share`` of the row's sum, and their columns."""
    if kept_share == 1:
        return size.topk(k, dim=1)
    ordered, order = size.sort(dim=1, descending=True, stable=True)
    total = ordered.sum(1, keepdim=True)
    # those whose larger ones do not yet make up the share, so the largest at least
    ordered[ordered.cumsum(1) - ordered >= kept_share * total] = 0
    return ordered[:, :k], order[:, :k]


def degree_roots(affinity: sparse.csr_array | np.ndarray) -> np.ndarray:
    """d_i^(-1/2) [n] of the degrees d_i = Σ_j W_ij; 0 for a row without affinity."""
    degree = np.asarray(affinity.sum(axis=1), dtype=np.float64).ravel()
    return np.divide(1.0, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)


def leading_eigenvectors(
    affinity: sparse.csr_array | np.ndarray, n_components: int, solver: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues [m], descending, and eigenvectors [n, m] of D^(-1/2) W D^(-1/2), m = min(n_components, n).

    They are the smallest of the normalised Laplacian. Each connected component of the graph has the eigenvalue 1 once, with
    the eigenvector D^(1/2) 1 on its rows: these are taken as they are, larger components first (where there are m or more
    of them, the m largest components are all there is). The other eigenvectors are found component by component, so that
    none of a multiple eigenvalue is missed. The iterations start at random vectors drawn with ``seed``; the largest entry
    of an eigenvector is positive.

    Args:
        solver: "arpack" (implicitly restarted Lanczos) or "lobpcg"; few rows are decomposed densely. Where ARPACK does not
            converge another solver is taken, with a ConvergenceWarning.
    """
    n, roots, random = affinity.shape[0], degree_roots(affinity), np.random.RandomState(seed)
    n_components = min(n_components, n)
    if sparse.issparse(affinity):
        normalised = (affinity.astype(np.float64) * roots[:, None]).tocsr() * roots
    else:
        normalised = np.multiply(affinity, roots[:, None], dtype=np.float64)
        normalised *= roots
    components = _components(affinity)
    # One thread: the vectors are too narrow to share, and the same bits come for every number of threads.
    with threadpool_limits(limits=1):
        if len(components) == 1:
            values, vectors = _largest_eigenpairs(normalised, roots, n_components, solver, random)
        else:
            values, vectors = _by_components(normalised, roots, components, n_components, solver, random)
    sign = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(len(values))])
    return values, np.ascontiguousarray(vectors * np.where(sign == 0, 1, sign))


def _components(affinity: sparse.csr_array | np.ndarray) -> list[np.ndarray]:
    """Row numbers of each connected component, larger ones first; a row without affinity is one."""
    n = affinity.shape[0]
    if isinstance(affinity, np.ndarray):
        if (affinity[0] > 0).sum() >= n - 1:
            return [np.arange(n)]  # the usual case, without a sparse copy of everything
        affinity = sparse.csr_array(affinity)
    n_components, component = connected_components(affinity, directed=False)
    order = np.argsort(component, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(component, minlength=n_components))[:-1])
    return sorted(parts, key=len, reverse=True)


def _by_components(
    normalised: sparse.csr_array | np.ndarray,
    roots: np.ndarray,
    components: list[np.ndarray],
    n_components: int,
    solver: str,
    random: np.random.RandomState,
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`_largest_eigenpairs`, of a graph that falls into ``components``."""
    if sparse.issparse(normalised):
        normalised = sparse.csr_array(normalised)  # of which rows are taken quickly
    linked = [rows for rows in components if roots[rows].any()]
    alone = [rows for rows in components if not roots[rows].any()]  # each with the eigenvalue 0
    found = [(1.0, rows, 1 / roots[rows]) for rows in linked[:n_components]]
    n_left = n_components - len(found)
    if n_left:
        others = [(0.0, rows, np.ones(1)) for rows in alone[:n_left]]
        for rows in linked:
            block = normalised[rows][:, rows]
            n_wanted = min(n_left + 1, len(rows))
            values, vectors = _largest_eigenpairs(block, roots[rows], n_wanted, solver, random)
            others += [(value, rows, vector) for value, vector in zip(values[1:], vectors.T[1:], strict=True)]
        found += sorted(others, key=lambda pair: -pair[0])[:n_left]
    vectors = np.zeros((len(roots), len(found)))
    for column, (_, rows, vector) in enumerate(found):
        vectors[rows, column] = vector / np.linalg.norm(vector)
    return np.array([value for value, _, _ in found]), vectors


def _largest_eigenpairs(
    normalised: sparse.csr_array | np.ndarray,
    roots: np.ndarray,
    n_components: int,
    solver: str,
    random: np.random.RandomState,
) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues [m], descending, and eigenvectors [n, m] of a connected graph's D^(-1/2) W D^(-1/2)."""
    n = len(roots)
    if n <= max(_DENSE_ROWS, 5 * n_components):  # LOBPCG wants five times as many rows as vectors
        values, vectors = _dense_eigenpairs(normalised, n_components)
    elif solver == "arpack":
        start = random.uniform(-1, 1, n)
        try:
            values, vectors = eigsh(normalised, n_components, which="LA", v0=start, maxiter=_ARPACK_RESTARTS)
        except ArpackError as error:  # ArpackNoConvergence is one
            dense = n <= _MOST_DENSE_ROWS
            warn_user(
                f"ARPACK found no eigenvectors of the affinity ({error}); they are those of "
                f"{'a dense decomposition' if dense else 'LOBPCG'}",
                ConvergenceWarning,
            )
            if dense:
                values, vectors = _dense_eigenpairs(normalised, n_components)
            else:
                values, vectors = _lobpcg_eigenpairs(normalised, roots, n_components, random)
    else:
        values, vectors = _lobpcg_eigenpairs(normalised, roots, n_components, random)
    order = np.argsort(-values, kind="stable")
    return values[order], vectors[:, order]


def _dense_eigenpairs(
    normalised: sparse.csr_array | np.ndarray, n_components: int
) -> tuple[np.ndarray, np.ndarray]:
    n = normalised.shape[0]
    dense = normalised if isinstance(normalised, np.ndarray) else normalised.toarray()
    return linalg.eigh(dense, subset_by_index=[max(n - n_components, 0), n - 1])


def _lobpcg_eigenpairs(
    normalised: sparse.csr_array | np.ndarray,
    roots: np.ndarray,
    n_components: int,
    random: np.random.RandomState,
) -> tuple[np.ndarray, np.ndarray]:
    n = len(roots)
    # the eigenvector of eigenvalue 1 is known, D^(1/2) 1; beside it random vectors
    start = random.uniform(-1, 1, (n, n_components))
    start[:, 0] = np.divide(1.0, roots, out=np.zeros(n), where=roots > 0)
    return lobpcg(normalised, start, largest=True, tol=_LOBPCG_TOLERANCE, maxiter=_LOBPCG_ITERATIONS)


def spectral_kmeans(
    vectors: np.ndarray, n_clusters: int, n_init: int, seed: int, weights: np.ndarray | None = None
) -> tuple[np.ndarray, KMeans]:
    """Rows of ``vectors`` [n, m] divided by their norm (Ng, Jordan and Weiss), and the k-means model of them.

    ``weights`` [n] say how often each row counts (None: once).
    """
    embedding = normalize(vectors)
    return embedding, kmeans_model(embedding, n_clusters, n_init, seed, weights)
