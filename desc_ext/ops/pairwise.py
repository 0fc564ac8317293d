"""Pairwise family: losses over all pairs of rows, tile by tile; no n×n array is stored, forward or backward."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from desc_ext.ops.checks import as_batch, check_batch, check_batch_like, check_finite, compute_dtype
from desc_ext.ops.registration import active_namespace, fake_grads, first_result, grad_or_none, register
from desc_ext.ops.self_expression import affinity_row_max

__all__ = ["CollaborativeLoss", "collaborative_loss", "info_nce", "laplacian_energy", "squared_l12_norm"]


class CollaborativeLoss(NamedTuple):
    """The terms of :func:`collaborative_loss`, each a mean over the pairs that it counts."""

    positive: Tensor  # L_pos
    negative: Tensor  # L_neg
    apart: Tensor
    counts: Tensor  # int64 [.., 3]: pairs of the three terms


def collaborative_loss(
    prediction: Tensor,
    y: Tensor,
    upper: float,
    lower: float,
    apart: float = 0.0,
    row_max: Tensor | None = None,
    soft_indicator: bool = False,
) -> CollaborativeLoss:
    """NCSC's collaboration of classifier and self-expression (eqs. 5 to 7), as means over ordered pairs i ≠ j.

    With A_c = ν νᵀ for ν = ``prediction`` and A_s = (|C| + |Cᵀ|)/2 for the C of
    :func:`~desc_ext.ops.dense_coefficients`, each row divided by its largest value:

    - L_pos = −mean A_s log A_c over the pairs with A_s > ``upper``;
    - L_neg = −mean (1 − A_c) log(1 − A_s) over the pairs with A_c < ``lower``;
    - apart: −mean log(1 − A_c) over the pairs with A_s < ``apart`` (0: none), which keeps a classifier from putting all
      rows into one cluster, where the other two are 0.

    Arguments of the logarithms are clamped to [1e-6, 1]. A term without pairs is 0.

    Args:
        prediction: ν [n, K] or [b, n, K], rows of length 1 with entries ≥ 0.
        y: [n, p] or [b, n, p], from :func:`~desc_ext.ops.ridge_self_expression`; float32, float64, float16 or bfloat16.
        upper, lower, apart: thresholds.
        row_max: [n] or [b, n], what rows of A_s are divided by; None takes :func:`~desc_ext.ops.affinity_row_max`.
        soft_indicator: lets gradients into the factors before the logarithms, A_s in L_pos and A_c in L_neg, which
            are constants otherwise.

    Returns:
        CollaborativeLoss(positive, negative, apart, counts): scalars, and int64 [3] numbers of pairs; with a batch
            [b] and [b, 3]. Losses are float64 for float64 input, else float32, differentiable in ``prediction``, ``y`` and
            ``row_max``.

    Raises:
        TypeError: an argument is no tensor, has a dtype not listed, or mixes float64 with another.
        ValueError: wrong rank or size, different devices, a threshold that is not finite.
    """
    op = "collaborative_loss"
    check_batch(op, "y", y)
    check_batch_like(op, "prediction", prediction, (*y.shape[:-1], -1), "y", y)
    limits = [
        check_finite(op, name, value, -float("inf"), open_end=True)
        for name, value in (("upper", upper), ("lower", lower), ("apart", apart))
    ]
    if row_max is None:
        row_max = affinity_row_max(y)
    else:
        check_batch_like(op, "row_max", row_max, y.shape[:-1], "y", y)
        row_max = row_max.to(compute_dtype(y))
    losses, counts = active_namespace().collaborative_loss(
        as_batch(prediction), as_batch(y), as_batch(row_max, 2), *limits, bool(soft_indicator)
    )
    if y.dim() == 2:
        losses, counts = losses.squeeze(0), counts.squeeze(0)
    positive, negative, separation = losses.unbind(-1)
    return CollaborativeLoss(positive, negative, separation, counts)


def laplacian_energy(z: Tensor, features: Tensor, bandwidth: float) -> Tensor:
    """½ Σ_{i≠j} exp(−‖t_i − t_j‖²/bandwidth) ‖z_i − z_j‖² with t = ``features`` (LRSC, eqs. 4 and 5).

    Args:
        z: rows [n, p] or [b, n, p]; float32, float64, float16 or bfloat16.
        features: [n, q] or [b, n, q]; half types and float32 may be mixed.
        bandwidth: t > 0, in units of ‖t_i − t_j‖².

    Returns:
        Scalar or [b]; float64 for float64 input, else float32. Differentiable in ``z`` and ``features``.

    Raises:
        TypeError: an argument is no tensor, has a dtype not listed, or mixes float64 with another.
        ValueError: wrong rank or size, different devices, ``bandwidth`` not positive or not finite.
    """
    op = "laplacian_energy"
    check_batch(op, "z", z)
    check_batch_like(op, "features", features, (*z.shape[:-1], -1), "z", z)
    bandwidth = check_finite(op, "bandwidth", bandwidth, 0.0, open_end=True)
    return first_result("laplacian_energy", (z, features), bandwidth)


def info_nce(z: Tensor, g: Tensor, temperature: float) -> Tensor:
    """−mean_i log softmax_j(cos(z_i, g_j)/σ) at j = i, σ = ``temperature`` (LRSC, eq. 8).

    Args:
        z, g: rows [n, p] or [b, n, p]; float32, float64, float16 or bfloat16; half types and float32 may be mixed. A row
            of zeros has cosine 0 with all others; any norm > 0 counts, down to the smallest normal number of float32.
        temperature: σ > 0.

    Returns:
        Scalar or [b], NaN for n = 0; float64 for float64 input, else float32. Differentiable in ``z`` and ``g``.

    Raises:
        TypeError: an argument is no tensor, has a dtype not listed, or mixes float64 with another.
        ValueError: shapes differ, wrong rank, different devices, ``temperature`` not positive or not finite.
    """
    op = "info_nce"
    check_batch(op, "z", z)
    check_batch_like(op, "g", g, z.shape, "z", z)
    temperature = check_finite(op, "temperature", temperature, 0.0, open_end=True)
    return first_result("info_nce", (z, g), temperature)


def squared_l12_norm(z: Tensor) -> Tensor:
    """Σ_i (Σ_j |z_ij|)², the cluster-specificity term of ASC2D (slope 0 at z_ij = 0).

    Args:
        z: [n, p] or [b, n, p]; float32, float64, float16 or bfloat16.

    Returns:
        Scalar or [b]; float64 for float64 input, else float32. Differentiable.

    Raises:
        TypeError: ``z`` is no tensor or has a dtype not listed.
        ValueError: wrong rank.
    """
    check_batch("squared_l12_norm", "z", z)
    return first_result("squared_l12_norm", (z,))


def _per_batch(z, *shape, dtype=None):
    return z.new_empty((z.shape[0], *shape), dtype=dtype or compute_dtype(z))


def _collaborative_fake(prediction, y, row_max, upper, lower, apart, soft_indicator):
    return _per_batch(y, 3), _per_batch(y, 3, dtype=torch.int64)


def _collaborative_setup(ctx, inputs, output):
    prediction, y, row_max, *ctx.options = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], prediction, y, row_max)


def _collaborative_backward(operators, ctx, grad, _grad_counts):
    need_prediction, need_y, need_max = ctx.needs_input_grad[:3]
    dprediction, dy, dmax = operators.collaborative_loss_backward(
        grad, *ctx.saved_tensors, *ctx.options, need_prediction, need_y or need_max
    )
    gradients = (
        grad_or_none(need_prediction, dprediction),
        grad_or_none(need_y, dy),
        grad_or_none(need_max, dmax),
    )
    return *gradients, None, None, None, None


def _collaborative_backward_fake(
    grad, counts, prediction, y, row_max, upper, lower, apart, soft_indicator, need_prediction, need_y
):
    dprediction, dy = fake_grads(prediction, need_prediction, y, need_y)
    return dprediction, dy, fake_grads(row_max, need_y, row_max, False)[0]


register(
    "collaborative_loss",
    fake=_collaborative_fake,
    setup=_collaborative_setup,
    backward=_collaborative_backward,
    backward_fake=_collaborative_backward_fake,
)


def _energy_fake(z, features, bandwidth):
    return _per_batch(z)


def _energy_setup(ctx, inputs, output):
    z, features, ctx.bandwidth = inputs
    ctx.save_for_backward(z, features)


def _energy_backward(operators, ctx, grad):
    need_z, need_features = ctx.needs_input_grad[:2]
    dz, dfeatures = operators.laplacian_energy_backward(
        grad, *ctx.saved_tensors, ctx.bandwidth, need_z, need_features
    )
    return grad_or_none(need_z, dz), grad_or_none(need_features, dfeatures), None


def _energy_backward_fake(grad, z, features, bandwidth, need_z, need_features):
    return fake_grads(z, need_z, features, need_features)


register(
    "laplacian_energy",
    fake=_energy_fake,
    setup=_energy_setup,
    backward=_energy_backward,
    backward_fake=_energy_backward_fake,
)


def _nce_fake(z, g, temperature):
    return _per_batch(z), _per_batch(z, z.shape[1])


def _nce_setup(ctx, inputs, output):
    z, g, ctx.temperature = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], z, g)


def _nce_backward(operators, ctx, grad, _grad_log_sums):
    need_z, need_g = ctx.needs_input_grad[:2]
    dz, dg = operators.info_nce_backward(grad, *ctx.saved_tensors, ctx.temperature, need_z, need_g)
    return grad_or_none(need_z, dz), grad_or_none(need_g, dg), None


def _nce_backward_fake(grad, log_sums, z, g, temperature, need_z, need_g):
    return fake_grads(z, need_z, g, need_g)


register(
    "info_nce",
    fake=_nce_fake,
    setup=_nce_setup,
    backward=_nce_backward,
    backward_fake=_nce_backward_fake,
)


def _norm_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _norm_backward(operators, ctx, grad):
    return operators.squared_l12_norm_backward(grad, *ctx.saved_tensors)


def _norm_backward_fake(grad, z):
    return torch.empty_like(z, memory_format=torch.contiguous_format)


register(
    "squared_l12_norm",
    fake=_per_batch,
    setup=_norm_setup,
    backward=_norm_backward,
    backward_fake=_norm_backward_fake,
)
