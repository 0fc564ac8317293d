"""The spectrum of an affinity, in which the number of clusters shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from desc_ext.plots.style import COLORS, INK, new_figure, plain, tidy

__all__ = ["spectrum_figure"]


def spectrum_figure(
    eigenvalues: ArrayLike, n_clusters: int, candidates: Sequence[Sequence[float]], title: str
) -> Figure:
    """Laplacian eigenvalues 1 − λ_k over k, and the gaps after them.

    Args:
        eigenvalues: λ [m] of the affinity's random walk, descending from 1.
        n_clusters: K, after which the chosen gap is.
        candidates: (k, relative gap) of the numbers of clusters that were considered, the best first; may be empty.
    """
    laplacian = 1 - np.asarray(eigenvalues, dtype=np.float64)
    number = np.arange(1, len(laplacian) + 1)
    figure = new_figure(7.5, 4.2)
    axes = figure.subplots()
    inside = number <= n_clusters
    axes.plot(number[inside], laplacian[inside], "o", color=COLORS[0], label=f"first {n_clusters}")
    axes.plot(number[~inside], laplacian[~inside], "o", color=COLORS[3], label="further")
    if n_clusters < len(laplacian):
        axes.axvline(n_clusters + 0.5, color=COLORS[2], linewidth=1)
    for k, gap in candidates:
        after = min(int(k), len(laplacian) - 1)
        middle = (laplacian[after - 1] + laplacian[after]) / 2
        axes.annotate(
            f"{int(k)}: {gap:.2f}",
            (k + 0.5, middle),
            xytext=(6, -10),
            textcoords="offset points",
            fontsize=8,
            color=INK,
        )
    axes.set_title(plain(title), loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(
        "k" + (", with the relative gap after it where it is large" if candidates else ""), color=INK
    )
    axes.set_ylabel("eigenvalue of the Laplacian, 1 − λ", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="lower right")
    tidy(axes)
    return figure
