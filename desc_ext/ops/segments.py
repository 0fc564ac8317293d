"""Segments family: sums over the rows of each label."""

from __future__ import annotations

import torch
from torch import Tensor

from desc_ext.ops.checks import check_rows, check_tensor, check_vector, compute_dtype, shape_text
from desc_ext.ops.registration import active_namespace, fake_grads, grad_or_none, register

__all__ = ["segment_gram"]


def segment_gram(z: Tensor, labels: Tensor, n_segments: int, weight: Tensor | None = None) -> Tensor:
    """G_k = Σ_{i: labels_i = k} weight_i z_i z_iᵀ: the uncentred Gram matrix of each cluster, rows read once.

    Its leading d eigenvectors are the left singular vectors that a basis of cluster k starts from.

    Args:
        z: rows [n, p]; float32, float64, float16 or bfloat16.
        labels: int64 [n], 0 ≤ labels_i < ``n_segments``.
        n_segments: K ≥ 1. A label without rows gives a zero matrix.
        weight: [n], any sign (None: 1).

    Returns:
        [K, p, p], symmetric; float64 for float64 input, else float32. Differentiable in ``z`` and ``weight``.

    Raises:
        TypeError: an argument is no tensor or has a wrong dtype.
        ValueError: wrong rank or size, ``n_segments`` < 1, different devices.
        RuntimeError: a label out of range (naming the row).
    """
    op = "segment_gram"
    check_rows(op, z)
    check_tensor(op, "labels", labels, "[n]", 1)
    if labels.dtype != torch.int64:
        raise TypeError(f"{op}: labels must be int64, got {labels.dtype}; convert them with labels.long()")
    if labels.shape[0] != z.shape[0] or labels.device != z.device:
        raise ValueError(
            f"{op}: labels must be [{z.shape[0]}] on {z.device}, got {shape_text(labels)} on {labels.device}"
        )
    if n_segments < 1:
        raise ValueError(f"{op}: n_segments must be at least 1, got {n_segments}")
    if weight is not None:
        check_vector(op, "weight", weight, z.shape[0], "z", z)
        weight = weight.to(compute_dtype(z))
    return active_namespace().segment_gram(z, labels, n_segments, weight)


def _gram_fake(z, labels, n_segments, weight=None):
    return z.new_empty((n_segments, z.shape[1], z.shape[1]), dtype=compute_dtype(z))


def _gram_setup(ctx, inputs, output):
    z, labels, _, weight = inputs
    ctx.save_for_backward(z, labels, *([] if weight is None else [weight]))


def _gram_backward(operators, ctx, grad):
    z, labels, *rest = ctx.saved_tensors
    need_z, need_weight = ctx.needs_input_grad[0], bool(rest) and ctx.needs_input_grad[3]
    dz, dweight = operators.segment_gram_backward(
        grad, z, labels, rest[0] if rest else None, need_z, need_weight
    )
    return grad_or_none(need_z, dz), None, None, grad_or_none(need_weight, dweight)


def _gram_backward_fake(grad, z, labels, weight, need_z, need_weight):
    dz = fake_grads(z, need_z, z, False)[0]
    return dz, z.new_empty((z.shape[0] if need_weight else 0,), dtype=compute_dtype(z))


register(
    "segment_gram",
    fake=_gram_fake,
    setup=_gram_setup,
    backward=_gram_backward,
    backward_fake=_gram_backward_fake,
)
