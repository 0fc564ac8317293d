"""The option init of the methods with a refinement, and augmentation as an option: values, errors, what is saved."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers.estimators import small
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from desc_ext import models
from desc_ext.algorithms import landmarks
from desc_ext.engine.processes import BatchShare
from desc_ext.engine.starts import _start_rows
from desc_ext.features import Scattering2D
from desc_ext.models import SelfExpressiveClustering

METHODS = ["dec", "idec", "dcec", "asc2d", "desc", "edesc", "ncsc"]
X = load_digits().data[:120].astype(np.float32)
GIVEN = np.arange(120) % 3


@pytest.mark.filterwarnings("ignore:no row was ever confident", "ignore:NCSC collapsed")
@pytest.mark.parametrize("init", ["self-expressive", "k-subspaces", "k-means", "array"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_every_start(method, init):
    model = small(method, init=GIVEN if init == "array" else init, anchor_weight=1.0).fit(X)
    assert model.resolved_params_["init"] == ("labels" if init == "array" else init)
    assert np.unique(model.initial_labels_).tolist() == [0, 1, 2]
    if init == "array":
        np.testing.assert_array_equal(model.initial_labels_, GIVEN)
    if init == "self-expressive":
        own = SelfExpressiveClustering(3, random_state=0).fit(X)
        assert adjusted_rand_score(own.labels_, model.initial_labels_) > 0.9


def test_the_start_of_centroids_is_the_mean_of_their_codes():
    model = small("idec", init=GIVEN, max_rounds=0).fit(X)
    expected = [model.embedding_[k == GIVEN].astype(np.float64).mean(0) for k in range(3)]
    np.testing.assert_allclose(model.cluster_centers_, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (GIVEN[:50], r"IDEC: init must be labels .* = \[120\].* got shape \[50\]"),
        (GIVEN[:, None], r"got shape \[120, 1\]"),
        (GIVEN.astype(float), "got dtype float64: convert it"),
        (np.where(GIVEN == 2, 3, GIVEN), "got 3 at row 2: number the clusters from 0"),
        (GIVEN - 1, "got -1 at row 0"),
        (GIVEN % 2, r"got none of cluster 2 \(1 of 3 are empty\)"),
    ],
)
def test_bad_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        small("idec", init=labels).fit(X)


def test_bad_words_are_refused():
    with pytest.raises(
        ValueError, match=r"init must be one of 'self-expressive'.* or a NumPy array of labels.* got 'first'"
    ):
        small("idec", init="first").fit(X)
    with pytest.raises(ValueError, match=r"init='labels' stands for an array .* pass the array"):
        small("idec", init="labels").fit(X)


def test_labels_that_are_no_array_are_refused_in_one_line():
    with pytest.raises(
        ValueError, match=r"a NumPy array .*, got a list \[0, 1, .*convert it, np.asarray\(init\)"
    ) as caught:
        small("idec", init=[0, 1] * 5_000).fit(X)
    assert len(str(caught.value)) < 400


def test_labels_are_saved_as_a_word(tmp_path):
    model = small("idec", init=GIVEN).fit(X)
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["params"]["init"] == config["resolved_params"]["init"] == "labels"
    loaded = models.load_model(tmp_path)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    np.testing.assert_array_equal(loaded.initial_labels_, GIVEN)
    with pytest.raises(ValueError, match="pass the array"):
        loaded.fit(X)


def test_a_checkpoint_is_of_its_labels(tmp_path):
    small("idec", init=GIVEN, checkpoint=tmp_path).fit(X)
    small("idec", init=GIVEN.copy(), checkpoint=tmp_path, resume=True).fit(X)
    with pytest.raises(ValueError, match="init_digest"):
        small("idec", init=GIVEN[::-1].copy(), checkpoint=tmp_path, resume=True).fit(X)


def test_starts_of_images_are_looked_for_in_their_scattering_features():
    images = np.random.default_rng(0).random((40, 1, 18, 16)).astype(np.float32)
    state = small("dcec", channels=(2, 2, 2)).begin(images)
    expected = Scattering2D(500).fit_transform(images)
    np.testing.assert_array_equal(_start_rows(state).X, expected)
    small_images = small("dcec", channels=(2, 2, 2)).begin(images[..., :15])
    assert _start_rows(small_images) is small_images.rows


@pytest.mark.parametrize("of_images", [False, True])
def test_the_start_of_many_rows_is_that_of_landmarks(of_images, monkeypatch):
    """The estimator's own labels, at the same number of rows and by the same draw."""
    monkeypatch.setattr(landmarks, "MOST_ROWS", 250)
    monkeypatch.setattr(landmarks, "USUAL_LANDMARKS", 200)
    monkeypatch.setattr(landmarks, "LANDMARKS_PER_CLUSTER", 50)
    digits = load_digits().data[:300].astype(np.float32)
    given = np.kron(digits.reshape(-1, 8, 8), np.ones((1, 2, 2), dtype=np.float32)) if of_images else digits
    method, options = ("dcec", {"channels": (2, 2, 2)}) if of_images else ("idec", {})
    options |= {"init": "self-expressive", "max_rounds": 0}
    model = small(method, **options).fit(given)
    own = SelfExpressiveClustering(3, random_state=0).fit(given)
    assert len(own.landmarks_) == 200
    assert adjusted_rand_score(own.labels_, model.initial_labels_) > 0.98
    # that of all rows is another
    monkeypatch.setattr(landmarks, "MOST_ROWS", 300)
    whole = small(method, **options).fit(given)
    assert adjusted_rand_score(whole.initial_labels_, model.initial_labels_) < 0.95


