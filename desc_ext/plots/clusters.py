"""Pictures of the clusters: their sizes, the affinities between their rows, examples of images."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from desc_ext.plots.style import COLORS, INK, cluster_colors, new_figure, plain, tidy

__all__ = ["affinity_figure", "examples_figure", "rows_by_cluster", "sizes_figure"]


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
        axes.bar_label(bars, labels=[f"{size:,}" for size in sizes], fontsize=8, padding=2, color=INK)
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
        affinity: [m, m], not negative; shades are of the square root, the darkest a row's largest values.
        labels: cluster labels [m], ascending.
    """
    affinity, labels = np.asarray(affinity, dtype=np.float64), np.asarray(labels)
    figure = new_figure(6.6, 6.4)
    axes = figure.subplots()
    off = affinity[~np.eye(len(affinity), dtype=bool)]
    top = float(np.quantile(off, 0.999)) if off.size else 0.0
    axes.imshow(np.sqrt(affinity), cmap="gray_r", vmin=0, vmax=np.sqrt(top) or 1, interpolation="nearest")
    clusters, first = np.unique(labels, return_index=True)
    edges = np.append(first, len(labels))
    for edge in edges[1:-1]:
        axes.axhline(edge - 0.5, color=COLORS[0], linewidth=0.6)
        axes.axvline(edge - 0.5, color=COLORS[0], linewidth=0.6)
    middles, names = (edges[:-1] + edges[1:] - 1) / 2, [str(k) for k in clusters]
    axes.set_xticks(middles if len(clusters) <= 40 else [], names if len(clusters) <= 40 else [])
    axes.set_yticks(middles if len(clusters) <= 40 else [], names if len(clusters) <= 40 else [])
    axes.set_xlabel("cluster", fontsize=9, color=INK)
    axes.set_ylabel("cluster", fontsize=9, color=INK)
    axes.set_title(
        f"{plain(title)} of {len(labels):,} rows", loc="left", fontsize=12, fontweight="bold", color=INK
    )
    axes.tick_params(colors=INK, labelsize=9, length=0)
    return figure


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
        X: rows [n, m], m the product of ``image_shape``; any scale.
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
    figure = new_figure(0.62 * columns + 0.9, 0.62 * len(shown) + 0.85)
    grid = figure.subplots(len(shown), columns, squeeze=False)
    shape = image_shape[:2] if len(image_shape) == 3 and image_shape[-1] == 1 else image_shape
    for row, k in enumerate(shown):
        members = np.flatnonzero(labels == k)
        members = members[np.argsort(-confidence[members], kind="stable")]
        picked = members[np.unique(np.linspace(0, len(members) - 1, columns).round().astype(int))]
        for column, axes in enumerate(grid[row]):
            axes.set_axis_off()
            if column < len(picked):
                _draw_image(axes, np.asarray(X[picked[column]], dtype=np.float64).reshape(shape))
        grid[row, 0].text(
            -0.25, 0.5, f"{k}  ", transform=grid[row, 0].transAxes, ha="right", va="center", fontsize=11,
            fontweight="bold", color=INK,
        )  # fmt: skip
    figure.suptitle(plain(title), x=0.02, ha="left", fontsize=12, fontweight="bold", color=INK)
    figure.supxlabel(
        "← most certain          in each cluster          least certain →", fontsize=9, color="#555555"
    )
    return figure


def _draw_image(axes: Axes, image: np.ndarray) -> None:
    low, high = float(image.min()), float(image.max())
    image = (image - low) / (high - low) if high > low else np.zeros_like(image)
    if image.ndim == 2:
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.imshow(image, interpolation="nearest")
