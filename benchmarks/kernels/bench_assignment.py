"""Assignment family against eager torch and torch.compile of it."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from desc_ext import ops
from desc_ext.bench import peers

SHAPES = [(100_000, 50, 10, 5), (100_000, 64, 100, 8)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def three(ours, eager, arguments, wrap):
    functions = {"desc_ext": ours, "compiled": torch.compile(eager, dynamic=False), "eager": eager}
    return {label: partial(wrap(function), *arguments) for label, function in functions.items()}


def passes(part, function_of_output):
    """The call itself, or with the gradients of a scalar made of its output."""
    if part == "forward":
        return lambda function: function
    return lambda function: peers.full(lambda *arguments: function_of_output(function(*arguments)))


@pytest.mark.parametrize("part", ["forward", "full"])
@every_shape
def bench_subspace_soft_assignment(measure, part, shape):
    torch._dynamo.reset()
    n, p, n_subspaces, dim = shape
    torch.manual_seed(0)
    z = torch.randn(n, p, requires_grad=part == "full")
    bases = torch.linalg.qr(torch.randn(n_subspaces, p, dim))[0].contiguous().requires_grad_(part == "full")
    grad = torch.rand(n, n_subspaces)
    calls = three(
        lambda z, bases: ops.subspace_soft_assignment(z, bases, 1.0),
        peers.soft_assignment,
        (z, bases),
        passes(part, lambda w: (w * grad).sum()),
    )
    operations = (6 if part == "full" else 2) * n * p * n_subspaces * dim
    measure("assignment", "subspace_soft_assignment", part, shape, operations, calls)


@pytest.mark.parametrize("part", ["forward", "full"])
@every_shape
def bench_student_t_assignment(measure, part, shape):
    torch._dynamo.reset()
    n, p, n_clusters, _ = shape
    torch.manual_seed(0)
    z = torch.randn(n, p, requires_grad=part == "full")
    centroids = torch.randn(n_clusters, p, requires_grad=part == "full")
    grad = torch.rand(n, n_clusters)
    calls = three(
        ops.student_t_assignment, peers.student_t, (z, centroids), passes(part, lambda q: (q * grad).sum())
    )
    operations = (7 if part == "full" else 3) * n * p * n_clusters
    measure("assignment", "student_t_assignment", part, (n, p, n_clusters), operations, calls)
