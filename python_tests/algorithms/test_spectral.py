"""Eigenvectors of graphs that fall into parts, clusters of rows that repeat, solvers that do not converge."""

from __future__ import annotations

import time

import desc_ext  # isort: skip  (before torch)

import numpy as np
import pytest
import torch
from scipy import linalg, sparse
from scipy.sparse.linalg import ArpackNoConvergence
from sklearn.cluster import SpectralClustering
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning

from desc_ext.algorithms import spectral
from desc_ext.algorithms.distinct import distinct_rows
from desc_ext.algorithms.spectral import leading_eigenvectors
from desc_ext.metrics import clustering_scores
from desc_ext.models import LRSC, DSCNet, SelfExpressiveClustering

SIZES = (400, 350, 60, 40, 25)


def graph(sizes, seed=0, n_alone=0):
    """A random sparse graph of connected components of these sizes, its rows shuffled, and rows without any edge."""
    random = np.random.default_rng(seed)
    blocks = []
    for n in sizes:
        block = sparse.random_array((n, n), density=min(8 / n, 0.5), rng=random).tolil()
        block[np.arange(n - 1), np.arange(1, n)] = 1.0  # a path through all of them
        blocks.append(block)
    whole = sparse.block_diag([*blocks, *[np.zeros((1, 1))] * n_alone], format="csr")
    whole.setdiag(0)
    whole.eliminate_zeros()
    order = random.permutation(whole.shape[0])
    return sparse.csr_array(whole + whole.T)[order][:, order]


def normalised(affinity):
    degree = affinity.sum(1)
    roots = np.divide(1, np.sqrt(degree), out=np.zeros(len(degree)), where=degree > 0)
    return affinity.toarray() * roots[:, None] * roots


@pytest.mark.parametrize("solver", ["arpack", "lobpcg", "chebyshev"])
@pytest.mark.parametrize(("n_components", "n_alone"), [(3, 0), (5, 0), (9, 0), (9, 2)])
def test_multiple_eigenvalues_are_all_there(solver, n_components, n_alone):
    affinity = graph(SIZES, n_alone=n_alone)
    matrix = normalised(affinity)
    values, vectors = leading_eigenvectors(affinity, n_components, solver, 0)
    expected = linalg.eigh(matrix, eigvals_only=True)[::-1][:n_components]
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert (np.abs(values - 1) < 1e-9).sum() == min(len(SIZES), n_components)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(n_components), atol=1e-6)
    assert np.abs(matrix @ vectors - values * vectors).max() < 1e-5
    # the first are D^(1/2) on the components, larger ones first
    degree = affinity.sum(1)
    _, component = sparse.csgraph.connected_components(affinity)
    for column, rows in enumerate(
        sorted((np.flatnonzero(component == k) for k in set(component)), key=len)[::-1][:3]
    ):
        expected = np.zeros(len(degree))
        expected[rows] = np.sqrt(degree[rows] / degree[rows].sum())
        np.testing.assert_allclose(vectors[:, column], expected, atol=1e-12)


def test_components_of_a_dense_affinity():
    affinity = graph(SIZES).toarray()
    values, _ = leading_eigenvectors(affinity, 7, "arpack", 0)
    np.testing.assert_allclose(
        values, linalg.eigh(normalised(sparse.csr_array(affinity)), eigvals_only=True)[::-1][:7]
    )
    expected, _ = leading_eigenvectors(sparse.csr_array(affinity), 7, "arpack", 0)
    np.testing.assert_allclose(values, expected)


