"""k-means, with the same bits for any number of threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

__all__ = ["kmeans", "kmeans_model", "one_thread"]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Matrix products and decompositions in here give the same bits for every number of threads."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def kmeans_model(
    rows: np.ndarray, n_clusters: int, n_init: int, seed: int, weights: np.ndarray | None = None
) -> KMeans:
    """scikit-learn's k-means, fitted to ``rows`` [n, p], each of which counts as often as ``weights`` [n] say."""
    # One thread: scikit-learn adds the threads' partial sums in the order in which they finish.
    with threadpool_limits(limits=1, user_api="openmp"):
        return KMeans(n_clusters, n_init=n_init, random_state=seed).fit(rows, sample_weight=weights)


def kmeans(rows: Tensor, n_clusters: int, n_init: int, seed: int) -> tuple[Tensor, Tensor]:
    """k-means on ``rows`` [n, p]: labels int64 [n] and centroids [n_clusters, p]."""
    model = kmeans_model(rows.cpu().numpy(), n_clusters, n_init, seed)
    return (
        torch.from_numpy(model.labels_.astype(np.int64)).to(rows.device),
        torch.from_numpy(model.cluster_centers_).to(rows),
    )
