"""The operators of :mod:`desc_ext.ops` in plain torch, straight from the formulas.

This module is the oracle of the tests and a readable definition of every operator. It allocates as it
likes (n×K×p arrays included), differentiates through autograd and is meant for float64.

Notation: ``z`` [n, p] rows, ``bases`` [K, p, d] with S_k = ``bases[k]``, a_ik = S_kᵀ z_i [d].
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "block_orthogonality_penalty",
    "nearest_subspace",
    "projection_energy",
    "projection_residual",
    "segment_gram",
    "student_t_assignment",
    "subspace_soft_assignment",
    "target_distribution",
    "weighted_projection_loss",
]


def projection_energy(z: Tensor, bases: Tensor) -> Tensor:
    """e_ik = ‖S_kᵀ z_i‖², [n, K]."""
    return torch.einsum("np,kpd->nkd", z, bases).square().sum(-1)


def projection_residual(z: Tensor, bases: Tensor) -> Tensor:
    """r_ik = ‖z_i − S_k S_kᵀ z_i‖², [n, K]."""
    coefficient = torch.einsum("np,kpd->nkd", z, bases)
    projection = torch.einsum("nkd,kpd->nkp", coefficient, bases)
    return (z.unsqueeze(1) - projection).square().sum(-1)


def nearest_subspace(z: Tensor, bases: Tensor, metric: str = "residual") -> tuple[Tensor, Tensor]:
    """Labels int64 [n] and values [n]: arg min_k r_ik, or arg max_k e_ik for ``metric="energy"``."""
    if metric == "residual":
        values, labels = projection_residual(z, bases).min(1)
    else:
        values, labels = projection_energy(z, bases).max(1)
    return labels, values


def weighted_projection_loss(z: Tensor, bases: Tensor, weight: Tensor) -> Tensor:
    """Σ_ik weight_ik r_ik (scalar)."""
    return (weight * projection_residual(z, bases)).sum()


def subspace_soft_assignment(
    z: Tensor, bases: Tensor, smoothing: float, sample_weight: Tensor | None = None
) -> Tensor:
    """w_ik = (H_i e_ik + γ d) / Σ_k (H_i e_ik + γ d), [n, K]; γ = ``smoothing``, H = ``sample_weight`` or 1."""
    energy = projection_energy(z, bases)
    if sample_weight is not None:
        energy = sample_weight.unsqueeze(1) * energy
    score = energy + smoothing * bases.shape[2]
    return score / score.sum(1, keepdim=True)


def student_t_assignment(z: Tensor, centroids: Tensor, dof: float = 1.0) -> Tensor:
    """q_ik ∝ (1 + ‖z_i − μ_k‖²/ν)^(−(ν+1)/2), rows summing to 1, [n, K]; ν = ``dof``."""
    squared = (z.unsqueeze(1) - centroids.unsqueeze(0)).square().sum(-1)
    return torch.softmax(-(dof + 1) / 2 * torch.log1p(squared / dof), dim=1)


def target_distribution(q: Tensor, frequency: Tensor | None = None) -> Tensor:
    """t_ik ∝ q_ik² / f_k, rows summing to 1, [n, K]; f = ``frequency`` [K] or Σ_i q_ik."""
    frequency = q.sum(0) if frequency is None else frequency
    score = q.square() / frequency
    return score / score.sum(1, keepdim=True)


def block_orthogonality_penalty(bases: Tensor, within: str = "unit") -> Tensor:
    """‖SᵀS ⊙ I − I‖²_F + ‖SᵀS ⊙ O‖²_F with S = [S_1 … S_K] (scalar).

    O is 0 on the d×d diagonal blocks and 1 elsewhere. ``within="orthonormal"`` asks S_kᵀ S_k = I
    inside the blocks too: ‖SᵀS − I‖²_F.
    """
    n_subspaces, _, dim = bases.shape
    s = bases.permute(1, 0, 2).reshape(bases.shape[1], n_subspaces * dim)
    gram = s.T @ s
    eye = torch.eye(n_subspaces * dim, dtype=bases.dtype, device=bases.device)
    if within == "orthonormal":
        return (gram - eye).square().sum()
    block = torch.arange(n_subspaces * dim, device=bases.device) // dim
    outside = (block[:, None] != block[None, :]).to(bases.dtype)
    return (gram * eye - eye).square().sum() + (gram * outside).square().sum()


def segment_gram(z: Tensor, labels: Tensor, n_segments: int, weight: Tensor | None = None) -> Tensor:
    """G_k = Σ_{i: labels_i = k} weight_i z_i z_iᵀ, [n_segments, p, p]."""
    weight = torch.ones(z.shape[0], dtype=z.dtype, device=z.device) if weight is None else weight
    one_hot = (labels[:, None] == torch.arange(n_segments, device=z.device)).to(z.dtype)
    return torch.einsum("nk,n,np,nq->kpq", one_hot, weight, z, z)
