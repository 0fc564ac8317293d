"""Pictures of the clusters: their sizes, the affinities between their rows, examples of images."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike

from desc_ext.plots.images import drawn_image, tones
from desc_ext.plots.style import COLORS, INK, cluster_colors, new_figure, plain, tidy

__all__ = ["affinity_figure", "examples_figure", "rows_by_cluster", "sizes_figure"]

_CELLS = 200  # a side of the picture of affinities
_GAP = 0.12  # between images, whose width is 1
_TICK_ROOM = 0.032  # of its side: the height of a number


def sizes_figure(labels: ArrayLike, n_clusters: int, title: str) -> Figure:
    """Rows in each cluster, with the even share as a line.

    Args:
        labels: cluster labels [n], 0 to n_clusters - 1.
    """
    sizes = np.bincount(np.asarray(labels), minlength=n_clusters)
    figure = new_figure(float(np.clip(0.5 * n_clusters + 2, 5, 14)), 3.6)
    axes = figure.subplots()
    bars = axes.bar(np.arange(n_clusters), sizes, color=cluster_colors(n_clusters), width=0.75)
    if n_clusters <= 30:
        numbers = axes.bar_label(
            bars, labels=[f"{size:,}" for size in sizes], fontsize=8, padding=2, color=INK
        )
        for number in numbers:  # so that the line of the even share does not cross it
            number.set_path_effects([withStroke(linewidth=3.5, foreground="white")])
        axes.set_xticks(np.arange(n_clusters))
    even = sizes.sum() / n_clusters
    axes.axhline(even, color=INK, linestyle="--", linewidth=1, zorder=0.9, label=f"even share ({even:,.0f})")
    axes.set_ylim(0, 1.18 * max(sizes.max(), 1))
    axes.set_xlabel("cluster", fontsize=9, color=INK)
    axes.set_ylabel("rows", fontsize=9, color=INK)
    axes.set_title(plain(title), loc="left", fontsize=12, fontweight="bold", color=INK)
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    tidy(axes)
    return figure


def rows_by_cluster(labels: ArrayLike, max_rows: int = 600) -> np.ndarray:
    """Numbers of at most ``max_rows`` rows, evenly spread over those of each cluster, sorted by cluster."""
    order = np.argsort(labels, kind="stable")
    return order[np.unique(np.linspace(0, len(order) - 1, min(max_rows, len(order))).round().astype(int))]


def affinity_figure(affinity: ArrayLike, labels: ArrayLike, title: str) -> Figure:
    """An affinity matrix whose rows are sorted by cluster: blocks on the diagonal are what clusters should be.

    Args:
        affinity: [m, m], not negative; where m is large, shades are of means over a few rows of a cluster.
        labels: cluster labels [m], ascending.
    """
    affinity, labels = np.asarray(affinity, dtype=np.float64), np.asarray(labels)
    figure = new_figure(6.6, 6.4)
    axes = figure.subplots()
    shades = _block_means(affinity, labels)
    top = float(np.quantile(shades, 0.998)) if shades.size else 0.0
    axes.imshow(shades, cmap="gray_r", vmin=0, vmax=top or 1, interpolation="nearest")
    clusters, first = np.unique(labels, return_index=True)
    edges = np.append(first, len(labels))
    for edge in edges[1:-1]:
        axes.axhline(edge - 0.5, color=COLORS[0], linewidth=0.6)
        axes.axvline(edge - 0.5, color=COLORS[0], linewidth=0.6)
    middles, names = _apart((edges[:-1] + edges[1:] - 1) / 2, clusters, _TICK_ROOM * len(labels))
    axes.set_xticks(middles, names)
    axes.set_yticks(middles, names)
    axes.set_xlabel("cluster", fontsize=9, color=INK)
    axes.set_ylabel("cluster", fontsize=9, color=INK)
    axes.set_title(
        f"{plain(title)} of {len(labels):,} rows", loc="left", fontsize=12, fontweight="bold", color=INK
    )
    axes.tick_params(colors=INK, labelsize=9, length=0)
    return figure


def _block_means(affinity: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """``affinity`` with means over blocks of a few rows of a cluster: single pixels would be a grey noise.

    The diagonal, which says nothing, is left out of them.
    """
    m = len(labels)
    rows_together = max(1, round(m / _CELLS))
    starts = np.unique(labels, return_index=True)[1]
    within = np.arange(m) - starts[np.searchsorted(starts, np.arange(m), side="right") - 1]
    block = np.cumsum(within % rows_together == 0) - 1
    of_block = np.zeros((block[-1] + 1 if m else 0, m))
    of_block[block, np.arange(m)] = 1
    off = 1 - np.eye(m)
    sums, counts = of_block @ (affinity * off) @ of_block.T, of_block @ off @ of_block.T
    means = sums / np.maximum(counts, 1)
    return means[block][:, block]


def _apart(places: np.ndarray, clusters: np.ndarray, room: float) -> tuple[list[float], list[str]]:
    """Those of the ticks that have ``room`` from one to the next."""
    kept: list[float] = []
    names = []
    for place, k in zip(places.tolist(), clusters.tolist(), strict=True):
        if not kept or place - kept[-1] >= room:
            kept.append(place)
            names.append(str(k))
    return kept, names


def examples_figure(
    X: Any,
    labels: ArrayLike,
    confidence: ArrayLike,
    image_shape: tuple[int, ...],
    title: str,
    columns: int = 12,
    max_clusters: int = 30,
) -> Figure:
    """A sheet of images, a row a cluster, from its most to its least certain member in even steps.

    Args:
        X: rows [n, m], m the product of ``image_shape``; 0, or the least negative value, is drawn black, the largest value
            of all images shown white.
        labels: cluster labels [n].
        confidence: how certain each row's cluster is [n], e.g. its largest assignment.
        image_shape: (height, width) or (height, width, channels).
        columns: images a cluster, at most.
        max_clusters: clusters shown, the first ones.
    """
    labels, confidence = np.asarray(labels), np.asarray(confidence)
    clusters = np.unique(labels)
    shown = clusters[:max_clusters]
    if len(shown) < len(clusters):
        title = f"{title}: clusters 0 to {shown[-1]} of {len(clusters)}"
    figure = new_figure(0.62 * columns + 0.9, 0.62 * len(shown) * image_shape[0] / image_shape[1] + 0.85)
    axes = figure.subplots()
    axes.set_axis_off()
    height = image_shape[0] / image_shape[1]  # of an image, whose width is 1
    picked = [_evenly_by_confidence(labels, confidence, k, columns) for k in shown]
    black_white = tones(X, [member for members in picked for member in members])
    for row, k in enumerate(shown):
        bottom = (len(shown) - 1 - row) * (height + _GAP)
        for column, member in enumerate(picked[row]):
            left = column * (1 + _GAP)
            image = drawn_image(X[member], image_shape, black_white)
            axes.imshow(image, interpolation="nearest", extent=(left, left + 1, bottom, bottom + height))
        axes.text(
            -2 * _GAP, bottom + height / 2, str(k), ha="right", va="center", fontsize=11, fontweight="bold", color=INK
        )  # fmt: skip
    axes.set_xlim(-0.5, columns * (1 + _GAP))
    axes.set_ylim(-_GAP, max(1, len(shown)) * (height + _GAP))
    axes.set_aspect("equal")
    figure.suptitle(plain(title), x=0.02, ha="left", fontsize=12, fontweight="bold", color=INK)
    figure.supxlabel(
        "← most certain          in each cluster          least certain →", fontsize=9, color="#555555"
    )
    return figure


def _evenly_by_confidence(labels: np.ndarray, confidence: np.ndarray, k: int, most: int) -> np.ndarray:
    """Numbers of at most ``most`` rows of cluster ``k``, in even steps from the most to the least certain."""
    members = np.flatnonzero(labels == k)
    members = members[np.argsort(-confidence[members], kind="stable")]
    return members[np.unique(np.linspace(0, len(members) - 1, most).round().astype(int))]
