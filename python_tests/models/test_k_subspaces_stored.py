"""k-subspaces of rows on disk: against the same rows in memory, in a bounded share of it, with its results on disk."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.subspaces import D, K, P, model, planted, projectors

from desc_ext.algorithms.k_subspaces import KSubspacesOptions, lloyd
from desc_ext.data import stored_rows
from desc_ext.engine import inputs, large_arrays, rows
from desc_ext.engine.callbacks import Callback
from desc_ext.engine.rows import scaled_rows
from desc_ext.engine.streamed_rows import StreamedRows, smallest_integers
from desc_ext.models import KSubspaces, load_model
from desc_ext.stored import part_of_map

N = 12_000  # more than the restarts see


@pytest.fixture
def in_blocks(monkeypatch):
    """Nothing is small enough to be read whole, and 12,000 rows are several blocks."""
    monkeypatch.setattr(inputs, "READ_WHOLE", 0)
    monkeypatch.setattr(rows, "_BLOCK_ENTRIES", 4000 * P)


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """Where no result is small enough for memory: the folder of its files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(large_arrays, "LARGEST_IN_MEMORY", 0)
    monkeypatch.setattr(large_arrays.tempfile, "tempdir", str(folder))
    return folder


def data(n=N, p=P, seed=0):
    return planted(n, p=p, seed=seed, noise=0.1)[0].astype(np.float32)


def npy(X, folder):
    np.save(folder / "x.npy", X)
    return stored_rows(folder / "x.npy")


def shards(X, folder):
    for i, part in enumerate(np.array_split(X, 3)):
        np.save(folder / f"x-{i}.npy", part)
    return stored_rows(folder)


def parquet(X, folder):
    columns = pa.table({f"c{i}": X[:, i] for i in range(X.shape[1])})
    pq.write_table(columns, folder / "x.parquet", row_group_size=5000)
    return stored_rows(folder / "x.parquet")


def memory_map(X, folder):
    np.save(folder / "x.npy", X)
    return np.load(folder / "x.npy", mmap_mode="r")


