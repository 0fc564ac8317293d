"""What the kernels over pairs of rows are measured against: eager torch through n×n arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from desc_ext import reference

CLASSES = 10  # of the collaborative loss
LIMITS = (0.7, 0.1, 0.02)  # thresholds of the collaborative loss: upper, lower, apart
BANDWIDTH, TEMPERATURE = 180.0, 0.07


def collaborative(module: Any) -> Callable:
    def collaborative_loss(prediction: Tensor, y: Tensor) -> Tensor:
        loss = module.collaborative_loss(prediction, y, *LIMITS)
        return sum(loss[:3])

    return collaborative_loss


def squared_distances(x: Tensor) -> Tensor:
    squares = x.square().sum(1)
    return (squares[:, None] + squares - 2 * x @ x.T).clamp_min(0)


def laplacian_energy(z: Tensor, features: Tensor) -> Tensor:
    return ((-squared_distances(features) / BANDWIDTH).exp() * squared_distances(z)).sum() / 2


def info_nce(z: Tensor, g: Tensor) -> Tensor:
    cosines = normalize(z, dim=1) @ normalize(g, dim=1).T
    return cross_entropy(cosines / TEMPERATURE, torch.arange(len(z), device=z.device))


def coefficient_topk(y: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
    """Blocks of 2,000 rows, so that no n×n array is stored."""
    scale = 1 / (1 - y.square().sum(1))
    indices, values = [], []
    for begin in range(0, len(y), 2000):
        coef = (y[begin : begin + 2000] @ y.T) * scale[begin : begin + 2000, None]
        coef.diagonal(begin).zero_()
        indices.append(coef.abs().topk(k, dim=1).indices)
        values.append(coef.gather(1, indices[-1]))
    return torch.cat(indices), torch.cat(values)


def product_alone(y: Tensor) -> None:
    """y yᵀ in blocks of 2,000 rows, and nothing done with it."""
    for begin in range(0, len(y), 2000):
        y[begin : begin + 2000] @ y.T


def residual(module: Any) -> Callable:
    return lambda z, coef: sum(module.self_expression_residual(z, coef)[:2])


EAGER: dict[str, Callable] = {
    "collaborative_loss": collaborative(reference),
    "laplacian_energy": laplacian_energy,
    "info_nce": info_nce,
    "coefficient_topk": coefficient_topk,
    "affinity_row_max": reference.affinity_row_max,
    "self_expression_residual": residual(reference),
    "squared_l12_norm": reference.squared_l12_norm,
}
