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
    by_landmarks,
    by_self_expression,
    by_subspaces,
    certainty_of_margins,
    cluster_means,
    given_clusters,
)
from desc_ext.models import SelfExpressiveClustering

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


def in_parts(z, size=50):
    """Calls a function with all rows, ``size`` at a time."""
    return lambda function: torch.cat([function(part) for part in torch.from_numpy(z).split(size)])


def test_landmarks_keep_their_clusters_and_others_follow_the_estimator():
    """The rows beside the landmarks: labels and margins of SelfExpressiveClustering, which knows the landmarks alone."""
    z, truth = subspaces(n=150)
    z += 0.1 * np.random.default_rng(1).normal(size=z.shape)
    landmarks = np.sort(np.random.default_rng(0).choice(len(z), 200, replace=False))
    found = by_landmarks(torch.from_numpy(z[landmarks]), landmarks, in_parts(z), K, 0, images=False)
    labels, certainty = found.labels.numpy(), found.certainty.numpy()
    own = by_self_expression(torch.from_numpy(z[landmarks]), K, 0, images=False)
    np.testing.assert_array_equal(labels[landmarks], own.labels)
    others = np.setdiff1d(np.arange(len(z)), landmarks)
    model = SelfExpressiveClustering(K, random_state=0, dtype="float64", n_init=300).fit(z[landmarks])
    pairs = np.unique(np.stack([labels[landmarks], model.labels_]), axis=1)
    assert pairs.shape == (2, K)  # the same clusters, whatever their numbers
    np.testing.assert_array_equal(labels[others], pairs[0][np.argsort(pairs[1])][model.predict(z[others])])
    assert adjusted_rand_score(truth, labels) > 0.9
    # certainty ranks the margins of all rows of a cluster
    away = np.linalg.norm(model.transform(z)[:, None] - model.cluster_centers_, axis=2)
    away[landmarks] = np.linalg.norm(model.embedding_[:, None] - model.cluster_centers_, axis=2)
    nearest = np.sort(away, axis=1)
    expected = ranks(nearest[:, 1] - nearest[:, 0], labels)
    np.testing.assert_allclose(certainty, expected, atol=1e-2)


def test_landmarks_no_more_of_which_differ_than_clusters():
    z = np.eye(5)[np.arange(40) % 3] + 0.0
    z[7] = [0.9, 0.1, 0, 0, 0]
    landmarks = np.array([0, 1, 3, 4, 12])
    found = by_landmarks(torch.from_numpy(z[landmarks]), landmarks, in_parts(z), K, 0, images=False)
    expected = np.where(np.arange(40) % 3 == 1, 1, 0)
    expected[7] = 0
    np.testing.assert_array_equal(found.labels[np.arange(40) % 3 < 2], expected[np.arange(40) % 3 < 2])


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
