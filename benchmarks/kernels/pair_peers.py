"""What the kernels over pairs of rows are measured against: eager torch through n×n arrays, and KeOps where it is installed
and can say the same thing (``pip install pykeops`` into an environment of its own)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from desc_ext import reference

try:
    from pykeops.torch import LazyTensor
except ImportError:
    LazyTensor = None

LIMITS = (0.7, 0.1, 0.02)  # thresholds of the collaborative loss: upper, lower, apart
BANDWIDTH, TEMPERATURE = 180.0, 0.07


def collaborative(module):
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


def residual(module):
    return lambda z, coef: sum(module.self_expression_residual(z, coef)[:2])


def lazy_rows(x: Tensor, y: Tensor):
    return LazyTensor(x[:, None, :].contiguous()), LazyTensor(y[None, :, :].contiguous())


def keops_laplacian_energy(z: Tensor, features: Tensor) -> Tensor:
    (zi, zj), (ti, tj) = lazy_rows(z, z), lazy_rows(features, features)
    return ((-((ti - tj) ** 2).sum(-1) / BANDWIDTH).exp() * ((zi - zj) ** 2).sum(-1)).sum(1).sum() / 2


def keops_info_nce(z: Tensor, g: Tensor) -> Tensor:
    z, g = normalize(z, dim=1), normalize(g, dim=1)
    zi, gj = lazy_rows(z, g)
    return (((zi * gj).sum(-1) / TEMPERATURE).logsumexp(1).squeeze() - (z * g).sum(1) / TEMPERATURE).mean()


def keops_affinity_row_max(y: Tensor) -> Tensor:
    scale = 1 / (1 - y.square().sum(1, keepdim=True))
    (yi, yj), (si, sj) = lazy_rows(y, y), lazy_rows(scale, scale)
    index = torch.arange(len(y), dtype=y.dtype)[:, None]
    i, j = lazy_rows(index, index)
    return ((yi * yj).sum(-1).abs() * (si + sj) / 2 * (i - j).abs().sign()).max(1).squeeze()


EAGER = {
    "collaborative_loss": collaborative(reference),
    "laplacian_energy": laplacian_energy,
    "info_nce": info_nce,
    "coefficient_topk": coefficient_topk,
    "affinity_row_max": reference.affinity_row_max,
    "self_expression_residual": residual(reference),
    "squared_l12_norm": reference.squared_l12_norm,
}
KEOPS = (
    {
        "laplacian_energy": keops_laplacian_energy,
        "info_nce": keops_info_nce,
        "affinity_row_max": keops_affinity_row_max,
    }
    if LazyTensor
    else {}
)
