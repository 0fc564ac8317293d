"""The pictures of speed in the documentation, from the committed results beside this file; nothing is measured.

    python benchmarks/kernels/pictures.py

writes docs/speed-cpu.png and docs/speed-gpu.png: a point for every shape that was measured, those where we lose included.
"""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Iterable
from pathlib import Path

import harness
from matplotlib.figure import Figure

from desc_ext.plots.speed import ratio_axes
from desc_ext.plots.style import INK, new_figure, save_figure

RESULTS, DOCS = harness.RESULTS, Path(__file__).parents[2] / "docs"
FAMILIES = ("projection", "assignment", "orthogonality", "segments", "pairwise", "self_expression")
SMALL, GPU = RESULTS / "small_batches.csv", RESULTS / "gpu-nvidia-h100-80gb-hbm3.csv"
# Less than the operator does, or with less precision: no peers.
NO_PEERS = ("desc_ext", "product alone", "linear", "desc_ext TF32", "Gram TF32")

Ratios = dict[str, list[float]]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def ratios(rows: Iterable[dict[str, str]], time: str = "milliseconds") -> Ratios:
    """By operator and pass, for every shape: time of the fastest peer / time of ours."""
    groups: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows:
        key = row["operator"], row["part"].replace("both", "full"), row["shape"]
        groups.setdefault(key, {})[row["candidate"]] = float(row[time])
    found: Ratios = {}
    for (operator, part, _), times in groups.items():
        peers = [value for name, value in times.items() if name not in NO_PEERS]
        if peers and "desc_ext" in times:
            found.setdefault(f"{operator}, {part}", []).append(min(peers) / times["desc_ext"])
    return found


def date(*paths: Path) -> str:
    """Day of the newest commit of these files."""
    command = ["git", "log", "-1", "--format=%as", "--", *map(str, paths)]
    return subprocess.run(command, cwd=RESULTS, capture_output=True, text=True, check=True).stdout.strip()


def panels(title: str, named: dict[str, Ratios]) -> Figure:
    """Panels side by side, each with the number of its shapes at which we lose."""
    figure = new_figure(5.6 * len(named), 1.6 + 0.24 * max(map(len, named.values())))
    for axes, (name, found) in zip(
        figure.subplots(1, len(named), squeeze=False)[0], named.items(), strict=True
    ):
        ratio_axes(axes, list(found), list(found.values()))
        every = [value for values in found.values() for value in values]
        slower = sum(value < 1 for value in every)
        axes.set_title(f"{name}\nslower at {slower} of {len(every)}", loc="left", fontsize=9, color=INK)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    return figure


def cpu() -> Figure:
    large = [row for family in FAMILIES for row in rows_of(RESULTS / f"{family}.csv")]
    small = [row for row in rows_of(SMALL) if (row["isa"], row["threads"]) == ("avx512", "1")]
    files = [*(RESULTS / f"{family}.csv" for family in FAMILIES), SMALL]
    return panels(
        f"CPU with AVX-512, float32, a point a shape ({date(*files)})",
        {
            "large shapes, 2 threads (make bench)": ratios(large),
            "64 to 2,000 rows, 1 thread (make bench-small)": ratios(small, "microseconds"),
        },
    )


def gpu() -> Figure:
    rows = [row for row in rows_of(GPU) if row["cache"] == "cold"]
    return panels(
        f"NVIDIA H100, projection family, cold cache, a point a shape ({date(GPU)})",
        {dtype: ratios(row for row in rows if row["dtype"] == dtype) for dtype in ("float32", "bfloat16")},
    )


def main() -> None:
    save_figure(cpu(), DOCS / "speed-cpu.png", dpi=100)
    save_figure(gpu(), DOCS / "speed-gpu.png", dpi=100)


if __name__ == "__main__":
    main()
