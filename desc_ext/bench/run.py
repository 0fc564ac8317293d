"""The measurements of ``desc-ext bench``: every candidate compared with float64, then timed in turn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from desc_ext.bench.machine import Roofline, busy, cpp_compiler, describe, measure_roofline
from desc_ext.bench.problems import Problem, Shape, value_of
from desc_ext.bench.timing import ROUNDS, Clock, compare, sample, threads

__all__ = ["DTYPES", "OURS", "Measurement", "Report", "best_peers", "run"]

OURS = "desc_ext"
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}
# A result further from float64's than this (relative, over all its numbers) is another result: it is not timed.
TOLERANCE = {"float32": 1e-3, "float64": 1e-9, "bfloat16": 0.1, "float16": 0.02}


@dataclass(frozen=True)
class Measurement:
    """Times of one candidate at one shape."""

    operator: str
    part: str
    """forward, or full: forward and backward to every argument."""
    sizes: str
    """Names of the shape's numbers."""
    shape: Shape
    dtype: str
    candidate: str
    milliseconds: float
    """Median."""
    fastest: float
    rounds: int
    gigaflops: float
    """Operations that the result needs, a second."""
    gigabytes: float
    """Each input and each output once, a second."""
    intensity: float
    """Operations that the result needs, a byte of inputs and outputs."""
    extra_mib: float | None
    """Peak memory beside what was there before, result included; None where the system does not say."""
    error: float
    """Relative to float64: of the result, or of the gradient that deviates the most."""


