"""Orthogonal matching pursuit, elastic nets and low-rank representation of rows, beside scikit-learn and plain NumPy."""

from __future__ import annotations

import desc_ext  # noqa: F401  isort: skip  (before torch)

import numpy as np
import pytest
import torch
from helpers.peak_memory import extra_memory
from helpers.subspaces import planted
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet, orthogonal_mp
from sklearn.preprocessing import normalize

from desc_ext.algorithms.expression import (
    elastic_net,
    elastic_net_coefficients,
    low_rank_coefficients,
    low_rank_factor,
    matching_pursuit,
    orthogonal_matching_pursuit,
    rows,
)

FUNCTIONS = {
    "orthogonal_matching_pursuit": lambda z: orthogonal_matching_pursuit(z, 4),
    "elastic_net_coefficients": lambda z: elastic_net_coefficients(z, 4, weight=5.0),
    "low_rank_coefficients": lambda z: low_rank_coefficients(z, 4, 1.0),
}


def digits(n):
    return normalize(load_digits().data[:n])


def gaussian(n=80, p=30, seed=0):
    return normalize(np.random.default_rng(seed).normal(size=(n, p)))


def dense(found, n):
    """C [n, n], in which an index may stand more than once only with the value 0."""
    indices, values = (part.numpy() for part in found)
    for row, index, value in zip(range(n), indices, values, strict=True):
        used = index[value != 0]
        assert len(set(used)) == len(used)
        assert row not in used
        assert (index[value == 0] == row).all()
    C = np.zeros((n, n))
    np.put_along_axis(C, indices, values.astype(np.float64), 1)
    return C


def others(Z, i):
    """All rows but row i, as columns."""
    return np.delete(Z, i, axis=0).T


# ---------------------------------------------------------------------- orthogonal matching pursuit


@pytest.mark.parametrize("Z", [gaussian(), 3 * gaussian(40, 60), digits(150)], ids=["tall", "wide", "digits"])
@pytest.mark.parametrize("tile", [256, 7])
def test_pursuit_is_that_of_scikit_learn(Z, tile, monkeypatch):
    monkeypatch.setattr(matching_pursuit, "_MOST_ROWS", tile)
    C = dense(orthogonal_matching_pursuit(torch.from_numpy(Z), 6), len(Z))
    for i in range(len(Z)):
        expected = orthogonal_mp(others(Z, i), Z[i], n_nonzero_coefs=6)
        np.testing.assert_allclose(np.delete(C[i], i), expected, atol=1e-10)


def test_pursuit_chooses_the_largest_product_whatever_the_lengths():
    """As the algorithm stands; scikit-learn's would see no difference, its columns are taken as they are too."""
    Z = gaussian(60, 20) * np.random.default_rng(1).uniform(0.5, 2, size=(60, 1))
    first = orthogonal_matching_pursuit(torch.from_numpy(Z), 1)[0][:, 0].numpy()
    products = np.abs(Z @ Z.T)
    np.fill_diagonal(products, -1)
    np.testing.assert_array_equal(first, products.argmax(1))


def test_pursuit_ends_where_the_residual_is_small():
    Z = digits(200)
    indices, values = orthogonal_matching_pursuit(torch.from_numpy(Z), 12, tolerance=0.25)
    C = dense((indices, values), len(Z))
    residual = np.linalg.norm(Z - C @ Z, axis=1)
    used = (values != 0).sum(1).numpy()
    assert len(set(used)) > 3
    assert (residual[used < 12] <= 0.25).all()
    for i in range(0, 200, 10):
        before = (
            orthogonal_mp(others(Z, i), Z[i], n_nonzero_coefs=int(used[i]) - 1)
            if used[i] > 1
            else 0 * C[0, 1:]
        )
        assert np.linalg.norm(Z[i] - others(Z, i) @ before) > 0.25


def test_pursuit_keeps_to_the_subspace_of_a_row():
    X, y, _ = planted(300, noise=0.0)
    X = np.pad(normalize(X), ((0, 0), (0, 1)))
    X[0, -1] = 0.5  # what no other row has
    indices, values = orthogonal_matching_pursuit(torch.from_numpy(X), 8, tolerance=0)
    used = (values != 0).sum(1)
    assert used[0] == 3  # three rows span the subspace, the rest depends on them
    assert used[1:].max() <= 4  # with row 0 it has one direction more
    foreign = (y[indices.numpy()] != y[:, None]) & (values.numpy() != 0)
    assert not foreign.any()
    expected = X.copy()
    expected[0, -1] = 0
    np.testing.assert_allclose((dense((indices, values), 300) @ X)[:, :-1], expected[:, :-1], atol=1e-6)


# ---------------------------------------------------------------------- elastic net


def objective(Z, i, c, share, gamma):
    residual = Z[i] - others(Z, i) @ c
    return share * np.abs(c).sum() + (1 - share) / 2 * c @ c + gamma / 2 * residual @ residual


