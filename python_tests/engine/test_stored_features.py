"""Scattering features of images on disk: the bits of those in memory, block by block, in a file that goes with its rows."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from helpers.estimators import small
from sklearn.metrics import adjusted_rand_score

from desc_ext.data import stored_rows
from desc_ext.engine import inputs, large_arrays
from desc_ext.features import Scattering2D, transformer

N, SIDE = 1100, 16  # about a thousand are transformed together


@pytest.fixture(scope="module")
def images():
    """Ten patterns, shifted and with noise."""
    random = np.random.default_rng(0)
    patterns = random.normal(size=(3, SIDE, SIDE))
    shifts = random.integers(0, 3, (N, 2))
    stack = [np.roll(patterns[i % 3], shift, (0, 1)) for i, shift in enumerate(shifts)]
    return (np.array(stack) + 0.2 * random.normal(size=(N, SIDE, SIDE))).astype(np.float32).reshape(N, -1)


@pytest.fixture
def on_disk(images, tmp_path, monkeypatch):
    """The same in a file, of which nothing is small enough to be read whole."""
    monkeypatch.setattr(inputs, "READ_WHOLE", 0)
    np.save(tmp_path / "x.npy", images)
    return stored_rows(tmp_path / "x.npy")


@pytest.mark.bits
@pytest.mark.parametrize(
    ("limits", "n_components"),
    [({}, 20), ({}, None), ({"_MAX_COVARIANCE": 0}, 20), ({"_MAX_COVARIANCE": 0, "_GRAM_ROWS": 64}, 7)],
    ids=["covariance", "channels", "incremental", "small blocks"],
)
def test_features_of_rows_on_disk_have_the_bits_of_the_array(
    limits, n_components, images, on_disk, monkeypatch
):
    for name, value in limits.items():
        monkeypatch.setattr(transformer, name, value)
    options = {"n_components": n_components, "image_shape": (SIDE, SIDE), "J": 2, "device": "cpu"}
    found, wanted = Scattering2D(**options).fit(on_disk), Scattering2D(**options).fit(images)
    for name in ("path_norms_", "mean_", "components_", "explained_variance_"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    np.testing.assert_array_equal(found.transform(on_disk), wanted.transform(images))
    blocks = list(found.transformed_blocks(on_disk))
    assert len(blocks) > 1
    np.testing.assert_array_equal(np.concatenate(blocks), wanted.transform(images))


def test_few_images_on_disk_are_read_together(images, on_disk):
    options = {"n_components": 5, "image_shape": (SIDE, SIDE), "device": "cpu"}
    some = on_disk.between(0, 40)
    np.testing.assert_array_equal(
        Scattering2D(**options).fit_transform(some), Scattering2D(**options).fit_transform(images[:40])
    )
    with pytest.raises(ValueError, match=r"Found array with 1 sample\(s\).*minimum of 2"):
        Scattering2D(**options).fit(on_disk.between(0, 1))


def test_numbers_that_are_none_are_refused(images, tmp_path):
    bad = images.copy()
    bad[700, 3] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    with pytest.raises(ValueError, match="Input X contains NaN or infinity"):
        Scattering2D(5, image_shape=(SIDE, SIDE)).fit(stored_rows(tmp_path / "bad.npy"))


@pytest.mark.parametrize("method", ["desc", "dec", "k-subspaces", "self-expressive", "ae-kmeans"])
def test_estimators_keep_features_in_a_file(method, images, on_disk, tmp_path, monkeypatch):
    """They never ask for all features at once, and what they read has the bits of the features in memory."""
    folder = tmp_path / "files"
    folder.mkdir()
    seen = []

    def written(n, parts, place):
        seen.append(place)
        return real(n, parts, place)

    real = inputs.written_rows
    monkeypatch.setattr(inputs, "written_rows", written)
    options = {"features": "scattering", "feature_dim": 12, "image_shape": (SIDE, SIDE)}
    if method == "self-expressive":  # reads features where it needs them
        options["landmarks"] = 200
    model = small(method, **options)
    model._large_files = folder
    wanted = small(method, **options).fit(images)
    assert seen == []
    model.fit(on_disk)
    assert seen == ([] if method == "self-expressive" else [folder])
    np.testing.assert_array_equal(model.features_.components_, wanted.features_.components_)
    if method in ("k-subspaces", "self-expressive"):  # whose steps see all rows
        np.testing.assert_array_equal(model.labels_, wanted.labels_)
    np.testing.assert_array_equal(model.predict(on_disk), model.predict(images))
    np.testing.assert_array_equal(model.transform(on_disk), model.transform(images))
    assert list(folder.iterdir()) == []  # the file has no name


@pytest.mark.parametrize("init", ["self-expressive", "k-subspaces", "labels"])
def test_the_start_of_images_on_disk_is_that_in_memory(init, images, on_disk):
    """In their features, which lie in a file; the network is fitted to the pixels."""
    wanted_labels = np.arange(N) % 3
    options = {"init": wanted_labels if init == "labels" else init, "image_shape": (SIDE, SIDE)}
    options |= {"pretrain_epochs": 0, "max_rounds": 0, "augment": "none"}
    found, wanted = (small("dec", **options).fit(X) for X in (on_disk, images))
    # k-subspaces numbers its clusters by rounding, which differs between rows projected together and block by block
    assert adjusted_rand_score(found.initial_labels_, wanted.initial_labels_) == 1
    np.testing.assert_allclose(found.embedding_, wanted.embedding_, atol=1e-5)


def test_a_disk_without_room_for_features_is_told_before_they_are_computed(images, on_disk, monkeypatch):
    monkeypatch.setattr(large_arrays, "LARGEST_IN_MEMORY", 0)
    monkeypatch.setattr(large_arrays.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    model = small("k-subspaces", features="scattering", feature_dim=12, image_shape=(SIDE, SIDE))
    with pytest.raises(OSError, match=r"needs as much room in .* make room there, or set TMPDIR"):
        model.fit(on_disk)


BOUNDED = """
import sys
import torch
from desc_ext.data import stored_rows
from desc_ext.engine import inputs
from desc_ext.features import Scattering2D
def status(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024
torch.set_num_threads(1)
inputs.READ_WHOLE = 0
def kept(rows):
    features = Scattering2D(None, image_shape=(16, 16), device="cpu").fit(rows)
    return inputs.FeatureRows(rows, features).kept(None)
rows = stored_rows(sys.argv[1])
kept(rows.between(0, 2000))  # code and thread pools are loaded now, and no longer count
open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts anew
before = status("VmRSS")
found = kept(rows)
print(found.nbytes, status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_the_memory_of_features_does_not_grow_with_the_rows(tmp_path):
    n = 40_000  # of 8,000 features are as much as what the allocator keeps
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(n, SIDE**2)).astype(np.float32))
    command = [sys.executable, "-c", BOUNDED, str(tmp_path / "x.npy")]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    size, extra = map(int, done.stdout.split())
    assert size == n * 868 * 4  # 217 paths of 2×2
    assert extra < 0.5 * size