@dataclass
class Report:
    """Everything that one run found."""

    machine: dict[str, Any]
    roofline: Roofline
    measurements: list[Measurement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""

    def as_json(self) -> dict[str, Any]:
        """machine, roofline, results, best_peers and notes, of numbers and texts alone."""
        return {
            "machine": self.machine,
            "roofline": {"gigaflops": self.roofline.gigaflops, "gigabytes": self.roofline.gigabytes},
            "results": [{**vars(m), "shape": list(m.shape)} for m in self.measurements],
            "best_peers": [
                {"operator": ours.operator, "part": ours.part, "shape": list(ours.shape), "candidate": peer.candidate,
                 "ratio": peer.milliseconds / ours.milliseconds}
                for ours, peer in best_peers(self.measurements)
            ],
            "notes": self.notes,
        }  # fmt: skip


def best_peers(measurements: list[Measurement]) -> Iterator[tuple[Measurement, Measurement]]:
    """For each operator, pass and shape: ours, and the fastest of the others."""
    groups: dict[tuple[str, str, Shape], list[Measurement]] = {}
    for m in measurements:
        groups.setdefault((m.operator, m.part, m.shape), []).append(m)
    for group in groups.values():
        others = [m for m in group if m.candidate != OURS]
        if others:
            yield next(m for m in group if m.candidate == OURS), min(others, key=lambda m: m.milliseconds)


def run(
    chosen: list[tuple[Problem, Shape]],
    dtype: str = "float32",
    device: torch.device | None = None,
    n_threads: int | None = None,
    compiled: bool = True,
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Measures problems at shapes, each forward and, where there is one, with its backward pass.

    Args:
        n_threads: of torch, for all candidates and the roofline; None: as many as torch has.
        compiled: whether torch.compile of the peers is a candidate too; without a C++ compiler it never is.
        progress: called with a line of text before each measurement.

    Raises:
        RuntimeError: the operator's own result is not float64's within rounding.
    """
    device = device or torch.device("cpu")
    with threads(n_threads or torch.get_num_threads()):
        others = busy() if device.type == "cpu" else None
        progress("roofline of this machine")
        clock = Clock(device)
        report = Report(describe(device), measure_roofline(clock, DTYPES[dtype]))
        if others is not None:
            report.notes.append(others)
        if compiled and cpp_compiler() is None:
            report.notes.append(
                "torch.compile is left out: it needs a C++ compiler, and none was found (g++, or CXX)"
            )
            compiled = False
        for problem, shape in chosen:
            for part in ("forward", "full") if problem.backward else ("forward",):
                progress(f"{problem.operator}, {part}, {problem.sizes} = {','.join(map(str, shape))}")
                _measure(report, clock, problem, shape, part, dtype, compiled)
    return report


def _measure(
    report: Report, clock: Clock, problem: Problem, shape: Shape, part: str, dtype: str, compiled: bool
) -> None:
    where = f"{problem.operator}, {part}, {problem.sizes} = {','.join(map(str, shape))}"
    torch.manual_seed(0)
    grad, type_ = part == "full", DTYPES[dtype]
    given = [argument.to(clock.device, type_) for argument in problem.arguments(shape)]
    arguments = [argument.requires_grad_(grad) for argument in given]
    functions = problem.candidates(shape)
    plain = next(iter(problem.peers.values()))
    exact = [argument.detach().double().requires_grad_(grad) for argument in given]
    values = value_of(plain(*exact)).detach()
    # A sum of assignments is 1 whatever they are: only a weighted one has a gradient.
    weight = torch.rand(values.shape, device=clock.device) if grad else None
    truth, out_bytes = _results(problem, plain, exact, weight), values.numel() * type_.itemsize
    del exact, values
    if compiled:
        torch._dynamo.reset()
        eager = [(name, f) for name, f in functions.items() if name not in (OURS, "literal")]
        functions |= {f"compiled {name}": torch.compile(f, dynamic=False) for name, f in eager}
    where = f"{problem.operator}, {part}, {problem.sizes} = {','.join(map(str, shape))}"
    errors = {}
    for name, function in functions.items():
        try:
            errors[name] = _error(_results(problem, function, arguments, weight), truth)
        except Exception as error:
            # torch.compile alone raises a dozen kinds; what a peer cannot do is a finding
            if name == OURS:
                raise
            report.notes.append(f"{name} is left out of {where}: {_first_line(error)}")
    del truth
    bound = TOLERANCE[dtype]
    if not errors[OURS] <= bound:
        raise RuntimeError(
            f"{where}: the result differs from float64's by {errors[OURS]:.2g} of its size; not timed"
        )
    for name in [name for name, error in errors.items() if not error <= bound]:
        report.notes.append(
            f"{name} is left out of {where}: it differs from float64 by {errors.pop(name):.2g} of its size"
        )
    calls = {name: _call(functions[name], arguments, weight) for name in errors}
    extra = {name: clock.peak_mib(partial(_itself, call)) for name, call in calls.items()}  # warms up, too
    if clock.on_gpu:
        prepared = {name: partial(_itself, call) for name, call in calls.items()}
        times = compare(prepared, ROUNDS, partial(clock.seconds, cold=False))
    else:
        times = compare(calls, ROUNDS, partial(sample, repeats={}))
    operations = problem.operations(shape) * (1 + problem.backward * grad)
    in_bytes = sum(argument.numel() * argument.element_size() for argument in arguments)
    moved = 3 * in_bytes + 2 * out_bytes if grad else in_bytes + out_bytes
    for name, took in times.items():
        median = statistics.median(took)
        report.measurements.append(
            Measurement(
                problem.operator, part, problem.sizes, shape, dtype, name, median * 1e3, min(took) * 1e3, len(took),
                operations / median / 1e9, moved / median / 1e9, operations / moved,
                None if math.isnan(extra[name]) else extra[name], errors[name],
            )
        )  # fmt: skip


def _call(function: Callable[..., Any], arguments: list[Tensor], weight: Tensor | None) -> Callable[[], Any]:
    """What is timed: the values or, with ``weight`` of their shape, the gradients of their weighted sum."""
    if weight is None:
        return partial(function, *arguments)

    def differentiate() -> tuple[Tensor, ...]:
        value = value_of(function(*arguments))
        return torch.autograd.grad(value, arguments, weight.to(value.dtype))

    return differentiate


def _itself(call: Callable[[], Any]) -> Callable[[], Any]:
    return call


def _results(
    problem: Problem, function: Callable[..., Any], arguments: list[Tensor], weight: Tensor | None
) -> list[Tensor]:
    """The values and, with ``weight`` of their shape, the gradients of their weighted sum to all arguments."""
    output = function(*arguments)
    found = [problem.compared(output).detach()]
    if weight is not None:
        value = value_of(output)
        found += torch.autograd.grad(value, arguments, weight.to(value.dtype))
    return found


def _error(found: list[Tensor], truth: list[Tensor]) -> float:
    return max(
        ((f.double() - t).norm() / t.norm().clamp_min(torch.finfo(torch.float64).tiny)).item()
        for f, t in zip(found, truth, strict=True)
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
