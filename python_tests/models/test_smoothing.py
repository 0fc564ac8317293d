"""The option smoothing of the closed form: round clusters are refined, those of images stay, new rows follow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from desc_ext.algorithms.self_expression import expression_options
from desc_ext.algorithms.smoothed_codes import normalised_cut
from desc_ext.models import SelfExpressiveClustering, load_model


def topics(n_each=(400, 150, 60, 40), p=40, noise=0.16, seed=0):
    """Rows round directions of their own, as texts round their topics, and the direction of each."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(n_each)), n_each)
    directions = np.linalg.qr(random.normal(size=(p, len(n_each))))[0].T
    return directions[labels] + noise * random.normal(size=(len(labels), p)), labels


def test_round_clusters_are_refined_and_new_rows_follow(tmp_path):
    X, truth = topics()
    plain = SelfExpressiveClustering(4, smoothing=False, random_state=0).fit(X)
    model = SelfExpressiveClustering(4, random_state=0).fit(X)
    assert (model.history_[-1]["smoothed"], plain.history_[-1]["smoothed"]) == (True, False)
    graph = model.affinity_matrix_
    assert normalised_cut(graph, model.labels_) < normalised_cut(graph, plain.labels_)
    assert adjusted_rand_score(truth, plain.labels_) < 0.6
    assert adjusted_rand_score(truth, model.labels_) > 0.95
    assert model.embedding_.shape == X.shape
    assert (model.predict(X) == model.labels_).mean() > 0.95
    others, expected = topics(seed=1)
    others = others - topics(seed=1, noise=0)[0] + topics(noise=0)[0]  # the noise of another seed
    assert adjusted_rand_score(expected, model.predict(others)) > 0.75
    model.save(tmp_path)
    again = load_model(tmp_path)
    np.testing.assert_array_equal(again.predict(others), model.predict(others))
    assert again.resolved_params_["smoothing"] is True


def test_clusters_of_images_stay():
    X = load_digits().data[:600]
    model = SelfExpressiveClustering(10, smoothing=True, random_state=0).fit(X)
    plain = SelfExpressiveClustering(10, smoothing=False, random_state=0).fit(X)
    assert not model.history_[-1]["smoothed"]
    np.testing.assert_array_equal(model.labels_, plain.labels_)
    as_images = SelfExpressiveClustering(10, image_shape=(8, 8), random_state=0).fit(X)
    assert as_images.resolved_params_["smoothing"] is False


def test_copies_count():
    """Texts that come twice are in one cluster, in the smoothed rows too."""
    X, truth = topics()
    twice = np.concatenate([X, X[::3]])
    model = SelfExpressiveClustering(4, random_state=0).fit(twice)
    assert model.history_[-1]["smoothed"]
    np.testing.assert_array_equal(model.labels_[: len(X)][::3], model.labels_[len(X) :])
    assert adjusted_rand_score(truth, model.labels_[: len(X)]) > 0.7


@pytest.mark.parametrize("smoothing", [True, False])
def test_many_copies_are_predicted_with_their_cluster(smoothing):
    """A row that comes 200 times is in the cluster of its copies, whatever rows are near: so has predict to find it."""
    X = topics((100, 100, 100), noise=0.3)[0]
    middle = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 3)))[0].sum(
        1
    )  # as near to one topic as to others
    rows = np.concatenate([X, np.repeat(middle[None] + 0.1 * X[:4], 200, 0)])
    model = SelfExpressiveClustering(3, smoothing=smoothing, random_state=0).fit(rows)
    np.testing.assert_array_equal(model.predict(rows[300:]), model.labels_[300:])
    assert (model.predict(rows) == model.labels_).mean() > 0.97


@pytest.mark.parametrize(
    ("rows", "of_images", "of_others"),
    [(99, 5, 5), (100, 10, 10), (500, 10, 20), (1_000, 10, 40), (7_000, 10, 40)],
)
def test_neighbours_follow_the_rows_of_a_cluster(rows, of_images, of_others):
    for images, expected in ((True, of_images), (False, of_others)):
        options = expression_options(3 * rows, 3, None, images, ridge=1.0)
        assert (options.n_neighbors, options.smoothing) == (expected, not images)


@pytest.mark.bits
def test_smoothed_rows_have_the_same_bits_for_any_number_of_threads():
    X, _ = topics()
    n_threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(SelfExpressiveClustering(4, random_state=0).fit(X.astype(np.float32)))
    finally:
        torch.set_num_threads(n_threads)
    assert found[0].history_[-1]["smoothed"]
    np.testing.assert_array_equal(found[0].embedding_, found[1].embedding_)
    np.testing.assert_array_equal(found[0].labels_, found[1].labels_)