def assert_same_fit(found, wanted):
    np.testing.assert_array_equal(found.labels_, wanted.labels_)
    assert found.labels_.dtype == np.int64
    np.testing.assert_allclose(projectors(found.bases_), projectors(wanted.bases_), atol=1e-5)
    np.testing.assert_allclose(found.energies_, wanted.energies_, rtol=1e-5)
    np.testing.assert_allclose(found.embedding_, wanted.embedding_, atol=1e-5)
    np.testing.assert_allclose(found.confidence(), wanted.confidence(), atol=1e-5)
    assert found.inertia_ == pytest.approx(wanted.inertia_, rel=1e-6)
    assert (found.n_iter_, found.n_reseeded_) == (wanted.n_iter_, wanted.n_reseeded_)
    for one, other in zip(found.history_, wanted.history_, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        for name in ("stage", "epoch", "label_change", "cluster_sizes"):
            assert one.get(name) == other.get(name)


@pytest.mark.parametrize("kind", [npy, shards, parquet, memory_map])
@pytest.mark.parametrize("options", [{}, {"unit_rows": False, "dtype": "float64", "subspace_dim": None}])
def test_a_fit_to_rows_on_disk_is_that_to_the_array(kind, options, tmp_path, in_blocks):
    X = data()
    stored = kind(X, tmp_path)
    found, wanted = model(**options).fit(stored), model(**options).fit(X)
    assert_same_fit(found, wanted)
    np.testing.assert_array_equal(found.predict(stored), found.labels_)
    np.testing.assert_array_equal(found.transform(stored), found.embedding_)
    np.testing.assert_array_equal(found.predict(stored), found.predict(X))
    np.testing.assert_array_equal(found.transform(stored), found.transform(X))
    assert found.score(stored) == found.score(X) == pytest.approx(-found.inertia_)


def test_wider_rows_are_reduced_in_every_pass(tmp_path, in_blocks):
    X = data(p=60)
    found, wanted = (model(n_components=25, n_init=1).fit(of) for of in (npy(X, tmp_path), X))
    assert_same_fit(found, wanted)
    assert found.bases_.shape == (K, 60, D)


def test_few_rows_on_disk_are_rows_in_memory(tmp_path):
    X = data()
    found, wanted = model().fit(npy(X, tmp_path)), model().fit(X)
    for name in ("bases_", "energies_", "labels_", "embedding_"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


@pytest.mark.bits
def test_the_same_bits_for_any_number_of_threads(tmp_path, in_blocks):
    stored, fits, n_threads = npy(data(), tmp_path), [], torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            fits.append(model(n_init=2).fit(stored))
    finally:
        torch.set_num_threads(n_threads)
    for other in fits[1:]:
        for name in ("bases_", "energies_", "labels_", "embedding_"):
            np.testing.assert_array_equal(getattr(other, name), getattr(fits[0], name))
        assert other.inertia_ == fits[0].inertia_


def streamed(X, folder):
    scaled = scaled_rows(npy(X, folder), "none", torch.device("cpu"), torch.float64)
    return StreamedRows(scaled, None, directions=False)


def test_empty_clusters_get_the_worst_rows_in_a_stream_too(tmp_path, in_blocks):
    X, y, _ = planted(N, noise=0.01)
    X = np.pad(X, ((0, 0), (0, D)))  # a cluster without rows spans the last D axes, and is no row's nearest
    crowded = torch.from_numpy(np.where(y == 3, 0, y))
    options = KSubspacesOptions(K, D, 1, 0, max_iter=3)
    wanted = lloyd(torch.from_numpy(X), crowded, options)
    found = lloyd(streamed(X, tmp_path), crowded, options)
    assert found.n_reseeded == wanted.n_reseeded >= 1
    np.testing.assert_array_equal(found.labels.numpy(), wanted.labels.numpy())
    np.testing.assert_allclose(projectors(found.bases.numpy()), projectors(wanted.bases.numpy()), atol=1e-9)


def test_labels_of_a_stream_are_small():
    for n, dtype in ((2, torch.uint8), (256, torch.uint8), (257, torch.int16), (40_000, torch.int32)):
        assert smallest_integers(n) == dtype


def test_mini_batches_go_on_after_a_fit_to_rows_on_disk(tmp_path, in_blocks):
    X = data()
    found, wanted = (model().fit(of).partial_fit(X[:300]) for of in (npy(X, tmp_path), X))
    np.testing.assert_allclose(projectors(found.bases_), projectors(wanted.bases_), atol=1e-5)
    assert found.embedding_.shape == (300, K)
    np.testing.assert_array_equal(found.confidence(), -found.embedding_.min(1))


# ---------------------------------------------------------------------- what cannot be fitted


def test_rows_on_disk_that_cannot_be_clustered(tmp_path, in_blocks):
    X = data()
    X[[7000, 9000], 3] = np.nan
    with pytest.raises(
        ValueError, match=r"NaN or infinity in 2 of 12000 rows, the first at row 7000, column 3 \(nan\)"
    ):
        model().fit(npy(X, tmp_path))
    with pytest.raises(ValueError, match="X is constant"):
        model().fit(npy(np.ones((N, P), np.float32), tmp_path))
    with pytest.raises(ValueError, match="X has 2 distinct rows among its 12000, fewer than n_clusters=4"):
        model().fit(npy(np.tile(np.eye(2, P, dtype=np.float32), (N // 2, 1)), tmp_path))
    for factor, fate in ((1e25, "overflows"), (1e-25, "underflows")):
        with pytest.raises(ValueError, match=f"squared norm {fate} float32"):
            model(unit_rows=False).fit(npy(data() * np.float32(factor), tmp_path))
    fitted = model().fit(npy(data(), tmp_path))
    with pytest.raises(ValueError, match="X has 19 features, but KSubspaces is expecting 20"):
        fitted.predict(npy(data()[:, 1:], tmp_path))


# ---------------------------------------------------------------------- checkpoints


class Interrupt(Callback):
    """Ctrl-C in an iteration of the continuation."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, model, record):
        if (record["stage"], record["epoch"]) == ("refine", self.epoch):
            raise KeyboardInterrupt


SLOW = {"n_init": 1, "init": "k-means", "subspace_dim": 2}  # several iterations on all rows


def interrupted(stored, epoch, folder, **options):
    with pytest.raises(KeyboardInterrupt):
        model(**SLOW | options, checkpoint=folder, callbacks=[Interrupt(epoch)]).fit(stored)


@pytest.mark.bits
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_fit_that_was_stopped_goes_on_with_the_same_bits(tmp_path, in_blocks, epoch):
    stored = npy(planted(N, noise=0.4, p=P)[0].astype(np.float32), tmp_path)
    wanted = model(**SLOW).fit(stored)
    assert sum(record["stage"] == "refine" for record in wanted.history_) > 3
    interrupted(stored, epoch, tmp_path / "state")
    assert (tmp_path / "state" / "config.json").exists() == (epoch > 1)
    seen = []
    watch = type(
        "Watch", (), {"on_epoch_end": lambda self, model, record: seen.append(dict(record)) and None}
    )()
    found = model(**SLOW, checkpoint=tmp_path / "state", resume=True, callbacks=[watch]).fit(stored)
    for name in ("bases_", "energies_", "labels_", "embedding_"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert (found.n_iter_, found.n_reseeded_) == (wanted.n_iter_, wanted.n_reseeded_)
    assert found.inertia_ == wanted.inertia_
    timeless = [[{**record, "seconds": 0} for record in fitted.history_] for fitted in (found, wanted)]
    assert timeless[0] == timeless[1]
    assert next(record["epoch"] for record in seen if record["stage"] == "refine") == epoch
    assert ("restart" in [record["stage"] for record in seen]) == (epoch == 1)
    # what has ended is not begun again
    seen.clear()
    again = model(**SLOW, checkpoint=tmp_path / "state", resume=True, callbacks=[watch]).fit(stored)
    assert not seen
    np.testing.assert_array_equal(again.embedding_, wanted.embedding_)
    assert again.n_iter_ == wanted.n_iter_


def test_checkpoints_of_other_fits_and_damaged_ones_are_refused(tmp_path, in_blocks):
    X, folder = planted(N, noise=0.4)[0].astype(np.float32), tmp_path / "state"
    stored = npy(X, tmp_path)
    interrupted(stored, 2, folder)

    def resume(of=stored, **options):
        model(**SLOW | options, checkpoint=folder, resume=True).fit(of)

    other = X.copy()
    other[7000, 3] += 1
    for name in ("other", "fewer"):
        (tmp_path / name).mkdir()
    for arguments, message in (
        ({"tol": 0.5}, "tol: 0.0 there, 0.5 here"),
        ({"random_state": 1}, "seed: "),
        ({"of": npy(other, tmp_path / "other")}, "the values in X differ"),
        ({"of": npy(X[:-1], tmp_path / "fewer")}, r"data_shape: \[12000, 20\] there, \[11999, 20\] here"),
    ):
        with pytest.raises(ValueError, match=message):
            resume(**arguments)
    config = json.loads((folder / "config.json").read_text())
    for name, value in (("epoch", "1"), ("before", [1]), ("history", None), ("residual", 1)):
        (folder / "config.json").write_text(json.dumps(config | {name: value}))
        with pytest.raises(ValueError, match=f"config.json is damaged: {name} is"):
            resume()
    with pytest.raises(ValueError, match="resume=True needs checkpoint"):
        model(resume=True).fit(X)


def test_a_fit_to_rows_in_memory_keeps_no_checkpoint(tmp_path):
    model(checkpoint=tmp_path / "state").fit(data(400))
    assert not (tmp_path / "state").exists()


# ---------------------------------------------------------------------- results on disk


def deleted_files():
    """Files without a name that this process holds."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    held = {line.split()[-2] for line in maps if line.endswith("(deleted)")}
    return {name for name in held if "temporary" in name}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")
def test_a_large_embedding_is_a_file_that_goes_with_it(tmp_path, in_blocks, on_disk):
    X = data()
    stored = npy(X, tmp_path)
    fitted = model().fit(stored)
    assert isinstance(fitted.embedding_, np.memmap)
    assert len(deleted_files()) == 1
    assert not list(on_disk.iterdir())  # nothing is left behind by a process that is killed
    distances = fitted.transform(stored)
    np.testing.assert_array_equal(distances, fitted.embedding_)
    np.testing.assert_array_equal(fitted.confidence(), -fitted.embedding_.min(1))
    assert len(deleted_files()) == 2
    part = distances[5:10]
    del distances
    gc.collect()
    assert len(deleted_files()) == 2  # the rows of the slice are still there
    np.testing.assert_array_equal(part, fitted.embedding_[5:10])
    del part, fitted
    gc.collect()
    assert not deleted_files()


def test_an_embedding_in_a_folder_goes_unless_it_is_moved(tmp_path, in_blocks, on_disk):
    stored = npy(data(), tmp_path)
    kept, lost = (model(n_init=1) for _ in range(2))
    kept._large_files = lost._large_files = on_disk
    wanted = np.array(kept.fit(stored).embedding_)
    lost.fit(stored)
    assert len(list(on_disk.iterdir())) == 2
    large_arrays.move_array(kept.embedding_, tmp_path / "kept.npy")
    np.testing.assert_array_equal(kept.embedding_, wanted)
    assert part_of_map(kept.embedding_).path == tmp_path / "kept.npy"  # whence rows of it are read
    (tmp_path / "like any").write_bytes(b"")
    assert (tmp_path / "kept.npy").stat().st_mode == (tmp_path / "like any").stat().st_mode
    del kept, lost
    gc.collect()
    assert not list(on_disk.iterdir())
    np.testing.assert_array_equal(np.load(tmp_path / "kept.npy"), wanted)


def test_a_saved_model_leaves_a_large_embedding_out(tmp_path, in_blocks, on_disk):
    X = data()
    stored = npy(X, tmp_path)
    fitted = model().fit(stored)
    fitted.save(tmp_path / "model")
    assert sum(file.stat().st_size for file in (tmp_path / "model").iterdir()) < N * K * 4
    loaded = load_model(tmp_path / "model")
    assert loaded.embedding_ is None
    for name in ("bases_", "energies_", "labels_"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(fitted, name))
        assert getattr(loaded, name).dtype == getattr(fitted, name).dtype
    np.testing.assert_array_equal(loaded.confidence(), fitted.confidence())
    np.testing.assert_array_equal(loaded.predict(stored), fitted.labels_)
    loaded.save(tmp_path / "again")
    np.testing.assert_array_equal(load_model(tmp_path / "again").confidence(), fitted.confidence())


def test_a_disk_without_room_for_the_embedding_is_told_before_the_fit(
    tmp_path, in_blocks, on_disk, monkeypatch
):
    usage = type("Usage", (), {"free": N * K * 4 - 1})
    monkeypatch.setattr(large_arrays.shutil, "disk_usage", lambda folder: usage)
    stored = npy(data(), tmp_path)
    monkeypatch.setattr(KSubspaces, "_reduced", None)
    with pytest.raises(OSError, match=r"\[12000, 4\] of float32, needs as much room in .*temporary.*TMPDIR"):
        model().fit(stored)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a file that is always full")
def test_a_disk_that_fills_up_leaves_no_file(on_disk):
    writer = large_arrays.RowWriter((10_000, 2), np.dtype("f4"), on_disk)
    writer._file.close()
    with open("/dev/full", "wb") as writer._file, pytest.raises(OSError, match="No space left"):
        writer.append(np.zeros((10_000, 2)))
    assert not list(on_disk.iterdir())


BOUNDED = """
import sys
import numpy as np
from desc_ext.data import stored_rows
from desc_ext.models import KSubspaces
def status(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024
small = np.random.default_rng(0).normal(size=(11_000, 64)).astype(np.float32)
KSubspaces(20, subspace_dim=4, n_init=1, max_iter=2, random_state=0).fit(small)  # code and thread pools are loaded now
open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts anew
before = status("VmRSS")
stored = stored_rows(sys.argv[1])
fitted = KSubspaces(20, subspace_dim=4, n_init=1, max_iter=2, random_state=0).fit(stored)
fitted.predict(stored)
print(status("VmHWM") - before, stored.nbytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """600,000 × 64 of float32, 154 MB and an embedding of 48 MB: beside the embedding a bounded share of it."""
    random = np.random.default_rng(0)
    for i in range(6):
        np.save(tmp_path / f"{i}.npy", random.normal(size=(100_000, 64)).astype(np.float32))
    done = subprocess.run([sys.executable, "-c", BOUNDED, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    extra, size = map(int, done.stdout.split())
    print(extra / size)
    embedding, a_row = 600_000 * 20 * 4, 600_000 * 24
    assert extra - embedding - a_row < 0.5 * size
