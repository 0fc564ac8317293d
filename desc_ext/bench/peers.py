"""What the kernels are measured against: the same functions in plain torch.

``literal``  the formula as it is written, through an n×K×p array
``gram``     eager torch, ‖z‖² − 2a·a + aᵀ(SᵀS)a with a = z S as one matrix product, through n×K·d arrays
``reduction`` ‖z‖² − a·a with a = z S as one matrix product, right only where the bases are orthonormal: the least work
``products`` eager torch, ‖z‖² − Σ (z S) ∘ (z S (2I − SᵀS)) as two matrix products: twice the operations, no small ones

Others are called ``eager``. The benchmarks also run ``gram``, and on the CPU ``products``, under torch.compile, which
fuses what follows the products.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from desc_ext import reference


def coefficients(z: Tensor, bases: Tensor) -> Tensor:
    """a [n, K, d] by one product with S [p, K·d]."""
    n_subspaces, width, dim = bases.shape
    return (z @ bases.permute(1, 0, 2).reshape(width, n_subspaces * dim)).view(-1, n_subspaces, dim)


def gram_residual(z: Tensor, bases: Tensor) -> Tensor:
    a = coefficients(z, bases)
    gram = bases.transpose(1, 2) @ bases
    times_gram = (a.transpose(0, 1) @ gram).transpose(0, 1)
    return z.square().sum(1, keepdim=True) - 2 * a.square().sum(-1) + (times_gram * a).sum(-1)


def reduction_residual(z: Tensor, bases: Tensor) -> Tensor:
    return z.square().sum(1, keepdim=True) - coefficients(z, bases).square().sum(-1)


def products_residual(z: Tensor, bases: Tensor) -> Tensor:
    eye = torch.eye(bases.shape[2], dtype=bases.dtype, device=bases.device)
    other = bases @ (2 * eye - bases.transpose(1, 2) @ bases)
    return z.square().sum(1, keepdim=True) - (coefficients(z, bases) * coefficients(z, other)).sum(-1)


def nearest(residual: Callable) -> Callable:
    def nearest_subspace(z: Tensor, bases: Tensor) -> tuple[Tensor, Tensor]:
        values, labels = residual(z, bases).min(1)
        return labels, values

    return nearest_subspace


def loss(residual: Callable) -> Callable:
    def weighted_projection_loss(z: Tensor, bases: Tensor, weight: Tensor) -> Tensor:
        return (weight * residual(z, bases)).sum()

    return weighted_projection_loss


def full(loss: Callable) -> Callable:
    """Forward and backward of a scalar loss; gradients to every argument that asks for one."""

    def run(*arguments: Tensor) -> tuple[Tensor, ...]:
        wanted = [argument for argument in arguments if argument.requires_grad]
        return torch.autograd.grad(loss(*arguments), wanted)

    return run


def forms(residual: Callable) -> dict[str, Callable]:
    return {
        "projection_residual": residual,
        "nearest_subspace": nearest(residual),
        "weighted_projection_loss": loss(residual),
    }


def soft_assignment(z: Tensor, bases: Tensor, smoothing: float = 1.0) -> Tensor:
    score = coefficients(z, bases).square().sum(-1) + smoothing * bases.shape[2]
    return score / score.sum(1, keepdim=True)


def student_t(z: Tensor, centroids: Tensor) -> Tensor:
    kernel = 1 / (1 + torch.cdist(z, centroids).square())
    return kernel / kernel.sum(1, keepdim=True)


LITERAL = forms(reference.projection_residual)
GRAM = forms(gram_residual)
REDUCTION = forms(reduction_residual)
PRODUCTS = forms(products_residual)
