"""Assignment family: soft assignments of rows to subspaces or centroids, and their sharpened target."""

from __future__ import annotations

import torch
from torch import Tensor

from desc_ext.ops.checks import (
    check_constant,
    check_finite,
    check_like,
    check_rows,
    check_rows_and_bases,
    check_tensor,
    check_vector,
    compute_dtype,
    shape_text,
)
from desc_ext.ops.precision import allow_tf32
from desc_ext.ops.registration import active_namespace, fake_grads, grad_or_none, register

__all__ = ["student_t_assignment", "subspace_soft_assignment", "target_distribution"]


def subspace_soft_assignment(
    z: Tensor, bases: Tensor, smoothing: float, sample_weight: Tensor | None = None
) -> Tensor:
    """w_ik = (H_i e_ik + γ d) / Σ_k (H_i e_ik + γ d), e_ik = ‖S_kᵀ z_i‖² (eq. 6 of the DESC paper), in one pass.

    Args:
        z: rows [n, p]; float32, float64, float16 or bfloat16.
        bases: subspaces [K, p, d], 1 ≤ d ≤ p.
        smoothing: γ ≥ 0, in units of an energy per dimension. With γ = 0 a row of energy 0 gives NaN.
        sample_weight: H [n], one weight a row, a constant (None: 1). H_i = 0 gives a uniform row.

    Returns:
        [n, K], rows summing to 1; float64 for float64 input, else float32. Differentiable in ``z`` and ``bases``.

    Raises:
        TypeError: an argument is no tensor, has a dtype not listed, or mixes float64 with another.
        ValueError: wrong rank or size, K = 0, d > p, different devices, ``smoothing`` negative or not finite,
            ``sample_weight`` that requires a gradient.
    """
    op = "subspace_soft_assignment"
    check_rows_and_bases(op, z, bases)
    smoothing = check_finite(op, "smoothing", smoothing, 0.0, open_end=False)
    if sample_weight is not None:
        check_vector(op, "sample_weight", sample_weight, z.shape[0], "z", z)
        check_constant(op, "sample_weight", sample_weight)
        sample_weight = sample_weight.to(compute_dtype(z))
    return active_namespace().subspace_soft_assignment(z, bases, smoothing, sample_weight, allow_tf32(z))[0]


def student_t_assignment(z: Tensor, centroids: Tensor, dof: float = 1.0) -> Tensor:
    """q_ik ∝ (1 + ‖z_i − μ_k‖²/ν)^(−(ν+1)/2), rows summing to 1 (DEC's soft assignment).

    Args:
        z: rows [n, p]; float32, float64, float16 or bfloat16.
        centroids: μ [K, p].
        dof: ν > 0, degrees of freedom.

    Returns:
        [n, K]; float64 for float64 input, else float32. Differentiable in ``z`` and ``centroids``.

    Raises:
        TypeError: an argument is no tensor, has a dtype not listed, or mixes float64 with another.
        ValueError: wrong rank or size, K = 0, different devices, ``dof`` not positive or not finite.
    """
    op = "student_t_assignment"
    check_rows(op, z)
    check_tensor(op, "centroids", centroids, "[K, p]", 2)
    if centroids.shape[0] == 0 or centroids.shape[1] != z.shape[1]:
        raise ValueError(
            f"{op}: centroids must be [K, {z.shape[1]}] with K >= 1, got shape {shape_text(centroids)}"
        )
    check_like(op, "centroids", centroids, "z", z)
    return active_namespace().student_t_assignment(
        z, centroids, check_finite(op, "dof", dof, 0.0, open_end=True)
    )


def target_distribution(q: Tensor, frequency: Tensor | None = None) -> Tensor:
    """t_ik = (q_ik² / f_k) / Σ_k (q_ik² / f_k): the sharpened target of DEC, a constant for the gradient.

    Args:
        q: soft assignment [n, K]; float32 or float64 (half types are computed in float32 and returned so).
        frequency: f [K], the column sums over the whole data when ``q`` is only a part of it (None: those of ``q``).
            A column of frequency 0 gets target 0.

    Returns:
        [n, K], rows summing to 1, without gradient, in forward mode too.

    Raises:
        TypeError: an argument is no tensor, has a dtype not listed, or mixes float64 with another.
        ValueError: wrong rank or size, different devices.
    """
    op = "target_distribution"
    check_rows(op, q, "q")
    if frequency is not None:
        check_vector(op, "frequency", frequency, q.shape[1], "q", q)
        frequency = frequency.detach().to(compute_dtype(q))
    return active_namespace().target_distribution(q.detach().to(compute_dtype(q)), frequency)


def _soft_fake(z, bases, smoothing, sample_weight=None, allow_tf32=False):
    dtype = compute_dtype(z)
    return z.new_empty((z.shape[0], bases.shape[0]), dtype=dtype), z.new_empty((z.shape[0],), dtype=dtype)


def _soft_setup(ctx, inputs, output):
    z, bases, _, sample_weight, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.has_sample_weight = sample_weight is not None
    ctx.save_for_backward(*output, z, bases, *([sample_weight] if ctx.has_sample_weight else []))


def _soft_backward(operators, ctx, grad, _grad_total):
    assignment, total, z, bases, *rest = ctx.saved_tensors
    need_z, need_bases = ctx.needs_input_grad[:2]
    dz, dbases = operators.subspace_soft_assignment_backward(
        grad, assignment, total, z, bases, rest[0] if rest else None, need_z, need_bases
    )
    return grad_or_none(need_z, dz), grad_or_none(need_bases, dbases), None, None, None


def _soft_backward_fake(grad, assignment, total, z, bases, sample_weight, need_z, need_bases):
    return fake_grads(z, need_z, bases, need_bases)


register(
    "subspace_soft_assignment",
    fake=_soft_fake,
    setup=_soft_setup,
    backward=_soft_backward,
    backward_fake=_soft_backward_fake,
)


def _student_fake(z, centroids, dof=1.0):
    return z.new_empty((z.shape[0], centroids.shape[0]), dtype=compute_dtype(z))


def _student_setup(ctx, inputs, output):
    z, centroids, ctx.dof = inputs
    ctx.save_for_backward(output, z, centroids)


def _student_backward(operators, ctx, grad):
    need_z, need_centroids = ctx.needs_input_grad[:2]
    dz, dcentroids = operators.student_t_assignment_backward(
        grad, *ctx.saved_tensors, ctx.dof, need_z, need_centroids
    )
    return grad_or_none(need_z, dz), grad_or_none(need_centroids, dcentroids), None


def _student_backward_fake(grad, assignment, z, centroids, dof, need_z, need_centroids):
    return fake_grads(z, need_z, centroids, need_centroids)


register(
    "student_t_assignment",
    fake=_student_fake,
    setup=_student_setup,
    backward=_student_backward,
    backward_fake=_student_backward_fake,
)


def _target_fake(q, frequency=None):
    return torch.empty_like(q, memory_format=torch.contiguous_format)


register("target_distribution", fake=_target_fake)
