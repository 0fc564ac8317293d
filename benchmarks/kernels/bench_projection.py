"""Projection family against the literal formula, the eager Gram form, and torch.compile of it."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from desc_ext import ops
from desc_ext.bench import peers

SHAPES = [(100_000, 50, 10, 5), (100_000, 128, 100, 8), (20_000, 512, 100, 16), (50_000, 64, 1000, 8)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
LITERAL_LIMIT = 1.1e9  # elements of an n×K×p array: 4 GiB each, and the formula holds two


def tensors(shape, grad=False):
    n, p, n_subspaces, dim = shape
    torch.manual_seed(0)
    z = torch.randn(n, p)
    bases = torch.linalg.qr(torch.randn(n_subspaces, p, dim))[0].contiguous()
    weight = torch.rand(n, n_subspaces)
    return z.requires_grad_(grad), bases.requires_grad_(grad), weight


def candidates(name, shape, arguments, wrap=lambda function: function):
    n, p, n_subspaces, _ = shape
    functions = {"desc_ext": getattr(ops, name)}
    functions["compiled Gram"] = torch.compile(peers.GRAM[name], dynamic=False)
    functions["compiled products"] = torch.compile(peers.PRODUCTS[name], dynamic=False)
    functions["Gram"] = peers.GRAM[name]
    functions["products"] = peers.PRODUCTS[name]
    if n * n_subspaces * p <= LITERAL_LIMIT:
        functions["literal"] = peers.LITERAL[name]
    return {label: partial(wrap(function), *arguments) for label, function in functions.items()}


@pytest.mark.parametrize("name", ["projection_residual", "nearest_subspace"])
@every_shape
def bench_forward(measure, name, shape):
    torch._dynamo.reset()
    z, bases, _ = tensors(shape)
    n, p, n_subspaces, dim = shape
    operations = 2 * n * p * n_subspaces * dim
    measure("projection", name, "forward", shape, operations, candidates(name, shape, (z, bases)))


@pytest.mark.parametrize("part", ["forward", "full"])
@every_shape
def bench_weighted_loss(measure, part, shape):
    torch._dynamo.reset()
    name, (n, p, n_subspaces, dim) = "weighted_projection_loss", shape
    arguments = tensors(shape, grad=part == "full")
    operations = (6 if part == "full" else 2) * n * p * n_subspaces * dim
    calls = candidates(name, shape, arguments, peers.full if part == "full" else lambda function: function)
    measure("projection", name, part, shape, operations, calls)
