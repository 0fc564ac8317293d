"""Pairwise family: the formulas in NumPy, constants of the gradient, invariances, extremes, batches, memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.peak_memory import extra_memory
from torch.nn.functional import normalize

from desc_ext import ops as cpu_ops
from desc_ext import reference


def rows(*shape, dtype=torch.float64, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def predictions(n: int, k: int, dtype=torch.float64) -> torch.Tensor:
    return normalize(torch.softmax(2 * rows(n, k, dtype=dtype, seed=3), 1), dim=1)


def test_collaborative_loss_is_the_papers(ops):
    """Eqs. 4 to 7 pair by pair."""
    n, upper, lower, apart = 24, 0.6, 0.7, 0.1
    y, prediction = reference.ridge_self_expression(rows(n, 5), 4.0), predictions(n, 3)
    coef, nu = reference.dense_coefficients(y).abs().numpy(), prediction.numpy()
    affinity = (coef + coef.T) / 2
    sums, counts = np.zeros(3), np.zeros(3, int)
    for i in range(n):
        largest = max(affinity[i, j] for j in range(n) if j != i)
        for j in range(n):
            if i == j:
                continue
            a_s, a_c = affinity[i, j] / largest, nu[i] @ nu[j]
            terms = [
                (a_s > upper, -a_s * np.log(np.clip(a_c, 1e-6, 1))),
                (a_c < lower, -(1 - a_c) * np.log(np.clip(1 - a_s, 1e-6, 1))),
                (a_s < apart, -np.log(np.clip(1 - a_c, 1e-6, 1))),
            ]
            for t, (chosen, term) in enumerate(terms):
                sums[t] += term if chosen else 0
                counts[t] += chosen
    loss = ops.collaborative_loss(prediction, y, upper, lower, apart)
    assert loss[3].tolist() == counts.tolist()
    assert counts.min() > 0
    torch.testing.assert_close(torch.stack(loss[:3]), torch.from_numpy(sums / counts), rtol=1e-12, atol=0)


def test_teachers_are_constants_unless_soft():
    y, prediction = reference.ridge_self_expression(rows(40, 5), 4.0), predictions(40, 3)

    def gradients(term: int, soft: bool):
        leaves = [prediction.clone().requires_grad_(), y.clone().requires_grad_()]
        loss = cpu_ops.collaborative_loss(*leaves, 0.6, 0.7, soft_indicator=soft)
        return [g.any().item() for g in torch.autograd.grad(loss[term], leaves)]

    assert gradients(0, False) == [True, False]  # L_pos teaches the classifier
    assert gradients(1, False) == [False, True]  # L_neg teaches the self-expression
    assert gradients(0, True) == gradients(1, True) == [True, True]


def test_one_cluster_for_all_is_free_of_loss_but_not_of_the_apart_term(ops):
    y = reference.ridge_self_expression(rows(60, 5), 4.0)
    collapsed = torch.zeros(60, 3, dtype=torch.float64)
    collapsed[:, 0] = 1
    loss = ops.collaborative_loss(collapsed, y, 0.6, 0.1, 0.05)
    assert loss[0] == 0
    assert loss[1] == 0
    assert loss[3][1] == 0
    torch.testing.assert_close(loss[2], torch.tensor(-np.log(1e-6)))


def test_no_pairs_no_loss(ops):
    y, prediction = reference.ridge_self_expression(rows(20, 4), 4.0), predictions(20, 3)
    leaf = prediction.clone().requires_grad_()
    loss = ops.collaborative_loss(leaf, y, 2.0, -1.0, 0.0)
    assert loss[3].tolist() == [0, 0, 0]
    assert not torch.stack(loss[:3]).any()
    assert not torch.autograd.grad(sum(loss[:3]), leaf)[0].any()


def test_isolated_row_has_affinity_zero(ops):
    """Its largest affinity is 0: it is apart from all others, and nothing is NaN."""
    y = reference.ridge_self_expression(rows(30, 4), 4.0)
    y[7] = 0
    leaves = [predictions(30, 3).requires_grad_(), y.requires_grad_()]
    loss = ops.collaborative_loss(*leaves, 0.6, 0.7, 1e-12)
    assert loss[3][2] == 58
    for gradient in torch.autograd.grad(sum(loss[:3]), leaves):
        assert gradient.isfinite().all()


def test_laplacian_energy_is_the_quadratic_form_of_the_laplacian(ops):
    """½ Σ W_ij ‖z_i − z_j‖² = tr zᵀ (D − W) z."""
    z, features = rows(80, 6), rows(80, 3, seed=1)
    weight = (-torch.cdist(features, features).square() / 2.0).exp()
    laplacian = torch.diag(weight.sum(1)) - weight
    expected = torch.trace(z.T @ laplacian @ z)
    torch.testing.assert_close(ops.laplacian_energy(z, features, 2.0), expected, rtol=1e-12, atol=0)


def test_laplacian_energy_does_not_see_where_the_rows_lie(ops):
    z, features = rows(150, 6, dtype=torch.float32), rows(150, 3, dtype=torch.float32, seed=1)
    far_z, far_features = z + 3000, features - 3000  # what float32 makes of the rows is moved with them
    leaves = [far_z.clone().requires_grad_(), far_features.clone().requires_grad_()]
    energy = ops.laplacian_energy(*leaves, 2.0)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    truth = reference.laplacian_energy(*exact, 2.0)
    assert (energy - truth).abs() < 1e-6 * truth
    for found, true in zip(
        torch.autograd.grad(energy, leaves), torch.autograd.grad(truth, exact), strict=True
    ):
        assert (found - true).norm() < 1e-5 * true.norm()


def test_info_nce_is_cross_entropy_of_cosines(ops):
    z, g = rows(70, 9), rows(70, 9, seed=1)
    logits = normalize(z, dim=1) @ normalize(g, dim=1).T / 0.07
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(70))
    torch.testing.assert_close(ops.info_nce(z, g, 0.07), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
def test_info_nce_at_extreme_temperatures(ops, temperature):
    """exp(1000) has no place in float32; the row's largest term is taken out first."""
    z, g = rows(90, 9, dtype=torch.float32), rows(90, 9, dtype=torch.float32, seed=1)
    leaf = z.clone().requires_grad_()
    loss = ops.info_nce(leaf, g, temperature)
    exact = z.double().requires_grad_()
    truth = reference.info_nce(exact, g.double(), temperature)
    assert (loss - truth).abs() < 1e-5 * truth
    (found,), (true,) = torch.autograd.grad(loss, leaf), torch.autograd.grad(truth, exact)
    assert (found - true).norm() < 2e-4 * true.norm()


