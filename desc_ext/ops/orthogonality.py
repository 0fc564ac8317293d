"""Orthogonality family: how far K bases are from unit columns and mutually orthogonal blocks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from desc_ext.ops.checks import check_bases, check_choice, compute_dtype
from desc_ext.ops.registration import active_namespace, register

__all__ = ["block_orthogonality_penalty"]


def block_orthogonality_penalty(bases: Tensor, within: Literal["unit", "orthonormal"] = "unit") -> Tensor:
    """‖SᵀS ⊙ I − I‖²_F + ‖SᵀS ⊙ O‖²_F with S = [S_1 … S_K] (eq. 7 of the DESC paper).

    O is 0 on the d×d diagonal blocks and 1 elsewhere: unit columns, orthogonal blocks, nothing asked inside a block.
    Summed in float64; the cost is linear in K, and no K·d×K·d array is stored, when K·d > p.

    Args:
        bases: [K, p, d], 1 ≤ d ≤ p; float32, float64, float16 or bfloat16.
        within: ``"unit"`` as above; ``"orthonormal"`` penalises S_kᵀ S_k ≠ I inside the blocks too, ‖SᵀS − I‖²_F.

    Returns:
        Scalar; float64 for float64 input, else float32. Differentiable.

    Raises:
        TypeError: ``bases`` is no tensor or has a dtype not listed.
        ValueError: wrong rank, K = 0, d > p, unknown ``within``.
    """
    check_bases("block_orthogonality_penalty", bases)
    check_choice("block_orthogonality_penalty", "within", within, ("unit", "orthonormal"))
    return active_namespace().block_orthogonality_penalty(bases, within)


def _penalty_fake(bases, within="unit"):
    return bases.new_empty((), dtype=compute_dtype(bases))


def _penalty_setup(ctx, inputs, output):
    bases, ctx.within = inputs
    ctx.save_for_backward(bases)


def _penalty_backward(operators, ctx, grad):
    return operators.block_orthogonality_penalty_backward(grad, *ctx.saved_tensors, ctx.within), None


def _penalty_backward_fake(grad, bases, within):
    return torch.empty_like(bases, memory_format=torch.contiguous_format)


register(
    "block_orthogonality_penalty",
    fake=_penalty_fake,
    setup=_penalty_setup,
    backward=_penalty_backward,
    backward_fake=_penalty_backward_fake,
)
