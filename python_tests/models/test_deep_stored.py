"""Deep methods on rows on disk: against the same rows in memory, in a bounded share of it, with their codes on disk."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.estimators import small
from helpers.subspaces import planted

from desc_ext.data import stored_rows
from desc_ext.engine import chunks, inputs, large_arrays
from desc_ext.engine import rows as rows_module
from desc_ext.engine.callbacks import Callback
from desc_ext.engine.chunks import CHUNK_ROWS
from desc_ext.models import load_model

METHODS = ("desc", "edesc", "ncsc", "asc2d", "dec", "idec", "ae-kmeans")
N, P = 2 * CHUNK_ROWS + 50, 20


@pytest.fixture
def X():
    return planted(N, p=P, n_clusters=3, noise=0.1)[0].astype(np.float32)


@pytest.fixture
def on_disk(X, tmp_path, monkeypatch):
    """The rows in a file, of which nothing is small enough to be read whole, in the order of rows in memory."""
    monkeypatch.setattr(inputs, "READ_WHOLE", 0)
    monkeypatch.setattr(chunks, "_BLOCK_CHUNKS", 1)

    class Order:
        def __init__(self, X, generator):
            self.order, self.take = torch.randperm(len(X), generator=generator), X.__getitem__

    monkeypatch.setattr(rows_module, "BlockShuffle", Order)
    np.save(tmp_path / "x.npy", X)
    return stored_rows(tmp_path / "x.npy")


def assert_same_fit(found, wanted):
    np.testing.assert_array_equal(found.initial_labels_, wanted.initial_labels_)
    # sums over all rows are added up block by block, and rows between two clusters may go to the other one
    assert (found.labels_ == wanted.labels_).mean() > 0.995
    np.testing.assert_allclose(found.embedding_, wanted.embedding_, atol=1e-4)
    np.testing.assert_allclose(found.confidence(), wanted.confidence(), atol=1e-4)
    for one, other in zip(found.history_, wanted.history_, strict=True):
        assert one.keys() == other.keys()
        for name, most in (("cluster_sizes", N), ("n_confident", N), ("label_change", 1)):
            np.testing.assert_allclose(*(record.pop(name, 0) for record in (one, other)), atol=0.005 * most)
        for name in one.keys() - {"stage", "seconds", "discriminator_accuracy"}:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:NCSC collapsed")
@pytest.mark.parametrize("init", ["self-expressive", "k-means", "k-subspaces", "labels"])
@pytest.mark.parametrize("method", METHODS)
def test_a_fit_to_rows_on_disk_is_that_to_the_array(method, init, X, on_disk):
    options = {"init": np.arange(N) % 3 if init == "labels" else init}
    if method == "ae-kmeans":
        if init != "k-means":
            pytest.skip("it has no other start")
        options = {}
    assert_same_fit(small(method, **options).fit(on_disk), small(method, **options).fit(X))


@pytest.mark.filterwarnings("ignore:NCSC collapsed", "ignore:no row was ever confident")
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("desc", {"preset": "paper", "init": "latent-k-subspaces"}),
        ("desc", {"preset": "paper", "confidence_threshold": 0.3, "smoothing": 0.01, "batch_size": 256}),
        ("edesc", {"preset": "paper", "init": "k-means"}),
        ("dec", {"preset": "paper"}),
        ("asc2d", {"preset": "paper"}),
        ("ncsc", {"preset": "paper", "scaling": "global", "latent_dim": 20}),
    ],
)
def test_so_are_the_presets_of_the_papers(method, options, X, on_disk):
    assert_same_fit(small(method, **options).fit(on_disk), small(method, **options).fit(X))


def test_empty_clusters_get_rows_of_a_file_too(X, on_disk):
    model = small("desc", preset="paper", init="k-means", latent_dim=P)
    states = [model.begin(of) for of in (on_disk, X)]
    for state in states:
        state.network.bases.data.copy_(torch.randn(3, P, 3, generator=torch.Generator().manual_seed(0)))
        state.network.bases.data[2] *= 1e-3  # so that no row is of this cluster
        state.initial_labels = torch.zeros(N, dtype=torch.int64)
        state.epoch = 1
        with torch.no_grad():
            z = model._encode_all(state)
            evaluation = model._evaluate_codes(state, z)
            assert 2 not in evaluation.labels
            assert model._reseed_empty(state, evaluation) == 1
            assert 2 in model._evaluate_codes(state, z).labels
    found, wanted = (state.network.bases.detach() for state in states)
    projected = [bases @ bases.mT for bases in (found, wanted)]
    torch.testing.assert_close(*projected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_new_rows_on_disk_have_the_bits_of_rows_in_memory(method, X, on_disk):
    model = small(method).fit(X)
    for name in ("predict", "predict_proba", "transform"):
        found, wanted = getattr(model, name)(on_disk), getattr(model, name)(X)
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == wanted.dtype


def test_a_large_embedding_is_a_file_which_a_saved_model_leaves_out(X, on_disk, tmp_path, monkeypatch):
    wanted = small("desc").fit(on_disk)
    monkeypatch.setattr(large_arrays, "LARGEST_IN_MEMORY", 0)
    folder = tmp_path / "files"
    folder.mkdir()
    model = small("desc")
    model._large_files = folder
    model.fit(on_disk)
    assert isinstance(model.embedding_, np.memmap)
    assert [file.suffix for file in folder.iterdir()] == [".npy"]  # those of the fit are gone
    np.testing.assert_array_equal(model.embedding_, wanted.embedding_)
    np.testing.assert_array_equal(model.transform(on_disk), wanted.embedding_)
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.embedding_ is None
    np.testing.assert_array_equal(loaded.labels_, wanted.labels_)
    np.testing.assert_array_equal(loaded.confidence(), wanted.confidence())
    np.testing.assert_array_equal(loaded.predict(X), wanted.labels_)
    assert len(loaded.get_feature_names_out()) == wanted.embedding_.shape[1]


def test_an_embedding_that_no_one_wants_is_not_made(X, on_disk, tmp_path):
    model, wanted, seen = small("dec"), small("dec").fit(on_disk), []
    model._keeps_embedding = False

    class Watch(Callback):
        def on_epoch_end(self, model, record):
            seen.append(record.get("cluster_sizes"))

    model.callbacks = [Watch()]
    model.fit(on_disk)
    assert model.embedding_ is None
    np.testing.assert_array_equal(model.labels_, wanted.labels_)
    assert seen[-1] == np.bincount(wanted.labels_, minlength=3).tolist()
    np.testing.assert_allclose(model.confidence(), wanted.predict_proba(X).max(1), atol=1e-6)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(load_model(tmp_path / "model").confidence(), model.confidence())
    model.fit(X)  # of rows in memory there is one
    np.testing.assert_allclose(model.confidence(), model.predict_proba(X).max(1), atol=1e-6)


def test_a_disk_without_room_for_codes_is_told_before_the_fit(on_disk, monkeypatch):
    monkeypatch.setattr(large_arrays, "LARGEST_IN_MEMORY", 0)
    monkeypatch.setattr(large_arrays.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"needs as much room in .* make room there, or set TMPDIR"):
        small("desc", callbacks=[Callback()]).fit(on_disk)


@pytest.mark.bits
@pytest.mark.parametrize("method", ["desc", "dec"])
def test_a_fit_that_was_stopped_goes_on_with_the_same_bits(method, on_disk, tmp_path):
    class Interrupt(Callback):
        def on_epoch_end(self, model, record):
            if (record["stage"], record["epoch"]) == ("refine", 3):
                raise KeyboardInterrupt

    wanted = small(method).fit(on_disk)
    with pytest.raises(KeyboardInterrupt):
        small(method, checkpoint=tmp_path / "state", callbacks=[Interrupt()]).fit(on_disk)
    found = small(method, checkpoint=tmp_path / "state", resume=True).fit(on_disk)
    np.testing.assert_array_equal(found.embedding_, wanted.embedding_)
    np.testing.assert_array_equal(found.labels_, wanted.labels_)


@pytest.mark.bits
def test_passes_have_the_same_bits_for_any_number_of_threads(on_disk):
    """Start, codes, assignments; steps of training promise them for equal numbers of threads alone, in memory as on disk."""
    n_threads, fits = torch.get_num_threads(), []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            fits.append(small("desc", pretrain_epochs=0, max_epochs=0).fit(on_disk))
    finally:
        torch.set_num_threads(n_threads)
    for name in ("embedding_", "labels_", "initial_labels_", "bases_"):
        np.testing.assert_array_equal(getattr(fits[0], name), getattr(fits[1], name))


BOUNDED = """
import json, sys
import numpy as np
import torch
from desc_ext.models import MODELS
def status(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024
torch.set_num_threads(1)
options = dict(hidden_sizes=(16,), batch_size=4096, pretrain_epochs=1, warmup_epochs=0, n_init=1, init="k-means",
               random_state=0, device="cpu")
options |= json.loads(sys.argv[3])
def fit(X):
    model = MODELS[sys.argv[2]](10, **options)
    model._keeps_embedding = False
    return model.fit(X)
X = np.load(sys.argv[1], mmap_mode="r")
fit(np.array(X[:20_000]))  # code and thread pools are loaded now, and no longer count
open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts anew
before = status("VmRSS")
fit(X)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize(("method", "options"), [("desc", {"max_epochs": 1}), ("dec", {"max_rounds": 1})])
def test_the_memory_of_a_fit_does_not_grow_with_codes_and_targets(method, options, tmp_path):
    n, p, width = 600_000, 16, 160
    file = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float64, (n, p))
    for start in range(0, n, 100_000):
        file[start : start + 100_000] = planted(100_000, p=p, n_clusters=10)[0]
    del file
    options = json.dumps(options | {"latent_dim": width})
    command = [sys.executable, "-c", BOUNDED, str(tmp_path / "x.npy"), method, options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # of the codes alone; on a machine with much else to do it was .61
    assert int(done.stdout) < 0.7 * n * width * 4
