"""Projection family: energies and residuals of rows against K subspaces.

Notation: ``z`` [n, p], ``bases`` [K, p, d] with S_k = ``bases[k]`` (p×d, orthonormal or not),
e_ik = ‖S_kᵀ z_i‖², r_ik = ‖z_i − S_k S_kᵀ z_i‖². No array of size n×K·d or n×K×p is ever stored.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from desc_ext.ops.checks import check_choice, check_matrix, check_rows_and_bases, compute_dtype
from desc_ext.ops.precision import allow_tf32
from desc_ext.ops.registration import active_namespace, fake_grads, grad_or_none, register, save_inputs

__all__ = ["nearest_subspace", "projection_energy", "projection_residual", "weighted_projection_loss"]


def projection_energy(z: Tensor, bases: Tensor) -> Tensor:
    """Energies e_ik = ‖S_kᵀ z_i‖².

    Args:
        z: rows [n, p]; float32, float64, float16 or bfloat16.
        bases: subspaces [K, p, d], 1 ≤ d ≤ p, on the device of ``z``. Half types and float32 may be mixed.

    Returns:
        [n, K]; float64 for float64 input, else float32. Differentiable in both arguments.

    Raises:
        TypeError: an argument is no tensor, has a dtype not listed, or mixes float64 with another.
        ValueError: wrong rank or size, K = 0, d > p, different devices.
    """
    check_rows_and_bases("projection_energy", z, bases)
    return active_namespace().projection_energy(z, bases, allow_tf32(z))


def projection_residual(z: Tensor, bases: Tensor) -> Tensor:
    """Squared residuals r_ik = ‖z_i − S_k S_kᵀ z_i‖², for any S_k, never negative.

    Computed as ‖z‖² − 2a·a + aᵀ(SᵀS)a with a = Sᵀz where that is accurate, and as written where the residual is
    small beside ‖z‖², so tiny residuals keep the accuracy of the direct formula.

    Args, returns, raises: as :func:`projection_energy`.
    """
    check_rows_and_bases("projection_residual", z, bases)
    return active_namespace().projection_residual(z, bases, allow_tf32(z))


def nearest_subspace(
    z: Tensor, bases: Tensor, metric: Literal["residual", "energy"] = "residual"
) -> tuple[Tensor, Tensor]:
    """The subspace nearest to each row, without an n×K array.

    Args:
        z, bases: as :func:`projection_energy`.
        metric: ``"residual"`` takes arg min_k r_ik, ``"energy"`` takes arg max_k e_ik. Equal values go to the
            lowest index.

    Returns:
        (labels int64 [n], values [n]); values are r or e at the label, differentiable in ``z`` and ``bases``.

    Raises:
        ValueError: unknown ``metric``; else as :func:`projection_energy`.
    """
    check_rows_and_bases("nearest_subspace", z, bases)
    check_choice("nearest_subspace", "metric", metric, ("residual", "energy"))
    return active_namespace().nearest_subspace(z, bases, metric, allow_tf32(z))


def weighted_projection_loss(z: Tensor, bases: Tensor, weight: Tensor) -> Tensor:
    """Σ_ik weight_ik r_ik (eq. 5 of the DESC paper, as a sum), without storing r.

    Args:
        z, bases: as :func:`projection_energy`.
        weight: [n, K], any sign.

    Returns:
        Scalar; float64 for float64 input, else float32. Differentiable in all three arguments; the backward pass
            computes the coefficients again instead of keeping them.

    Raises as :func:`projection_energy`, also for ``weight``.
    """
    check_rows_and_bases("weighted_projection_loss", z, bases)
    check_matrix("weighted_projection_loss", "weight", weight, z.shape[0], bases.shape[0], z)
    return active_namespace().weighted_projection_loss(z, bases, weight.to(compute_dtype(z)), allow_tf32(z))


def _values_fake(z, bases, allow_tf32=False):
    return z.new_empty((z.shape[0], bases.shape[0]), dtype=compute_dtype(z))


def _register_values(name: str) -> None:
    def backward(operators, ctx, grad):
        z, bases = ctx.saved_tensors
        need_z, need_bases = ctx.needs_input_grad[:2]
        dz, dbases = getattr(operators, name + "_backward")(grad, z, bases, need_z, need_bases)
        return grad_or_none(need_z, dz), grad_or_none(need_bases, dbases), None

    register(
        name,
        fake=_values_fake,
        setup=save_inputs,
        backward=backward,
        backward_fake=lambda grad, z, bases, need_z, need_bases: fake_grads(z, need_z, bases, need_bases),
    )


_register_values("projection_energy")
_register_values("projection_residual")


def _nearest_fake(z, bases, metric="residual", allow_tf32=False):
    n = z.shape[0]
    return z.new_empty((n,), dtype=torch.int64), z.new_empty((n,), dtype=compute_dtype(z))


def _nearest_setup(ctx, inputs, output):
    z, bases, ctx.metric, _ = inputs
    ctx.mark_non_differentiable(output[0])
    ctx.save_for_backward(z, bases, output[0])


def _nearest_backward(operators, ctx, _grad_labels, grad):
    z, bases, labels = ctx.saved_tensors
    need_z, need_bases = ctx.needs_input_grad[:2]
    dz, dbases = operators.nearest_subspace_backward(grad, labels, z, bases, ctx.metric, need_z, need_bases)
    return grad_or_none(need_z, dz), grad_or_none(need_bases, dbases), None, None


def _nearest_backward_fake(grad, labels, z, bases, metric, need_z, need_bases):
    return fake_grads(z, need_z, bases, need_bases)


register(
    "nearest_subspace",
    fake=_nearest_fake,
    setup=_nearest_setup,
    backward=_nearest_backward,
    backward_fake=_nearest_backward_fake,
)


def _loss_fake(z, bases, weight, allow_tf32=False):
    return z.new_empty((), dtype=compute_dtype(z))


def _loss_backward(operators, ctx, grad):
    needs = ctx.needs_input_grad[:3]
    grads = operators.weighted_projection_loss_backward(grad, *ctx.saved_tensors, *needs)
    return *(grad_or_none(need, value) for need, value in zip(needs, grads, strict=True)), None


def _loss_backward_fake(grad, z, bases, weight, need_z, need_bases, need_weight):
    dz, dbases = fake_grads(z, need_z, bases, need_bases)
    return dz, dbases, fake_grads(weight, need_weight, weight, False)[0]


register(
    "weighted_projection_loss",
    fake=_loss_fake,
    setup=save_inputs,
    backward=_loss_backward,
    backward_fake=_loss_backward_fake,
)
