"""Training steps of small batches: forward, backward and both, against the best plain torch and torch.compile.

    python benchmarks/kernels/small_batches.py [--threads 1 2] [--only NAME ...] [--no-compile]

adds its measurements to results/small_batches.csv, in place of earlier ones of the same instruction set, number of threads
and operator, and writes results/small_batches.md from the whole file. `make bench-small` does so for AVX-512 and for AVX2.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial

import harness
import pair_peers
import torch
from torch import Tensor

from desc_ext import ops, reference
from desc_ext.bench import peers
from desc_ext.bench.timing import sample

BATCHES = (64, 256, 1024)
SPACES = ((50, 10, 5), (80, 10, 8), (128, 100, 8))  # p, K, d
ROUNDS = 9
PARTS = ("forward", "backward", "both")
LINEAR = "linear"  # the measure of what a call may cost; not a peer


@dataclass(frozen=True)
class Timing:
    isa: str
    threads: int
    operator: str
    part: str
    shape: str
    candidate: str
    microseconds: float  # median


@dataclass(frozen=True)
class Task:
    """One operator at one shape: candidates of one signature, ours first, and the linear layer of the same size."""

    operator: str
    shape: tuple[int, ...]
    arguments: tuple[Tensor, ...]
    candidates: dict[str, Callable]
    linear: tuple[Tensor, Tensor]


def value_of(output) -> Tensor:
    """What is differentiated of an operator's result."""
    return output[1] if isinstance(output, tuple) else output


def projection_tasks(n: int, space: tuple[int, int, int]) -> Iterator[Task]:
    p, n_subspaces, dim = space
    torch.manual_seed(0)
    z = torch.randn(n, p)
    bases = torch.linalg.qr(torch.randn(n_subspaces, p, dim))[0].contiguous()
    weight, centroids = torch.rand(n, n_subspaces), torch.randn(n_subspaces, p)
    linear = (z, torch.randn(n_subspaces * dim, p))
    for name in ("projection_residual", "nearest_subspace", "weighted_projection_loss"):
        arguments = (z, bases, weight) if name == "weighted_projection_loss" else (z, bases)
        forms = {
            "literal": peers.LITERAL[name],
            "Gram": peers.GRAM[name],
            "products": peers.PRODUCTS[name],
        }
        yield Task(name, (n, *space), arguments, {"desc_ext": getattr(ops, name), **forms}, linear)
    energies = {
        "literal": reference.projection_energy,
        "Gram": lambda z, bases: peers.coefficients(z, bases).square().sum(-1),
    }
    yield Task(
        "projection_energy", (n, *space), (z, bases), {"desc_ext": ops.projection_energy, **energies}, linear
    )
    assignments = {
        "desc_ext": lambda z, bases: ops.subspace_soft_assignment(z, bases, 1.0),
        "literal": lambda z, bases: reference.subspace_soft_assignment(z, bases, 1.0),
        "eager": peers.soft_assignment,
    }
    yield Task("subspace_soft_assignment", (n, *space), (z, bases), assignments, linear)
    distances = {
        "desc_ext": ops.student_t_assignment,
        "literal": reference.student_t_assignment,
        "eager": peers.student_t,
    }
    linear = (z, torch.randn(n_subspaces, p))
    yield Task("student_t_assignment", (n, p, n_subspaces), (z, centroids), distances, linear)


def pair_tasks(n: int, p: int) -> Iterator[Task]:
    torch.manual_seed(0)
    z = torch.randn(n, p)
    other, linear = z + 0.3 * torch.randn(n, p), (z, torch.randn(p, p))
    laplacian = {
        "desc_ext": lambda z, t: ops.laplacian_energy(z, t, pair_peers.BANDWIDTH),
        "eager": pair_peers.laplacian_energy,
    }
    yield Task("laplacian_energy", (n, p), (z, other), laplacian, linear)
    contrast = {
        "desc_ext": lambda z, g: ops.info_nce(z, g, pair_peers.TEMPERATURE),
        "eager": pair_peers.info_nce,
    }
    yield Task("info_nce", (n, p), (z, other), contrast, linear)
    norms = {"desc_ext": ops.squared_l12_norm, "eager": reference.squared_l12_norm}
    yield Task("squared_l12_norm", (n, p), (z,), norms, linear)


def orthogonality_tasks(space: tuple[int, int, int]) -> Iterator[Task]:
    p, n_subspaces, dim = space
    torch.manual_seed(0)
    bases = torch.randn(n_subspaces, p, dim) / p**0.5
    penalties = {
        "desc_ext": ops.block_orthogonality_penalty,
        "eager": reference.block_orthogonality_penalty,
    }
    linear = (bases.mT.reshape(-1, p), torch.randn(p, p))
    yield Task("block_orthogonality_penalty", (n_subspaces, p, dim), (bases,), penalties, linear)


def tasks() -> Iterator[Task]:
    for space in SPACES:
        for n in BATCHES:
            yield from projection_tasks(n, space)
    for p in (10, 50, 128):
        for n in BATCHES:
            yield from pair_tasks(n, p)
    for shape in ((2000, 30), (2000, 500)):
        yield from pair_tasks(*shape)
    for space in (*SPACES, (512, 100, 16)):
        yield from orthogonality_tasks(space)


