"""How many clusters a graph has, from its spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["MOST_CLUSTERS", "ClusterNumber", "cluster_number"]

FEWEST_CLUSTERS, MOST_CLUSTERS = 2, 50
# Laplacian eigenvalues below this share of 1 are near enough to 0 that their ratios say nothing.
_SMALL_EIGENVALUE = 0.02
_CANDIDATES = 5
# A gap of less than half, or one with a rival of more than half its size, names no number for certain.
_CLEAR_GAP, _CLEAR_RIVAL = 0.5, 0.5


@dataclass(frozen=True)
class ClusterNumber:
    """Candidates for the number of clusters.

    Attributes:
        candidates: (k, gap of k), the five largest gaps, largest first.
    """

    candidates: tuple[tuple[int, float], ...]

    @property
    def best(self) -> int:
        """The k of the largest gap."""
        return self.candidates[0][0]

    @property
    def certain(self) -> bool:
        """Whether the largest gap is at least half, and no other gap is more than half as large."""
        (_, gap), *others = self.candidates
        return gap >= _CLEAR_GAP and all(other <= _CLEAR_RIVAL * gap for _, other in others)


def cluster_number(eigenvalues: np.ndarray) -> ClusterNumber:
    """The k in 2 ... 50 with the largest relative eigengap (λ_k − λ_{k+1}) / (1 − λ_{k+1} + 0.02).

    A graph of K clusters that hardly touch has K ``eigenvalues`` [m] of its random walk near 1, and the next one, which
    tells how well each cluster hangs together, clearly below.

    Raises:
        ValueError: there are fewer than 3 eigenvalues, so that no gap can be seen.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    number = np.arange(FEWEST_CLUSTERS, min(MOST_CLUSTERS, len(values) - 1) + 1)
    if not len(number):
        raise ValueError(f"cluster_number: {len(values)} eigenvalues show no gap; wanted at least 3")
    after = values[number]
    gaps = (values[number - 1] - after) / (1 - after + _SMALL_EIGENVALUE)
    order = np.argsort(-gaps, kind="stable")[:_CANDIDATES]
    return ClusterNumber(tuple((int(number[i]), float(gaps[i])) for i in order))
