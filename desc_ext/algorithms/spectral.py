"""Spectral clustering of an affinity, sparse or dense: normalised Laplacian, eigenvectors, k-means."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy import linalg, sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackError, eigsh, lobpcg
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from desc_ext.algorithms.chebyshev import block_width, chebyshev_eigenpairs
from desc_ext.algorithms.graph import degree_roots
from desc_ext.algorithms.kmeans import kmeans_model
from desc_ext.messages import warn_user

__all__ = ["leading_eigenvectors", "spectral_kmeans"]

_CPU = torch.device("cpu")
# Up to this many rows the dense decomposition is quicker than the iterations, and needs no convergence.
_DENSE_ROWS = 300
# Where ARPACK has not converged after so many restarts it seldom will; up to so many rows dense is then a matter of seconds.
_ARPACK_RESTARTS = 1000
_MOST_DENSE_ROWS = 3000
_LOBPCG_ITERATIONS, _LOBPCG_TOLERANCE = 500, 1e-5


def leading_eigenvectors(
    affinity: sparse.csr_array | np.ndarray,
    n_components: int,
    solver: str,
    seed: int,
    device: torch.device = _CPU,
) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues [m], descending, and eigenvectors [n, m] of D^(-1/2) W D^(-1/2), m = min(n_components, n).

    They are the smallest of the normalised Laplacian. Each connected component of the graph has the eigenvalue 1 once, with
    the eigenvector D^(1/2) 1 on its rows: these are taken as they are, larger components first (where there are m or more
    of them, the m largest components are all there is). The other eigenvectors are found component by component, so that
    none of a multiple eigenvalue is missed. The iterations start at random vectors drawn with ``seed``; the largest entry
    of an eigenvector is positive.

    Args:
        solver: "arpack" (implicitly restarted Lanczos), "lobpcg" or "chebyshev" (of
            :func:`~desc_ext.algorithms.chebyshev.chebyshev_eigenpairs`); few rows are decomposed densely. Where ARPACK does
            not converge another solver is taken, with a ConvergenceWarning.
        device: where "chebyshev" computes.
    """
    n, roots, random = affinity.shape[0], degree_roots(affinity), np.random.RandomState(seed)
    n_components = min(n_components, n)
    if sparse.issparse(affinity):
        normalised = sparse.csr_array(affinity, dtype=np.float64, copy=True)
        normalised.data *= np.repeat(roots, np.diff(normalised.indptr))
        normalised.data *= roots[normalised.indices]
    else:
        normalised = np.multiply(affinity, roots[:, None], dtype=np.float64)
        normalised *= roots
    components = _components(affinity)
    find = partial(_largest_eigenpairs, solver=solver, random=random, device=device)
    if len(components) == 1:
        values, vectors = find(normalised, roots, n_components)
    else:
        values, vectors = _by_components(normalised, roots, components, n_components, find)
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
    find: Callable[..., tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """As ``find``, :func:`_largest_eigenpairs` with its last arguments, of a graph that falls into ``components``."""
    linked = [rows for rows in components if roots[rows].any()]
    alone = [rows for rows in components if not roots[rows].any()]  # each with the eigenvalue 0
    found = [(1.0, rows, 1 / roots[rows]) for rows in linked[:n_components]]
    n_left = n_components - len(found)
    if n_left:
        others = [(0.0, rows, np.ones(1)) for rows in alone[:n_left]]
        for rows in linked:
            block = normalised[rows][:, rows]
            n_wanted = min(n_left + 1, len(rows))
            values, vectors = find(block, roots[rows], n_wanted)
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
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues [m], descending, and eigenvectors [n, m] of a connected graph's D^(-1/2) W D^(-1/2)."""
    # LOBPCG wants five times as many rows as vectors
    dense = len(roots) <= max(_DENSE_ROWS, 5 * n_components)
    if solver == "chebyshev" and not dense:
        start = _random_start(roots, block_width(n_components), random)
        return chebyshev_eigenpairs(sparse.csr_array(normalised), start, n_components, device)
    # One thread: the vectors are too narrow to share, and the same bits come for every number of threads.
    with threadpool_limits(limits=1):
        if dense:
            values, vectors = _dense_eigenpairs(normalised, n_components)
        elif solver == "arpack":
            values, vectors = _arpack_eigenpairs(normalised, roots, n_components, random)
        else:
            values, vectors = _lobpcg_eigenpairs(normalised, roots, n_components, random)
    order = np.argsort(-values, kind="stable")
    return values[order], vectors[:, order]


def _arpack_eigenpairs(
    normalised: sparse.csr_array | np.ndarray,
    roots: np.ndarray,
    n_components: int,
    random: np.random.RandomState,
) -> tuple[np.ndarray, np.ndarray]:
    n = len(roots)
    start = random.uniform(-1, 1, n)
    try:
        return eigsh(normalised, n_components, which="LA", v0=start, maxiter=_ARPACK_RESTARTS)
    except ArpackError as error:  # ArpackNoConvergence is one
        dense = n <= _MOST_DENSE_ROWS
        warn_user(
            f"ARPACK found no eigenvectors of the affinity ({error}); they are those of "
            f"{'a dense decomposition' if dense else 'LOBPCG'}",
            ConvergenceWarning,
        )
    if dense:
        return _dense_eigenpairs(normalised, n_components)
    return _lobpcg_eigenpairs(normalised, roots, n_components, random)


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
    start = _random_start(roots, n_components, random)
    return lobpcg(normalised, start, largest=True, tol=_LOBPCG_TOLERANCE, maxiter=_LOBPCG_ITERATIONS)


def _random_start(roots: np.ndarray, n_vectors: int, random: np.random.RandomState) -> np.ndarray:
    """Random vectors [n, m] but for the first, the eigenvector of eigenvalue 1, which is known: D^(1/2) 1."""
    n = len(roots)
    start = random.uniform(-1, 1, (n, n_vectors))
    start[:, 0] = np.divide(1.0, roots, out=np.zeros(n), where=roots > 0)
    return start


def spectral_kmeans(
    vectors: np.ndarray, n_clusters: int, n_init: int, seed: int, weights: np.ndarray | None = None
) -> tuple[np.ndarray, KMeans]:
    """Rows of ``vectors`` [n, m] divided by their norm (Ng, Jordan and Weiss), and the k-means model of them.

    ``weights`` [n] say how often each row counts (None: once).
    """
    embedding = normalize(vectors)
    return embedding, kmeans_model(embedding, n_clusters, n_init, seed, weights)
