"""Every operator over drawn shapes, layouts and dtypes: the layout changes no bit, and the float64 formula is met."""

from __future__ import annotations

import pytest
import torch
from helpers import operators
from hypothesis import given, settings
from hypothesis import strategies as st

from desc_ext import ops, reference

DTYPES = {torch.float64: 1e-10, torch.float32: 2e-4, torch.bfloat16: 2e-4, torch.float16: 2e-4}


def transposed(x: torch.Tensor) -> torch.Tensor:
    """Column by column in memory."""
    return x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 1 else x


def every_second(x: torch.Tensor) -> torch.Tensor:
    """With a gap after each element."""
    wide = x.new_full((*x.shape[:-1], 2 * x.shape[-1]), 7)
    wide[..., ::2] = x
    return wide[..., ::2]


def cut_out(x: torch.Tensor) -> torch.Tensor:
    """The middle of a larger array, not at an aligned address."""
    wide = x.new_full(tuple(size + 2 for size in x.shape), 7)
    part = tuple(slice(1, size + 1) for size in x.shape)
    wide[part] = x
    return wide[part]


LAYOUTS = (torch.Tensor.contiguous, transposed, every_second, cut_out)


@st.composite
def shapes(draw):
    """(n, p, K, d) with d ≤ p, small, with sizes around the widths of vectors and tiles more often than others."""
    edges = st.sampled_from([1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65])
    n, p = draw(edges), draw(edges)
    return n, p, draw(st.integers(1, 12)), draw(st.integers(1, min(p, 9)))


@pytest.mark.parametrize("case", operators.CASES, ids=lambda case: case.id)
@settings(max_examples=12)
@given(
    shape=shapes(),
    dtype=st.sampled_from(list(DTYPES)),
    layouts=st.lists(st.sampled_from(LAYOUTS), min_size=4, max_size=4),
)
def test_layout_changes_no_bit_and_the_formula_is_met(case, shape, dtype, layouts):
    tensors = operators.inputs(shape, dtype)
    names = case.arguments
    turned = tensors | {name: layout(tensors[name]) for name, layout in zip(names, layouts, strict=False)}
    result = case.run(ops, tensors)
    assert torch.equal(case.run(ops, turned), result)
    truth = case.run(reference, operators.to(tensors, torch.float64))
    assert operators.error(result, truth, case.floor) <= case.condition * DTYPES[dtype]
    if case.differentiable:
        grad = torch.ones_like(result)
        gradients = case.gradients(ops, tensors, grad)
        for name, gradient in case.gradients(ops, turned, grad).items():
            assert torch.equal(gradient, gradients[name]), name


@settings(max_examples=20)
@given(shape=shapes())
def test_no_rows_give_no_results(shape):
    n_subspaces, p, dim = shape[2], shape[1], shape[3]
    z, bases = torch.empty(0, p), torch.randn(n_subspaces, p, dim)
    assert ops.projection_residual(z, bases).shape == (0, n_subspaces)
    assert [part.shape for part in ops.nearest_subspace(z, bases)] == [(0,), (0,)]
    assert ops.weighted_projection_loss(z, bases, torch.empty(0, n_subspaces)) == 0
    assert ops.segment_gram(z, torch.empty(0, dtype=torch.int64), n_subspaces).abs().sum() == 0
