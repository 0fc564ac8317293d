"""How many clusters a graph has, from its spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["MOST_CLUSTERS", "ClusterNumber", "cluster_number"]

FEWEST_CLUSTERS, MOST_CLUSTERS = 2, 50
# Laplacian eigenvalues below this share of 1 are near enough to 0 that their ratios say nothing.
_SMALL_EIGENVALUE = 0.02
_CANDIDATES = 5
# A gap is clear where it is large and twice the next, or four times the next. Those of normal rows without clusters were
# at most 0.27, and at most 3.1 times the next.
_LEAST_GAP, _LARGE_GAP, _TWICE, _FOUR_TIMES = 0.2, 0.4, 2, 4


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
        """Whether the largest gap is at least 0.4 and twice the next one, or at least 0.2 and four times the next one."""
        gap, following = self.candidates[0][1], max((gap for _, gap in self.candidates[1:]), default=0.0)
        clear = gap >= _FOUR_TIMES * following or (gap >= _LARGE_GAP and gap >= _TWICE * following)
        return gap >= _LEAST_GAP and clear

    @property
    def described(self) -> str:
        """A sentence: what was taken, whether it is certain, and the candidates with their gaps."""
        named = ", ".join(f"{k} ({gap:.2f})" for k, gap in self.candidates)
        doubt = "certain" if self.certain else "uncertain"
        return (
            f"the number of clusters is {doubt}. {self.best} was taken, which has the largest gap in the spectrum; the "
            f"candidates and their relative gaps are {named}"
        )


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