def smallest_gamma(Z, i, share):
    return share / np.abs(others(Z, i).T @ Z[i]).max()


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("weight", [5.0, 50.0])
@pytest.mark.parametrize("Z", [gaussian(90, 20), 2 * digits(260)], ids=["random", "digits"])
def test_the_elastic_net_is_that_of_scikit_learn(Z, weight, share):
    n, p = Z.shape
    C = dense(elastic_net_coefficients(torch.from_numpy(Z), n - 1, share, weight), n)
    for i in range(0, n, 9):
        gamma = weight * smallest_gamma(Z, i, share)
        # scikit-learn's objective is ours divided by γ p
        other = ElasticNet(
            alpha=1 / (gamma * p), l1_ratio=share, fit_intercept=False, tol=1e-12, max_iter=10**6
        )
        expected = other.fit(others(Z, i), Z[i]).coef_
        c = np.delete(C[i], i)
        best = objective(Z, i, expected, share, gamma)
        assert objective(Z, i, c, share, gamma) <= best * (1 + 1e-6)
        np.testing.assert_allclose(c, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_elastic_net_meets_the_optimality_conditions(dtype):
    """−λ ≤ z_j·δ ≤ λ where c_j = 0; elsewhere (1 − λ) c_j = z_j·δ − λ sign c_j, δ = γ (z_i − Σ c_j z_j)."""
    Z, share, weight = digits(700), 0.9, 50.0
    C = dense(elastic_net_coefficients(torch.from_numpy(Z).to(dtype), 699, share, weight), 700)
    assert 5 < (C != 0).sum(1).mean() < 40
    for i in range(700):
        c = np.delete(C[i], i)
        product = others(Z, i).T @ (weight * smallest_gamma(Z, i, share) * (Z[i] - others(Z, i) @ c))
        assert np.abs(product[c == 0]).max() <= share * (1 + 2e-4)
        used = c != 0
        slope = (1 - share) * c[used] - product[used] + share * np.sign(c[used])
        np.testing.assert_allclose(slope, 0, atol=1e-4 if dtype == torch.float32 else 1e-7)


def test_the_largest_coefficients_are_kept():
    Z = torch.from_numpy(digits(300))
    C = dense(elastic_net_coefficients(Z, 299), 300)
    indices, values = elastic_net_coefficients(Z, 5)
    expected = -np.sort(-np.abs(C), axis=1)[:, :5]
    np.testing.assert_array_equal(values.abs().numpy(), expected)
    np.testing.assert_array_equal(np.take_along_axis(C, indices.numpy(), 1), values.numpy())


def test_rounds_that_do_not_settle_are_said(monkeypatch):
    monkeypatch.setattr(elastic_net, "_MOST_ROUNDS", 1)
    monkeypatch.setattr(elastic_net, "_FIRST", 4)
    with pytest.warns(ConvergenceWarning, match="coefficients of \\d+ rows were not settled after 1 rounds"):
        _, values = elastic_net_coefficients(torch.from_numpy(digits(60)), 10)
    assert (values != 0).any(1).all()


# ---------------------------------------------------------------------- low rank


def numpy_low_rank(Z, threshold):
    """C of theorem 1 from the singular value decomposition."""
    V, s, _ = np.linalg.svd(Z, full_matrices=False)
    kept = s**2 > threshold
    return (V[:, kept] * (1 - threshold / s[kept] ** 2)) @ V[:, kept].T


def by_proximal_steps(Z, fidelity, n_steps=3000):
    """The minimiser of ‖C‖_* + λ/2 ‖Z − C Z‖² by steps against the gradient and soft thresholds of singular values."""
    C = np.zeros((len(Z), len(Z)))
    length = 1 / (fidelity * np.linalg.norm(Z @ Z.T, 2))
    for _ in range(n_steps):
        U, s, W = np.linalg.svd(C - length * fidelity * (C @ Z - Z) @ Z.T)
        C = (U * np.maximum(s - length, 0)) @ W
    return C


@pytest.mark.parametrize("shape", [(25, 8), (10, 14)])
def test_the_low_rank_form_minimises_its_objective(shape):
    Z = np.random.default_rng(3).normal(size=shape)
    y = low_rank_factor(torch.from_numpy(Z), 20.0).numpy()
    assert 0 < y.shape[1] < min(shape)
    np.testing.assert_allclose(y @ y.T, by_proximal_steps(Z, 1 / 20.0), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(300, 40), (50, 90)])
def test_the_largest_low_rank_coefficients(shape, dtype):
    Z = np.random.default_rng(0).normal(size=shape)
    Z[0] *= 1e4  # all but alone in its direction: C_00 is 1 within rounding
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    expected = numpy_low_rank(Z.astype(np.float32) if dtype == torch.float32 else Z, 10.0)
    found = low_rank_coefficients(torch.from_numpy(Z).to(dtype), 6, 10.0)
    np.fill_diagonal(expected, 0)
    C = dense(found, len(Z))
    np.testing.assert_allclose(C[C != 0], expected[C != 0], atol=tolerance)
    np.testing.assert_allclose(
        -np.sort(-np.abs(C), axis=1)[:, :6], -np.sort(-np.abs(expected), axis=1)[:, :6], atol=tolerance
    )