def passes(function: Callable, arguments: tuple[Tensor, ...], part: str) -> Callable:
    """A call of the pass with nothing in it but the operator and autograd's own work."""
    if part == "forward":
        return partial(function, *arguments)
    leaves = [argument.detach().clone().requires_grad_() for argument in arguments]

    def run():
        output = value_of(function(*leaves))
        return torch.autograd.grad(output, leaves, torch.ones_like(output))

    if part == "both":
        return run
    output = value_of(function(*leaves))
    grad = torch.ones_like(output)
    return lambda: torch.autograd.grad(output, leaves, grad, retain_graph=True)


def measured(task: Task, compiled: bool) -> Iterator[tuple[str, str, float]]:
    """(part, candidate, median seconds)."""
    torch._dynamo.reset()
    functions = dict(task.candidates)
    if compiled:
        for name, function in task.candidates.items():
            if name not in ("desc_ext", "literal"):
                functions[f"compiled {name}"] = torch.compile(function, dynamic=False)
    for part in PARTS:
        # a compiled function's graph gives one backward pass and is gone: it is measured in `both`
        calls = {
            name: passes(function, task.arguments, part)
            for name, function in functions.items()
            if part != "backward" or not name.startswith("compiled")
        }
        clock = partial(sample, repeats={})
        times = harness.compare(calls, ROUNDS, clock)
        times |= harness.compare(
            {LINEAR: passes(torch.nn.functional.linear, task.linear, part)}, ROUNDS, clock
        )
        for name, values in times.items():
            yield part, name, statistics.median(values)


# ---- the table -------------------------------------------------------------------------------------------------------

CSV = harness.RESULTS / "small_batches.csv"


def stored() -> list[Timing]:
    if not CSV.exists():
        return []
    with open(CSV, newline="") as file:
        return [
            Timing(**{**row, "threads": int(row["threads"]), "microseconds": float(row["microseconds"])})
            for row in csv.DictReader(file)
        ]


def write(timings: list[Timing]) -> None:
    with open(CSV, "w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Timing)])
        writer.writeheader()
        writer.writerows(asdict(timing) for timing in timings)
    CSV.with_suffix(".md").write_text(table(timings))


def groups(timings: list[Timing]) -> dict[tuple[str, str, str], dict[str, float]]:
    """Microseconds by candidate for each operator, part and shape."""
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for t in timings:
        found.setdefault((t.operator, t.part, t.shape), {})[t.candidate] = t.microseconds
    return found


def best_peer(times: dict[str, float]) -> tuple[str, float]:
    return min(((k, v) for k, v in times.items() if k not in ("desc_ext", LINEAR)), key=lambda pair: pair[1])


def table(timings: list[Timing]) -> str:
    lines = [
        "# Small batches: kernels against plain torch",
        "",
        f"Written by `make bench-small`; torch {torch.__version__}, float32. Medians of {ROUNDS} interleaved rounds, in "
        "microseconds (one thread: of processor time; several: of the clock); each sample repeats the call for 2 ms. "
        "Backward: of a graph made before, which torch.compile cannot use twice. Both: forward and backward to every "
        "argument. ×: the best peer's time over ours. Linear: one torch.nn.functional.linear of the same rows and bases. "
        "Shapes: n, p, K, d; n, p, K; n, p; K, p, d.",
    ]
    for isa, threads in dict.fromkeys((t.isa, t.threads) for t in timings):
        own = groups([t for t in timings if (t.isa, t.threads) == (isa, threads)])
        lines += ["", f"## {isa}, {threads} thread{'s' * (threads > 1)}", ""]
        lines += ["| operator | pass | least | geometric mean |", "| --- | --- | ---: | ---: |"]
        ratios: dict[tuple[str, str], list[float]] = {}
        for (operator, part, _), times in own.items():
            ratios.setdefault((operator, part), []).append(best_peer(times)[1] / times["desc_ext"])
        for (operator, part), values in ratios.items():
            lines.append(
                f"| {operator} | {part} | {min(values):.2f}× | {statistics.geometric_mean(values):.2f}× |"
            )
        lines += ["", "| operator | pass | shape | desc_ext | best peer | its time | × | linear |"]
        lines += ["| --- | --- | --- | ---: | --- | ---: | ---: | ---: |"]
        for (operator, part, shape), times in own.items():
            name, peer = best_peer(times)
            lines.append(
                f"| {operator} | {part} | {shape} | {times['desc_ext']:.1f} | {name} | {peer:.1f} | "
                f"{peer / times['desc_ext']:.2f} | {times[LINEAR]:.1f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", help="operators to measure (all)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    options = parser.parse_args()
    isa = json.loads(torch.ops.desc_ext.build_info())["in_use"]
    for threads in options.threads:
        torch.set_num_threads(threads)
        for task in tasks():
            if options.only and task.operator not in options.only:
                continue
            shape = str(task.shape).strip("()")
            new = [
                Timing(isa, threads, task.operator, part, shape, name, round(seconds * 1e6, 2))
                for part, name, seconds in measured(task, not options.no_compile)
            ]
            key = (isa, threads, task.operator, shape)
            write([t for t in stored() if (t.isa, t.threads, t.operator, t.shape) != key] + new)
            for part in PARTS:
                times = {t.candidate: t.microseconds for t in new if t.part == part}
                name, peer = best_peer(times)
                print(
                    f"{threads} {task.operator:28} {shape:18} {part:8} {times['desc_ext']:9.1f} "
                    f"{name:18} {peer:9.1f}  {peer / times['desc_ext']:5.2f}  linear {times[LINEAR]:.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
