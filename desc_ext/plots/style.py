"""What all pictures share: colours, titles, axes, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from desc_ext.durable import replacing

# Petroff's ten colours, chosen to stay apart under the common kinds of colour blindness; beyond ten clusters
# the marker changes, and each cluster carries its number in the picture.
COLORS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "*")
INK, FAINT = "#222222", "#d9d9d9"
_LONGEST_TITLE = 90


def plain(text: str) -> str:
    """A text of the user as matplotlib shows it letter by letter: no mathematics, one line, not without end."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    if len(text) > _LONGEST_TITLE:
        text = text[: _LONGEST_TITLE // 2] + " … " + text[-_LONGEST_TITLE // 2 :]
    return text.replace("$", r"\$")


def cluster_colors(n_clusters: int) -> list[str]:
    """One colour a cluster; ten that repeat."""
    return [COLORS[k % len(COLORS)] for k in range(n_clusters)]


def save_figure(figure: Figure, path: str | Path, dpi: int = 110) -> None:
    """Writes a figure as PNG, without the creation date, so that the same figure gives the same bytes."""
    FigureCanvasAgg(figure)
    with replacing(Path(path)) as file:
        figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, grid: Literal["x", "y"] | None = "y") -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")
    axes.tick_params(colors=INK, labelsize=9)
    if grid:
        axes.grid(axis=grid, color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
