"""Fake kernels and gradients for a second namespace of the same operators."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from helpers.operators import CASES, inputs

from desc_ext import ops
from desc_ext.ops import registration

NAMES = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("desc_ext::")]


@pytest.fixture(scope="module")
def calls():
    """The operators that were called in desc_ext_copy, a namespace that passes every call on to desc_ext."""
    called = []
    library = torch.library.Library("desc_ext_copy", "DEF")
    for name in (name.removeprefix("desc_ext::") for name in NAMES):
        operator = getattr(torch.ops.desc_ext, name).default
        library.define(str(operator._schema).removeprefix("desc_ext::"))

        def kernel(*arguments, _name=name, _operator=operator):
            called.append(_name)
            return _operator(*arguments)

        library.impl(name, kernel, "CPU")
    registration.register_namespace("desc_ext_copy")
    yield called
    library._destroy()


def test_every_operator_is_registered():
    registered = set()
    for operator in registration._operators:
        registered |= {operator.name, *([f"{operator.name}_backward"] if operator.backward else [])}
    assert registered == {name.removeprefix("desc_ext::") for name in NAMES} - {"build_info"}


def test_gradient_runs_where_the_forward_pass_ran(calls):
    z = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    bases = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(1))
    calls.clear()
    with registration.use_namespace("desc_ext_copy"):
        copied = ops.projection_energy(z, bases).sum()
    assert calls == ["projection_energy"]
    plain = ops.projection_energy(z, bases).sum()
    assert calls == ["projection_energy"]
    (first,) = torch.autograd.grad(copied, z)
    assert calls == ["projection_energy", "projection_energy_backward"]
    assert torch.equal(first, torch.autograd.grad(plain, z)[0])
    assert calls == ["projection_energy", "projection_energy_backward"]


def test_registering_twice_changes_nothing(calls):
    registration.register_namespace("desc_ext_copy")
    registration.register_namespace("desc_ext")


def test_the_namespace_is_put_back_after_an_error(calls):
    with pytest.raises(ValueError, match="rank"), registration.use_namespace("desc_ext_copy"):
        raise ValueError("rank")
    assert registration.kernels() is torch.ops.desc_ext


def test_shapes_and_second_derivatives(calls):
    z, bases = torch.empty(6, 5, device="meta"), torch.empty(3, 5, 2, device="meta")
    assert torch.ops.desc_ext_copy.projection_residual(z, bases).shape == (6, 3)
    z = torch.randn(6, 5, requires_grad=True)
    with registration.use_namespace("desc_ext_copy"):
        energy = ops.projection_energy(z, torch.randn(3, 5, 2))
    (first,) = torch.autograd.grad(energy.sum(), z, create_graph=True)
    with pytest.raises(
        RuntimeError, match="desc_ext_copy::projection_energy_backward has no second derivative"
    ):
        first.sum().backward()


@pytest.mark.parametrize("case", [case for case in CASES if case.differentiable], ids=lambda case: case.id)
def test_arguments_are_kept_by_autograd_alone(case):
    """They go with the backward pass, though its result stays, and hooks of saved tensors see each of them."""
    tensors = inputs((9, 6, 3, 2))
    leaves = {name: tensors[name].clone().requires_grad_() for name in case.differentiable}
    given = {name: 1 * leaf for name, leaf in leaves.items()}
    packed = []

    def pack(value):
        packed.append(value.data_ptr())
        return value.detach()  # a result that kept itself would stay for ever

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        case.run(ops, tensors | given)
    assert {value.data_ptr() for value in given.values()} <= set(packed)
    result = case.run(ops, tensors | given)
    held = [weakref.ref(value) for value in given.values()]
    del given
    result.sum().backward()
    gc.collect()
    assert [reference() for reference in held] == [None] * len(held)
