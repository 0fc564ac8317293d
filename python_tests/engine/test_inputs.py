"""What estimators are given: stacks of images, flat rows, and features in place of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from desc_ext.engine.callbacks import Callback
from desc_ext.engine.inputs import image_rows
from desc_ext.engine.state_folder import read_state_folder, write_state_folder
from desc_ext.features import Scattering2D, channels_first
from desc_ext.models import MODELS, load_model

pytestmark = pytest.mark.filterwarnings("ignore:no row was ever confident")


@pytest.mark.parametrize(
    ("given", "image_shape", "found"),
    [
        ((7, 4, 6), None, (1, 4, 6)),
        ((7, 4, 6), (4, 6), (1, 4, 6)),
        ((7, 4, 6), (1, 4, 6), (1, 4, 6)),
        ((7, 3, 4, 6), None, (3, 4, 6)),
        ((7, 3, 4, 6), (3, 4, 6), (3, 4, 6)),
        ((7, 1, 4, 6), (4, 6), (1, 4, 6)),
        ((7, 24), (4, 6), (1, 4, 6)),
        ((7, 24), [2, 3, 4], (2, 3, 4)),
        ((7, 24), None, None),
        ((0, 4, 6), None, (1, 4, 6)),
    ],
)
@pytest.mark.parametrize("kind", ["array", "torch", "list"])
def test_images_become_rows(given, image_shape, found, kind):
    X = np.arange(np.prod(given), dtype=np.float32).reshape(given)
    if kind == "list" and not given[0]:
        pytest.skip("an empty list has no width")
    rows, shape = image_rows(
        "Model", {"array": X, "torch": torch.from_numpy(X), "list": X.tolist()}[kind], image_shape
    )
    assert shape == found
    np.testing.assert_array_equal(rows, X.reshape(len(X), -1 if len(X) else 24))
    assert kind == "list" or np.shares_memory(rows, X) or not len(X)


CHANNELS_FIRST, CHANNELS_LAST = (0, 1, 2, 3), (0, 3, 1, 2)


@pytest.mark.parametrize(
    ("given", "options", "order"),
    [
        ((7, 3, 5, 6), {}, CHANNELS_FIRST),
        ((7, 5, 6, 3), {}, CHANNELS_LAST),
        ((7, 5, 6, 1), {}, CHANNELS_LAST),
        ((7, 4, 5, 6), {}, CHANNELS_FIRST),
        ((7, 5, 3, 4), {}, CHANNELS_LAST),  # the middle axis is never the channels
        ((7, 3, 5, 3), {"image_shape": (3, 5, 3)}, CHANNELS_FIRST),
        ((7, 4, 6, 3), {"image_shape": (3, 4, 6)}, CHANNELS_LAST),
        ((7, 1, 6, 3), {"image_shape": (3, 1, 6)}, CHANNELS_LAST),
        ((7, 5, 6, 2), {"image_shape": (2, 5, 6)}, CHANNELS_LAST),
        ((7, 9, 5, 6), {"image_shape": (9, 5, 6)}, CHANNELS_FIRST),
        ((7, 5, 6, 1), {"image_shape": (5, 6)}, CHANNELS_LAST),
        ((7, 3, 3, 3), {"image_shape": (3, 3, 3)}, CHANNELS_FIRST),
        ((7, 3, 6, 4), {"n_channels": 4}, CHANNELS_LAST),
        ((7, 2, 6, 4), {"n_channels": 2}, CHANNELS_FIRST),
    ],
)
@pytest.mark.parametrize("kind", ["array", "torch", "list"])
def test_one_rule_for_channels(given, options, order, kind):
    X = np.arange(np.prod(given), dtype=np.float32).reshape(given)
    expected = X.transpose(order)
    found = {"array": X, "torch": torch.from_numpy(X), "list": X.tolist()}[kind]
    stack = channels_first("Model", found, **options)
    np.testing.assert_array_equal(stack, expected)
    assert kind == "list" or np.shares_memory(stack, X)
    if "n_channels" not in options:
        rows, shape = image_rows("Model", found, options.get("image_shape"))
        assert shape == expected.shape[1:]
        np.testing.assert_array_equal(
            rows, np.concatenate([expected[:, c].reshape(7, -1) for c in range(shape[0])], 1)
        )


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (
            (7, 5, 6, 8),
            {},
            r"Model: .*\[7, 5, 6, 8\], and none of its axes 1 and 3 .* 1, 3 or 4; .*image_shape=",
        ),
        ((7, 3, 8, 3), {}, "both of its axes 1 and 3 could be the channels"),
        ((7, 1, 8, 4), {}, "both of its axes"),
        ((7, 3, 8, 8), {"n_channels": 4}, "none of its axes 1 and 3 could be the channels, the wanted 4"),
        ((7, 5, 6, 3), {"image_shape": (3, 6, 5)}, r"images of \(3, 6, 5\) are wanted"),
        ((7, 24), {}, r"a stack of images is \[n, H, W\].*got shape \[7, 24\]"),
        ((7, 3, 0, 6), {}, "images without pixels"),
    ],
)
def test_unclear_channels_are_refused(given, options, message):
    with pytest.raises(ValueError, match=message):
        channels_first("Model", np.zeros(given), **options)


def test_memory_map_stays_one(tmp_path):
    stack = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.uint8, shape=(5, 3, 2))
    rows, _ = image_rows("Model", stack, None)
    assert isinstance(rows, np.memmap)
    assert rows.shape == (5, 6)


def test_half_precision_tensors():
    rows, _ = image_rows("Model", torch.ones(2, 3, 4, dtype=torch.bfloat16), None)
    assert rows.dtype == np.float32


@pytest.mark.parametrize(
    ("given", "image_shape", "message"),
    [
        ((7, 24), (5, 5), r"Model: image_shape=\(5, 5\) has 25 pixels, but the rows of X have 24 columns"),
        ((7, 4, 6), (6, 4), r"stack of images \(4, 6\).*images of \(6, 4\) are wanted"),
        ((7, 3, 4, 6), (4, 6), r"images of \(4, 6\) are wanted"),
        ((7, 0, 6), None, "images without pixels"),
        ((7, 24), (4, 0), r"image_shape must be \(H, W\) or \(C, H, W\), integers >= 1; got \(4, 0\)"),
        ((7, 24), (4, 6.0), "image_shape must be"),
        ((7, 24), (24,), "image_shape must be"),
        ((7, 24), 24, "image_shape must be"),
        ((7, 24), (True, 24), "image_shape must be"),
    ],
)
def test_other_shapes_are_refused(given, image_shape, message):
    with pytest.raises(ValueError, match=message):
        image_rows("Model", np.zeros(given), image_shape)


# ---------------------------------------------------------------------- estimators

SMALL = {"hidden_sizes": (24,), "pretrain_epochs": 3, "n_init": 2, "batch_size": 64}
REFINED = SMALL | {"max_epochs": 3, "warmup_epochs": 1, "subspace_dim": 3, "tol": 0.0}
# stacks and flat rows are the same to a network without convolutions, and with one start
REFINED |= {"image_network": "dense", "augment": "none", "corruption": 0.0, "init": "k-means"}
OPTIONS = {
    "desc": REFINED,
    "edesc": REFINED,
    "ae-kmeans": SMALL,
    "k-subspaces": {"n_init": 3, "subspace_dim": 3},
}


def small(method: str, **options):
    return MODELS[method](3, **{"random_state": 0, **OPTIONS[method], **options})


@pytest.fixture(scope="module")
def digits():
    images = load_digits().images[:240]
    return images.astype(np.float32)


@pytest.mark.parametrize("method", OPTIONS)
def test_stacks_are_rows(method, digits):
    flat = digits.reshape(240, 64)
    expected = small(method).fit(flat)
    assert expected.features_ is None
    assert expected.resolved_params_["image_shape"] is None
    for model in (
        small(method).fit(digits),
        small(method).fit(torch.from_numpy(digits)[:, None]),
        small(method, image_shape=(8, 8)).fit(flat),
    ):
        assert model.n_features_in_ == 64
        assert model.resolved_params_["image_shape"] == [1, 8, 8]
        np.testing.assert_array_equal(model.embedding_, expected.embedding_)
        np.testing.assert_array_equal(model.predict(digits), model.labels_)
        np.testing.assert_array_equal(model.predict(flat), model.labels_)
        np.testing.assert_array_equal(model.predict(digits[..., None]), model.labels_)
        with pytest.raises(ValueError, match=r"images \(4, 16\) .* \(1, 8, 8\) are wanted"):
            model.predict(digits.reshape(240, 4, 16))
        with pytest.raises(ValueError, match="expecting 64 features"):
            model.predict(flat[:, 1:])


@pytest.mark.parametrize("method", OPTIONS)
def test_features_take_the_place_of_the_rows(method, digits, tmp_path):
    rows = Scattering2D(20).fit_transform(digits)
    expected = small(method).fit(rows)
    flat = digits.reshape(240, 64)
    model = small(method, features="scattering", feature_dim=20, image_shape=(8, 8)).fit(flat)
    np.testing.assert_array_equal(model.embedding_, expected.embedding_)
    np.testing.assert_array_equal(model.labels_, expected.labels_)
    assert model.n_features_in_ == 64
    assert model.features_.image_shape_ == (1, 8, 8)
    np.testing.assert_array_equal(model.predict(digits), model.labels_)
    np.testing.assert_array_equal(model.transform(flat), model.embedding_)
    model.save(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.get_params() == model.get_params()
    np.testing.assert_array_equal(loaded.predict(digits[:7]), model.labels_[:7])
    np.testing.assert_array_equal(loaded.transform(flat), model.embedding_)
    # the file was written with other tensors than its configuration tells of
    config, tensors = read_state_folder(tmp_path, "model")
    del tensors["features.mean_"]
    kept = {name: value for name, value in config.items() if name not in ("tensor_file", "sha256", "shapes")}
    write_state_folder(tmp_path, "model", kept, tensors)
    with pytest.raises(ValueError, match=r"safetensors is damaged: .*mean_"):
        load_model(tmp_path)


def test_feature_dim_is_bounded_by_the_data(digits):
    model = small("k-subspaces", features="scattering").fit(digits[:100])
    assert model.features_.components_.shape == (100, 217)
    model = small("k-subspaces", features="scattering", feature_dim=None).fit(digits)
    assert model.features_.components_ is None


@pytest.mark.bits
def test_a_fit_that_was_stopped_goes_on_with_the_same_bits(digits, tmp_path):
    class Stop(Callback):
        def on_epoch_end(self, model, record):
            if (record["stage"], record["epoch"]) == ("refine", 1):
                raise KeyboardInterrupt

    options = {"features": "scattering", "feature_dim": 20, "checkpoint": tmp_path}
    expected = small("desc", **options | {"checkpoint": None}).fit(digits)
    with pytest.raises(KeyboardInterrupt):
        small("desc", **options, callbacks=[Stop()]).fit(digits)
    with pytest.raises(ValueError, match="feature_dim: 20 there, 19 here"):
        small("desc", **options | {"feature_dim": 19}, resume=True).fit(digits)
    model = small("desc", **options, resume=True).fit(digits)
    np.testing.assert_array_equal(model.embedding_, expected.embedding_)
    np.testing.assert_array_equal(model.labels_, expected.labels_)


def test_mini_batches_of_images(digits):
    model = small("k-subspaces", features="scattering", feature_dim=20)
    model.partial_fit(digits[:120]).partial_fit(digits[120:])
    first = Scattering2D(20).fit(digits[:120])
    by_rows = small("k-subspaces").partial_fit(first.transform(digits[:120]))
    by_rows.partial_fit(first.transform(digits[120:]))
    np.testing.assert_array_equal(model.bases_, by_rows.bases_)
    with pytest.raises(ValueError, match="feature_dim=10, but partial_fit goes on"):
        model.set_params(feature_dim=10).partial_fit(digits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"features": "scattering"},
            r"features='scattering' are of images, but X has flat rows.*image_shape=\(H, W\)",
        ),
        ({"features": "wavelets"}, "features must be one of 'scattering', or None, got 'wavelets'"),
        ({"feature_dim": 0}, "feature_dim must be an integer >= 1, or None, got 0"),
        ({"image_shape": (8, 9)}, "has 72 pixels, but the rows of X have 64 columns"),
        ({"image_shape": 64}, "image_shape must be"),
    ],
)
@pytest.mark.parametrize("method", ["desc", "k-subspaces"])
def test_bad_options_are_refused(method, options, message, digits):
    with pytest.raises(ValueError, match=message):
        small(method, **options).fit(digits.reshape(240, 64))
