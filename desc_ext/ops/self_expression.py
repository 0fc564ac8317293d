"""Self-expression family: every row as a combination of the others, z ≈ C z with diag C = 0.

The minimiser of ‖C‖² + ‖z − C z‖²/ε has a closed form: C_ij = y_i·y_j / (1 − ‖y_i‖²) with y = z L, L Lᵀ = (zᵀz + εI)⁻¹,
and ‖y_i‖² < 1, the leverage of row i. So everything that is asked of C is computed from y [n, p] by tiles; C [n, n] is
stored by :func:`dense_coefficients` alone.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from desc_ext.ops.checks import (
    as_batch,
    check_batch,
    check_batch_like,
    check_choice,
    check_finite,
    compute_dtype,
)
from desc_ext.ops.registration import (
    active_namespace,
    fake_grads,
    grad_or_none,
    refuse_second_derivative,
    register,
)
from desc_ext.ops.transforms import at_work, transformable

__all__ = [
    "affinity_row_max",
    "coefficient_topk",
    "dense_coefficients",
    "ridge_self_expression",
    "self_expression_residual",
]


def ridge_self_expression(z: Tensor, ridge: float) -> Tensor:
    """y with C_ij = y_i·y_j / (1 − ‖y_i‖²), i ≠ j, the minimiser of ‖C‖²_F + ‖z − C z‖²_F / ridge with diag C = 0.

    NCSC's ‖C‖² + λ/2 ‖Z − CZ‖² (eq. 2) is ``ridge = 2/λ``. Computed in float64 whatever the dtype of ``z``: by the
    Cholesky factor of zᵀz + ridge·I [p, p], or, where n < p, by the inverse square root of z zᵀ + ridge·I [n, n].
    y is unique up to a rotation of its columns, which no function of the y_i·y_j sees.

    Args:
        z: rows [n, p] or [b, n, p]; float32, float64, float16 or bfloat16.
        ridge: ε > 0, in units of ‖z_i‖².

    Returns:
        y, of the shape of ``z``; float64 for float64 input, else float32. Differentiable in ``z``. Extra memory: two
            float64 copies of ``z``.

    Raises:
        TypeError: ``z`` is no tensor or has a dtype not listed.
        ValueError: wrong rank, ``ridge`` not positive or not finite.
        torch.linalg.LinAlgError: zᵀz + ridge·I is not positive definite in float64: NaN or infinity in ``z``, or a
            ``ridge`` below 1e-16 times its largest eigenvalue.
    """
    op = "ridge_self_expression"
    check_batch(op, "z", z)
    ridge = check_finite(op, "ridge", ridge, 0.0, open_end=True)
    rows = z.double()
    n, p = z.shape[-2:]
    if n < p:
        y = _inverse_root(_add_to_diagonal(rows @ rows.mT, ridge)) @ rows
    else:
        factor = torch.linalg.cholesky(_add_to_diagonal(rows.mT @ rows, ridge))
        y = torch.linalg.solve_triangular(factor.mT, rows, upper=True, left=False)
    return y.to(compute_dtype(z))


def _add_to_diagonal(square: Tensor, value: float) -> Tensor:
    return square + value * torch.eye(square.shape[-1], dtype=square.dtype, device=square.device)


# The derivative through eigh would divide by the gaps between eigenvalues; that of the root itself divides by nothing
# that can vanish. A namespace of its own, since it has no kernel of ours.
@torch.library.custom_op("desc_ext_dense::inverse_root", mutates_args=())
def _inverse_root_operator(square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(square)
    return (vectors * values.rsqrt().unsqueeze(-2)) @ vectors.mT, values, vectors


@torch.library.custom_op("desc_ext_dense::inverse_root_backward", mutates_args=())
def _inverse_root_gradient(grad: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
    root = values.sqrt()
    slope = -1 / (root.unsqueeze(-1) * root.unsqueeze(-2) * (root.unsqueeze(-1) + root.unsqueeze(-2)))
    return vectors @ (slope * (vectors.mT @ grad @ vectors)) @ vectors.mT


_inverse_root_operator.register_fake(
    lambda square: (torch.empty_like(square), square.new_empty(square.shape[:-1]), torch.empty_like(square))
)
_inverse_root_gradient.register_fake(lambda grad, values, vectors: torch.empty_like(vectors))


def _inverse_root_setup(ctx, inputs, output):
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:])


def _inverse_root_backward(ctx, grad, _values, _vectors):
    gradient = _transformable_gradient if at_work() else _inverse_root_gradient
    return gradient(grad, *ctx.saved_tensors)


_inverse_root_operator.register_autograd(_inverse_root_backward, setup_context=_inverse_root_setup)
_no_second_derivative = refuse_second_derivative("ridge_self_expression with n < p")
_inverse_root_gradient.register_autograd(_no_second_derivative)
_transformable_gradient = transformable(
    "ridge_self_expression", _inverse_root_gradient, None, _no_second_derivative
)
_transformable_root = transformable(
    "ridge_self_expression", _inverse_root_operator, _inverse_root_setup, _inverse_root_backward
)


def _inverse_root(square: Tensor) -> Tensor:
    """The inverse square root of symmetric positive definite matrices."""
    operator = _transformable_root if at_work() else _inverse_root_operator
    return operator(square)[0]


def dense_coefficients(y: Tensor) -> Tensor:
    """C_ij = y_i·y_j / (1 − ‖y_i‖²), C_ii = 0, for the y of :func:`ridge_self_expression`: n² numbers.

    Args:
        y: [n, p] or [b, n, p]; float32, float64, float16 or bfloat16. 1 − ‖y_i‖² is kept at the rounding unit at least.

    Returns:
        [n, n] or [b, n, n]; float64 for float64 input, else float32. Differentiable.

    Raises:
        TypeError: ``y`` is no tensor or has a dtype not listed.
        ValueError: wrong rank.
    """
    check_batch("dense_coefficients", "y", y)
    rows = y.to(compute_dtype(y))
    scale = 1 / (1 - rows.square().sum(-1, keepdim=True)).clamp_min(torch.finfo(rows.dtype).eps)
    with torch.autocast(rows.device.type, enabled=False):  # which would multiply in half types
        products = scale * (rows @ rows.mT)
    return products - torch.diag_embed(products.diagonal(dim1=-2, dim2=-1))


def self_expression_residual(
    z: Tensor, coef: Tensor, penalty: Literal["l1", "l2"] = "l2"
) -> tuple[Tensor, Tensor, Tensor]:
    """½‖Z − C̃ Z‖²_F, the size of C̃, and Z − C̃ Z, for a learned C = ``coef`` and C̃ = C with its diagonal set to 0.

    Neither C̃ nor its products of size n² are stored: C is read once here, and once for its gradient, which is written
    with diagonal 0 (the ℓ1 size has slope 0 at 0).

    Args:
        z: rows [n, p] or [b, n, p]; float32, float64, float16 or bfloat16.
        coef: [n, n] or [b, n, n]; half types and float32 may be mixed.
        penalty: ``"l2"`` for ‖C̃‖²_F, ``"l1"`` for ‖C̃‖₁ = Σ_ij |C̃_ij|.

    Returns:
        (residual, size, difference): scalars or [b], and the shape of ``z``; float64 for float64 input, else float32.
            All differentiable in both arguments.

    Raises:
        TypeError: an argument is no tensor, has a dtype not listed, or mixes float64 with another.
        ValueError: wrong rank or size, different devices, unknown ``penalty``.
    """
    op = "self_expression_residual"
    check_batch(op, "z", z)
    check_batch_like(op, "coef", coef, (*z.shape[:-1], z.shape[-2]), "z", z)
    check_choice(op, "penalty", penalty, ("l1", "l2"))
    found = active_namespace().self_expression_residual(as_batch(z), as_batch(coef), penalty)
    return tuple(found) if z.dim() == 3 else tuple(value.squeeze(0) for value in found)


def coefficient_topk(y: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest |C_ij|, j ≠ i, of every row of the C of :func:`dense_coefficients`, largest first.

    Tiles of y yᵀ are computed once for both their rows and columns, n²p multiplications and additions in all.

    Args:
        y: [n, p] or [b, n, p]; float32, float64, float16 or bfloat16.
        k: 0 ≤ k ≤ n − 1. Equal |C_ij| go to the lowest j.

    Returns:
        (indices int64, values), [n, k] or [b, n, k]; the values are C_ij with their sign, float64 for float64 input,
            else float32, differentiable in ``y``.

    Raises:
        TypeError: ``y`` is no tensor or has a dtype not listed.
        ValueError: wrong rank, ``k`` out of range.
    """
    op = "coefficient_topk"
    check_batch(op, "y", y)
    if isinstance(k, bool) or int(k) != k or not 0 <= k <= max(y.shape[-2] - 1, 0):
        raise ValueError(f"{op}: k must be an integer between 0 and n - 1 = {y.shape[-2] - 1}, got {k}")
    indices, values = active_namespace().coefficient_topk(as_batch(y), int(k))
    return (indices, values) if y.dim() == 3 else (indices.squeeze(0), values.squeeze(0))


