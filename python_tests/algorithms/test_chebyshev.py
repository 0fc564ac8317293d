"""Eigenvectors by Chebyshev-filtered subspace iteration against NumPy's dense decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.subspaces import planted
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from desc_ext.algorithms import chebyshev, self_expression
from desc_ext.algorithms.chebyshev import block_width, chebyshev_eigenpairs
from desc_ext.algorithms.spectral import leading_eigenvectors
from desc_ext.models import SelfExpressiveClustering

CPU = torch.device("cpu")


def normalised_graph(n, n_clusters=1, seed=0):
    """D^(-1/2) W D^(-1/2) of a random graph whose rows have a tenth of their edges out of their cluster."""
    random = np.random.default_rng(seed)
    cluster = random.integers(n_clusters, size=n)
    weight = random.random((n, n)) * (random.random((n, n)) < 12 / n)
    weight = np.where(cluster[:, None] == cluster, n_clusters * weight, 0.01 * weight)
    weight[np.arange(n - 1), np.arange(1, n)] += 0.1  # a path through all of them
    weight = weight + weight.T
    root = 1 / np.sqrt(weight.sum(1))
    return weight * root[:, None] * root


def found(matrix, m, seed=0):
    start = np.random.default_rng(seed).normal(size=(len(matrix), block_width(m)))
    return chebyshev_eigenpairs(sparse.csr_array(matrix), start, m, CPU)


@pytest.mark.parametrize(("n", "n_clusters", "m"), [(500, 1, 3), (900, 5, 10), (1500, 12, 24)])
@pytest.mark.parametrize("block", [2**15, 130])
def test_eigenpairs_are_numpys(n, n_clusters, m, block, monkeypatch):
    monkeypatch.setattr(chebyshev, "_BLOCK_ROWS", block)
    matrix = normalised_graph(n, n_clusters)
    values, vectors = found(matrix, m)
    expected, basis = np.linalg.eigh(matrix)
    np.testing.assert_allclose(values, expected[: -m - 1 : -1], atol=1e-6)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(m), atol=1e-12)
    assert np.linalg.norm(matrix @ vectors - vectors * values, axis=0).max() < 1e-4
    # where a gap follows, the span is that of NumPy's
    k = n_clusters
    overlap = np.linalg.svd(vectors[:, :k].T @ basis[:, : -k - 1 : -1], compute_uv=False)
    np.testing.assert_allclose(overlap, 1, atol=1e-5)


def test_the_bound_is_one_of_all_eigenvalues():
    for seed in range(5):
        matrix = normalised_graph(300, 3, seed)
        smallest = np.linalg.eigvalsh(matrix)[0]
        low = chebyshev._smallest_eigenvalue(
            sparse.csr_array(matrix), np.random.default_rng(seed).normal(size=300)
        )
        assert smallest - 0.2 < low <= smallest + 1e-3


def test_a_graph_of_two_sides():
    """Its smallest eigenvalue is −1: as far from the middle as the largest."""
    edges = (np.random.default_rng(0).random((200, 250)) < 0.05).astype(float)
    edges[:, 0] = edges[0] = 1
    weight = np.block([[np.zeros((200, 200)), edges], [edges.T, np.zeros((250, 250))]])
    root = 1 / np.sqrt(weight.sum(1))
    matrix = weight * root[:, None] * root
    values, _ = found(matrix, 4)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[:-5:-1], atol=1e-6)


@pytest.mark.bits
def test_the_same_bits_for_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(chebyshev, "_BLOCK_ROWS", 256)
    matrix, results, before = normalised_graph(1500, 4), [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(leading_eigenvectors(sparse.csr_array(matrix), 8, "chebyshev", 0))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0][0], other[0])
        np.testing.assert_array_equal(results[0][1], other[1])


def test_what_is_not_reached_is_told(monkeypatch):
    monkeypatch.setattr(chebyshev, "_MOST_ROUNDS", 1)
    with pytest.warns(ConvergenceWarning, match=r"known to a residual of .* after 1 rounds, not to 0\.0001"):
        found(normalised_graph(900), 10)


def test_many_rows_take_it_where_no_one_says(monkeypatch):
    X, _, _ = planted(n=800)
    few = SelfExpressiveClustering(4, random_state=0).fit(X)
    assert few.resolved_params_["eigen_solver"] == "arpack"
    monkeypatch.setattr(self_expression, "_BLOCK_SOLVER_ROWS", 800)
    many = SelfExpressiveClustering(4, random_state=0).fit(X)
    assert many.resolved_params_["eigen_solver"] == "chebyshev"
    assert SelfExpressiveClustering(4, random_state=0).fit(X[1:]).resolved_params_["eigen_solver"] == "arpack"
    np.testing.assert_allclose(many.eigenvalues_, few.eigenvalues_, atol=1e-6)
