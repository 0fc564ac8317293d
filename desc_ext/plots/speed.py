"""Operators beside their peers: how far from the roof of the machine, and how much faster or slower."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from desc_ext.plots.style import COLORS, FAINT, INK, new_figure, plain, tidy

__all__ = ["ratio_axes", "speed_figure"]

TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
AHEAD, BEHIND, PEER = COLORS[0], COLORS[2], COLORS[3]


def speed_figure(
    labels: Sequence[str],
    intensities: Sequence[float],
    ours: Sequence[float],
    peers: Sequence[float],
    roof: tuple[float, float],
    title: str,
) -> Figure:
    """A roofline with every measurement and its best peer, and the ratios of the two as bars.

    Args:
        labels: of m measurements, such as operator, pass and shape.
        intensities: operations a byte of inputs and outputs, [m].
        ours: GFLOP/s, [m].
        peers: GFLOP/s of the best peer at each, [m].
        roof: GFLOP/s of a matrix product, and GB/s of a copy, of the machine.
    """
    figure = new_figure(11, max(4.0, 1.6 + 0.3 * len(labels)))
    roofline, bars = figure.subplots(1, 2, width_ratios=(1, 1.1))
    peak, bandwidth = roof
    low, high = min([*intensities, peak / bandwidth / 4]) / 2, max([*intensities, peak / bandwidth * 4]) * 2
    corner = peak / bandwidth
    roofline.loglog([low, corner, high], [low * bandwidth, peak, peak], color=INK, linewidth=1.2)
    roofline.text(high, peak * 1.08, f"matrix product {peak:.0f} GFLOP/s", ha="right", fontsize=8, color=INK)
    middle = (low * corner) ** 0.5
    roofline.text(
        middle / 1.2, middle * bandwidth, f"copy {bandwidth:.0f} GB/s", ha="right", fontsize=8, color=INK
    )
    for x, mine, other in zip(intensities, ours, peers, strict=True):
        roofline.plot([x, x], [mine, other], color=FAINT, linewidth=1, zorder=0)
    roofline.plot(intensities, ours, "o", color=AHEAD, label="desc_ext")
    roofline.plot(intensities, peers, "s", color=PEER, markersize=5, label="best peer")
    roofline.set_xlabel("operations a byte of inputs and outputs", color=INK)
    roofline.set_ylabel("GFLOP/s", color=INK)
    roofline.legend(frameon=False, loc="lower right", fontsize=9)
    tidy(roofline)
    ratio_axes(bars, labels, [[mine / other] for mine, other in zip(ours, peers, strict=True)], bars=True)
    figure.suptitle(plain(title), x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    return figure


def ratio_axes(
    axes: Axes, labels: Sequence[str], ratios: Sequence[Sequence[float]], bars: bool = False
) -> None:
    """Time of the best peer over ours, a line a label: right of 1 we are faster, left of it slower.

    Args:
        ratios: of every label, a point each.
        bars: there is one ratio a label, and it is drawn as a bar with its value.
    """
    for y, values in enumerate(ratios):
        colors = [AHEAD if value >= 1 else BEHIND for value in values]
        if bars:
            axes.barh(y, values[0] - 1, left=1, height=0.6, color=colors[0])
            ahead = values[0] >= 1
            axes.annotate(
                f"{values[0]:.3g}×", (values[0], y), (4 if ahead else -4, 0), textcoords="offset points", va="center",
                ha="left" if ahead else "right", fontsize=8, color=INK,
            )  # fmt: skip
        else:
            axes.scatter(values, [y] * len(values), s=16, c=colors, alpha=0.75, linewidths=0)
    every = [value for values in ratios for value in values]
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_xscale("log")
    left, right = min([*every, 0.65]) / 1.4, max([*every, 1.5]) * 1.4
    axes.set_xlim(left, right)
    axes.set_xticks([x for x in TICKS if left <= x <= right])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.set_yticks(range(len(labels)), [plain(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel("time of the best peer / time of desc_ext", color=INK)
    tidy(axes, "x")
    axes.tick_params(axis="y", labelsize=8)
