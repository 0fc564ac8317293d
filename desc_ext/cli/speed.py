"""What ``desc-ext bench`` is asked for, and how it shows what it found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from desc_ext.bench.problems import PROBLEMS, USUAL, Problem, Shape, check_shape, find
from desc_ext.bench.run import DTYPES, OURS, Measurement, Report, best_peers, run
from desc_ext.device import resolve_device

__all__ = ["measure", "show"]


def measure(
    operator: str | None, shape: str | None, dtype: str, device: str, n_threads: int | None, compiled: bool
) -> Report:
    """The measurements that the command line asks for; what is being measured is said on standard error.

    Raises:
        ValueError: an operator, shape, dtype, device or number of threads that cannot be measured.
    """
    chosen = _chosen(operator, shape)
    if dtype not in DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}; got {dtype}")
    if n_threads is not None and n_threads < 1:
        raise ValueError(f"--threads must be at least 1; got {n_threads}")
    where = resolve_device(device)
    if where.type not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda, which have kernels; got {device}")
    if where.type == "cuda":
        _require_cuda_kernels()
    said = Console(stderr=True, highlight=False, soft_wrap=True)
    return run(
        chosen,
        dtype,
        where,
        n_threads,
        compiled,
        progress=lambda text: said.print(f"measuring {text}", markup=False),
    )


def _chosen(operator: str | None, shape: str | None) -> list[tuple[Problem, Shape]]:
    if operator is None:
        if shape is not None:
            raise ValueError(f"--shape needs an operator before it; operators are {', '.join(PROBLEMS)}")
        return [(PROBLEMS[name], size) for name, size in USUAL]
    problem = find(operator)
    if shape is None:
        return [(problem, size) for size in problem.shapes]
    try:
        sizes = [int(part) for part in shape.split(",")]
    except ValueError:
        example = ",".join(map(str, problem.shapes[0]))
        wanted = f"whole numbers {problem.sizes} with commas between them, such as {example}"
        raise ValueError(f"--shape must be {wanted}; got {shape}") from None
    return [(problem, check_shape(problem, sizes, shape))]


def _require_cuda_kernels() -> None:
    from desc_ext.ops.checks import cuda_architectures

    if not cuda_architectures():
        raise ValueError(
            "--device cuda, but this build has CPU kernels only; install it with DESC_EXT_CUDA=1, or say --device cpu"
        )


def show(report: Report, console: Console, as_json: bool, plot: Path | None) -> None:
    """Writes the report to standard output, as tables or JSON, and the picture to ``plot``."""
    if plot is not None:
        _draw(report, plot)
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=1))
        return
    machine, roof = report.machine, report.roofline
    cuda = f", {machine['device']}, CUDA {machine['cuda']}" if machine["cuda"] else ""
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores{cuda}; {machine['instruction_set']} kernels, {_threads(machine)}, "
        f"torch {machine['torch']}\n"
        f"roofline: matrix product {roof.gigaflops:.0f} GFLOP/s, copy {roof.gigabytes:.0f} GB/s",
        markup=False,
    )
    console.print("medians; ×: the best peer's time over ours, below 1 we are slower", markup=False)
    for table in _tables(report):
        console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", markup=False)
    if plot is not None:
        console.print(f"picture: {plot}", markup=False)


def _tables(report: Report) -> Iterator[Table]:
    """One for each operator, pass and shape."""
    ratios = {
        id(ours): peer.milliseconds / ours.milliseconds for ours, peer in best_peers(report.measurements)
    }
    roof, previous = report.roofline, None
    table = Table()
    for m in report.measurements:
        if (case := (m.operator, m.part, m.shape)) != previous:
            if previous is not None:
                yield table
            previous = case
            table = Table(title=f"{m.operator}, {m.part}, {m.sizes} = {_shape(m)}", title_justify="left")
            table.add_column("candidate", no_wrap=True, min_width=17)
            for name in ("ms", "×", "GFLOP/s", "of roof", "GB/s", "of copy", "MiB", "error"):
                table.add_column(name, justify="right", no_wrap=True, min_width=5)
        table.add_row(
            f"[bold]{m.candidate}[/bold]" if m.candidate == OURS else m.candidate,
            f"{m.milliseconds:.4g}", f"{ratios[id(m)]:.2f}" if id(m) in ratios else "",
            f"{m.gigaflops:.3g}", f"{m.gigaflops / roof.gigaflops:.0%}",
            f"{m.gigabytes:.3g}", f"{m.gigabytes / roof.gigabytes:.0%}",
            "?" if m.extra_mib is None else f"{m.extra_mib:.0f}", f"{m.error:.0e}",
        )  # fmt: skip
    yield table


def _threads(machine: dict[str, Any]) -> str:
    return f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"


def _shape(m: Measurement) -> str:
    return ",".join(map(str, m.shape))


def _draw(report: Report, path: Path) -> None:
    from desc_ext.plots import save_figure, speed_figure

    found = [(ours, peer) for ours, peer in best_peers(report.measurements) if ours.gigaflops > 0]
    if not found:
        raise ValueError("--plot has nothing to draw: no peer could be measured")
    machine = report.machine
    name = machine["device"] if machine["cuda"] else f"{machine['cpu']}, {_threads(machine)}"
    figure = speed_figure(
        [f"{ours.operator}, {ours.part}, {_shape(ours)}" for ours, _ in found],
        [ours.intensity for ours, _ in found],
        [ours.gigaflops for ours, _ in found],
        [peer.gigaflops for _, peer in found],
        (report.roofline.gigaflops, report.roofline.gigabytes),
        f"{name}, {found[0][0].dtype}",
    )
    save_figure(figure, path)