def affinity_row_max(y: Tensor) -> Tensor:
    """max_{j ≠ i} (|C_ij| + |C_ji|)/2 of every row, for the C of :func:`dense_coefficients`.

    Args:
        y: [n, p] or [b, n, p]; float32, float64, float16 or bfloat16.

    Returns:
        [n] or [b, n]; float64 for float64 input, else float32; 0 for a single row. Differentiable, through the
            lowest j that reaches the maximum.

    Raises:
        TypeError: ``y`` is no tensor or has a dtype not listed.
        ValueError: wrong rank.
    """
    check_batch("affinity_row_max", "y", y)
    values, _ = active_namespace().affinity_row_max(as_batch(y))
    return values if y.dim() == 3 else values.squeeze(0)


def _topk_fake(y, k):
    shape = (*y.shape[:2], k)
    return y.new_empty(shape, dtype=torch.int64), y.new_empty(shape, dtype=compute_dtype(y))


def _topk_setup(ctx, inputs, output):
    ctx.mark_non_differentiable(output[0])
    ctx.save_for_backward(output[0], inputs[0])


def _topk_backward(operators, ctx, _grad_indices, grad):
    return operators.coefficient_topk_backward(grad, *ctx.saved_tensors), None


def _selected_backward_fake(grad, indices, y):
    return torch.empty_like(y, memory_format=torch.contiguous_format)


