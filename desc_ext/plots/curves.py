"""The course of a fit: losses, shares and scores over epochs."""

from __future__ import annotations

from itertools import zip_longest

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from desc_ext.engine.stages import WEIGHTED
from desc_ext.plots.style import COLORS, INK, MARKERS, new_figure, plain, tidy

__all__ = ["curves_figure"]

METRICS = {"acc": "ACC", "nmi": "NMI", "ari": "ARI"}
SHARES = {
    "label_change": "rows that changed cluster",
    "mean_max_assignment": "mean largest assignment",
    "mean_max_target": "mean largest target",
    "discriminator_accuracy": "discriminator accuracy",
}

_NAMES_A_LINE = {"loss": 2, "shares": 1, "metrics": 2}  # below each panel


def curves_figure(history: list[dict], title: str) -> Figure:
    """Loss terms and shares of each stage over its epochs, and, where the history has them, the metrics.

    Args:
        history: one flat dictionary an epoch with the key ``stage``. ``acc``, ``nmi`` and ``ari`` are drawn as metrics,
            :data:`SHARES` as shares. Losses are ``loss`` and the weighted terms that it is the sum of; of stages that
            name none, every other floating-point value but ``seconds``.
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
    lines = max((-(-len(curves) // _NAMES_A_LINE[kind]) for _, kind, curves in panels), default=0)
    figure = new_figure(max(4.9 * width, 6), (3.5 + 0.2 * lines) * height + 0.3)
    figure.suptitle(plain(title), x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    for axes, panel in zip_longest(figure.subplots(height, width, squeeze=False).flat, panels):
        if panel is None:
            axes.set_axis_off()
            if not panels:
                axes.text(0.5, 0.5, "no epochs", ha="center", transform=axes.transAxes, color=INK)
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
    weighted = {key: key.removeprefix(WEIGHTED) for key in keys if key.startswith(WEIGHTED)}
    if weighted:
        return {"loss": "total"} | weighted
    terms = [key for key in keys if key not in others]
    if len(terms) == 2 and all(row.get(terms[0]) == row.get(terms[1]) for row in rows):
        terms = terms[:1]  # a loss of one term is that term
    return {key: "total" if key == "loss" else key for key in terms}


def _draw_curves(axes: Axes, stage: str, kind: str, curves: dict) -> None:
    for i, (name, (epochs, values)) in enumerate(curves.items()):
        look = {"color": INK, "linewidth": 2.4} if name == "total" else {"color": COLORS[i % len(COLORS)]}
        label = f"{plain(name)} (last {values[-1]:.3g})"
        axes.plot(epochs, values, marker=MARKERS[i % len(MARKERS)], markersize=3.5, label=label, **look)
    everything = [value for _, values in curves.values() for value in values]
    what = {
        "loss": "total loss and its weighted terms" if len(curves) > 1 else "loss",
        "shares": "shares",
        "metrics": "agreement with known classes, not used in fitting",
    }
    axes.set_title(f"{plain(stage)}: {what[kind]}", loc="left", fontsize=10, color=INK)
    axes.set_ylabel({"loss": "loss", "shares": "share", "metrics": "score"}[kind], fontsize=9, color=INK)
    if kind != "loss":
        axes.set_ylim(min(0, *everything), 1)
    elif min(everything) > 0 and max(everything) > 20 * min(everything):
        axes.set_yscale("log")
    axes.set_xlabel("epoch", fontsize=9, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if max(epoch for epochs, _ in curves.values() for epoch in epochs) == 1:
        axes.set_xlim(0.5, 1.5)  # a single epoch: around its one point
    tidy(axes)
    # below the label of the axis: inside, it would lie over a curve
    axes.legend(
        fontsize=8,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(0, -0.16),
        borderaxespad=0,
        ncols=_NAMES_A_LINE[kind],
    )
