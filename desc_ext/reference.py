"""The operators of :mod:`desc_ext.ops` in plain torch, straight from the formulas.

This module is the oracle of the tests and a readable definition of every operator. It allocates as it
likes (n×K×p arrays included), differentiates through autograd and is meant for float64.

Notation: ``z`` [n, p] rows, ``bases`` [K, p, d] with S_k = ``bases[k]``, a_ik = S_kᵀ z_i [d]. The self-expression and
pairwise functions also take a leading batch dimension, [b, n, p]; sums over rows and pairs are then [b].
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "affinity_row_max",
    "block_orthogonality_penalty",
    "coefficient_topk",
    "collaborative_loss",
    "dense_coefficients",
    "info_nce",
    "laplacian_energy",
    "nearest_subspace",
    "projection_energy",
    "projection_residual",
    "ridge_self_expression",
    "segment_gram",
    "self_expression_residual",
    "squared_l12_norm",
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

    O is 0 on the d×d diagonal blocks and 1 elsewhere. ``within="orthonormal"`` wants S_kᵀ S_k = I
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


def ridge_self_expression(z: Tensor, ridge: float) -> Tensor:
    """y = z L with L Lᵀ = (zᵀz + ridge I)⁻¹, so that C = dense_coefficients(y) minimises
    ‖C‖² + ‖z − C z‖²/ridge with diag C = 0. L is unique up to a rotation; here the inverse transposed Cholesky factor."""
    gram = z.mT @ z + ridge * torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(gram).mT, z, upper=True, left=False)


def _without_diagonal(square: Tensor) -> Tensor:
    return square - torch.diag_embed(square.diagonal(dim1=-2, dim2=-1))


def dense_coefficients(y: Tensor) -> Tensor:
    """C_ij = y_i·y_j / (1 − ‖y_i‖²), C_ii = 0, [.., n, n]."""
    scale = 1 / (1 - y.square().sum(-1, keepdim=True)).clamp_min(torch.finfo(y.dtype).eps)
    return _without_diagonal(scale * (y @ y.mT))


def self_expression_residual(z: Tensor, coef: Tensor, penalty: str = "l2") -> tuple[Tensor, Tensor, Tensor]:
    """½‖z − C z‖², ‖C‖² (``"l2"``) or ‖C‖₁ (``"l1"``), and z − C z, for C = ``coef`` with its diagonal set to 0."""
    coef = _without_diagonal(coef)
    size = coef.square() if penalty == "l2" else coef.abs()
    difference = z - coef @ z
    return difference.square().sum((-2, -1)) / 2, size.sum((-2, -1)), difference


def coefficient_topk(y: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Indices int64 and signed values C_ij, [.., n, k], of the k largest |C_ij| of each row i, j ≠ i, largest first."""
    coef = dense_coefficients(y)
    size = coef.abs() - torch.eye(y.shape[-2], dtype=y.dtype, device=y.device)  # the diagonal comes last
    indices = size.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    return indices, coef.gather(-1, indices)


def _affinity(y: Tensor) -> Tensor:
    coef = dense_coefficients(y).abs()
    return (coef + coef.mT) / 2


def affinity_row_max(y: Tensor) -> Tensor:
    """max_{j ≠ i} (|C_ij| + |C_ji|)/2, [.., n]; 0 for a single row."""
    affinity = _affinity(y)
    return (
        torch.cat([affinity, torch.zeros_like(affinity[..., :1])], -1).amax(-1) if y.shape[-2] else y[..., 0]
    )


def collaborative_loss(
    prediction: Tensor,
    y: Tensor,
    upper: float,
    lower: float,
    apart: float = 0.0,
    row_max: Tensor | None = None,
    soft_indicator: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """L_pos, L_neg, the apart term and int64 counts [.., 3] of their pairs.

    With A_c = ν νᵀ for ν = ``prediction`` and A_s = (|C| + |Cᵀ|)/2 with each row over ``row_max`` (None: its largest
    value), over ordered pairs i ≠ j: L_pos = −mean A_s log A_c where A_s > upper, L_neg = −mean (1 − A_c) log(1 − A_s)
    where A_c < lower, and −mean log(1 − A_c) where A_s < apart. Arguments of the logarithms are clamped to [1e-6, 1].
    The factors before the logarithms are constants for the gradient unless ``soft_indicator``."""
    a_c, affinity = prediction @ prediction.mT, _affinity(y)
    row_max = affinity_row_max(y) if row_max is None else row_max
    a_s = affinity / row_max.clamp_min(torch.finfo(y.dtype).tiny)[..., None]
    teacher_s, teacher_c = (a_s, a_c) if soft_indicator else (a_s.detach(), a_c.detach())
    pairs = ~torch.eye(y.shape[-2], dtype=torch.bool, device=y.device)

    def log(x: Tensor) -> Tensor:
        return x.clamp(1e-6, 1).log()

    chosen = [pairs & (a_s > upper), pairs & (a_c < lower), pairs & (a_s < apart)]
    terms = [-teacher_s * log(a_c), -(1 - teacher_c) * log(1 - a_s), -log(1 - a_c)]
    counts = torch.stack([mask.sum((-2, -1)) for mask in chosen], -1)
    means = [
        torch.where(mask, term, 0).sum((-2, -1)) / counts[..., i].clamp_min(1)
        for i, (mask, term) in enumerate(zip(chosen, terms, strict=True))
    ]
    return means[0], means[1], means[2], counts


def laplacian_energy(z: Tensor, features: Tensor, bandwidth: float) -> Tensor:
    """½ Σ_{i≠j} exp(−‖t_i − t_j‖²/bandwidth) ‖z_i − z_j‖² with t = ``features``."""

    def squared(x: Tensor) -> Tensor:
        return (x.unsqueeze(-2) - x.unsqueeze(-3)).square().sum(-1)

    return ((-squared(features) / bandwidth).exp() * squared(z)).sum((-2, -1)) / 2


def _unit(x: Tensor) -> Tensor:
    norm = x.norm(dim=-1, keepdim=True)
    return x / torch.where(norm > 0, norm, 1)


def info_nce(z: Tensor, g: Tensor, temperature: float) -> Tensor:
    """−mean_i log softmax_j(cos(z_i, g_j)/temperature) at j = i."""
    logits = _unit(z) @ _unit(g).mT / temperature
    return -logits.log_softmax(-1).diagonal(dim1=-2, dim2=-1).mean(-1)


def squared_l12_norm(z: Tensor) -> Tensor:
    """Σ_i (Σ_j |z_ij|)²."""
    return z.abs().sum(-1).square().sum(-1)