def test_info_nce_of_scaled_rows_and_of_zeros(ops):
    z, g = rows(40, 5), rows(40, 5, seed=1)
    torch.testing.assert_close(
        ops.info_nce(z * rows(40, 1, seed=2).abs(), 7 * g, 0.2), ops.info_nce(z, g, 0.2), rtol=1e-12, atol=0
    )
    for factor in (1e-17, 1e-30, 1e25):
        for dtype, rtol in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
            leaf, large = (z * factor).to(dtype).requires_grad_(), z.clone().requires_grad_()
            loss, truth = ops.info_nce(leaf, g.to(dtype), 0.2), ops.info_nce(large, g, 0.2)
            torch.testing.assert_close(loss.double(), truth, rtol=rtol, atol=0)
            found, true = torch.autograd.grad(loss, leaf)[0], torch.autograd.grad(truth, large)[0]
            assert (found.double() * factor - true).norm() < 10 * rtol * true.norm()
    z[3], g[4] = 0, 0
    leaves = [z.requires_grad_(), g.requires_grad_()]
    loss, truth = ops.info_nce(*leaves, 0.2), reference.info_nce(z.detach(), g.detach(), 0.2)
    torch.testing.assert_close(loss.detach(), truth, rtol=1e-12, atol=0)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, leaves))


def test_nan_spoils_the_sum_it_enters(ops):
    z, g = rows(40, 5), rows(40, 5, seed=1)
    z[11, 2] = float("nan")
    assert ops.info_nce(z, g, 0.2).isnan()
    assert ops.laplacian_energy(z, g, 1.0).isnan()
    assert ops.squared_l12_norm(z).isnan()


def test_squared_l12_norm_of_signs(ops):
    z = torch.tensor([[1.0, -2.0, 0.0], [0.0, 0.0, 0.5]]).requires_grad_()
    norm = ops.squared_l12_norm(z)
    assert norm.item() == 9.25
    assert torch.equal(torch.autograd.grad(norm, z)[0], torch.tensor([[6.0, -6.0, 0.0], [0.0, 0.0, 1.0]]))


