"""What the kernels over pairs of rows are measured against: the eager forms of desc_ext.bench, and KeOps where it is
installed and can say the same thing (`make bench-peers` installs it in an environment of its own)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from desc_ext.bench.pairs import (
    BANDWIDTH,
    EAGER,
    TEMPERATURE,
    coefficient_topk,
    collaborative,
    info_nce,
    laplacian_energy,
    product_alone,
    residual,
)

__all__ = [
    "BANDWIDTH", "EAGER", "KEOPS", "TEMPERATURE", "coefficient_topk", "collaborative", "info_nce", "laplacian_energy",
    "product_alone", "residual",
]  # fmt: skip

try:
    from pykeops.torch import LazyTensor
except ImportError:
    LazyTensor = None


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


KEOPS = (
    {
        "laplacian_energy": keops_laplacian_energy,
        "info_nce": keops_info_nce,
        "affinity_row_max": keops_affinity_row_max,
    }
    if LazyTensor
    else {}
)