# ---------------------------------------------------------------------- augmentation
def test_augmentation_is_for_images():
    with pytest.raises(
        ValueError, match="IDEC: augment='affine' is for images, but X has rows; use augment='none'"
    ):
        small("idec", augment="affine").fit(X)
    with pytest.raises(ValueError, match="augment='affine' is for images"):
        small("idec", augment="affine", features="scattering").fit(X.reshape(-1, 8, 8))
    assert small("idec", augment="auto").begin(X).options.augment == "none"
    assert small("idec", augment="auto").begin(X.reshape(-1, 8, 8)).options.augment == "affine"


def test_training_sees_changed_images_and_evaluation_those_given():
    images = X.reshape(-1, 8, 8)
    model = small("idec", augment="affine", max_rounds=2, anchor_weight=1.0)
    state = model.begin(images)
    index = torch.arange(30)
    given, wanted = model._batch(state, index, BatchShare(30))
    assert torch.equal(wanted, state.rows.take(index.numpy()))
    assert given.shape == wanted.shape
    # images are changed before they are scaled: a pixel is still a mixture of values from 0 to 16
    pixels = given.double() * state.rows.scale + state.rows.offset
    assert (given - wanted).abs().max() > 0.5
    assert pixels.min() > -1e-4
    assert pixels.max() < 16 + 1e-4
    fitted = model.fit(images)
    np.testing.assert_array_equal(fitted.transform(images), fitted.embedding_)
    again = small("idec", augment="affine", max_rounds=2, anchor_weight=1.0).fit(images)
    np.testing.assert_array_equal(again.embedding_, fitted.embedding_)


@pytest.mark.parametrize("method", ["dec", "idec", "asc2d", "desc", "ncsc"])
def test_an_anchored_refinement_keeps_the_start_and_its_numbers(method):
    """A partition that no loss of the methods would find: each cluster is half of two blobs."""
    rng = np.random.default_rng(0)
    centres = 6 * rng.normal(size=(6, 8))
    blobs = (centres[np.repeat(np.arange(6), 30)] + rng.normal(size=(180, 8))).astype(np.float32)
    start = np.array([2, 0, 1, 2, 0, 1])[np.repeat(np.arange(6), 30)]
    options = {
        "init": start,
        "anchor_weight": 10.0,
        "anchor_share": 1.0,
        "warmup_epochs": 1,
        "average_decay": 0.5,
    }
    length = {"ncsc": {"max_epochs": 60}, "desc": {"max_epochs": 60, "tol": 0.0}}.get(
        method, {"max_rounds": 60}
    )
    rate = {"learning_rate": 5e-3} | ({"autoencoder_learning_rate": 5e-3} if method == "ncsc" else {})
    model = small(method, **options | length | rate).fit(blobs)
    assert (model.labels_ == start).mean() > 0.95
    assert (model.predict(blobs) == model.labels_).all()


@pytest.mark.parametrize(
    ("n", "pretraining", "refinement", "warm_up"),
    [(1_797, 20, 30, 5), (40_000, 10, 30, 5), (70_000, 6, 17, 2)],
)
@pytest.mark.parametrize("method", METHODS)
def test_epochs_follow_the_number_of_rows(method, n, pretraining, refinement, warm_up):
    options = models.MODELS[method](10)._resolve_options()
    options._adapt_options(n, 64)
    assert (options.pretrain_epochs, options._refinement_epochs, options.warmup_epochs) == (
        pretraining,
        refinement,
        warm_up,
    )
    if method == "ncsc":
        quarter, half = np.ceil([pretraining / 4, pretraining / 2])
        assert (options.expression_epochs, options.start_epochs) == (quarter, half)


def test_ncsc_learns_its_start_without_pretraining():
    """The classifier's epochs follow the rows, not ``pretrain_epochs``: with 0 of them nothing would teach it ``init``."""
    options = models.NCSC(10, pretrain_epochs=0)._resolve_options()
    options._adapt_options(1_797, 64)
    assert (options.pretrain_epochs, options.expression_epochs, options.start_epochs) == (0, 5, 10)
    start = np.arange(600) % 3
    rows = np.eye(3)[start] + 0.1 * np.random.default_rng(0).normal(size=(600, 3))
    model = models.NCSC(3, init=start, pretrain_epochs=0, max_epochs=0, random_state=0).fit(rows)
    np.testing.assert_array_equal(model.labels_, start)


def test_numbers_of_epochs_that_are_given_stay():
    options = models.IDEC(3, pretrain_epochs=2, max_rounds=7, warmup_epochs=4)._resolve_options()
    options._adapt_options(70_000, 64)
    assert (options.pretrain_epochs, options.max_rounds, options.warmup_epochs) == (2, 7, 4)


@pytest.mark.parametrize(("n_features", "share"), [(16, 0.3), (128, 0.5), (160, 0.6), (20_000, 0.75)])
@pytest.mark.parametrize("method", ["desc", "edesc", "ncsc"])
def test_the_corruption_of_rows_leaves_64_columns(method, n_features, share):
    options = models.MODELS[method](10)._resolve_options()
    options._adapt_options(1_000, n_features)
    assert options.corruption == pytest.approx(share)
    options = models.MODELS[method](10, image_shape=(1, n_features))._resolve_options()
    options._adapt_options(1_000, n_features)
    assert options.corruption == 0