def test_nothing_passes_a_high_threshold():
    Z = torch.from_numpy(gaussian())
    assert low_rank_factor(Z, 1e6).shape == (80, 0)
    _, values = low_rank_coefficients(Z, 3, 1e6)
    assert values.shape == (80, 3)
    assert not values.any()


# ---------------------------------------------------------------------- all


@pytest.mark.bits
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_bits_for_any_number_of_threads(name, dtype, monkeypatch):
    monkeypatch.setattr(rows, "_TILE_VALUES", 200 * 40)
    Z = torch.from_numpy(gaussian(200, 130)).to(dtype)
    n_threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.append(FUNCTIONS[name](Z))
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(n_threads)
    for other in found[1:]:
        assert torch.equal(other[0], found[0][0])
        assert torch.equal(other[1], found[0][1])
    assert (found[0][0].dtype, found[0][1].dtype) == (torch.int64, dtype)


@pytest.mark.parametrize(
    "call",
    [
        "orthogonal_matching_pursuit(z, 3)",
        "elastic_net_coefficients(z, 3, weight=2.0)",
        "low_rank_coefficients(z, 3)",
    ],
)
def test_no_square_array_is_stored(call):
    setup = """
from desc_ext.algorithms.expression import *
n, labels, weight = 8000, torch.zeros(8000), torch.zeros(8000)
z = torch.nn.functional.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(0)))
"""
    square = 8000**2 * 4
    assert extra_memory(setup, call, "n * 3 * 12") < square / 4


@pytest.mark.parametrize("name", FUNCTIONS)
def test_copies_and_rows_of_zeros(name):
    """A copy is expressed by its like, a row of zeros by nothing, and by it nothing."""
    Z = gaussian(40, 60)
    Z[7], Z[3], Z[30] = Z[21], 0, 0
    indices, values = FUNCTIONS[name](torch.from_numpy(Z))
    C = np.zeros((40, 40))
    np.put_along_axis(C, indices.numpy(), values.numpy(), 1)
    assert np.isfinite(C).all()
    np.testing.assert_allclose(C[[3, 30]], 0, atol=1e-12)
    np.testing.assert_allclose(C[:, [3, 30]], 0, atol=1e-12)
    assert (np.abs(C[7]).argmax(), np.abs(C[21]).argmax()) == (21, 7)
    if name == "orthogonal_matching_pursuit":
        assert C[7, 21] == pytest.approx(1)
        assert np.abs(C[7]).sum() == pytest.approx(1)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_few_rows_and_no_rows_beside_them(name):
    Z = torch.tensor([[1.0, 0.0], [0.8, 0.6]] * 3)[:5]
    for part in (Z, 1e-20 * Z.double()):
        indices, values = FUNCTIONS[name](part)
        assert values.isfinite().all()
        assert ((indices >= 0) & (indices < 5)).all()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        (np.eye(9), TypeError, "z must be a torch.Tensor \\[n, p\\], got ndarray"),
        (torch.zeros(9), ValueError, "z must be \\[n, p\\], got shape \\[9\\]"),
        (torch.eye(9).half(), TypeError, "z must be float32 or float64, got torch.float16; convert"),
        (torch.eye(9)[:1], ValueError, "z must have 2 rows at least, .* got shape \\[1, 9\\]"),
        (
            torch.eye(9).masked_fill(torch.eye(9) > 0, torch.nan),
            ValueError,
            "NaN or infinity in row 0; remove",
        ),
        (torch.eye(3), ValueError, "must be an integer between 1 and n - 1 = 2, got 4"),
    ],
)
def test_bad_rows_are_refused(name, z, error, message):
    with pytest.raises(error, match=message):
        FUNCTIONS[name](z)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda z: orthogonal_matching_pursuit(z, 0),
            "orthogonal_matching_pursuit: n_nonzero must be an integer",
        ),
        (
            lambda z: orthogonal_matching_pursuit(z, 2.5),
            "n_nonzero must be an integer between 1 and n - 1 = 5",
        ),
        (lambda z: orthogonal_matching_pursuit(z, 2, -1.0), "tolerance must be finite and >= 0, got -1.0"),
        (lambda z: elastic_net_coefficients(z, 6), "elastic_net_coefficients: k must be an integer between"),
        (lambda z: elastic_net_coefficients(z, 2, 1.0), "l1_share must be above 0 and below 1, got 1.0"),
        (lambda z: elastic_net_coefficients(z, 2, 0.0), "l1_share must be .* ops.ridge_self_expression"),
        (lambda z: elastic_net_coefficients(z, 2, 0.9, 1.0), "weight must be finite and > 1, got 1.0"),
        (lambda z: elastic_net_coefficients(z, 2, tolerance=np.nan), "tolerance must be finite"),
        (lambda z: low_rank_factor(z, 0.0), "low_rank_factor: threshold must be finite and > 0, got 0.0"),
        (lambda z: low_rank_coefficients(z, True, 1.0), "low_rank_coefficients: k must be an integer"),
    ],
)
def test_bad_options_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.eye(6))
