"""Block orthogonality: closed forms on both sides of K·d = p, cancellation, memory by shape."""

from __future__ import annotations

import pytest
import torch
from helpers.peak_memory import extra_memory

from desc_ext import reference


def orthogonal_blocks(p: int, n_subspaces: int, dim: int, dtype=torch.float64) -> torch.Tensor:
    q = torch.linalg.qr(torch.randn(p, p, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    return q[:, : n_subspaces * dim].reshape(p, n_subspaces, dim).permute(1, 0, 2).to(dtype)


@pytest.mark.parametrize("within", ["unit", "orthonormal"])
def test_zero_for_orthogonal_blocks(ops, within):
    bases = orthogonal_blocks(24, 4, 3).requires_grad_()
    penalty = ops.block_orthogonality_penalty(bases, within)
    assert 0 <= penalty.item() < 1e-25
    (gradient,) = torch.autograd.grad(penalty, bases)
    assert gradient.abs().max() < 1e-13


def test_nothing_is_asked_inside_a_block_by_unit(ops):
    """Two equal unit columns in one block: free for "unit", 2 for "orthonormal"."""
    bases = torch.zeros(1, 4, 2, dtype=torch.float64)
    bases[0, 0] = 1
    assert ops.block_orthogonality_penalty(bases, "unit").item() == 0
    assert ops.block_orthogonality_penalty(bases, "orthonormal").item() == 2


def test_equal_blocks_by_hand(ops):
    """K equal orthonormal blocks: every off-diagonal block of SᵀS is I, so the penalty is K (K − 1) d."""
    block = orthogonal_blocks(6, 1, 2)
    for n_subspaces in (2, 5):  # K·d below and above p
        penalty = ops.block_orthogonality_penalty(block.expand(n_subspaces, -1, -1))
        torch.testing.assert_close(penalty.item(), float(n_subspaces * (n_subspaces - 1) * 2))


def test_float32_bases_that_barely_fail_are_not_lost_in_cancellation(ops):
    """K·d just above p, where ‖SSᵀ‖² and Σ‖G_k‖² nearly agree: the float32 result is right to its last digits."""
    bases = orthogonal_blocks(24, 6, 4, torch.float32)
    bases = torch.cat([bases, 1e-3 * bases[:1]])
    for within in ("unit", "orthonormal"):
        truth = reference.block_orthogonality_penalty(bases.double(), within)
        torch.testing.assert_close(
            ops.block_orthogonality_penalty(bases, within).double(), truth, rtol=1e-6, atol=0
        )


@pytest.mark.parametrize("within", ["unit", "orthonormal"])
@pytest.mark.parametrize("shape", [(3, 40, 5), (20, 10, 3), (8, 16, 2), (9, 16, 2), (1, 5, 5)], ids=str)
def test_both_forms_equal_the_formula(ops, shape, within):
    bases = torch.randn(
        *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()
    found, truth = (module.block_orthogonality_penalty(bases, within) for module in (ops, reference))
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(value, bases)[0] for value in (found, truth)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


def test_no_square_array_of_all_columns():
    """K·d = 16,000: SᵀS in float64 would take 2 GB."""
    extra = extra_memory(
        "bases = torch.randn(2000, 16, 8); n = 0; z = labels = weight = bases",
        "ops.block_orthogonality_penalty(bases)",
        "0",
    )
    assert extra < 16 * 2**20  # fmt: skip
