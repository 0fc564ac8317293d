"""Landmarks: some of many rows that are clustered in the place of all."""

from __future__ import annotations

import numpy as np

__all__ = ["chosen_landmarks", "usual_landmarks"]

# All rows are taken up to so many; beyond, so many landmarks, and of many clusters so many for each. The coefficients of all
# rows take time n² p: 300,000 × 64 took 5 minutes on two threads, 70,000 × 500 one minute on one, and so 200,000 × 500 takes
# eight. 20,000 landmarks of 300,000 took one minute, most of it for the other rows, n m p
# (benchmarks/scale/results/self_expressive.md), and lost .006 of ACC on MNIST's 70,000 images.
MOST_ROWS, USUAL_LANDMARKS, LANDMARKS_PER_CLUSTER = 200_000, 20_000, 200


def usual_landmarks(n: int, n_clusters: int | None) -> int:
    """How many of n rows are landmarks where no one says: all of 200,000 rows and fewer, else 20,000, or 200 K if larger."""
    if n <= MOST_ROWS:
        return n
    return min(n, max(USUAL_LANDMARKS, LANDMARKS_PER_CLUSTER * (n_clusters or 1)))


def chosen_landmarks(n: int, landmarks: int | None, n_clusters: int | None, seed: int) -> np.ndarray | None:
    """The numbers of the rows that are landmarks, int64 [m] ascending; None where all n rows are.

    They are drawn uniformly without replacement: their graph is then a sample of that of all rows, dense where it is dense,
    and what follows the number of rows (neighbours, the size of a small component) keeps its meaning. Rows drawn by their
    leverage, which prefers those that few others are like, were worse: of 1,000 landmarks of MNIST's first 10,000 images ACC
    was .83, .81 and .96 for three seeds, and .95, .92 and .93 of uniform ones.

    Args:
        landmarks: m; None: :func:`usual_landmarks`.
        n_clusters: K, where it is known.
        seed: of the draw.
    """
    m = usual_landmarks(n, n_clusters) if landmarks is None else landmarks
    if m >= n:
        return None
    return np.sort(np.random.default_rng(seed).choice(n, m, replace=False, shuffle=False))
