"""Metrics against brute force and closed forms."""

from __future__ import annotations

from itertools import permutations
from math import comb

import numpy as np
import pytest

from desc_ext.metrics import clustering_accuracy, clustering_scores, matched_clusters


def brute_force_accuracy(labels_true, labels_pred) -> float:
    """The best share of agreement over all one-to-one namings of clusters by classes."""
    classes, clusters = sorted(set(labels_true)), sorted(set(labels_pred))
    names = classes + [None] * max(0, len(clusters) - len(classes))
    best = 0
    for naming in permutations(names, len(clusters)):
        name_of = dict(zip(clusters, naming, strict=True))
        best = max(best, sum(name_of[p] == t for t, p in zip(labels_true, labels_pred, strict=True)))
    return best / len(labels_true)


@pytest.mark.parametrize(("n_classes", "n_clusters"), [(1, 1), (3, 3), (2, 5), (5, 2), (4, 6), (1, 4)])
def test_accuracy_is_that_of_the_best_naming(n_classes, n_clusters):
    rng = np.random.default_rng(n_classes * 10 + n_clusters)
    for n in (1, 7, 40):
        labels_true = rng.integers(0, n_classes, n)
        labels_pred = rng.integers(0, n_clusters, n) * 3 + 5  # numbers of clusters need not be 0, 1, ...
        want = brute_force_accuracy(labels_true.tolist(), labels_pred.tolist())
        assert clustering_accuracy(labels_true, labels_pred) == pytest.approx(want, abs=1e-15)


def entropy(counts) -> float:
    shares = np.asarray(counts, dtype=np.float64).ravel()
    shares = shares[shares > 0] / shares.sum()
    return float(-(shares * np.log(shares)).sum())


def test_nmi_and_ari_follow_their_definitions():
    rng = np.random.default_rng(0)
    labels_true = rng.integers(0, 4, 300)
    labels_pred = np.where(rng.random(300) < 0.6, labels_true, rng.integers(0, 6, 300))
    table = np.zeros((4, 6), dtype=int)
    np.add.at(table, (labels_true, labels_pred), 1)

    h_true, h_pred, h_both = entropy(table.sum(1)), entropy(table.sum(0)), entropy(table)
    nmi = (h_true + h_pred - h_both) / ((h_true + h_pred) / 2)
    pairs = sum(comb(int(x), 2) for x in table.ravel())
    pairs_true = sum(comb(int(x), 2) for x in table.sum(1))
    pairs_pred = sum(comb(int(x), 2) for x in table.sum(0))
    expected = pairs_true * pairs_pred / comb(300, 2)
    ari = (pairs - expected) / ((pairs_true + pairs_pred) / 2 - expected)

    scores = clustering_scores(labels_true, labels_pred)
    assert scores["nmi"] == pytest.approx(nmi, abs=1e-12)
    assert scores["ari"] == pytest.approx(ari, abs=1e-12)


def test_words_as_classes_and_a_perfect_clustering():
    scores = clustering_scores(["cat", "dog", "cat", "emu"], [2, 0, 2, 1])
    assert scores == {"acc": 1.0, "nmi": pytest.approx(1.0), "ari": 1.0}


@pytest.mark.parametrize(
    ("labels_true", "labels_pred", "message"),
    [
        ([0, 1], [0, 1, 1], "got 2 and 3"),
        ([[0, 1]], [0, 1], r"labels_true must be one-dimensional, \[n\]; got shape \[1, 2\]"),
        ([0, 1], [[0], [1]], "labels_pred must be one-dimensional"),
        ([], [], "empty"),
    ],
)
def test_bad_labels_are_refused(labels_true, labels_pred, message):
    with pytest.raises(ValueError, match=message):
        clustering_scores(labels_true, labels_pred)


def test_matched_clusters_are_those_of_the_accuracy():
    labels = np.array([2, 2, 0, 0, 1, 1, 1])
    classes = np.array([0, 0, 3, 3, 1, 1, 2])
    assert matched_clusters(classes, labels).tolist() == [2, 1, 3, 0]  # class 2 is left without a cluster
    assert clustering_accuracy(classes, labels) == 6 / 7
