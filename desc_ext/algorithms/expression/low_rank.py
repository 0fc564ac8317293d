"""Low-rank representation with noise, in its closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from desc_ext import ops
from desc_ext.algorithms.expression.rows import check_count, check_expressed_rows
from desc_ext.algorithms.gram import GRAM_ROWS, smaller_gram
from desc_ext.algorithms.kmeans import one_thread
from desc_ext.ops.checks import check_finite

__all__ = ["low_rank_coefficients", "low_rank_factor"]

# Directions of a smaller share of the largest energy are rounding, which the division by their length would magnify.
_ROUNDING = 1e-12


@torch.no_grad()
def low_rank_factor(z: Tensor, threshold: float = 1.0) -> Tensor:
    """y [n, r] with C = y yᵀ the minimiser of ‖C‖_* + λ/2 ‖z − C z‖²_F, λ = 1 / ``threshold`` (rows are samples).

    Favaro, Vidal and Ravichandran, "A closed form solution to robust subspace estimation and clustering", CVPR 2011,
    theorem 1: with the singular value decomposition z = V S Wᵀ, C = V₁ (I − S₁⁻² / λ) V₁ᵀ over the r singular values
    s > 1/√λ. So y = V₁ (I − S₁⁻² / λ)^½: the ridge regression of ``ops.ridge_self_expression`` weighs a direction by
    s² / (s² + ε) where this one takes 1 − ε / s², and nothing of what has s² ≤ ε. The diagonal of C is not 0.

    In float64, from zᵀz [p, p], or z zᵀ [n, n] where n < p; on one thread, so with the same bits for any number of them.
    y is unique up to the signs of its columns, and a rotation where singular values are equal.

    Args:
        z: rows [n, p], n ≥ 2; float32 or float64, finite.
        threshold: ε = 1/λ > 0, in units of ‖z_i‖². The default is a compromise between data sets for rows of unit
            length.

    Returns:
        y [n, r], 0 ≤ r ≤ min(n, p), columns by decreasing s, of the dtype of ``z``.

    Raises:
        TypeError: ``z`` is no tensor or neither float32 nor float64.
        ValueError: ``z`` has another rank, one row, NaN or infinity; ``threshold`` is not positive or not finite.
    """
    operator = "low_rank_factor"
    check_expressed_rows(operator, z)
    threshold = check_finite(operator, "threshold", threshold, 0.0, open_end=True)
    wide = len(z) < z.shape[1]
    with one_thread():
        gram = smaller_gram(z)
        energy, vectors = (part.flip(-1) for part in torch.linalg.eigh(gram))
        kept = (energy > threshold) & (energy > _ROUNDING * energy[0])
        energy, vectors = energy[kept], vectors[:, kept]
        weight = (1 - threshold / energy).sqrt()
        if wide:
            return (vectors * weight).to(z.dtype)
        turn = vectors * (weight / energy.sqrt())
        return torch.cat([(part.double() @ turn).to(z.dtype) for part in z.split(GRAM_ROWS)])


def low_rank_coefficients(z: Tensor, k: int, threshold: float = 1.0) -> tuple[Tensor, Tensor]:
    """The k largest |C_ij|, j ≠ i, of every row of the C of :func:`low_rank_factor`, largest first.

    By tiles; memory is O(n (p + k)). :func:`desc_ext.ops.coefficient_topk` finds them, since its row factor
    1 / (1 − ‖y_i‖²) changes no order within a row; it is taken off the values again.

    Args:
        z, threshold: as :func:`low_rank_factor`.
        k: 1 to n − 1. Equal |C_ij| go to the lowest j.

    Returns:
        (indices int64 [n, k], values [n, k] with their sign, of the dtype of ``z``); all values are 0 where no singular
            value passes the threshold.

    Raises:
        TypeError, ValueError: as :func:`low_rank_factor`, also where ``k`` is out of range.
    """
    y = low_rank_factor(z, threshold)
    k = check_count("low_rank_coefficients", "k", k, z)
    if not y.shape[1]:
        y = z.new_zeros(len(z), 1)
    indices, values = ops.coefficient_topk(y, k)
    # the reciprocal of the factor, bounded as in coefficient_topk
    taken_off = (1 - y.square().sum(1, keepdim=True)).clamp_min(torch.finfo(y.dtype).eps)
    return indices, values * taken_off
