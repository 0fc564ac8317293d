"""The affinity that DSC-Net's code makes of learned coefficients, which its paper does not describe."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits
from torch import Tensor

from desc_ext.algorithms.graph import keep_share

__all__ = ["svd_power_affinity"]


@torch.no_grad()
def svd_power_affinity(coefficient: Tensor, kept_share: float, rank: int, power: int) -> np.ndarray:
    """(max(u_i·u_j, 0))^α [n, n], float64, u_i the unit rows of U S^(1/2) of a truncated singular value decomposition U S Vᵀ.

    What is decomposed is ½(C + Cᵀ) with a diagonal of 1, C's signs kept. The steps are those of low-rank representation
    (Liu et al., 2013, section 4.4): rows of the same subspace have nearly parallel u_i, and the power α takes small
    products out of the graph.

    Args:
        coefficient: C [n, n].
        kept_share: of each row's Σ_j |C_ij|, the share of its largest coefficients that is kept, 1 for all.
        rank: singular values that are kept, n − 1 at most.
        power: α.
    """
    kept = keep_share(coefficient, kept_share).cpu().numpy().astype(np.float64)
    symmetric = (kept + kept.T) / 2
    np.fill_diagonal(symmetric, 1)
    n = len(symmetric)
    # a symmetric matrix has the singular values |λ|; the start is fixed, so that equal fits give equal bits
    with threadpool_limits(limits=1):
        values, vectors = eigsh(symmetric, min(rank, n - 1), which="LM", v0=np.ones(n))
        directions = normalize(vectors * np.sqrt(np.abs(values)))
        affinity = (directions @ directions.T).clip(0) ** power
    np.fill_diagonal(affinity, 0)
    return (affinity + affinity.T) / 2
