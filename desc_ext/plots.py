"""Pictures of a clustering, as matplotlib figures that touch none of matplotlib's global state."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import matplotlib.patheffects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

__all__ = [
    "affinity_figure", "cluster_colors", "curves_figure", "embedding_figure", "examples_figure", "project_to_plane",
    "rows_by_cluster", "save_figure", "save_pictures", "sizes_figure",
]  # fmt: skip

# Petroff's ten colours, chosen to stay apart under the common kinds of colour blindness; beyond ten clusters
# the marker changes, and each cluster carries its number in the picture.
_COLORS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "*")
_INK, _FAINT = "#222222", "#d9d9d9"
METRICS = {"acc": "ACC", "nmi": "NMI", "ari": "ARI"}
SHARES = {
    "label_change": "rows that changed cluster",
    "mean_max_assignment": "mean largest assignment",
    "mean_max_target": "mean largest target",
    "discriminator_accuracy": "discriminator accuracy",
}


def cluster_colors(n_clusters: int) -> list[str]:
    """One colour a cluster; ten that repeat."""
    return [_COLORS[k % len(_COLORS)] for k in range(n_clusters)]


def save_figure(figure: Figure, path: str | Path, dpi: int = 110) -> None:
    """Writes a figure as PNG, without the creation date, so that the same figure gives the same bytes."""
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png", dpi=dpi, metadata={"Software": None})


def _new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _tidy(axes: Axes, grid: Literal["x", "y"] | None = "y") -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")
    axes.tick_params(colors=_INK, labelsize=9)
    if grid:
        axes.grid(axis=grid, color=_FAINT, linewidth=0.6)
        axes.set_axisbelow(True)


def project_to_plane(
    embedding: ArrayLike, max_points: int = 3000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """t-SNE of at most ``max_points`` rows, started from their first two principal components.

    Args:
        embedding: latent rows [n, p]; rows that are not finite are left out.
        max_points: rows to show; more are thinned out at random, with ``seed``.

    Returns:
        Points [m, 2] and the numbers [m] of the rows they stand for, ascending.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    embedding = np.asarray(embedding)
    rows = np.flatnonzero(np.isfinite(embedding).all(axis=1))
    if len(rows) > max_points:
        rows = np.sort(np.random.default_rng(seed).choice(rows, max_points, replace=False))
    points = embedding[rows].astype(np.float64)
    width = min(50, *points.shape)
    if len(points) < 5 or width < 2:  # too little for neighbourhoods
        return np.pad(points[:, :2], ((0, 0), (0, max(0, 2 - points.shape[1])))), rows
    points = PCA(width, svd_solver="full", random_state=seed).fit_transform(points)
    if width > 2:
        perplexity = min(30.0, (len(points) - 1) / 3)
        points = TSNE(init="pca", perplexity=perplexity, max_iter=500, random_state=seed).fit_transform(
            points
        )
    return points, rows


