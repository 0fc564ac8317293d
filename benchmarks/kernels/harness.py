"""The measurements of `make bench`, and the tables and plots made of them."""

from __future__ import annotations

import csv
import json
import platform
import statistics
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from desc_ext.bench.timing import ROUNDS, compare, peak_extra

RESULTS = Path(__file__).parent / "results"
THREADS = 2


@dataclass
class Measurement:
    family: str
    operator: str
    part: str  # forward, or full: forward and backward
    shape: str
    candidate: str
    milliseconds: float  # median
    fastest: float
    rounds: int
    gigaflops: float  # operations the result needs, a second
    share_of_peak: float
    extra_mib: float  # peak memory beside what was there before


class Report:
    """Collects the measurements of a session and writes one CSV, table and plot for each family."""

    def __init__(self, peak: float, bandwidth: float):
        self.peak, self.bandwidth = peak, bandwidth
        self.measurements: list[Measurement] = []

    def measure(self, family, operator, part, shape, operations, candidates) -> dict[str, float]:
        """Times the candidates; returns the median milliseconds of each."""
        for name, call in candidates.items():
            if name.startswith("compiled"):
                call()
        extra = {name: peak_extra(call) for name, call in candidates.items()}  # warms up, too
        times = compare(candidates)
        for name, values in times.items():
            median = statistics.median(values)
            rate = operations / median / 1e9
            self.measurements.append(
                Measurement(
                    family,
                    operator,
                    part,
                    str(shape),
                    name,
                    median * 1e3,
                    min(values) * 1e3,
                    len(values),
                    rate,
                    rate / self.peak,
                    extra[name],
                )
            )
        self.write()  # after every measurement: an interrupted session keeps what it has
        return {name: statistics.median(values) * 1e3 for name, values in times.items()}

    def write(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        for family in dict.fromkeys(m.family for m in self.measurements):
            rows = [m for m in self.measurements if m.family == family]
            with open(RESULTS / f"{family}.csv", "w", newline="") as file:
                writer = csv.DictWriter(file, [f.name for f in fields(Measurement)])
                writer.writeheader()
                for row in rows:
                    writer.writerow(
                        {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(row).items()}
                    )
            (RESULTS / f"{family}.md").write_text(self.table(family, rows))
            plot(family, rows)

    def machine(self) -> str:
        info = json.loads(torch.ops.desc_ext.build_info())
        return (
            f"{platform.machine()}, {info['in_use']} kernels, {torch.get_num_threads()} threads, torch "
            f"{torch.__version__}, float32; measured peaks: {self.peak:.0f} GFLOP/s multiply-add, "
            f"{self.bandwidth:.0f} GB/s copy"
        )

    def table(self, family: str, rows: list[Measurement]) -> str:
        lines = [
            f"# {family}: kernels against plain torch",
            "",
            f"Written by `make bench`. {self.machine()}.",
            "",
            f"Medians of {ROUNDS} interleaved rounds (one round where a peer took over three times as long as the "
            "best peer). GFLOP/s counts the operations the result needs; a backward pass that computes coefficients again "
            "gets no credit for it. Memory: peak of one call beside what was there before, result included. ×: time of the "
            "candidate / time of desc_ext.",
            "",
            "| operator | pass | shape | candidate | ms | × | GFLOP/s | of peak | MiB | rounds |",
            "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for row in rows:
            ours = next(
                m
                for m in rows
                if (m.operator, m.part, m.shape, m.candidate)
                == (row.operator, row.part, row.shape, "desc_ext")
            )
            lines.append(
                f"| {row.operator} | {row.part} | {row.shape} | {row.candidate} | {row.milliseconds:.4g} | "
                f"{row.milliseconds / ours.milliseconds:.2f} | {row.gigaflops:.0f} | {row.share_of_peak:.0%} | "
                f"{row.extra_mib:.0f} | {row.rounds} |"
            )
        lines += ["", "Against the best peer at each shape:", ""]
        lines += ["| operator | pass | least | geometric mean |", "| --- | --- | ---: | ---: |"]
        for (operator, part), ratios in best_peer_ratios(rows).items():
            lines.append(
                f"| {operator} | {part} | {min(ratios):.2f}× | {statistics.geometric_mean(ratios):.2f}× |"
            )
        return "\n".join(lines) + "\n"


def best_peer_ratios(rows: list[Measurement]) -> dict[tuple[str, str], list[float]]:
    """For each operator and pass: (time of the fastest peer) / (time of ours), a value for each shape."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for key in dict.fromkeys((m.operator, m.part, m.shape) for m in rows):
        times = {m.candidate: m.milliseconds for m in rows if (m.operator, m.part, m.shape) == key}
        ours = times.pop("desc_ext")
        ratios.setdefault(key[:2], []).append(min(times.values()) / ours)
    return ratios


def plot(family: str, rows: list[Measurement]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys((m.operator, m.part) for m in rows))
    candidates = list(dict.fromkeys(m.candidate for m in rows))
    colours = dict(
        zip(candidates, ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#999999", "#D55E00"], strict=False)
    )
    figure = Figure(figsize=(4.6 * min(len(groups), 2), 3.4 * ((len(groups) + 1) // 2)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots((len(groups) + 1) // 2, min(len(groups), 2), squeeze=False).flat
    for axis, (operator, part) in zip(axes, groups, strict=False):
        own = [m for m in rows if (m.operator, m.part) == (operator, part)]
        shapes = list(dict.fromkeys(m.shape for m in own))
        width = 0.8 / len(candidates)
        for i, candidate in enumerate(candidates):
            at = {m.shape: m.milliseconds for m in own if m.candidate == candidate}
            axis.bar(
                [s + (i - (len(candidates) - 1) / 2) * width for s in range(len(shapes)) if shapes[s] in at],
                [at[shape] for shape in shapes if shape in at],
                width,
                label=candidate,
                color=colours[candidate],
            )
        axis.set_yscale("log")
        halves = [shape.strip("()").split(", ", 2) for shape in shapes]
        axis.set_xticks(
            range(len(shapes)), [f"{n}, {p}\n{', '.join(rest)}" for n, p, *rest in halves], fontsize=7
        )
        axis.set_title(f"{operator}, {part}", fontsize=9)
        axis.set_ylabel("milliseconds", fontsize=8)
        axis.grid(axis="y", alpha=0.3)
    for axis in list(axes):
        axis.set_visible(False)
    handles = {
        label: handle
        for axis in figure.axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=8
    )
    figure.savefig(RESULTS / f"{family}.png", dpi=110)
