"""The spectrum of an affinity, in which the number of clusters shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from desc_ext.plots.style import COLORS, FAINT, INK, new_figure, plain, tidy

__all__ = ["spectrum_figure"]

_NAMED = 3  # candidates that are written beside the spectrum


def spectrum_figure(
    eigenvalues: ArrayLike, n_clusters: int, candidates: Sequence[Sequence[float]], title: str
) -> Figure:
    """Laplacian eigenvalues 1 − λ_k over k, and the gaps after them.

    Args:
        eigenvalues: λ [m] of the affinity's random walk, descending from 1.
        n_clusters: K, after which the chosen gap is.
        candidates: (k, relative gap) of the numbers of clusters that were considered, the best first, three of which
            are named in the picture; may be empty.
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
    for k, _ in candidates[1:_NAMED]:
        axes.axvline(k + 0.5, color=FAINT, linewidth=1, zorder=0)
    if candidates:
        named = "\n".join(f"{int(k)} clusters: {gap:.2f}" for k, gap in candidates[:_NAMED])
        text = f"largest relative gaps\n{named}"
        box = {"facecolor": "white", "edgecolor": "none"}
        axes.text(0.02, 0.96, text, transform=axes.transAxes, va="top", fontsize=9, color=INK, bbox=box)
    axes.set_title(plain(title), loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel("k", color=INK)
    axes.set_ylabel("eigenvalue of the Laplacian, 1 − λ", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="lower right")
    tidy(axes)
    return figure
