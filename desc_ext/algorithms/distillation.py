"""LRSC's distillation: a teacher's features say which codes should lie together."""

from __future__ import annotations

import torch
from torch import Tensor

from desc_ext import ops
from desc_ext.norms import unit_rows

__all__ = ["distillation_loss", "median_squared_distance"]

# Rows whose distances to each other stand for those of all.
_MEDIAN_ROWS = 1000


def median_squared_distance(features: Tensor, seed: int) -> float:
    """Median of ‖t_i − t_j‖², i ≠ j, over at most 1,000 rows of ``features`` [n, q] drawn with ``seed``."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:_MEDIAN_ROWS]
    rows = features[order.to(features.device)]
    distances = torch.pdist(rows.double().cpu()).square()
    # equal features have the distance 0: any bandwidth gives them the weight 1
    return float(distances.median()) or 1.0


def distillation_loss(z: Tensor, features: Tensor, bandwidth: float, form: str) -> Tensor:
    """½ Σ_{i≠j} W_ij ‖ẑ_i − ẑ_j‖², W_ij = exp(−‖t_i − t_j‖²/bandwidth), ẑ = z/‖z‖ (eqs. 4 and 5).

    ``form`` "energy" divides it by the number of pairs n (n − 1), "ratio" by what it would be for W = 1,
    ½ Σ_{i≠j} ‖ẑ_i − ẑ_j‖² = n² − ‖Σ_i ẑ_i‖²: then it does not fall where all codes come to lie together.
    """
    n, z = len(z), unit_rows(z)
    energy = ops.laplacian_energy(z, features, bandwidth)
    if form == "energy":
        return energy / max(n * (n - 1), 1)
    return energy / (n * z.square().sum() - z.sum(0).square().sum()).clamp_min(torch.finfo(z.dtype).eps * n)
