"""Operators under the transforms of torch.func and in forward mode, against the same transforms of the reference."""

from __future__ import annotations

import pytest
import torch
from helpers.operators import CASES, inputs
from torch.autograd import forward_ad

from desc_ext import ops, reference

SHAPE = (6, 4, 3, 2)
DIFFERENTIABLE = [case for case in CASES if case.differentiable]
pairs = pytest.mark.parametrize(
    ("case", "name"),
    [
        pytest.param(case, name, id=f"{case.id}-{name}")
        for case in DIFFERENTIABLE
        for name in case.differentiable
    ],
)


def agree(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def function_of(module, case, name, tensors):
    """The operator as a function of the argument ``name`` alone."""
    return lambda value: case.run(module, tensors | {name: value})


@pairs
def test_reverse_mode(case, name):
    tensors = inputs(SHAPE)
    found, expected = (function_of(module, case, name, tensors) for module in (ops, reference))
    agree(torch.func.jacrev(found)(tensors[name]), torch.func.jacrev(expected)(tensors[name]))
    weight = torch.rand_like(expected(tensors[name]))
    gradients = [torch.func.grad(lambda value, f=f: (weight * f(value)).sum()) for f in (found, expected)]
    agree(gradients[0](tensors[name]), gradients[1](tensors[name]))
    (value, pull), (true, pull_true) = (torch.func.vjp(f, tensors[name]) for f in (found, expected))
    agree(value, true)
    agree(pull(weight)[0], pull_true(weight)[0])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
@pytest.mark.parametrize("dim", [0, -1])
def test_vmap(case, dim):
    """Over all tensors at once, and over one of them."""
    items = [inputs(SHAPE, seed=seed) for seed in range(3)]
    named = [name for name in case.arguments if name != "labels"]
    stacked = [torch.stack([item[name] for item in items], dim) for name in named]
    for taken in (named, named[:1]):

        def mapped(module, taken=taken):
            call = lambda *values: case.run(module, items[0] | dict(zip(taken, values, strict=True)))  # noqa: E731
            return torch.vmap(call, in_dims=dim)(*stacked[: len(taken)])

        expected = [case.run(reference, items[0] | {name: item[name] for name in taken}) for item in items]
        agree(mapped(ops), torch.stack(expected))


@pairs
def test_gradient_of_every_item(case, name):
    tensors = inputs(SHAPE)
    stacked = torch.stack([inputs(SHAPE, seed=seed)[name] for seed in range(3)])

    def gradients(module):
        f = function_of(module, case, name, tensors)
        return torch.vmap(torch.func.grad(lambda value: f(value).square().sum()))(stacked)

    agree(gradients(ops), gradients(reference))


@pairs
def test_forward_mode_is_refused(case, name):
    tensors = inputs(SHAPE)
    value, tangent = tensors[name], torch.ones_like(tensors[name])
    f = function_of(ops, case, name, tensors)
    names = f"({case.name}|affinity_row_max)"  # which is a part of the collaborative loss
    refusal = pytest.raises(
        RuntimeError, match=rf"{names} has no derivative in forward mode .*reference\.{names}"
    )
    with refusal:
        torch.func.jvp(f, (value,), (tangent,))
    with refusal:
        torch.func.jacfwd(f)(value)
    with refusal, forward_ad.dual_level():
        f(forward_ad.make_dual(value, tangent))
    with forward_ad.dual_level():  # what has no tangent needs no derivative
        agree(f(value), case.run(reference, tensors))
    with pytest.raises(RuntimeError, match=r"has no second derivative; take desc_ext\.reference"):
        torch.func.grad(lambda v: torch.func.grad(lambda u: f(u).square().sum())(v).sum())(value)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_ridge_self_expression(shape):
    """Through C, which alone is unique."""
    z, v = (
        torch.randn(shape, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (0, 1)
    )

    def coefficients(module):
        return lambda z: module.dense_coefficients(module.ridge_self_expression(z, 0.7))

    found, expected = coefficients(ops), coefficients(reference)
    agree(torch.func.jacrev(found)(z), torch.func.jacrev(expected)(z))
    agree(torch.vmap(found)(torch.stack([z, v])), torch.vmap(expected)(torch.stack([z, v])))
    sums = [torch.func.grad(lambda z, f=f: f(z).square().sum()) for f in (found, expected)]
    agree(torch.vmap(sums[0])(torch.stack([z, v])), torch.vmap(sums[1])(torch.stack([z, v])))
    if shape[0] < shape[1]:
        with pytest.raises(RuntimeError, match="ridge_self_expression has no derivative in forward mode"):
            torch.func.jvp(found, (z,), (v,))
    else:
        agree(torch.func.jvp(found, (z,), (v,))[1], torch.func.jvp(expected, (z,), (v,))[1])


def test_targets_are_constants_in_forward_mode_too():
    q = inputs(SHAPE)["q"]
    value, tangent = torch.func.jvp(ops.target_distribution, (q,), (torch.ones_like(q),))
    agree(value, reference.target_distribution(q))
    assert not tangent.any()


def test_forward_mode_is_refused_in_a_compiled_function():
    tensors = inputs(SHAPE)
    z, bases = tensors["z"], tensors["bases"]
    tangent = torch.compile(
        lambda z: torch.func.jvp(lambda z: ops.projection_residual(z, bases), (z,), (z,))[1], backend="eager"
    )
    with pytest.raises(RuntimeError, match="projection_residual has no derivative in forward mode"):
        tangent(z)
