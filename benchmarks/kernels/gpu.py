"""The projection family on a GPU against plain torch, and against what the card can do: `make bench-gpu`.

Every call is timed by events on the stream, behind a kernel that waits while the host queues it: starting launches is no part
of it. Cold: a buffer of several times the L2 cache is written first. Warm: the same call ran just before; for a backward, the
forward it belongs to. Candidates are measured in turn. After --minutes nothing new is begun, and what is missing is named.
"""

from __future__ import annotations

import argparse
import csv
import gc
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import harness
import torch

from desc_ext import ops
from desc_ext.bench import peers
from desc_ext.bench.timing import Clock, compare

Shape = tuple[int, int, int, int]  # n, p, K, d
SHAPES: list[Shape] = [
    (100_000, 50, 10, 5), (100_000, 128, 100, 8), (20_000, 512, 100, 16), (50_000, 64, 1000, 8),
    (1_000_000, 50, 10, 5), (1_000_000, 128, 100, 8), (200_000, 512, 100, 16), (500_000, 64, 1000, 8),
]  # fmt: skip
PASSES = [
    ("projection_residual", "forward"),
    ("nearest_subspace", "forward"),
    ("weighted_projection_loss", "forward"),
    ("weighted_projection_loss", "backward"),
    ("weighted_projection_loss", "full"),
]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PEERS = ["compiled Gram", "Gram", "product + reduction", "literal"]
# float32 forward passes on tensor cores: ours wherever they can be used, and torch's with its own setting at "high".
TF32 = ["desc_ext TF32", "Gram TF32"]
COLUMNS = ["operator", "pass", "dtype", "n, p, K, d", "cache", "candidate"]
COLUMNS += ["ms", "×", "TFLOP/s", "of matmul", "GB/s", "of copy", "MiB"]


@dataclass
class Measurement:
    operator: str
    part: str  # forward, backward, or full: both
    dtype: str  # of rows and bases
    shape: str
    cache: str
    candidate: str
    milliseconds: float  # median
    fastest: float
    rounds: int
    teraflops: float  # operations the result needs, a second
    share_of_matmul: float
    gigabytes: float  # each input and output once, a second
    share_of_copy: float
    extra_mib: float  # peak memory beside what was there before


@dataclass
class Ceilings:
    """Of this device, measured: GB/s of a copy, and TFLOP/s of a square matrix product by dtype."""

    copy: float
    matmul: dict[str, float]


