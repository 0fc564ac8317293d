"""One table of every public operator: how to call it and what can be differentiated, for the tests they all share, and
the back ends that they are run on."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from desc_ext import ops, reference
from desc_ext.ops import registration
from desc_ext.ops.checks import cuda_architectures

HOST_CUDA = "desc_ext_host"  # the namespace of the CUDA kernels that are executed on the CPU
HOST_CUDA_LIBRARY = os.environ.get("DESC_EXT_HOST_CUDA_LIBRARY")


def why_missing(backend: str) -> str | None:
    if backend == "host_cuda" and not HOST_CUDA_LIBRARY:
        return "the CUDA kernels are not built to run on the CPU: make test-host-cuda does both"
    if backend == "cuda" and not torch.cuda.is_available():
        return "torch finds no GPU"
    if backend == "cuda" and not cuda_architectures():
        return "this build has CPU kernels only: make test-gpu compiles those for the GPU"
    return None


def backend_parameter(name: str):
    # A mark, because pytest tells equal ones once a file and skips from within a fixture once a test.
    reason = why_missing(name)
    return pytest.param(name, marks=[pytest.mark.skip(reason)] if reason else [])


BACKENDS = [backend_parameter(name) for name in ("cpu", "host_cuda", "cuda")]


class Backend:
    """The public functions, run on one back end: tensors are moved to its device, and results back to the CPU, so a test
    is the same for all. As a fixture (``ops``) it has the namespace of the back end in use."""

    def __init__(self, name: str):
        self.name = name
        self.device = torch.device("cuda" if name == "cuda" else "cpu")

    def __getattr__(self, name: str) -> Callable:
        function = getattr(ops, name)

        @functools.wraps(function)
        def call(*arguments, **options):
            result = function(
                *(self.put(value) for value in arguments),
                **{key: self.put(value) for key, value in options.items()},
            )
            return tuple(part.cpu() for part in result) if isinstance(result, tuple) else result.cpu()

        return call

    def put(self, value):
        return value.to(self.device) if isinstance(value, torch.Tensor) else value

    def rows(self, n: int, emulated: int = 300) -> int:
        """n, or fewer where every thread of a GPU is a function call of the CPU."""
        return min(n, emulated) if self.name == "host_cuda" else n


@functools.cache
def host_cuda():
    """Loads the CUDA kernels that run on the CPU and returns the module that controls how."""
    library = Path(HOST_CUDA_LIBRARY).resolve()
    torch.ops.load_library(str(library))
    registration.register_namespace(HOST_CUDA)
    sys.path.insert(0, str(library.parent))
    return importlib.import_module("_host_cuda")


# (n, p, K, d): ones, odd sizes, K not a power of two, d = 1, d = p, p < K·d and p > K·d, long rows, wide bases; more
# columns than a kernel takes at a time, in subspaces that do not divide its panels.
SHAPES = [
    (1, 1, 1, 1),
    (7, 3, 2, 1),
    (33, 17, 5, 3),
    (70, 50, 10, 5),
    (129, 40, 3, 13),
    (50, 20, 4, 20),
    (300, 64, 37, 8),
    (65, 600, 3, 7),
    (40, 20, 130, 2),
    (33, 16, 60, 5),
]


def inputs(shape, dtype=torch.float64, seed=0) -> dict[str, torch.Tensor]:
    """Random arguments for every operator, rounded to ``dtype``."""
    n, p, n_subspaces, dim = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    arguments = {
        "z": normal(n, p),
        "bases": normal(n_subspaces, p, dim) / p**0.5,
        "weight": normal(n, n_subspaces).abs(),
        "sample_weight": normal(n).abs(),
        "row_weight": normal(n),
        "centroids": normal(n_subspaces, p),
        "q": torch.softmax(normal(n, n_subspaces), 1),
        "frequency": normal(n_subspaces).abs() + 1,
    }
    arguments = {name: value.to(dtype) for name, value in arguments.items()}
    arguments["labels"] = torch.randint(n_subspaces, (n,), generator=generator)
    return arguments


@dataclass(frozen=True)
class Case:
    name: str  # of the operator
    arguments: tuple[str, ...]  # the tensors it takes, by name in inputs()
    differentiable: tuple[str, ...]
    call: Callable  # (function, *tensors) -> tensor
    label: str = ""

    def run(self, module, tensors: dict):
        return self.call(getattr(module, self.name), *(tensors[name] for name in self.arguments))

    @property
    def id(self) -> str:
        return self.name + (f"-{self.label}" if self.label else "")

    def gradients(self, module, tensors: dict, grad: torch.Tensor) -> dict[str, torch.Tensor]:
        leaves = {name: tensors[name].detach().requires_grad_() for name in self.differentiable}
        result = self.run(module, {**tensors, **leaves})
        return dict(
            zip(
                leaves, torch.autograd.grad(result, list(leaves.values()), grad.to(result.dtype)), strict=True
            )
        )


def plain(function, *tensors):
    return function(*tensors)


ROWS_BASES = ("z", "bases")
CASES = [
    Case("projection_energy", ROWS_BASES, ROWS_BASES, plain),
    Case("projection_residual", ROWS_BASES, ROWS_BASES, plain),
    Case(
        "nearest_subspace",
        ROWS_BASES,
        ROWS_BASES,
        lambda f, z, s: f(z, s, metric="residual")[1],
        "residual",
    ),
    Case("nearest_subspace", ROWS_BASES, ROWS_BASES, lambda f, z, s: f(z, s, metric="energy")[1], "energy"),
    Case("weighted_projection_loss", (*ROWS_BASES, "weight"), (*ROWS_BASES, "weight"), plain),
    Case("subspace_soft_assignment", ROWS_BASES, ROWS_BASES, lambda f, z, s: f(z, s, 0.3)),
    Case(
        "subspace_soft_assignment",
        (*ROWS_BASES, "sample_weight"),
        ROWS_BASES,
        lambda f, z, s, h: f(z, s, 0.3, h),
        "sample_weight",
    ),
    Case("student_t_assignment", ("z", "centroids"), ("z", "centroids"), plain),
    Case("student_t_assignment", ("z", "centroids"), ("z", "centroids"), lambda f, z, c: f(z, c, 2.5), "dof"),
    Case("target_distribution", ("q",), (), plain),
    Case("target_distribution", ("q", "frequency"), (), plain, "frequency"),
    Case("block_orthogonality_penalty", ("bases",), ("bases",), plain),
    Case(
        "block_orthogonality_penalty", ("bases",), ("bases",), lambda f, s: f(s, "orthonormal"), "orthonormal"
    ),
    Case("segment_gram", ("z", "labels"), ("z",), lambda f, z, labels: f(z, labels, int(labels.max()) + 1)),
    Case(
        "segment_gram",
        ("z", "labels", "row_weight"),
        ("z", "row_weight"),
        lambda f, z, labels, w: f(z, labels, int(labels.max()) + 2, w),
        "weight",
    ),
]


def to(tensors: dict, dtype: torch.dtype) -> dict:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}


def error(value: torch.Tensor, truth: torch.Tensor) -> float:
    """Root mean square deviation relative to the truth's: steadier than the largest deviation, whose own luck differs from
    machine to machine, and a single wrong element still stands out by orders of magnitude."""
    if truth.numel() == 0:
        return 0.0
    return ((value.double() - truth).norm() / truth.norm().clamp_min(1e-300)).item()


def assert_as_accurate(case: Case, tensors: dict, what: str = "", ops=ops) -> None:
    """The rule for every back end: the error against float64, of the result and of every gradient, is at most twice
    that of the plain torch formula in the same arithmetic, plus one rounding (of the gradient's own type)."""
    exact = to(tensors, torch.float64)
    arithmetic = torch.float64 if tensors[case.arguments[0]].dtype == torch.float64 else torch.float32
    plainly = to(tensors, arithmetic)
    truth = case.run(reference, exact).detach()
    result = case.run(ops, tensors).detach()
    assert result.dtype == arithmetic
    assert result.shape == truth.shape
    # In float64 the formula and the truth are one and the same computation; two orders of it differ by a few roundings.
    slack = torch.finfo(arithmetic).eps if arithmetic == torch.float32 else 200 * torch.finfo(arithmetic).eps
    allowed = 2 * error(case.run(reference, plainly).detach(), truth) + slack
    assert error(result, truth) <= allowed, f"{case.id} {what}: {error(result, truth):.3e} > {allowed:.3e}"
    if not case.differentiable:
        return
    grad = torch.randn(truth.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(
        arithmetic
    )
    true_gradients = case.gradients(reference, exact, grad.double())
    plain_gradients = case.gradients(reference, plainly, grad)
    for name, gradient in case.gradients(ops, tensors, grad).items():
        assert gradient.dtype == tensors[name].dtype
        allowed = 2 * error(plain_gradients[name], true_gradients[name]) + max(
            slack, torch.finfo(gradient.dtype).eps if gradient.dtype != arithmetic else 0
        )
        found = error(gradient, true_gradients[name])
        assert found <= allowed, f"{case.id} {what}, gradient of {name}: {found:.3e} > {allowed:.3e}"