def test_batches_are_what_their_elements_are(ops):
    z, g = rows(3, 50, 5), rows(3, 50, 5, seed=1)
    y = torch.stack([reference.ridge_self_expression(z[b], 4.0) for b in range(3)])
    nu = normalize(torch.softmax(2 * rows(3, 50, 4, seed=2), -1), dim=-1)
    losses = {
        "collaborative": lambda z, g, y, nu: sum(ops.collaborative_loss(nu, y, 0.6, 0.7, 0.1)[:3]),
        "laplacian": lambda z, g, y, nu: ops.laplacian_energy(z, g, 3.0),
        "info_nce": lambda z, g, y, nu: ops.info_nce(z, g, 0.2),
        "l12": lambda z, g, y, nu: ops.squared_l12_norm(z),
    }
    for loss in losses.values():
        leaves = [x.clone().requires_grad_() for x in (z, g, y, nu)]
        together = loss(*leaves)
        assert together.shape == (3,)
        gradients = torch.autograd.grad(
            together @ torch.tensor([1.0, 2.0, 3.0]).double(), leaves, allow_unused=True
        )
        for b in range(3):
            alone = [x[b].clone().requires_grad_() for x in (z, g, y, nu)]
            value = loss(*alone)
            torch.testing.assert_close(together[b], value, rtol=1e-12, atol=0)
            for whole, one in zip(
                gradients, torch.autograd.grad((b + 1) * value, alone, allow_unused=True), strict=True
            ):
                assert (whole is None) == (one is None)
                if one is not None:
                    torch.testing.assert_close(whole[b], one, rtol=1e-11, atol=1e-12)


MEMORY = """
n, p = 50_000, 8
z = torch.randn(n, p)
labels = weight = torch.nn.functional.normalize(torch.rand(n, 4), dim=1)
from desc_ext.ops import ridge_self_expression
def gradient(f, *leaves):
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    return torch.autograd.grad(f(*leaves), leaves)
"""


@pytest.mark.parametrize(
    "call",
    [
        "gradient(lambda z, v: sum(ops.collaborative_loss(v, ridge_self_expression(z, 8.0), 0.7, 0.1)[:2]), z, labels)",
        "gradient(lambda z, t: ops.laplacian_energy(z, t, 8.0), z, labels)",
        "gradient(lambda z, g: ops.info_nce(z, g, 0.1), z, z)",
    ],
    ids=["collaborative_loss", "laplacian_energy", "info_nce"],
)
def test_memory_does_not_grow_with_pairs(call):
    """Forward and backward; n × n numbers would be 10 GB."""
    assert extra_memory(MEMORY, call, "0") < 80 * 2**20


Z = torch.ones(4, 3)
WRONG = {
    "prediction": (lambda: cpu_ops.collaborative_loss(Z[:3], Z, 0.7, 0.1), ValueError, r"prediction must be \[4, any\] to go with y \[4, 3\], got shape \[3, 3\]"),
    "threshold": (lambda: cpu_ops.collaborative_loss(Z, Z, float("nan"), 0.1), ValueError, "upper must be finite, got nan"),
    "row_max": (lambda: cpu_ops.collaborative_loss(Z, Z, 0.7, 0.1, row_max=Z), ValueError, r"row_max must be \[4\]"),
    "features": (lambda: cpu_ops.laplacian_energy(Z, Z[:2], 1.0), ValueError, r"features must be \[4, any\]"),
    "bandwidth": (lambda: cpu_ops.laplacian_energy(Z, Z, 0.0), ValueError, "bandwidth must be finite and > 0, got 0"),
    "g": (lambda: cpu_ops.info_nce(Z, Z[:, :2], 1.0), ValueError, r"g must be \[4, 3\] to go with z"),
    "temperature": (lambda: cpu_ops.info_nce(Z, Z, -1.0), ValueError, "temperature must be finite and > 0, got -1"),
    "mixed": (lambda: cpu_ops.info_nce(Z, Z.double(), 1.0), TypeError, "g is torch.float64 and z torch.float32"),
    "rank": (lambda: cpu_ops.squared_l12_norm(Z[0]), ValueError, r"z must be \[n, p\] or \[b, n, p\]"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_errors(what):
    call, kind, message = WRONG[what]
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda op: op.info_nce(Z[None], Z[None, :2], 1.0), "g has shape"),
        (lambda op: op.laplacian_energy(Z[None], Z[None], 0.0), "bandwidth must be finite and positive"),
        (lambda op: op.collaborative_loss(Z[None], Z[None], Z[None, :, 0].double(), 1.0, 1.0, 0.0, False), "row_max"),
    ],
)  # fmt: skip
def test_direct_calls_are_guarded(call, message):
    with pytest.raises(RuntimeError, match=message):
        call(torch.ops.desc_ext)