def test_a_multiple_eigenvalue_of_a_connected_graph_by_another_solver(monkeypatch):
    """What ARPACK does not find is decomposed densely, or by LOBPCG, with a word."""

    def fail(*args, **options):
        raise ArpackNoConvergence("ARPACK error -1: No convergence", np.empty(0), np.empty((0, 0)))

    monkeypatch.setattr(spectral, "eigsh", fail)
    affinity = graph((700,))
    expected = linalg.eigh(normalised(affinity), eigvals_only=True)[::-1][:4]
    with pytest.warns(ConvergenceWarning, match="ARPACK.*No convergence.*dense decomposition") as warned:
        values, _ = leading_eigenvectors(affinity, 4, "arpack", 0)
    assert warned[0].filename == __file__
    np.testing.assert_allclose(values, expected, atol=1e-12)
    monkeypatch.setattr(spectral, "_MOST_DENSE_ROWS", 600)
    with pytest.warns(ConvergenceWarning, match="LOBPCG"):
        values, _ = leading_eigenvectors(affinity, 4, "arpack", 0)
    np.testing.assert_allclose(values, expected, atol=1e-4)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_copies_in_the_graph_end_in_time():
    """The graph of rows that all come four times, on which ARPACK does not converge."""
    X = np.repeat(blobs()[0], 15, axis=0)
    z = torch.from_numpy(X / np.linalg.norm(X, axis=1, keepdims=True))
    affinity = desc_ext.algorithms.self_expression.ridge_affinity(z, 1.0, 5, 3)
    started = time.perf_counter()
    values, _ = leading_eigenvectors(affinity, 4, "arpack", 0)
    assert time.perf_counter() - started < 20
    np.testing.assert_allclose(
        values, linalg.eigh(normalised(affinity), eigvals_only=True)[::-1][:4], atol=1e-6
    )


def test_ten_subspaces_that_never_meet():
    """The graph has ten components; ARPACK alone found the eigenvalue 1 four or five times."""
    random = np.random.default_rng(0)
    bases = [np.linalg.qr(random.normal(size=(60, 4)))[0] for _ in range(10)]
    X = np.concatenate([random.normal(size=(100, 4)) @ basis.T for basis in bases])
    y = np.repeat(np.arange(10), 100)
    model = SelfExpressiveClustering(10, dtype="float64", random_state=0).fit(X)
    peer = SpectralClustering(10, affinity="precomputed", assign_labels="kmeans", random_state=0)
    assert clustering_scores(y, peer.fit_predict(model.affinity_matrix_.toarray()))["acc"] == 1
    assert clustering_scores(y, model.labels_)["acc"] == 1
    expected = linalg.eigh(normalised(model.affinity_matrix_), eigvals_only=True)[::-1][:20]
    np.testing.assert_allclose(model.eigenvalues_, expected, atol=1e-9)
    assert clustering_scores(y, model.predict(X))["acc"] == 1


# ---------------------------------------------------------------------- rows that repeat


def blobs():
    return make_blobs(120, 8, centers=3, random_state=0)


@pytest.mark.parametrize("times", [2, 3, 4, 8, 15])
def test_copies_change_no_cluster(times):
    X, y = blobs()
    single = SelfExpressiveClustering(3, random_state=0).fit(X)
    started = time.perf_counter()
    model = SelfExpressiveClustering(3, random_state=0).fit(np.repeat(X, times, axis=0))
    assert time.perf_counter() - started < 5
    labels = np.repeat(y, times)
    assert clustering_scores(labels, model.labels_)["acc"] == clustering_scores(y, single.labels_)["acc"] == 1
    np.testing.assert_allclose(model.eigenvalues_, 1 - (1 - single.eigenvalues_) / times, atol=1e-6)
    np.testing.assert_allclose(model.embedding_[::times], single.embedding_, atol=1e-3)
    new = X + 0.3 * np.random.default_rng(1).normal(size=X.shape)
    np.testing.assert_allclose(model.transform(new), single.transform(new), atol=1e-3)
    assert model.history_[-1]["cluster_sizes"] == np.bincount(model.labels_).tolist()
    assert model.affinity_matrix_.shape == (120 * times, 120 * times)
    first = model.affinity_matrix_[::times][:, ::times]
    assert first.nnz == model.affinity_matrix_.nnz
    first.setdiag(0)
    np.testing.assert_allclose(first.toarray(), single.affinity_matrix_.toarray(), atol=1e-6)
    rows = [0, 1, times, 5 * times + 1]
    expected = single.dense_affinity([0, 1, 5])
    np.testing.assert_allclose(model.dense_affinity(rows)[np.ix_([0, 2, 3], [0, 2, 3])], expected, atol=1e-6)


