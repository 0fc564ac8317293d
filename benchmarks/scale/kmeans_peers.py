"""k-means of FAISS and scikit-learn on rows of a file, for large.py, which starts this with another environment's Python.

FAISS goes over all rows in every iteration, from memory; MiniBatchKMeans sees blocks of the file once, by partial_fit.

    python benchmarks/scale/kmeans_peers.py X.npy ROWS CENTROIDS THREADS
"""

from __future__ import annotations

import json
import sys
import time

import faiss
import numpy as np
from sklearn.cluster import MiniBatchKMeans

ITERATIONS, BLOCK = 4, 20_000


def seconds_of_faiss(X: np.ndarray, n_clusters: int) -> float:
    """Of an iteration over all rows; what comes before the first of them does not count."""

    def seconds(n_iterations: int) -> float:
        found = faiss.Kmeans(
            X.shape[1], n_clusters, niter=n_iterations, seed=0, max_points_per_centroid=len(X)
        )
        started = time.perf_counter()
        found.train(X)
        return time.perf_counter() - started

    return (seconds(1 + ITERATIONS) - seconds(1)) / ITERATIONS


def seconds_of_scikit_learn(X: np.ndarray, n_clusters: int) -> float:
    """Of all blocks but the first, which finds the first centroids, for as many rows as ``X`` has."""
    model = MiniBatchKMeans(n_clusters, random_state=0, n_init=1).partial_fit(X[:BLOCK])
    started = time.perf_counter()
    for start in range(BLOCK, len(X), BLOCK):
        model.partial_fit(X[start : start + BLOCK])
    return (time.perf_counter() - started) * len(X) / (len(X) - BLOCK)


if __name__ == "__main__":
    path, n_rows, n_centroids, n_threads = sys.argv[1], *map(int, sys.argv[2:])
    faiss.omp_set_num_threads(n_threads)
    part = np.load(path, mmap_mode="r")[-n_rows:]
    found = {"MiniBatchKMeans": seconds_of_scikit_learn(part, n_centroids)}
    found["FAISS"] = seconds_of_faiss(np.array(part), n_centroids)
    print(json.dumps(found))
