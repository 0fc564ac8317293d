"""Operators over pairs of rows on a GPU against eager torch with its n×n arrays; part of `make bench-gpu`.

Timed as gpu.py does, with a warm cache. Forward, and forward with backward where there is one.

    python benchmarks/kernels/gpu_pairs.py
    python benchmarks/kernels/gpu_pairs.py --shapes 5000,90 --rounds 5
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import bench_pairwise
import gpu
import harness
import pair_peers
import torch

from desc_ext import ops
from desc_ext.bench import peers

Shape = tuple[int, int]  # n, p
SHAPES: list[Shape] = [(5000, 90), (20_000, 90), (20_000, 500), (70_000, 500)]
SELECTIONS = {
    "coefficient_topk": lambda y: ops.coefficient_topk(y, 5),
    "affinity_row_max": ops.affinity_row_max,
}
LEARNED = "self_expression_residual"  # of an n × n array: at the smaller shapes only
LARGEST_LEARNED = 20_000


def problems(shape: Shape) -> Iterator[tuple[str, str, Callable, list[torch.Tensor]]]:
    """(operator, pass, ours, rows on the CPU)"""
    n, p = shape
    torch.manual_seed(0)
    y = ops.ridge_self_expression(torch.randn(n, p), 2.0)
    for name, ours in SELECTIONS.items():
        yield name, "forward", ours, [y]
    for part in ("forward", "full"):
        for name, ours in bench_pairwise.OURS.items():
            yield name, part, ours, bench_pairwise.arguments(name, n, p)
        if n <= LARGEST_LEARNED:
            yield (
                LEARNED,
                part,
                pair_peers.residual(ops),
                [torch.randn(n, p), torch.randn(n, n) / n],
            )


def measure(
    clock: gpu.Clock, rounds: int, name: str, part: str, ours: Callable, rows: list[torch.Tensor]
) -> dict[str, tuple[float, float]]:
    """Milliseconds, the median, and MiB beside what was there, of each candidate that has the memory it needs."""
    rows = [row.to(clock.device).requires_grad_(part == "full") for row in rows]
    functions = {"desc_ext": ours, "eager": pair_peers.EAGER[name]}
    calls: dict[str, Callable] = {}
    extra: dict[str, float] = {}
    for label, function in functions.items():
        call = partial(peers.full(function) if part == "full" else function, *rows)
        try:
            call()
            extra[label] = clock.peak_mib(lambda call=call: call)
            calls[label] = lambda call=call: call
        except torch.OutOfMemoryError:
            gc.collect()
            torch.cuda.empty_cache()
    times = harness.compare(calls, rounds, partial(clock.seconds, cold=False))
    return {label: (statistics.median(values) * 1e3, extra[label]) for label, values in times.items()}


def row(shape: Shape, name: str, part: str, found: dict[str, tuple[float, float]]) -> str:
    ours, eager = found["desc_ext"], found.get("eager")
    peer = (
        f"{eager[0]:.3g} | {eager[0] / ours[0]:.2f} | {eager[1]:,.0f}" if eager else "out of memory | – | –"
    )
    return f"| {name} | {part} | {shape[0]:,}, {shape[1]} | {ours[0]:.3g} | {ours[1]:,.0f} | {peer} |"


def parse_shape(text: str) -> Shape:
    n, p = map(int, text.split(","))
    return n, p


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--device", default="cuda", help="cuda, cuda:1 ..., or cpu, which only tries this out"
    )
    parser.add_argument("--shapes", nargs="+", type=parse_shape, default=SHAPES, metavar="n,p")
    parser.add_argument("--rounds", type=int, default=harness.ROUNDS)
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the table")
    options = parser.parse_args(arguments)
    torch.set_float32_matmul_precision("highest")
    device = torch.device(options.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    clock = gpu.Clock(device)
    name = torch.cuda.get_device_name(device) if clock.on_gpu else "cpu"
    lines = [
        f"# Operators over pairs of rows on {name}",
        "",
        f"Written by `make bench-gpu`. torch {torch.__version__}, float32 without TF32. Medians of {options.rounds} "
        "interleaved rounds behind one warm-up, without the time to start launches. MiB: peak of one call beside "
        "what was there before, result included. ×: time of eager torch / time of desc_ext.",
        "",
        "| operator | pass | n, p | desc_ext: ms | MiB | eager: ms | × | MiB |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    options.out.mkdir(exist_ok=True)
    for shape in options.shapes:
        for operator, part, ours, rows in problems(shape):
            found = measure(clock, options.rounds, operator, part, ours, rows)
            lines.append(row(shape, operator, part, found))
            print(lines[-1], flush=True)
            (options.out / f"gpu-pairs-{gpu.slug(name)}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
