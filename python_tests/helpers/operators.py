"""One table of every public operator: how to call it and what can be differentiated, for the tests they all share, and
the back ends that they are run on."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from desc_ext import ops, reference
from desc_ext.ops import registration
from desc_ext.ops.checks import compute_dtype, cuda_architectures
from helpers import aarch64

HOST_CUDA = "desc_ext_host"  # the namespace of the CUDA kernels that are executed on the CPU
HOST_CUDA_LIBRARY = os.environ.get("DESC_EXT_HOST_CUDA_LIBRARY")


def why_missing(backend: str) -> str | None:
    if backend == "host_cuda" and not HOST_CUDA_LIBRARY:
        return "the CUDA kernels are not built to run on the CPU: make test-host-cuda does both"
    if backend == "aarch64" and not aarch64.PROGRAM:
        return "the CPU kernels are not built for aarch64: make test-aarch64 does both"
    if backend == "cuda" and not torch.cuda.is_available():
        return "torch finds no GPU"
    if backend == "cuda" and not cuda_architectures():
        return "this build has CPU kernels only: make test-gpu compiles those for the GPU"
    return None


def backend_parameter(name: str):
    # A mark, because pytest tells equal ones once a file and skips from within a fixture once a test.
    reason = why_missing(name)
    return pytest.param(name, marks=[pytest.mark.skip(reason)] if reason else [])


BACKENDS = [backend_parameter(name) for name in ("cpu", "aarch64", "host_cuda", "cuda")]


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
        """n, or fewer where every thread of a GPU, or every instruction of another processor, is emulated."""
        return min(n, emulated) if self.name in ("host_cuda", "aarch64") else n


@functools.cache
def host_cuda():
    """Loads the CUDA kernels that run on the CPU and returns the module that controls how."""
    library = Path(HOST_CUDA_LIBRARY).resolve()
    torch.ops.load_library(str(library))
    registration.register_namespace(HOST_CUDA)
    sys.path.insert(0, str(library.parent))
    return importlib.import_module("_emulator")


@contextmanager
def in_use(backend: str) -> Iterator[Backend]:
    """Lets the public functions run on one back end."""
    if backend in ("cpu", "cuda"):
        yield Backend(backend)
        return
    load, namespace = {
        "aarch64": (aarch64.load, aarch64.NAMESPACE),
        "host_cuda": (host_cuda, HOST_CUDA),
    }[backend]
    load()
    with registration.use_namespace(namespace):
        yield Backend(backend)


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
    return {name: value.clone() for name, value in _inputs(tuple(shape), dtype, seed).items()}


@functools.lru_cache(maxsize=32)
def _inputs(shape, dtype, seed) -> dict[str, torch.Tensor]:
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
    return arguments | pair_inputs(shape, dtype, normal)


UPPER, LOWER, APART = 0.6, 0.7, 0.1  # thresholds of the collaborative loss


def pair_inputs(shape, dtype, normal) -> dict[str, torch.Tensor]:
    """Arguments of the self-expression and pairwise families. No affinity of two rows is so near a threshold, in the
    rounded arguments, that float32 could see it on the other side, which would count another pair."""
    n, p, n_subspaces, dim = shape
    while True:
        y = reference.ridge_self_expression(normal(n, p), float(p)).to(dtype)
        prediction = normalize(torch.softmax(2 * normal(n, n_subspaces), 1)).to(dtype)
        if n > 400 or clear_of_thresholds(y.double(), prediction.double()):
            break
    return {
        "y": y,
        "prediction": prediction,
        "row_max": (1.3 * reference.affinity_row_max(y.double()) + 1e-3).to(compute_dtype(y)),
        "features": normal(n, dim + 1).to(dtype),
        "g": normal(n, p).to(dtype),
        "coef": (normal(n, n) / max(n, 1)).to(dtype),
    }


def clear_of_thresholds(y: torch.Tensor, prediction: torch.Tensor) -> bool:
    coef = reference.dense_coefficients(y).abs()
    affinity, own = coef + coef.mT, 2 * reference.affinity_row_max(y)[:, None].clamp_min(1e-9)
    shared = [affinity / own, affinity / (1.3 * own + 2e-3)]
    values = [*((share, t) for share in shared for t in (UPPER, APART)), (prediction @ prediction.mT, LOWER)]
    return all(((value - threshold).abs() > 1e-6).all() for value, threshold in values)


@dataclass(frozen=True)
class Case:
    name: str  # of the operator
    arguments: tuple[str, ...]  # the tensors it takes, by name in inputs()
    differentiable: tuple[str, ...]
    call: Callable  # (function, *tensors) -> tensor
    label: str = ""
    whole_gradient: bool = True  # False where the formula holds some factors constant
    condition: float = 1.0  # how much more than others the formula magnifies single roundings
    floor: float = 1e-300  # results smaller than this are what rounding leaves of 0

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


def collaborate(function, prediction, y, **options):
    return torch.stack(function(prediction, y, UPPER, LOWER, APART, **options)[:3])


def residual_and_difference(function, z, coef):
    """All three results, so that gradients come from all of them."""
    residual, size, difference = function(z, coef)
    return torch.cat([residual[..., None], size[..., None], difference.flatten(-2)], -1)


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
    Case("coefficient_topk", ("y",), ("y",), lambda f, y: f(y, max(min(3, y.shape[-2] - 1), 0))[1]),
    Case("affinity_row_max", ("y",), ("y",), plain),
    Case("self_expression_residual", ("z", "coef"), ("z", "coef"), lambda f, z, c: torch.stack(f(z, c)[:2])),
    Case("self_expression_residual", ("z", "coef"), ("z", "coef"), lambda f, z, c: torch.stack(f(z, c, "l1")[:2]), "l1"),
    Case("self_expression_residual", ("z", "coef"), ("z", "coef"), lambda f, z, c: f(z, c)[2], "difference"),
    Case("self_expression_residual", ("z", "coef"), ("z", "coef"), residual_and_difference, "together"),
    # 1/(1 − A_s) in the gradient, and some A_s are close to 1: a single rounding there outweighs all others.
    Case(
        "collaborative_loss",
        ("prediction", "y"),
        ("prediction", "y"),
        collaborate,
        whole_gradient=False,
        condition=1e5,
    ),
    Case(
        "collaborative_loss",
        ("prediction", "y", "row_max"),
        ("prediction", "y", "row_max"),
        lambda f, v, y, m: collaborate(f, v, y, row_max=m, soft_indicator=True),
        "soft",
        condition=1e5,
    ),
    Case("laplacian_energy", ("z", "features"), ("z", "features"), lambda f, z, t: f(z, t, 5.0)),
    Case("info_nce", ("z", "g"), ("z", "g"), lambda f, z, g: f(z, g, 0.2), floor=0.1),
    Case("squared_l12_norm", ("z",), ("z",), plain),
]  # fmt: skip


def to(tensors: dict, dtype: torch.dtype) -> dict:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}


def error(value: torch.Tensor, truth: torch.Tensor, floor: float = 1e-300) -> float:
    """Root mean square deviation relative to the truth's: steadier than the largest deviation, whose own luck differs from
    machine to machine, and a single wrong element still stands out by orders of magnitude."""
    if truth.numel() == 0:
        return 0.0
    return ((value.double() - truth).norm() / truth.norm().clamp_min(floor)).item()


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
    eps = torch.finfo(arithmetic).eps
    slack = case.condition * (eps if arithmetic == torch.float32 else 200 * eps)
    allowed = 2 * error(case.run(reference, plainly).detach(), truth, case.floor) + slack
    found = error(result, truth, case.floor)
    assert found <= allowed, f"{case.id} {what}: {found:.3e} > {allowed:.3e}"
    if not case.differentiable:
        return
    grad = torch.randn(truth.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(
        arithmetic
    )
    true_gradients = case.gradients(reference, exact, grad.double())
    plain_gradients = case.gradients(reference, plainly, grad)
    for name, gradient in case.gradients(ops, tensors, grad).items():
        assert gradient.dtype == tensors[name].dtype
        allowed = 2 * error(plain_gradients[name], true_gradients[name], case.floor) + max(
            slack, torch.finfo(gradient.dtype).eps if gradient.dtype != arithmetic else 0
        )
        found = error(gradient, true_gradients[name], case.floor)
        assert found <= allowed, f"{case.id} {what}, gradient of {name}: {found:.3e} > {allowed:.3e}"
