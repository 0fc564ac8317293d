"""Codes smoothed by the graph against the formula in NumPy (float64), and which clusters they refine."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.datasets import make_circles
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import kneighbors_graph

from desc_ext.algorithms.smoothed_codes import normalised_cut, refined_clusters, smoothed_codes


def random_graph(n: int = 30) -> np.ndarray:
    rng = np.random.default_rng(0)
    w = rng.random((n, n)) * (rng.random((n, n)) < 0.2)
    return w + w.T


def neighbours_graph(rows: np.ndarray, k: int = 8) -> sparse.csr_array:
    graph = sparse.csr_array(kneighbors_graph(rows, k))
    return graph.maximum(graph.T)


def blobs(n_each: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Rows round the corners of a square, and their corners."""
    rng = np.random.default_rng(0)
    corners = np.array([[1.0, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]])
    labels = np.repeat(np.arange(4), n_each)
    return corners[labels] + 0.15 * rng.standard_normal((4 * n_each, 3)), labels


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("weighted", [False, True])
def test_two_steps_of_the_random_walk(kind, weighted):
    """P²(z − mean), centred, at unit length; a row without affinity keeps its code."""
    w, rng = random_graph(), np.random.default_rng(1)
    w[7] = w[:, 7] = 0
    z, counts = rng.standard_normal((30, 5)).astype(np.float32), rng.integers(1, 4, 30).astype(float)
    counts = counts if weighted else np.ones(30)
    p = w / np.where(w.sum(1) > 0, w.sum(1), 1)[:, None]
    p[7, 7] = 1
    rows = z.astype(np.float64)
    rows -= counts @ rows / counts.sum()
    rows = p @ p @ rows
    rows -= counts @ rows / counts.sum()
    rows /= np.sqrt((rows * rows).sum(1, keepdims=True))
    found = smoothed_codes(kind(w), z, counts if weighted else None)
    np.testing.assert_allclose(found.embedding, rows, rtol=1e-9, atol=1e-12)
    # a new row whose step in the walk is that of row 3
    new = p[3] @ found.extension
    np.testing.assert_allclose(new / np.linalg.norm(new), rows[3], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("factor", [2.0**-400, 2.0**-60, 2.0**600])
def test_codes_of_any_length_have_the_same_directions(factor):
    """P²(z − mean) is linear in z, so its direction does not depend on a common factor, and the extension stays a number of
    float32.
    """
    w, z = random_graph(), np.random.default_rng(1).standard_normal((30, 5))
    found, expected = smoothed_codes(w, factor * z), smoothed_codes(w, z)
    np.testing.assert_array_equal(found.embedding, expected.embedding)
    np.testing.assert_allclose(np.linalg.norm(found.embedding, axis=1), 1)
    np.testing.assert_array_equal(found.extension.astype(np.float32), expected.extension.astype(np.float32))


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array])
def test_normalised_cut_is_a_sum_over_pairs(kind):
    w, labels = random_graph(), np.arange(30) % 4
    labels[labels == 1] = 0  # a cluster without rows cuts nothing
    expected = 0.0
    for k in (0, 2, 3):
        pairs = [(i, j) for i in range(30) for j in range(30) if labels[i] == k]
        cut = sum(w[i, j] for i, j in pairs if labels[j] != k)
        expected += cut / sum(w[i, j] for i, j in pairs)
    assert normalised_cut(kind(w), labels) == pytest.approx(expected, rel=1e-12)


def test_round_clusters_are_refined():
    """Rows that the given clusters have in the wrong place come to their own."""
    z, truth = blobs()
    labels = truth.copy()
    labels[::9] = (labels[::9] + 1) % 4
    found = refined_clusters(neighbours_graph(z), z, labels, 4, 5, 0)
    assert found.dtype == np.int64
    assert adjusted_rand_score(truth, found) == 1


def test_runs_of_their_own_leave_a_local_minimum():
    """k-means begun at two joined blobs and a halved one stays there; of two results the smaller inertia counts."""
    z, truth = blobs()
    labels = np.where(truth == 1, 0, truth)
    labels[(truth == 3) & (z[:, 2] > 0)] = 1
    labels[100:150:25] = 3
    graph = neighbours_graph(z)
    codes = smoothed_codes(graph, z).embedding
    means = np.array([codes[labels == k].mean(0) for k in range(4)])
    begun = KMeans(4, init=means, n_init=1).fit_predict(codes)
    assert adjusted_rand_score(truth, begun) < 0.9
    assert adjusted_rand_score(truth, refined_clusters(graph, z, labels, 4, 20, 0)) == 1


def test_curved_clusters_stay():
    """k-means cuts two rings that the graph does not join through the middle, so the given clusters are kept."""
    z, truth = make_circles(400, factor=0.4, noise=0.03, random_state=0)
    graph = neighbours_graph(z)
    assert normalised_cut(graph, truth.astype(np.int64)) < 0.01
    found = refined_clusters(graph, z, truth.astype(np.int64), 2, 5, 0)
    np.testing.assert_array_equal(found, truth)


def test_clusters_do_not_become_fewer(recwarn):
    """Rows of two complete graphs are two codes: three clusters would be two, which cut the graph less."""
    graph = sparse.csr_array(sparse.block_diag([np.ones((10, 10)), np.ones((10, 10))]))
    labels = np.repeat([0, 1, 2], [10, 5, 5])
    found = refined_clusters(graph, np.eye(20), labels, 3, 5, 0)
    np.testing.assert_array_equal(found, labels)
    assert not recwarn.list


def test_weights_count_as_copies():
    """A row of weight w counts in means and inertia as w rows do."""
    z, truth = blobs(20)
    weights = np.where(np.arange(80) % 3, 1.0, 4.0)
    labels = truth.copy()
    labels[::9] = (labels[::9] + 1) % 4
    found = refined_clusters(neighbours_graph(z), z, labels, 4, 5, 0, weights)
    assert adjusted_rand_score(truth, found) == 1