def embedding_figure(points: ArrayLike, labels: ArrayLike, title: str, subtitle: str = "") -> Figure:
    """Points [m, 2] coloured by cluster [m], each cluster with its number."""
    points, labels = np.asarray(points), np.asarray(labels)
    figure = _new_figure(7.2, 6.4)
    axes = figure.subplots()
    clusters = np.unique(labels)
    colors = cluster_colors(int(clusters.max()) + 1 if len(clusters) else 0)
    size = float(np.clip(12000 / max(len(points), 1), 6, 30))
    for k in clusters:
        inside = labels == k
        axes.scatter(
            points[inside, 0], points[inside, 1], s=size, color=colors[k], alpha=0.75, linewidths=0,
            marker=_MARKERS[k // len(_COLORS) % len(_MARKERS)], rasterized=True,
        )  # fmt: skip
    halo = [matplotlib.patheffects.withStroke(linewidth=3.5, foreground="white")]
    for k in clusters if len(clusters) <= 60 else ():
        members = points[labels == k]
        # On a member, not on the median itself, which may lie between the parts of a cluster that is torn.
        x, y = members[np.argmin(((members - np.median(members, axis=0)) ** 2).sum(axis=1))]
        axes.text(
            x,
            y,
            str(k),
            ha="center",
            va="center",
            fontsize=12,
            fontweight="bold",
            color=_INK,
            path_effects=halo,
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("t-SNE 1", fontsize=9, color=_INK)
    axes.set_ylabel("t-SNE 2", fontsize=9, color=_INK)
    _tidy(axes, grid=None)
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=_INK, pad=20 if subtitle else 8)
    if subtitle:
        axes.text(0, 1.012, subtitle, transform=axes.transAxes, fontsize=9, color="#555555")
    return figure


def curves_figure(history: list[dict], title: str) -> Figure:
    """Loss terms and shares of each stage over its epochs, and, where the history has them, the metrics.

    Args:
        history: one flat dictionary an epoch with the key ``stage``. ``acc``, ``nmi`` and ``ari`` are drawn
            as metrics, :data:`SHARES` as shares, every other floating-point value but ``seconds`` as a loss.
    """
    panels = []
    for stage in dict.fromkeys(str(row.get("stage", "")) for row in history):
        rows = [row for row in history if str(row.get("stage", "")) == stage]
        for kind, names in (("loss", _loss_names(rows)), ("shares", SHARES), ("metrics", METRICS)):
            curves = {names[key]: _numeric(rows, key) for key in names}
            curves = {name: curve for name, curve in curves.items() if curve[0]}
            if curves:
                panels.append((stage, kind, curves))
    width = 2 if len(panels) == 4 else max(1, min(3, len(panels)))
    height = max(1, -(-len(panels) // width))
    figure = _new_figure(max(4.9 * width, 6), 3.5 * height + 0.3)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK)
    for axes, panel in zip_longest(figure.subplots(height, width, squeeze=False).flat, panels):
        if panel is None:
            axes.set_axis_off()
            if not panels:
                axes.text(0.5, 0.5, "no epochs", ha="center", transform=axes.transAxes, color=_INK)
        else:
            _draw_curves(axes, *panel)
    return figure


def _numeric(rows: list[dict], key: str) -> tuple[list[int], list[float]]:
    """Epochs and values of the rows that have a finite number under ``key``."""
    pairs = [
        (i, float(row[key]))
        for i, row in enumerate(rows, start=1)
        if isinstance(row.get(key), (int, float)) and np.isfinite(row[key])
    ]
    return [i for i, _ in pairs], [value for _, value in pairs]


def _loss_names(rows: list[dict]) -> dict[str, str]:
    others = {"seconds", *METRICS, *SHARES}
    keys = dict.fromkeys(key for row in rows for key, value in row.items() if isinstance(value, float))
    terms = [key for key in keys if key not in others]
    if len(terms) == 2 and all(row.get(terms[0]) == row.get(terms[1]) for row in rows):
        terms = terms[:1]  # a loss of one term is that term
    return {key: "total" if key == "loss" else key for key in terms}


def _draw_curves(axes: Axes, stage: str, kind: str, curves: dict) -> None:
    for i, (name, (epochs, values)) in enumerate(curves.items()):
        look = {"color": _INK, "linewidth": 2.4} if name == "total" else {"color": _COLORS[i % len(_COLORS)]}
        label = f"{name} (last {values[-1]:.3g})"
        axes.plot(epochs, values, marker=_MARKERS[i % len(_MARKERS)], markersize=3.5, label=label, **look)
    everything = [value for _, values in curves.values() for value in values]
    what = {
        "loss": "loss",
        "shares": "shares",
        "metrics": "agreement with known classes, not used in fitting",
    }
    axes.set_title(f"{stage}: {what[kind]}", loc="left", fontsize=10, color=_INK)
    axes.set_ylabel({"loss": "loss", "shares": "share", "metrics": "score"}[kind], fontsize=9, color=_INK)
    if kind != "loss":
        axes.set_ylim(min(0, *everything), 1)
    elif min(everything) > 0 and max(everything) > 20 * min(everything):
        axes.set_yscale("log")
    axes.set_xlabel("epoch", fontsize=9, color=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _tidy(axes)
    axes.legend(fontsize=8, frameon=False)


def sizes_figure(labels: ArrayLike, n_clusters: int, title: str) -> Figure:
    """Rows in each cluster, with the even share as a line.

    Args:
        labels: cluster labels [n], 0 to n_clusters - 1.
    """
    sizes = np.bincount(np.asarray(labels), minlength=n_clusters)
    figure = _new_figure(float(np.clip(0.5 * n_clusters + 2, 5, 14)), 3.6)
    axes = figure.subplots()
    bars = axes.bar(np.arange(n_clusters), sizes, color=cluster_colors(n_clusters), width=0.75)
    if n_clusters <= 30:
        axes.bar_label(bars, labels=[f"{size:,}" for size in sizes], fontsize=8, padding=2, color=_INK)
        axes.set_xticks(np.arange(n_clusters))
    even = sizes.sum() / n_clusters
    axes.axhline(even, color=_INK, linestyle="--", linewidth=1, zorder=0.9, label=f"even share ({even:,.0f})")
    axes.set_ylim(0, 1.18 * max(sizes.max(), 1))
    axes.set_xlabel("cluster", fontsize=9, color=_INK)
    axes.set_ylabel("rows", fontsize=9, color=_INK)
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=_INK)
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    _tidy(axes)
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
    figure = _new_figure(6.6, 6.4)
    axes = figure.subplots()
    off = affinity[~np.eye(len(affinity), dtype=bool)]
    top = float(np.quantile(off, 0.999)) if off.size else 0.0
    axes.imshow(np.sqrt(affinity), cmap="gray_r", vmin=0, vmax=np.sqrt(top) or 1, interpolation="nearest")
    clusters, first = np.unique(labels, return_index=True)
    edges = np.append(first, len(labels))
    for edge in edges[1:-1]:
        axes.axhline(edge - 0.5, color=_COLORS[0], linewidth=0.6)
        axes.axvline(edge - 0.5, color=_COLORS[0], linewidth=0.6)
    middles, names = (edges[:-1] + edges[1:] - 1) / 2, [str(k) for k in clusters]
    axes.set_xticks(middles if len(clusters) <= 40 else [], names if len(clusters) <= 40 else [])
    axes.set_yticks(middles if len(clusters) <= 40 else [], names if len(clusters) <= 40 else [])
    axes.set_xlabel("cluster", fontsize=9, color=_INK)
    axes.set_ylabel("cluster", fontsize=9, color=_INK)
    axes.set_title(f"{title} of {len(labels):,} rows", loc="left", fontsize=12, fontweight="bold", color=_INK)
    axes.tick_params(colors=_INK, labelsize=9, length=0)
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
    figure = _new_figure(0.62 * columns + 0.9, 0.62 * len(shown) + 0.85)
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
            fontweight="bold", color=_INK,
        )  # fmt: skip
    figure.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold", color=_INK)
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


def save_pictures(
    folder: str | Path,
    history: list[dict[str, Any]],
    X: Any,
    labels: ArrayLike,
    confidence: ArrayLike,
    embedding: ArrayLike,
    n_clusters: int,
    image_shape: tuple[int, ...] | None,
    heading: str,
    rows_name: str = "latent rows",
) -> list[Path]:
    """Writes embedding.png, cluster_sizes.png, curves.png (of stages of several epochs) and, for images, examples.png.

    Args:
        history: see :func:`curves_figure`.
        X, labels, confidence, image_shape: see :func:`examples_figure`; no examples when the shape is None.
        embedding: [n, p], what embedding.png shows.
        heading: what was clustered by what, the first part of every title.
        rows_name: what the embedding's rows are, for its title.
    """
    labels = np.asarray(labels)
    points, rows = project_to_plane(embedding)
    subtitle = f"t-SNE of {len(rows):,} of {len(labels):,} {rows_name}, coloured and numbered by cluster"
    figures = {
        "embedding.png": embedding_figure(points, labels[rows], f"{heading}: {rows_name}", subtitle),
        "cluster_sizes.png": sizes_figure(labels, n_clusters, f"{heading}: cluster sizes"),
    }
    if not history or len(history) > len({record.get("stage") for record in history}):
        figures["curves.png"] = curves_figure(history, f"{heading}: training")
    if image_shape is not None:
        figures["examples.png"] = examples_figure(
            X, labels, confidence, image_shape, f"{heading}: examples of each cluster"
        )
    for name, figure in figures.items():
        save_figure(figure, Path(folder) / name)
    return [Path(folder) / name for name in figures]
