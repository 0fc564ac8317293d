"""Points of a plane, coloured by cluster or by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.patheffects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from desc_ext.plots.style import COLORS, INK, MARKERS, cluster_colors, new_figure, plain, tidy

__all__ = ["embedding_figure"]

_WIDTH, _HEIGHT = 7.2, 6.4  # inches
_SMALL = 34.0  # points (1/72 inch): a number would hide a cluster that is smaller
_HIDDEN = 10.0  # a part of a cluster that a number covers
_LEADER = 24.0
_MOST_NUMBERS = 60
_MOST_NAMES = 24


def embedding_figure(
    points: ArrayLike,
    labels: ArrayLike,
    title: str,
    subtitle: str = "",
    axes_names: tuple[str, str] = ("t-SNE 1", "t-SNE 2"),
    names: Sequence[str] | None = None,
    color_of: ArrayLike | None = None,
) -> Figure:
    """Points [m, 2] coloured by label [m], each label with its number, or with its name in a legend.

    Args:
        names: of the labels 0, 1, ...: the legend's; None writes numbers beside the points.
        color_of: the label whose colour each label has; None: its own.
    """
    points, labels = np.asarray(points), np.asarray(labels)
    figure = new_figure(_WIDTH if names is None else _WIDTH + 1.8, _HEIGHT)
    axes = figure.subplots()
    present, counts = np.unique(labels, return_counts=True)
    look = np.arange(int(present.max(initial=-1)) + 1) if color_of is None else np.asarray(color_of)
    colors = cluster_colors(int(look.max(initial=-1)) + 1)
    size = float(np.clip(12000 / max(len(points), 1), 6, 30))
    for k, count in zip(present, counts, strict=True):
        inside = labels == k
        axes.scatter(
            points[inside, 0], points[inside, 1], s=size, color=colors[look[k]], alpha=0.75, linewidths=0,
            marker=MARKERS[look[k] // len(COLORS) % len(MARKERS)], rasterized=True,
            zorder=2 - count / len(labels),  # small ones lie on large ones
            label=None if names is None else plain(names[k])[:28],
        )  # fmt: skip
    axes.margins(0.07)
    if names is None and len(present) <= _MOST_NUMBERS:
        _write_numbers(axes, points, labels)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(axes_names[0], fontsize=9, color=INK)
    axes.set_ylabel(axes_names[1], fontsize=9, color=INK)
    tidy(axes, grid=None)
    axes.set_title(
        plain(title), loc="left", fontsize=12, fontweight="bold", color=INK, pad=20 if subtitle else 8
    )
    if subtitle:
        axes.text(0, 1.012, plain(subtitle), transform=axes.transAxes, fontsize=9, color="#555555")
    if names is not None:
        _write_legend(figure, axes)
    return figure


def _write_legend(figure: Figure, axes: Axes) -> None:
    handles, texts = axes.get_legend_handles_labels()
    if len(handles) > _MOST_NAMES:
        texts = [*texts[: _MOST_NAMES - 1], f"and {len(texts) - _MOST_NAMES + 1} more"]
    handles = handles[: len(texts)]
    figure.legend(handles, texts, loc="outside right upper", fontsize=9, frameon=False, markerscale=1.6)


def _write_numbers(axes: Axes, points: np.ndarray, labels: np.ndarray) -> None:
    """The number of each cluster on one of its points, or, of a small cluster, beside it with a line to it."""
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    span = np.where(span > 0, span, 1)
    scale = 72 * 0.85 * np.array([_WIDTH, _HEIGHT]) / span
    shown = (points - low) * scale  # about where they lie on paper, in points
    taken: list[np.ndarray] = []
    halo = [matplotlib.patheffects.withStroke(linewidth=3.5, foreground="white")]
    look: dict[str, Any] = {
        "ha": "center",
        "va": "center",
        "fontsize": 12,
        "fontweight": "bold",
        "color": INK,
    }
    for k in np.unique(labels):
        members = shown[labels == k]
        # On a member, not on the median itself, which may lie between the parts of a cluster that is torn.
        at = members[np.argmin(((members - np.median(members, axis=0)) ** 2).sum(axis=1))]
        extent, least = _extent(members), _SMALL
        if extent >= _SMALL:  # it may be in several parts: the one that the number would lie on
            extent, least = _extent(members[((members - at) ** 2).sum(axis=1) < _SMALL**2]), _HIDDEN
        text_at, leader = at, dict[str, Any]()
        if extent < least:
            text_at = _free_place(at, max(_LEADER, extent / 2 + 16), shown, taken)
            leader = {
                "arrowprops": {"arrowstyle": "-", "color": INK, "linewidth": 0.8, "shrinkA": 6, "shrinkB": 2}
            }
        taken.append(text_at)
        axes.annotate(
            str(k), at / scale + low, xytext=text_at - at, textcoords="offset points",
            path_effects=halo, annotation_clip=False, **look, **leader,
        )  # fmt: skip


def _extent(members: np.ndarray) -> float:
    """The larger side of the box round the middle eight tenths of the points."""
    return float(np.ptp(np.quantile(members, [0.1, 0.9], axis=0), axis=0).max())


def _free_place(
    at: np.ndarray, distance: float, shown: np.ndarray, taken: list[np.ndarray], room: float = 11.0
) -> np.ndarray:
    """Among places around ``at``, the one with the fewest points and numbers beside it, inside the picture."""
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    places = at + distance * np.column_stack([np.cos(angles), np.sin(angles)])
    costs = []
    for place in places:
        covered = (((shown - place) ** 2).sum(axis=1) < room**2).sum()
        numbers = sum(((other - place) ** 2).sum() < (2 * room) ** 2 for other in taken)
        outside = (place < -20).any() or (place > shown.max(axis=0) + 20).any()
        costs.append(covered + len(shown) * (numbers + outside))
    return places[int(np.argmin(costs))]