register(
    "coefficient_topk",
    fake=_topk_fake,
    setup=_topk_setup,
    backward=_topk_backward,
    backward_fake=_selected_backward_fake,
)


def _row_max_fake(y):
    return y.new_empty(y.shape[:2], dtype=compute_dtype(y)), y.new_empty(y.shape[:2], dtype=torch.int64)


def _row_max_setup(ctx, inputs, output):
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], inputs[0])


def _row_max_backward(operators, ctx, grad, _grad_indices):
    return operators.affinity_row_max_backward(grad, *ctx.saved_tensors)


register(
    "affinity_row_max",
    fake=_row_max_fake,
    setup=_row_max_setup,
    backward=_row_max_backward,
    backward_fake=_selected_backward_fake,
)


def _residual_fake(z, coef, penalty="l2"):
    dtype = compute_dtype(z)
    residual, size = (z.new_empty((z.shape[0],), dtype=dtype) for _ in range(2))
    return residual, size, z.new_empty(z.shape, dtype=dtype)


def _residual_setup(ctx, inputs, output):
    z, coef, ctx.penalty = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[2], z, coef)


def _residual_backward(operators, ctx, grad, grad_size, grad_difference):
    difference, z, coef = ctx.saved_tensors
    need_z, need_coef = ctx.needs_input_grad[:2]
    none = difference.new_zeros(len(z))
    grad, grad_size = (none if value is None else value for value in (grad, grad_size))
    if grad_difference is not None:
        # the gradient of ½‖D‖² with respect to D is D: what else flows into D adds to it
        difference = grad[:, None, None] * difference + grad_difference
        grad = torch.ones_like(grad)
    dz, dcoef = operators.self_expression_residual_backward(
        grad, grad_size, difference, z, coef, ctx.penalty, need_z, need_coef
    )
    return grad_or_none(need_z, dz), grad_or_none(need_coef, dcoef), None


def _residual_backward_fake(grad, grad_size, difference, z, coef, penalty, need_z, need_coef):
    return fake_grads(z, need_z, coef, need_coef)


register(
    "self_expression_residual",
    fake=_residual_fake,
    setup=_residual_setup,
    backward=_residual_backward,
    backward_fake=_residual_backward_fake,
)
