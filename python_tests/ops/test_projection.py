"""Projection family: tiny residuals, ties, invariances, extremes, memory."""

from __future__ import annotations

import pytest
import torch
from helpers.operators import inputs
from helpers.peak_memory import extra_memory

from desc_ext import reference


def near_subspace(ratio: float, p: int, dim: int, n: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 rows with r/‖z‖² ≈ ratio against the first of three orthonormal bases."""
    generator = torch.Generator().manual_seed(int(-torch.log10(torch.tensor(ratio)) * 10) + p)
    bases = torch.linalg.qr(torch.randn(3, p, dim, generator=generator, dtype=torch.float64))[0]
    inside = torch.randn(n, dim, generator=generator, dtype=torch.float64) @ bases[0].T
    outside = torch.randn(n, p, generator=generator, dtype=torch.float64)
    outside -= outside @ bases[0] @ bases[0].T
    outside *= ratio**0.5 * inside.norm(dim=1, keepdim=True) / outside.norm(dim=1, keepdim=True)
    return (inside + outside).float(), bases.float()


@pytest.mark.parametrize("p", [12, 64, 300])
@pytest.mark.parametrize("ratio", [0.3, 0.1, 1e-2, 1e-4, 1e-6, 1e-8])
def test_small_residuals_are_as_accurate_as_the_direct_formula(ops, ratio, p):
    """Element by element, each relative to itself."""
    z, bases = near_subspace(ratio, p, 4)
    truth = reference.projection_residual(z.double(), bases.double())[:, 0]
    direct = reference.projection_residual(z, bases)[:, 0]
    found = ops.projection_residual(z, bases)[:, 0]
    assert (found >= 0).all()

    def error(value):
        return ((value - truth).abs() / truth).max().item()

    assert error(found) <= 2 * error(direct) + torch.finfo(torch.float32).eps


def test_row_inside_a_subspace_has_residual_zero_not_less(ops):
    bases = torch.eye(8)[None, :, :3]
    z = torch.zeros(5, 8)
    z[:, :3] = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) * 1e4
    assert torch.equal(ops.projection_residual(z, bases), torch.zeros(5, 1))
    assert torch.equal(ops.projection_residual(torch.zeros(5, 8), bases), torch.zeros(5, 1))


def test_residual_plus_energy_is_the_norm_for_orthonormal_bases(ops):
    tensors = inputs((100, 30, 6, 4))
    bases = torch.linalg.qr(tensors["bases"])[0]
    total = ops.projection_residual(tensors["z"], bases) + ops.projection_energy(tensors["z"], bases)
    norms = tensors["z"].square().sum(1, keepdim=True).expand(-1, 6)
    torch.testing.assert_close(total, norms, rtol=1e-12, atol=1e-12)


def test_residual_of_the_whole_space_is_zero(ops):
    z = torch.randn(20, 9, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(1)))[0][None]
    residual = ops.projection_residual(z, basis)
    assert (residual <= 1e-11 * z.square().sum(1, keepdim=True)).all()


def test_residual_of_bases_far_from_orthonormal(ops):
    """2I − SᵀS has eigenvalues of both signs and large ones: the rotation must handle all."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(50, 12, generator=generator, dtype=torch.float64)
    scales = torch.tensor([1e-3, 0.1, 1.0, 2**0.5, 10.0, 1e3], dtype=torch.float64)
    bases = torch.randn(6, 12, 4, generator=generator, dtype=torch.float64) * scales[:, None, None]
    bases[2, :, 1] = bases[2, :, 0]  # linearly dependent columns
    found, truth = ops.projection_residual(z, bases), reference.projection_residual(z, bases)
    torch.testing.assert_close(found / truth.amax(0), truth / truth.amax(0), rtol=1e-12, atol=1e-13)


def test_row_scaling_scales_the_square(ops):
    tensors = inputs((64, 20, 5, 3), torch.float32)
    once = ops.projection_residual(tensors["z"], tensors["bases"])
    assert torch.equal(ops.projection_residual(tensors["z"] * 1024, tensors["bases"]), once * 2.0**20)


@pytest.mark.parametrize("metric", ["residual", "energy"])
def test_nearest_subspace_is_the_first_best_of_all(ops, metric):
    tensors = inputs((500, 40, 33, 4), torch.float32)
    z, bases = tensors["z"], tensors["bases"].clone()
    bases[20] = bases[4]  # exact ties
    bases[32] = bases[4]
    labels, values = ops.nearest_subspace(z, bases, metric)
    every = ops.projection_residual(z, bases) if metric == "residual" else ops.projection_energy(z, bases)
    best, first = every.min(1) if metric == "residual" else every.max(1)
    assert torch.equal(values, best)
    assert torch.equal(values, every.gather(1, labels[:, None])[:, 0])
    assert not ((labels == 20) | (labels == 32)).any()
    assert (labels == 4).any()
    assert torch.equal(labels, first)


def test_nearest_subspace_labels_differ_from_the_oracle_only_in_ties(ops):
    tensors = inputs((ops.rows(5000), 24, 50, 6), torch.float32)
    labels, _ = ops.nearest_subspace(tensors["z"], tensors["bases"])
    truth = reference.projection_residual(tensors["z"].double(), tensors["bases"].double())
    chosen, best = truth.gather(1, labels[:, None])[:, 0], truth.min(1).values
    norm = tensors["z"].double().square().sum(1)
    assert (chosen - best <= 4e-6 * norm).all()


def test_planted_subspaces_are_found(ops):
    generator = torch.Generator().manual_seed(0)
    bases = torch.linalg.qr(torch.randn(20, 60, 4, generator=generator))[0]
    n = ops.rows(2000)
    planted = torch.arange(n) % 20
    z = torch.einsum("npd,nd->np", bases[planted], torch.randn(n, 4, generator=generator))
    z += 1e-3 * torch.randn(n, 60, generator=generator)
    labels, values = ops.nearest_subspace(z, bases)
    assert torch.equal(labels, planted)
    assert values.max() < 60 * 1e-5


def test_one_thousand_subspaces_and_a_dimension_wider_than_a_register_tile(ops):
    for shape in [(40, 30, 1000, 3), (40, 200, 2, 130)]:
        tensors = inputs(shape)
        torch.testing.assert_close(
            ops.projection_residual(tensors["z"], tensors["bases"]),
            reference.projection_residual(tensors["z"], tensors["bases"]),
            rtol=1e-10,
            atol=1e-10,
        )


MEMORY = """
n, p, K, d = 200_000, 64, 100, 8
z, bases = torch.randn(n, p), torch.randn(K, p, d) / 8
weight = torch.rand(n, K)
labels = torch.randint(K, (n,))
"""


@pytest.mark.parametrize(
    ("call", "outputs"),
    [
        ("ops.projection_energy(z, bases)", "n * K"),
        ("ops.projection_residual(z, bases)", "n * K"),
        ("ops.nearest_subspace(z, bases)", "3 * n"),
        ("ops.weighted_projection_loss(z, bases, weight)", "1"),
        ("ops.subspace_soft_assignment(z, bases, 5.0)", "n * K"),
        ("ops.segment_gram(z, labels, K)", "K * p * p"),
        ("torch.ops.desc_ext.projection_energy_backward(weight, z, bases, True, True)", "n * p + K * p * d"),
        ("torch.ops.desc_ext.projection_residual_backward(weight, z, bases, True, True)", "n * p + K * p * d"),
        (
            "torch.ops.desc_ext.weighted_projection_loss_backward(torch.ones(()), z, bases, weight, True, True, True)",
            "n * p + K * p * d + n * K",
        ),
        (
            "torch.ops.desc_ext.nearest_subspace_backward(z[:, 0].clone(), labels, z, bases, 'residual', True, True)",
            "n * p + K * p * d + n",  # the clone above
        ),
        (
            "torch.ops.desc_ext.subspace_soft_assignment_backward("
            "weight, weight, z[:, 0].clone(), z, bases, None, True, True)",
            "n * p + K * p * d + n",
        ),
        ("torch.ops.desc_ext.segment_gram_backward(bases @ bases.mT, z, labels, None, True, False)", "n * p + K * p * p"),
        ("ops.student_t_assignment(z, bases[:, :, 0])", "n * K"),
        (
            "torch.ops.desc_ext.student_t_assignment_backward(weight, weight, z, bases[:, :, 0], 1.0, True, True)",
            "n * p + K * p",
        ),
        ("ops.target_distribution(weight)", "n * K"),
        ("ops.block_orthogonality_penalty(bases)", "1"),
        ("torch.ops.desc_ext.block_orthogonality_penalty_backward(torch.ones(()), bases, 'unit')", "K * p * d"),
    ],
)  # fmt: skip
def test_peak_memory_is_outputs_plus_16_mib(call, outputs):
    """Of every call, forward or backward, measured in a process of its own."""
    extra = extra_memory(MEMORY, call, f"4 * ({outputs})")
    assert extra <= 16 * 2**20, f"{extra / 2**20:.1f} MiB beside the outputs"


def test_the_memory_test_can_fail():
    assert extra_memory(MEMORY, "z @ bases[:12].permute(1, 0, 2).reshape(p, 12 * d)", "0") > 16 * 2**20
