"""First clusters and their certainty against NumPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from desc_ext.algorithms.first_clusters import (
    by_kmeans,
    by_self_expression,
    by_subspaces,
    certainty_of_margins,
    cluster_means,
    given_clusters,
)

K = 3


def subspaces(n=40, dim=2, seed=0):
    """n unit rows in each of K orthogonal subspaces of dimension ``dim``."""
    rng = np.random.default_rng(seed)
    bases = np.linalg.qr(rng.normal(size=(2 * K * dim, K * dim)))[0]
    z = np.concatenate([rng.normal(size=(n, dim)) @ bases[:, k * dim : (k + 1) * dim].T for k in range(K)])
    return z / np.linalg.norm(z, axis=1, keepdims=True), np.repeat(np.arange(K), n)


def ranks(margin, labels):
    """Share of the rows of a row's cluster whose margin is no larger, row by row."""
    return np.array([np.mean(margin[labels == labels[i]] <= margin[i]) for i in range(len(labels))])


def test_certainty_is_the_rank_of_the_margin_within_the_cluster():
    rng = np.random.default_rng(0)
    distances, labels = rng.random((200, 4)), rng.integers(0, 4, 200)
    margin = np.array(
        [np.delete(distances[i], labels[i]).min() - distances[i, labels[i]] for i in range(200)]
    )
    found = certainty_of_margins(distances, labels)
    np.testing.assert_allclose(found, ranks(margin, labels))
    for cluster in range(4):  # three fifths of every cluster, whatever its margins are
        assert (found[labels == cluster] > 0.4).mean() == pytest.approx(0.6, abs=0.02)


def test_kmeans_is_scikit_learns_and_its_certainty_that_of_its_distances():
    z, _ = make_blobs(150, n_features=4, centers=K, cluster_std=2.0, random_state=1)
    found = by_kmeans(torch.from_numpy(z), K, 5, 7)
    expected = KMeans(K, n_init=5, random_state=7).fit(z)
    np.testing.assert_array_equal(found.labels, expected.labels_)
    np.testing.assert_allclose(found.centres, expected.cluster_centers_)
    ordered = np.sort(expected.transform(z), 1)
    np.testing.assert_allclose(found.certainty, ranks(ordered[:, 1] - ordered[:, 0], expected.labels_))


def test_given_clusters_are_kept_and_measured_by_their_means():
    z, labels = make_blobs(90, n_features=4, centers=K, cluster_std=3.0, random_state=1)
    found = given_clusters(torch.from_numpy(z), labels, K)
    np.testing.assert_array_equal(found.labels, labels)
    means = np.stack([z[labels == k].mean(0) for k in range(K)])
    distances = np.linalg.norm(z[:, None] - means, axis=2)
    own = distances[np.arange(90), labels]
    others = np.where(np.eye(K, dtype=bool)[labels], np.inf, distances).min(1)
    np.testing.assert_allclose(found.certainty, ranks(others - own, labels))


@pytest.mark.parametrize(
    "find",
    [
        lambda z, k, n_init, seed: by_self_expression(z, k, seed, images=True),
        lambda *a: by_subspaces(a[0], a[1], 2, *a[2:]),
    ],
)
def test_subspaces_are_found_where_kmeans_fails(find):
    """k-means cannot: a subspace's rows are on both sides of the origin."""
    z, truth = subspaces()
    found = find(torch.from_numpy(z), K, 10, 0)
    assert adjusted_rand_score(truth, found.labels) == 1
    assert found.certainty.shape == (len(z),)
    assert 0 < found.certainty.min() <= found.certainty.max() == 1


def test_no_more_distinct_rows_than_clusters_are_the_clusters():
    z = torch.eye(5)[torch.tensor([0, 1, 0, 1, 1])]
    found = by_self_expression(z, K, 0, images=True)
    np.testing.assert_array_equal(found.labels, [0, 1, 0, 1, 1])


def test_means_of_clusters():
    z, labels = np.random.default_rng(0).random((20, 3)), np.arange(20) % 2
    found = cluster_means(torch.from_numpy(z), torch.from_numpy(labels), K).numpy()
    np.testing.assert_allclose(found[0], z[::2].mean(0))
    np.testing.assert_allclose(found[1], z[1::2].mean(0))
    np.testing.assert_allclose(found[2], z.mean(0))  # it has no rows


@pytest.mark.bits
def test_the_same_bits_for_any_number_of_threads():
    z = torch.from_numpy(np.random.default_rng(0).normal(size=(3000, 30)).astype(np.float32))
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            starts = by_kmeans(z, K, 3, 0), by_self_expression(z, K, 0, images=True)
            starts += (given_clusters(z, np.arange(3000) % K, K),)
            found.append([part for start in starts for part in (start.labels, start.certainty)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
