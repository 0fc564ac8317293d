"""Rows of any width as points of a plane."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from desc_ext.stored import finite_sample, rows_at

__all__ = ["Projection", "project_to_plane"]

_FEWEST = 12  # different points that neighbourhoods, and with them t-SNE, make sense for
_NOTHING = 1e-12  # a variance, beside the largest, that is rounding


class Projection(NamedTuple):
    """Points [m, 2], the numbers [m] of the rows they stand for, ascending, and the names of the two axes."""

    points: np.ndarray
    rows: np.ndarray
    axes: tuple[str, str]


def project_to_plane(embedding: ArrayLike, max_points: int = 800, seed: int = 0) -> Projection:
    """t-SNE of at most ``max_points`` rows, started from their first two principal components.

    Rows in fewer than three directions, or with fewer than a dozen different values, are shown by their principal
    components themselves. Equal rows are one point.

    Args:
        embedding: latent rows [n, p]; rows that are not finite are left out.
        max_points: rows to show; more are thinned out at random, with ``seed``.
    """
    embedding = np.asanyarray(embedding)
    rows = finite_sample(embedding, max_points, seed)
    # Equal rows are looked for before any arithmetic, whose last bits may depend on where a row stands.
    distinct, number = np.unique(rows_at(embedding, rows).astype(np.float64), axis=0, return_inverse=True)
    components = _principal_components(distinct)
    points, names = _on_paper(components, seed)
    return Projection(points[number.reshape(-1)], rows, names)


def _on_paper(components: np.ndarray, seed: int) -> tuple[np.ndarray, tuple[str, str]]:
    # t-SNE ends the process on distances that are not numbers: it is only given points of order 1 that differ.
    if components.shape[1] > 2 and len(np.unique(components.astype(np.float32), axis=0)) >= _FEWEST:
        points = _t_sne(components, seed)
        if np.isfinite(points).all():
            return points, ("t-SNE 1", "t-SNE 2")
    width = components.shape[1]
    points = np.pad(components[:, :2], ((0, 0), (0, max(0, 2 - width))))
    none = "(no further direction)"
    first, second = (f"principal component {i}" if width >= i else none for i in (1, 2))
    return points, (first, second)


def _principal_components(points: np.ndarray) -> np.ndarray:
    """At most 50 principal components in units of the largest one's deviation, without those in which nothing varies."""
    from sklearn.decomposition import PCA

    if not points.size:
        return points[:, :0]
    largest = np.abs(points).max()
    points = points / largest if largest > 0 else points  # squares of very large or small numbers are none
    points = points - points.mean(axis=0)
    spread = points.std(axis=0)
    points = points[:, spread > spread.max(initial=0) * np.sqrt(_NOTHING)]
    if not points.size:
        return points
    points = points / spread.max()
    found = PCA(min(50, *points.shape), svd_solver="full")
    components = found.fit_transform(points)
    kept = found.explained_variance_ > _NOTHING * found.explained_variance_[0]
    return components[:, kept] / components[:, 0].std()


def _t_sne(points: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(points) - 1) / 3)
    method = TSNE(init="pca", perplexity=perplexity, max_iter=500, random_state=seed)
    # Threads wait for each other at each of its small steps: beside other work, several took five times as long as one.
    with threadpool_limits(1):
        return method.fit_transform(points)
