"""Projection family: energies and residuals of rows against K subspaces.

Notation: ``z`` [n, p], ``bases`` [K, p, d] with S_k = ``bases[k]`` (p×d, orthonormal or not),
e_ik = ‖S_kᵀ z_i‖², r_ik = ‖z_i − S_k S_kᵀ z_i‖². No array of size n×K·d or n×K×p is ever stored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from desc_ext.ops.checks import (
    check_choice,
    check_matrix,
    check_rows_and_bases,
    compute_dtype,
    no_second_derivative,
)

__all__ = ["nearest_subspace", "projection_energy", "projection_residual", "weighted_projection_loss"]

_ops = torch.ops.desc_ext


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
    return _ops.projection_energy(z, bases)


def projection_residual(z: Tensor, bases: Tensor) -> Tensor:
    """Squared residuals r_ik = ‖z_i − S_k S_kᵀ z_i‖², for any S_k, never negative.

    Computed as ‖z‖² − 2a·a + aᵀ(SᵀS)a with a = Sᵀz where that is accurate, and as written where the residual is
    small beside ‖z‖², so tiny residuals keep the accuracy of the direct formula.

    Args, returns, raises: as :func:`projection_energy`.
    """
    check_rows_and_bases("projection_residual", z, bases)
    return _ops.projection_residual(z, bases)


def nearest_subspace(z: Tensor, bases: Tensor, metric: str = "residual") -> tuple[Tensor, Tensor]:
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
    return _ops.nearest_subspace(z, bases, metric)


def weighted_projection_loss(z: Tensor, bases: Tensor, weight: Tensor) -> Tensor:
    """Σ_ik weight_ik r_ik (eq. 5 of the DESC paper, as a sum), without storing r.

    Args:
        z, bases: as :func:`projection_energy`.
        weight: [n, K], any sign.

    Returns:
        Scalar; float64 for float64 input, else float32. Differentiable in all three arguments; the backward pass
        computes the coefficients again instead of keeping them.

    Raises:
        As :func:`projection_energy`, also for ``weight``.
    """
    check_rows_and_bases("weighted_projection_loss", z, bases)
    check_matrix("weighted_projection_loss", "weight", weight, z.shape[0], bases.shape[0], z)
    return _ops.weighted_projection_loss(z, bases, weight.to(compute_dtype(z)))


def _values_fake(z, bases):
    return z.new_empty((z.shape[0], bases.shape[0]), dtype=compute_dtype(z))


def _pair_fake(first, need_first, second, need_second):
    return (
        torch.empty_like(first, memory_format=torch.contiguous_format)
        if need_first
        else first.new_empty((0,)),
        torch.empty_like(second, memory_format=torch.contiguous_format)
        if need_second
        else second.new_empty((0,)),
    )


# torch drops trailing arguments that have their default value, also from needs_input_grad: never unpack it whole
# where the schema has defaults.
def _save_all(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _given(needed: bool, grad: Tensor):
    return grad if needed else None


def _register_values(name: str) -> None:
    operator, backward_operator = getattr(_ops, name), getattr(_ops, name + "_backward")

    def backward(ctx, grad):
        z, bases = ctx.saved_tensors
        need_z, need_bases = ctx.needs_input_grad
        dz, dbases = backward_operator(grad, z, bases, need_z, need_bases)
        return _given(need_z, dz), _given(need_bases, dbases)

    torch.library.register_fake(operator.default._name, _values_fake)
    torch.library.register_fake(
        backward_operator.default._name,
        lambda grad, z, bases, need_z, need_bases: _pair_fake(z, need_z, bases, need_bases),
    )
    torch.library.register_autograd(operator.default._name, backward, setup_context=_save_all)
    no_second_derivative(name + "_backward")


_register_values("projection_energy")
_register_values("projection_residual")


@torch.library.register_fake("desc_ext::nearest_subspace")
def _nearest_fake(z, bases, metric="residual"):
    n = z.shape[0]
    return z.new_empty((n,), dtype=torch.int64), z.new_empty((n,), dtype=compute_dtype(z))


@torch.library.register_fake("desc_ext::nearest_subspace_backward")
def _nearest_backward_fake(grad, labels, z, bases, metric, need_z, need_bases):
    return _pair_fake(z, need_z, bases, need_bases)


def _nearest_setup(ctx, inputs, output):
    z, bases, ctx.metric = inputs
    ctx.mark_non_differentiable(output[0])
    ctx.save_for_backward(z, bases, output[0])


def _nearest_backward(ctx, _grad_labels, grad):
    z, bases, labels = ctx.saved_tensors
    need_z, need_bases = ctx.needs_input_grad[:2]
    dz, dbases = _ops.nearest_subspace_backward(grad, labels, z, bases, ctx.metric, need_z, need_bases)
    return _given(need_z, dz), _given(need_bases, dbases), None


torch.library.register_autograd("desc_ext::nearest_subspace", _nearest_backward, setup_context=_nearest_setup)
no_second_derivative("nearest_subspace_backward")


@torch.library.register_fake("desc_ext::weighted_projection_loss")
def _loss_fake(z, bases, weight):
    return z.new_empty((), dtype=compute_dtype(z))


@torch.library.register_fake("desc_ext::weighted_projection_loss_backward")
def _loss_backward_fake(grad, z, bases, weight, need_z, need_bases, need_weight):
    dz, dbases = _pair_fake(z, need_z, bases, need_bases)
    return dz, dbases, _pair_fake(weight, need_weight, weight, False)[0]


def _loss_backward(ctx, grad):
    needs = ctx.needs_input_grad
    grads = _ops.weighted_projection_loss_backward(grad, *ctx.saved_tensors, *needs)
    return tuple(_given(need, value) for need, value in zip(needs, grads, strict=True))


torch.library.register_autograd("desc_ext::weighted_projection_loss", _loss_backward, setup_context=_save_all)
no_second_derivative("weighted_projection_loss_backward")