def test_copies_after_saving(tmp_path):
    X, y = blobs()
    X = np.concatenate([X, X[::2], X[:10]])
    model = SelfExpressiveClustering(3, random_state=0).fit(X)
    assert clustering_scores(np.concatenate([y, y[::2], y[:10]]), model.labels_)["acc"] == 1
    model.save(tmp_path)
    again = SelfExpressiveClustering.load(tmp_path)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    np.testing.assert_array_equal(again.dense_affinity([0, 120, 5]), model.dense_affinity([0, 120, 5]))


def test_a_cluster_of_one_repeated_row():
    X, y = blobs()
    X[y == 2] = X[y == 2][0]
    model = SelfExpressiveClustering(3, random_state=0).fit(X)
    assert clustering_scores(y, model.labels_)["acc"] == 1


@pytest.mark.parametrize("options", [{}, {"self_expression": "closed-form"}, {"preset": "paper"}])
@pytest.mark.parametrize("method", [DSCNet, LRSC])
def test_copies_in_deep_methods(method, options):
    X, y = blobs()
    small = {"hidden_sizes": (), "latent_dim": 8, "pretrain_epochs": 1, "max_steps": 1, "scaling": "none"}
    model = method(3, random_state=0, **small, **options).fit(np.repeat(X, 8, axis=0))
    np.testing.assert_array_equal(model.labels_, np.repeat(model.labels_[::8], 8))
    assert model.affinity_matrix_.shape == (960, 960)
    if options.get("preset") != "paper":
        assert clustering_scores(np.repeat(y, 8), model.labels_)["acc"] > 0.95


def test_fewer_distinct_rows_than_clusters():
    X = np.repeat(np.eye(3), 5, axis=0)
    assert len(set(SelfExpressiveClustering(3, random_state=0).fit(X).labels_)) == 3
    with pytest.raises(ValueError, match=r"3 distinct rows.*n_clusters=4"):
        SelfExpressiveClustering(4).fit(X)
    line = np.linspace(1, 2, 30)[:, None]
    one = SelfExpressiveClustering(1).fit(line)
    assert not one.labels_.any()
    assert np.isfinite(one.transform(line)).all()
    with pytest.raises(
        ValueError, match=r"1 distinct rows .*unit_rows=True, but n_clusters=2.*unit_rows=False"
    ):
        SelfExpressiveClustering(2).fit(line)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distinct_rows_as_numpy_finds_them(dtype):
    random = np.random.default_rng(0)
    rows = random.integers(-3, 3, size=(20_000, 5)).astype(float)
    rows[rows == 0] *= random.choice([-1.0, 1.0], size=(rows == 0).sum())  # 0 and −0
    found = distinct_rows(torch.from_numpy(rows).to(dtype))
    expected, first, number, counts = np.unique(
        rows + 0.0, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(first)
    np.testing.assert_array_equal(found.first, first[order])
    np.testing.assert_array_equal(found.counts, counts[order])
    np.testing.assert_array_equal(rows[found.first][found.number], expected[number.ravel()])


def test_rows_whose_hashes_agree(monkeypatch):
    from desc_ext.algorithms import distinct

    monkeypatch.setattr(distinct, "row_hashes", lambda array: np.zeros(len(array), dtype=np.uint64))
    found = distinct_rows(torch.tensor([[1.0, 2], [3, 4], [1, 2], [0, 0], [-0.0, 0]]))
    np.testing.assert_array_equal(found.first, [0, 1, 3])
    np.testing.assert_array_equal(found.number, [0, 1, 0, 2, 2])
