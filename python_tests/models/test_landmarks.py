"""Landmarks: clusters of some rows, which the others join, against fits of those rows alone and planted subspaces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.peak_memory import extra_memory
from helpers.subspaces import planted
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize

from desc_ext.algorithms import extension, landmarks
from desc_ext.algorithms.landmarks import chosen_landmarks, usual_landmarks
from desc_ext.engine.callbacks import Callback
from desc_ext.models import SelfExpressiveClustering, load_model

K = 4


def rows(n=900, **options):
    """Rows of planted subspaces, in float32, and the subspace of each."""
    X, y, _ = planted(n=n, **options)
    return X.astype(np.float32), y


def fit(X, m, **options):
    return SelfExpressiveClustering(K, landmarks=m, random_state=0, **options).fit(X)


# ---------------------------------------------------------------------- which rows they are


def test_landmarks_are_a_uniform_draw():
    drawn = [chosen_landmarks(50, 10, K, seed) for seed in range(2000)]
    assert all(len(np.unique(numbers)) == 10 and (np.diff(numbers) > 0).all() for numbers in drawn)
    # each row is in a fifth of the draws: 400 ± 18, and of 50 rows none is off by five deviations
    counts = np.bincount(np.concatenate(drawn), minlength=50)
    assert abs(counts - 400).max() < 90
    np.testing.assert_array_equal(chosen_landmarks(50, 10, K, 3), drawn[3])
    assert chosen_landmarks(50, 50, K, 0) is chosen_landmarks(50, 70, K, 0) is None


def test_how_many_where_no_one_says():
    assert usual_landmarks(200_000, 10) == 200_000
    assert usual_landmarks(200_001, 10) == usual_landmarks(5_000_000, None) == 20_000
    assert usual_landmarks(5_000_000, 1000) == 200_000
    assert chosen_landmarks(200_000, None, 10, 0) is None


# ---------------------------------------------------------------------- what they find


@pytest.mark.bits
@pytest.mark.parametrize("m", [900, 5000])
def test_all_rows_as_landmarks_are_a_fit_without(m):
    X, _ = rows()
    model, without = fit(X, m), fit(X, None)
    assert model.landmarks_ is None is without.landmarks_
    assert model.resolved_params_ == without.resolved_params_
    np.testing.assert_array_equal(model.labels_, without.labels_)
    np.testing.assert_array_equal(model.embedding_, without.embedding_)


@pytest.mark.bits
@pytest.mark.parametrize("options", [{}, {"expression": "omp"}, {"smoothing": False, "dtype": "float64"}])
def test_landmarks_are_fitted_alone_and_predict_the_others(options):
    X, _ = rows()
    model = fit(X, 300, **options)
    own = model.landmarks_
    assert own.shape == (300,)
    assert own.dtype == np.int64
    alone = fit(X[own], None, **options)
    np.testing.assert_array_equal(model.labels_[own], alone.labels_)
    np.testing.assert_array_equal(model.embedding_[own], alone.embedding_)
    assert (model.affinity_matrix_ != alone.affinity_matrix_).nnz == 0
    others = np.setdiff1d(np.arange(900), own)
    np.testing.assert_array_equal(model.labels_[others], alone.predict(X[others]))
    np.testing.assert_array_equal(model.embedding_[others], alone.transform(X[others]))
    new = X[:50] + 0.01
    np.testing.assert_array_equal(model.predict(new), alone.predict(new))
    assert model.resolved_params_ == alone.resolved_params_ | {"landmarks": 300}


def test_embedding_of_the_others_is_the_extension_by_definition():
    """Plain float64: ridge regression on the landmarks, its n_neighbors largest, what these add, unit length."""
    X, _ = rows()
    model = fit(X, 200, ridge=2.0, n_neighbors=6, dtype="float64")
    z = normalize(X.astype(np.float64))
    own, others = z[model.landmarks_], np.setdiff1d(np.arange(900), model.landmarks_)
    ridge = 2.0 * np.square(own).sum(1).mean()
    size = np.abs(np.linalg.solve(own @ own.T + ridge * np.eye(200), own @ z[others].T)).T
    top = np.argsort(-size, axis=1)[:, :6]
    added = model._extension.added.numpy()
    expected = np.stack([size[i, top[i]] @ added[top[i]] for i in range(len(others))])
    np.testing.assert_allclose(model.embedding_[others], normalize(expected), atol=1e-9)
    away = np.linalg.norm(normalize(expected)[:, None] - model.cluster_centers_, axis=2)
    np.testing.assert_array_equal(model.labels_[others], away.argmin(1))


def test_coefficients_on_many_landmarks_come_in_parts(monkeypatch):
    X, _ = rows()
    model = fit(X, 300, dtype="float64")
    whole, affinity = model.transform(X), model.dense_affinity(model.landmarks_[:20])
    monkeypatch.setattr(extension, "_COLUMNS", 4)  # fewer than are kept of a row
    assert model.resolved_params_["n_neighbors"] > 4
    np.testing.assert_allclose(model.transform(X), whole, atol=1e-9)
    np.testing.assert_allclose(model.dense_affinity(model.landmarks_[:20]), affinity, atol=1e-9)


def test_subspaces_of_many_rows_are_found_by_few():
    X, truth = rows(n=20_000, p=30, dim=4, n_clusters=8)
    model = SelfExpressiveClustering(8, landmarks=1000, random_state=0).fit(X)
    assert adjusted_rand_score(truth, model.labels_) > 0.98
    # the rows that the fit did not cluster are no worse than those that it did
    others = np.setdiff1d(np.arange(len(X)), model.landmarks_)
    assert adjusted_rand_score(truth[others], model.labels_[others]) > 0.98
    assert (np.bincount(model.labels_) == model.history_[-1]["cluster_sizes"]).all()


def test_number_of_clusters_is_that_of_the_landmarks():
    X, truth = rows(n=6000, p=60, noise=0.02)
    model = SelfExpressiveClustering(None, landmarks=600, random_state=0).fit(X)
    assert model.n_clusters_ == K == model.cluster_candidates_[0][0]
    assert adjusted_rand_score(truth, model.labels_) > 0.99


def test_training_data_decide_the_scaling_of_all_rows():
    X, _ = rows()
    X = 3 * X + np.linspace(0, 5, X.shape[1], dtype=np.float32)
    model = fit(X, 300, scaling="standard", dtype="float64")
    z = normalize((X - X.mean(0, dtype=np.float64)) / X.std(0, dtype=np.float64))
    np.testing.assert_allclose(model._extension.z, z[model.landmarks_], atol=1e-6)


def test_rows_that_repeat_landmarks_are_theirs():
    X, _ = rows(n=300)
    X = np.concatenate([X, X, X])
    model = fit(X, 500)
    assert model._extension.number is not None  # some landmarks come more than once
    own = model.landmarks_
    alone = fit(X[own], None)
    others = np.setdiff1d(np.arange(900), own)
    np.testing.assert_array_equal(model.labels_[own], alone.labels_)
    np.testing.assert_array_equal(model.labels_[others], alone.predict(X[others]))


@pytest.mark.bits
@pytest.mark.parametrize("scaling", ["none", "uncentred"])
def test_images_go_through_features_of_all_of_them(scaling):
    images = load_digits().images[:500]
    options = {"features": "scattering", "feature_dim": 50, "landmarks": 200, "random_state": 0}
    model = SelfExpressiveClustering(10, scaling=scaling, **options).fit(images)
    features = model.features_.transform(images)
    assert model.features_.n_samples_ == 500
    root = np.sqrt(np.square(features, dtype=np.float64).mean())
    np.testing.assert_allclose(model._scale, root if scaling == "uncentred" else 1, rtol=1e-12)
    features = (features / model._scale.numpy()[0]).astype(np.float64)
    alone = SelfExpressiveClustering(10, random_state=0, n_neighbors=5, smoothing=False)
    alone.fit(features[model.landmarks_])
    np.testing.assert_array_equal(model.labels_[model.landmarks_], alone.labels_)
    others = np.setdiff1d(np.arange(500), model.landmarks_)
    np.testing.assert_array_equal(model.labels_[others], alone.predict(features[others]))
    np.testing.assert_array_equal(model.predict(images[:30]), alone.predict(features[:30]))


# ---------------------------------------------------------------------- what is kept


@pytest.mark.bits
def test_same_bits_for_any_number_of_threads():
    X, _ = rows(n=4000)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(fit(X, 700))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0].embedding_, found[1].embedding_)
    np.testing.assert_array_equal(found[0].labels_, found[1].labels_)


@pytest.mark.bits
@pytest.mark.parametrize("copies", [1, 3])
def test_save_and_load(copies, tmp_path):
    X = np.concatenate([rows(n=300)[0]] * copies)
    model = fit(X, 150 * copies)
    model.save(tmp_path)
    loaded = load_model(tmp_path)
    for name in ("landmarks_", "labels_", "embedding_", "eigenvalues_"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(model, name))
    assert (loaded.affinity_matrix_ != model.affinity_matrix_).nnz == 0
    np.testing.assert_array_equal(loaded.transform(X), model.transform(X))
    some = model.landmarks_[[0, 40, 99]]
    np.testing.assert_array_equal(loaded.dense_affinity(some), model.dense_affinity(some))
    assert loaded.get_params() == model.get_params()
    assert loaded.resolved_params_ == model.resolved_params_


def test_damaged_landmarks_are_refused(tmp_path):
    model = fit(rows()[0], 300)
    model.landmarks_ = model.landmarks_[::-1].copy()
    model.save(tmp_path)
    with pytest.raises(ValueError, match="landmarks holds no ascending numbers of 900 rows"):
        load_model(tmp_path)


def test_dense_affinity_is_of_landmarks():
    X, _ = rows()
    model = fit(X, 300)
    own = model.landmarks_
    places = np.array([7, 200, 33])
    alone = fit(X[own], None)
    np.testing.assert_array_equal(model.dense_affinity(own[places]), alone.dense_affinity(places))
    other = np.setdiff1d(np.arange(900), own)[0]
    with pytest.raises(ValueError, match=rf"row {other} is none; take rows of landmarks_"):
        model.dense_affinity([own[0], other])


def test_callbacks_hear_of_the_other_rows():
    class Listener(Callback):
        def __init__(self):
            self.stages, self.heard = {}, []

        def on_fit_begin(self, model, stages):
            self.stages = dict(stages)

        def on_epoch_end(self, model, record):
            self.heard.append(record["stage"])

    listener = Listener()
    fit(rows()[0], 300, callbacks=[listener])
    assert listener.heard == list(listener.stages)
    assert listener.heard[-1] == "other rows"


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("n_clusters", "m", "message"),
    [
        (4, 3, "landmarks must be at least 4 for n_clusters=4, got 3; take more landmarks"),
        (None, 2, "landmarks must be at least 3 for n_clusters=None, got 2"),
        (4, 1, "landmarks must be an integer >= 2, or None, got 1"),
        (4, 0.5, "landmarks must be an integer >= 2, or None, got 0.5"),
    ],
)
def test_too_few_landmarks_are_refused(n_clusters, m, message):
    with pytest.raises(ValueError, match=message):
        SelfExpressiveClustering(n_clusters, landmarks=m).fit(rows()[0])


def test_landmarks_that_hardly_differ_are_refused():
    X = np.repeat(np.eye(6, 8), 100, axis=0)[:520]
    with pytest.raises(
        ValueError, match=r"distinct rows among its 6 landmarks .* n_clusters=6; take more landmarks"
    ):
        SelfExpressiveClustering(6, landmarks=6, random_state=0).fit(X)


def test_a_row_too_large_is_named():
    X, _ = rows()
    X = X.astype(np.float64)
    bad = np.setdiff1d(np.arange(900), fit(X, 300).landmarks_)[17]
    X[bad] *= 1e200
    with pytest.raises(ValueError, match=f"too large for float32, the first at row {bad}; scale X"):
        fit(X, 300, unit_rows=False)


# ---------------------------------------------------------------------- memory

MANY_ROWS = """
import numpy as np
from desc_ext.models import SelfExpressiveClustering
z = np.random.default_rng(0).normal(size=(200_000, 200)).astype(np.float32)
labels = weight = z[:, 0]
model = SelfExpressiveClustering(4, landmarks=500, n_neighbors=5, n_init=1, smoothing=False, random_state=0)
"""


def test_the_other_rows_are_not_held():
    """Scaled rows of all would be another 160 MB; labels and embedding are 7 MB."""
    assert extra_memory(MANY_ROWS, "model.fit(z)", "0") < 80 * 2**20


def test_the_rule_is_the_one_of_the_module(monkeypatch):
    monkeypatch.setattr(landmarks, "MOST_ROWS", 800)
    monkeypatch.setattr(landmarks, "USUAL_LANDMARKS", 850)
    X, _ = rows()
    assert len(fit(X, None).landmarks_) == 850
    assert fit(X[:800], None).landmarks_ is None
