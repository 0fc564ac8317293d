"""Spectral clustering of a sparse affinity: normalised Laplacian, eigenvectors, k-means."""

from __future__ import annotations

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh, lobpcg
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

__all__ = [
    "degree_roots",
    "leading_eigenvectors",
    "rows_of_small_components",
    "spectral_kmeans",
    "symmetric_affinity",
]

# Up to this many rows the dense decomposition is quicker than the iterations, and needs no convergence.
_DENSE_ROWS = 300
_LOBPCG_ITERATIONS, _LOBPCG_TOLERANCE = 500, 1e-5


def symmetric_affinity(indices: np.ndarray, values: np.ndarray) -> sparse.csr_array:
    """(|C| + |Cᵀ|)/2 [n, n] of the coefficients C that have ``values`` [n, k] in the columns ``indices`` [n, k]."""
    n, k = indices.shape
    coefficients = sparse.csr_array(
        (
            np.abs(values).ravel(),
            indices.ravel().astype(np.int32),
            np.arange(0, n * k + 1, k, dtype=np.int32),
        ),
        shape=(n, n),
    )
    affinity = (coefficients + coefficients.T).tocsr()
    affinity.data /= 2  # in its own dtype
    affinity.eliminate_zeros()
    affinity.sort_indices()
    return affinity


def rows_of_small_components(affinity: sparse.csr_array, smallest: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows in components of fewer than ``smallest`` rows, and the component of every row [n]."""
    _, component = connected_components(affinity, directed=False)
    sizes = np.bincount(component)
    return np.flatnonzero(sizes[component] < smallest), component


def degree_roots(affinity: sparse.csr_array) -> np.ndarray:
    """d_i^(-1/2) [n] of the degrees d_i = Σ_j W_ij; 0 for a row without affinity."""
    degree = np.asarray(affinity.sum(axis=1), dtype=np.float64).ravel()
    return np.divide(1.0, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)


def leading_eigenvectors(
    affinity: sparse.csr_array, n_vectors: int, solver: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues [m], descending, and eigenvectors [n, m] of D^(-1/2) W D^(-1/2), m = min(n_vectors, n).

    They are the smallest of the normalised Laplacian. The iterations start at random vectors drawn with ``seed``;
    the largest entry of an eigenvector is positive.

    Args:
        solver: "arpack" (implicitly restarted Lanczos) or "lobpcg"; few rows are decomposed densely.
    """
    n, roots, random = affinity.shape[0], degree_roots(affinity), np.random.RandomState(seed)
    normalised = (affinity.astype(np.float64) * roots[:, None]).tocsr() * roots
    # One thread: the vectors are too narrow to share, and the same bits come for every number of threads.
    with threadpool_limits(limits=1):
        if n <= max(_DENSE_ROWS, 5 * n_vectors):  # LOBPCG wants five times as many rows as vectors
            first = max(n - n_vectors, 0)
            values, vectors = linalg.eigh(normalised.toarray(), subset_by_index=[first, n - 1])
        elif solver == "arpack":
            values, vectors = eigsh(normalised, n_vectors, which="LA", v0=random.uniform(-1, 1, n))
        else:
            # the eigenvector of eigenvalue 1 is known, D^(1/2) 1; beside it random vectors
            start = random.uniform(-1, 1, (n, n_vectors))
            start[:, 0] = np.divide(1.0, roots, out=np.zeros(n), where=roots > 0)
            values, vectors = lobpcg(
                normalised, start, largest=True, tol=_LOBPCG_TOLERANCE, maxiter=_LOBPCG_ITERATIONS
            )
    order = np.argsort(-values, kind="stable")
    values, vectors = values[order], vectors[:, order]
    sign = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(len(values))])
    return values, np.ascontiguousarray(vectors * np.where(sign == 0, 1, sign))


def spectral_kmeans(
    vectors: np.ndarray, n_clusters: int, n_init: int, seed: int
) -> tuple[np.ndarray, KMeans]:
    """Rows of ``vectors`` [n, m] divided by their norm (Ng, Jordan and Weiss), and the k-means model of them."""
    embedding = normalize(vectors)
    # One thread: sklearn adds the threads' partial sums in the order in which they finish.
    with threadpool_limits(limits=1, user_api="openmp"):
        return embedding, KMeans(n_clusters, n_init=n_init, random_state=seed).fit(embedding)
