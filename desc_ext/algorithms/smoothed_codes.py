"""Spectral clusters, refined by k-means of codes that the graph has smoothed, where the graph is cut less by it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from desc_ext.algorithms.kmeans import kmeans_model

__all__ = ["SmoothedCodes", "clusters_of_lower_cut", "normalised_cut", "refined_clusters", "smoothed_codes"]

_MOST_ITERATIONS = 300


@dataclass(frozen=True)
class SmoothedCodes:
    """Codes after two steps of the random walk P = D⁻¹W of a graph.

    One step leaves the noise of single rows, and from three on clusters that touch become one.
    """

    embedding: np.ndarray  # float64 [n, p]: P² (z − mean), centred again and at unit length
    # [n, p], what each row adds, by its share in the walk's step from a new row, to the code of that row: P (z − mean),
    # less the centre of P² (z − mean), both over a power of two that makes the largest |z| about 1
    extension: np.ndarray


def smoothed_codes(
    affinity: np.ndarray | sparse.csr_array, z: np.ndarray, weights: np.ndarray | None = None
) -> SmoothedCodes:
    """Codes ``z`` [n, p] after two steps of the random walk on a graph.

    What it takes away are the differences between neighbours: a filter that lets low frequencies of the graph pass (Zhang,
    Liu, Li and Wu, IJCAI 2019). A row without affinity keeps its code; one without length stays 0.

    Args:
        affinity: W [n, n], symmetric, not negative.
        z: codes [n, p].
        weights: how often each row comes, [n]; None: once.
    """
    degree = np.asarray(affinity.sum(axis=1), dtype=np.float64).ravel()
    alone = degree == 0
    share = np.divide(1.0, degree, out=np.zeros_like(degree), where=~alone)

    def step(rows: np.ndarray) -> np.ndarray:
        return np.where(alone[:, None], rows, share[:, None] * (affinity @ rows))

    # normalize leaves rows of norms below 1e-15 as they are, and squares overflow; a power of two changes no bit of others
    z = z.astype(np.float64)
    z = np.ldexp(z, -np.frexp(np.abs(z).max())[1])
    # the products of a dense affinity would have other bits for other numbers of threads
    with threadpool_limits(limits=1):
        once = step(z - np.average(z, axis=0, weights=weights))
        twice = step(once)
        centre = np.average(twice, axis=0, weights=weights)
        return SmoothedCodes(normalize(twice - centre), once - centre)


def normalised_cut(affinity: np.ndarray | sparse.csr_array, labels: np.ndarray) -> float:
    """Σ_k cut(k, others)/vol(k) of the clusters ``labels`` [n] that have an affinity (Shi and Malik, 2000)."""
    members = np.eye(labels.max() + 1)[labels]
    with threadpool_limits(limits=1):
        inside = (members * (affinity @ members)).sum(0)
    volume = np.bincount(labels, np.asarray(affinity.sum(axis=1), dtype=np.float64).ravel())
    some = volume > 0
    return float((1 - inside[some] / volume[some]).sum())


def clusters_of_lower_cut(
    affinity: np.ndarray | sparse.csr_array,
    codes: np.ndarray,
    labels: np.ndarray,
    n_clusters: int,
    weights: np.ndarray | None = None,
) -> KMeans | None:
    """k-means of smoothed codes [n, p], begun at the means of the spectral clusters ``labels``, if it lowers the graph's cut.

    Round clusters of codes, as those of texts, lose their borders in the eigenvectors of the graph; curved ones, as those of
    images, are lost by k-means. Which of the two they are, k-means tells: it lowers the normalised cut, of which spectral
    clusters are an approximate minimum, or raises it; its first pass does already.

    Returns:
        None where the cut is no lower, after the first pass or at the end, or clusters are lost: fewer of them cut the graph
            less, whatever they are.
    """
    cut, n_found = normalised_cut(affinity, labels), len(np.unique(labels))
    for passes in (1, _MOST_ITERATIONS):
        found = _kmeans_from(codes, labels, n_clusters, weights, passes)
        if len(np.unique(found.labels_)) < n_found or normalised_cut(affinity, found.labels_) >= cut:
            return None
    return found


def refined_clusters(
    affinity: np.ndarray | sparse.csr_array,
    z: np.ndarray,
    labels: np.ndarray,
    n_clusters: int,
    n_init: int,
    seed: int,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Clusters int64 [n] by k-means of the smoothed codes, or ``labels`` where these cut the graph no more.

    Where k-means begun at them lowers the cut (:func:`clusters_of_lower_cut`), the clusters are those of the smallest
    inertia among this run and ``n_init`` others.

    Args:
        affinity, z, weights: of :func:`smoothed_codes`.
        labels: the spectral clusters, int64 [n].
        n_init: further runs of k-means, from k-means++.
        seed: of these.
    """
    codes = smoothed_codes(affinity, z, weights).embedding
    begun = clusters_of_lower_cut(affinity, codes, labels, n_clusters, weights)
    if begun is None:
        return labels
    with _unwarned():
        others = kmeans_model(codes, n_clusters, n_init, seed, weights)
    best = begun if begun.inertia_ <= others.inertia_ else others
    return best.labels_.astype(np.int64)


def _kmeans_from(
    rows: np.ndarray, labels: np.ndarray, n_clusters: int, weights: np.ndarray | None, passes: int
) -> KMeans:
    """k-means begun at the means of the clusters ``labels`` [n]; at the mean of all rows for one that has none."""
    counts = np.ones(len(rows)) if weights is None else weights
    means = np.tile(np.average(rows, axis=0, weights=counts), (n_clusters, 1))
    for cluster in np.unique(labels):
        members = labels == cluster
        means[cluster] = np.average(rows[members], axis=0, weights=counts[members])
    with threadpool_limits(limits=1, user_api="openmp"), _unwarned():
        return KMeans(n_clusters, init=means, n_init=1, max_iter=passes).fit(rows, sample_weight=weights)


@contextmanager
def _unwarned() -> Iterator[None]:
    """Without scikit-learn's warnings of few passes, and of equal rows: lost clusters are looked for here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