def measure_ceilings(clock: Clock, rounds: int) -> Ceilings:
    size, side = (1 << 30, 8192) if clock.on_gpu else (1 << 24, 256)

    def best(call: Callable) -> float:
        return min(clock.seconds(lambda: call, cold=False) for _ in range(rounds))

    source = torch.ones(size, dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    copy = 2 * size / best(lambda: target.copy_(source)) / 1e9
    matmul = {}
    for name, dtype in DTYPES.items():
        factor = torch.randn(side, side, device=clock.device).to(dtype)
        matmul[name] = 2 * side**3 / best(partial(torch.mm, factor, factor)) / 1e12
    return Ceilings(copy, matmul)


# What is measured


def tensors(shape: Shape, dtype: torch.dtype, device: torch.device, grad: bool) -> tuple:
    n, p, n_subspaces, dim = shape
    torch.manual_seed(0)
    z = torch.randn(n, p, device=device).to(dtype)
    bases = torch.linalg.qr(torch.randn(n_subspaces, p, dim))[0].contiguous().to(device, dtype)
    weight = torch.rand(n, n_subspaces, device=device)
    return z.requires_grad_(grad), bases.requires_grad_(grad), weight


def preparation(function: Callable, part: str, arguments: tuple) -> Callable[[], Callable]:
    if part == "forward":
        return lambda: partial(function, *arguments)
    if part == "full":
        return lambda: partial(peers.full(function), *arguments)
    wanted = [argument for argument in arguments if argument.requires_grad]
    return lambda: partial(torch.autograd.grad, function(*arguments), wanted)


def candidates(name: str, part: str, arguments: tuple, wanted: list[str]) -> dict[str, Callable]:
    functions = {"desc_ext": getattr(ops, name)}
    forms = {"Gram": peers.GRAM, "product + reduction": peers.REDUCTION, "literal": peers.LITERAL}
    for label in wanted:
        function = forms[label.removeprefix("compiled ")][name]
        functions[label] = torch.compile(function) if label.startswith("compiled") else function
    if part == "forward" and arguments[0].dtype == torch.float32 and arguments[0].is_cuda:
        functions |= dict(zip(TF32, (tf32_operator(name), with_tf32(peers.GRAM[name])), strict=True))
    return {label: preparation(function, part, arguments) for label, function in functions.items()}


def tf32_operator(name: str) -> Callable:
    """The operator itself, which takes the permission that ``desc_ext.ops`` asks the environment for."""
    operator = getattr(torch.ops.desc_ext, name)
    return lambda *arguments: operator(*arguments, allow_tf32=True)


def with_tf32(function: Callable) -> Callable:
    def run(*arguments):
        torch.set_float32_matmul_precision("high")
        try:
            return function(*arguments)
        finally:
            torch.set_float32_matmul_precision("highest")

    return run


def operations(part: str, shape: Shape) -> int:
    """That the result needs: a backward that computes coefficients again gets no credit for it."""
    return {"forward": 2, "backward": 4, "full": 6}[part] * math.prod(shape)


def traffic(name: str, part: str, shape: Shape, width: int) -> int:
    """Bytes of each input and each output once; ``width`` of an element of rows and bases."""
    n, p, n_subspaces, dim = shape
    read = width * (n * p + n_subspaces * p * dim)
    pairs = 4 * n * n_subspaces
    forward = read + (12 * n if name == "nearest_subspace" else pairs)
    return {"forward": forward, "backward": 2 * read + pairs, "full": 3 * read + 2 * pairs}[part]


# The run


def slug(device_name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-")


class Report:
    def __init__(self, clock: Clock, rounds: int):
        self.clock, self.rounds = clock, rounds
        self.ceilings = measure_ceilings(clock, rounds)
        self.measurements: list[Measurement] = []
        self.left_out: list[str] = []

    def measure(self, name: str, part: str, dtype: str, shape: Shape, wanted: list[str]) -> None:
        arguments = tensors(shape, DTYPES[dtype], self.clock.device, grad=part != "forward")
        arguments = arguments if name == "weighted_projection_loss" else arguments[:2]
        for tensor in (arguments[0], *arguments[2:]):
            # One compilation serves both numbers of rows.
            torch._dynamo.mark_dynamic(tensor, 0)
        calls, extra = candidates(name, part, arguments, wanted), {}
        for label, prepare in list(calls.items()):
            try:
                prepare()()  # compiles, fills the pool of memory
                extra[label] = self.clock.peak_mib(prepare)
            except torch.OutOfMemoryError:
                del calls[label]
                self.left_out.append(f"{label} for {name}, {part}, {dtype}, {shape}: out of memory")
                gc.collect()
                torch.cuda.empty_cache()
        if "desc_ext" not in calls:
            return
        for cache in ("cold", "warm"):
            clock = partial(self.clock.seconds, cold=cache == "cold")
            for label, times in compare(calls, self.rounds, clock).items():
                self.add(name, part, dtype, shape, cache, label, times, extra[label])

    def add(self, name, part, dtype, shape, cache, label, times, extra) -> None:
        median = statistics.median(times)
        teraflops = operations(part, shape) / median / 1e12
        gigabytes = traffic(name, part, shape, DTYPES[dtype].itemsize) / median / 1e9
        self.measurements.append(
            Measurement(
                operator=name,
                part=part,
                dtype=dtype,
                shape=str(shape),
                cache=cache,
                candidate=label,
                milliseconds=median * 1e3,
                fastest=min(times) * 1e3,
                rounds=len(times),
                teraflops=teraflops,
                share_of_matmul=teraflops / self.ceilings.matmul[dtype],
                gigabytes=gigabytes,
                share_of_copy=gigabytes / self.ceilings.copy,
                extra_mib=extra,
            )
        )

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self.clock.device) if self.clock.on_gpu else "cpu"

    def path(self, folder: Path, extension: str) -> Path:
        """Results of several cards stand side by side."""
        folder.mkdir(exist_ok=True)
        return folder / f"gpu-{slug(self.device_name)}.{extension}"

    def write(self, folder: Path) -> None:
        with open(self.path(folder, "csv"), "w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Measurement)])
            writer.writeheader()
            for row in self.measurements:
                writer.writerow(
                    {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(row).items()}
                )
        self.path(folder, "md").write_text(self.table())

    def table(self) -> str:
        matmul = ", ".join(f"{rate:.1f} TFLOP/s in {name}" for name, rate in self.ceilings.matmul.items())
        lines = [
            f"# Projection family on {self.device_name}",
            "",
            f"Written by `make bench-gpu`. torch {torch.__version__}, CUDA {torch.version.cuda}; float32 products without "
            f"TF32. Measured on this device: copy {self.ceilings.copy:.0f} GB/s, matrix product {matmul}.",
            "",
            f"Medians of {self.rounds} interleaved rounds behind one warm-up (one where a candidate took over three times as "
            "long as the best peer), without the time to start launches. TFLOP/s counts the operations the result needs, "
            "GB/s each input and output once. Peers given bfloat16 also round what lies between to bfloat16; desc_ext adds "
            "in float32. `product + reduction` is right only for orthonormal bases. `TF32`: on tensor "
            "cores, where rows and bases keep 10 bits of their mantissa; shares are of the float32 product. ×: time of the "
            "candidate / time of "
            "desc_ext. MiB: peak of one call beside what was there before, result included.",
            "",
            f"| {' | '.join(COLUMNS)} |",
            f"| {' | '.join(['---'] * 6 + ['---:'] * 7)} |",
        ]
        ours = {self.key(m): m.milliseconds for m in self.measurements if m.candidate == "desc_ext"}
        for m in self.measurements:
            lines.append(
                f"| {m.operator} | {m.part} | {m.dtype} | {m.shape.strip('()')} | {m.cache} | {m.candidate} | "
                f"{m.milliseconds:.4g} | {m.milliseconds / ours[self.key(m)]:.2f} | {m.teraflops:.1f} | "
                f"{m.share_of_matmul:.0%} | {m.gigabytes:.0f} | {m.share_of_copy:.0%} | {m.extra_mib:.0f} |"
            )
        if self.left_out:
            lines += ["", "Left out:", "", *(f"- {reason}" for reason in self.left_out)]
        return "\n".join(lines) + "\n"

    @staticmethod
    def key(m: Measurement) -> tuple:
        return m.operator, m.part, m.dtype, m.shape, m.cache


COLOURS = dict(
    zip(
        ["desc_ext", *PEERS, *TF32],
        ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#999999", "#56B4E9", "#D55E00"],
        strict=True,
    )
)
MARKERS = {"projection_residual": "o", "nearest_subspace": "s", "weighted_projection_loss": "^"}


def plot(report: Report, path: Path) -> None:
    """Roofline: TFLOP/s over operations a byte, with a warm cache; the roof is what was measured on this device."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    parts, dtypes = ("forward", "backward", "full"), list(DTYPES)
    figure = Figure(figsize=(4.2 * len(parts), 3.6 * len(dtypes)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(dtypes), len(parts), squeeze=False)
    copy = report.ceilings.copy / 1e3  # TB/s
    for line, dtype in zip(axes, dtypes, strict=True):
        roof = report.ceilings.matmul[dtype]
        for axis, part in zip(line, parts, strict=True):
            axis.loglog(
                [roof / copy / 300, roof / copy, roof / copy * 10],
                [roof / 300, roof, roof],
                color="black",
                lw=1,
            )
            for m in report.measurements:
                if (m.dtype, m.part, m.cache) != (dtype, part, "warm"):
                    continue
                intensity = m.teraflops / m.gigabytes * 1e3
                colour, marker = COLOURS[m.candidate], MARKERS[m.operator]
                axis.scatter(intensity, m.teraflops, s=18, color=colour, marker=marker, label=m.candidate)
            axis.set_title(f"{part}, {dtype}", fontsize=9)
            axis.set_xlabel("operations a byte", fontsize=8)
            axis.set_ylabel("TFLOP/s", fontsize=8)
            axis.grid(alpha=0.3)
    handles = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=8
        )
    figure.suptitle(f"{report.device_name}: ○ residual, □ nearest, △ weighted loss", fontsize=9)
    figure.savefig(path, dpi=110)


def jobs(shapes: list[Shape]) -> Iterator[tuple[str, str, str, Shape]]:
    for shape in shapes:
        for dtype in DTYPES:
            for name, part in PASSES:
                yield name, part, dtype, shape


def parse_shape(text: str) -> Shape:
    n, p, n_subspaces, dim = map(int, text.split(","))
    return n, p, n_subspaces, dim


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--device", default="cuda", help="cuda, cuda:1 ..., or cpu, which only tries this program out"
    )
    parser.add_argument("--shapes", nargs="+", type=parse_shape, default=SHAPES, metavar="n,p,K,d")
    parser.add_argument(
        "--peers", nargs="*", choices=PEERS, default=PEERS, metavar="PEER", help=", ".join(PEERS)
    )
    parser.add_argument("--rounds", type=int, default=harness.ROUNDS)
    parser.add_argument("--minutes", type=float, default=9.0, help="no measurement is begun later")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the CSV, table and plot")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    torch.set_float32_matmul_precision("highest")
    # The same functions are compiled for every shape and dtype, and falling back to eager would go unnoticed.
    torch._dynamo.config.recompile_limit = 128
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    device = torch.device(options.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    report = Report(Clock(device), options.rounds)
    for name, part, dtype, shape in jobs(options.shapes):
        if time.monotonic() - started > 60 * options.minutes:
            report.left_out.append(f"{name}, {part}, {dtype}, {shape}: {options.minutes:g} minutes were over")
            continue
        report.measure(name, part, dtype, shape, options.peers)
        report.write(options.out)  # an interrupted run keeps what it has
        print(f"{time.monotonic() - started:5.0f} s  {name}, {part}, {dtype}, {shape}", flush=True)
    report.write(options.out)
    plot(report, report.path(options.out, "png"))


if __name__ == "__main__":
    main()
