"""Rows on disk from the command line: shards in, results on disk out; runs that are killed."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.commands import ENVIRONMENT
from helpers.subspaces import D, K, P, planted
from typer.testing import CliRunner

from desc_ext import cli, data
from desc_ext.data import DataError, StoredRows, load_dataset
from desc_ext.engine import inputs, large_arrays, rows
from desc_ext.models import KSubspaces, load_model

N = 12_000
FIT = (
    "--model",
    "k-subspaces",
    "--clusters",
    K,
    "--set",
    f"subspace_dim={D}",
    "--set",
    "n_init=2",
    "--no-pictures",
)


@pytest.fixture
def large(monkeypatch, tmp_path):
    """12,000 rows are many: they stay on disk, and so do results with a row for each."""
    for module in (data.arrays, inputs):
        monkeypatch.setattr(module, "READ_WHOLE", 0)
    monkeypatch.setattr(rows, "_BLOCK_ENTRIES", 4000 * P)
    monkeypatch.setattr(large_arrays, "LARGEST_IN_MEMORY", 0)


@pytest.fixture
def shards(tmp_path):
    """The folder of three shards, the rows and their classes."""
    X, y, _ = planted(N, noise=0.05)
    X, folder = X.astype(np.float32), tmp_path / "shards"
    folder.mkdir()
    for number, part in zip((2, 10, 100), np.array_split(X, 3), strict=True):
        np.save(folder / f"part-{number}.npy", part)
    np.save(tmp_path / "y.npy", y)
    return folder, X, y


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(word) for word in arguments], catch_exceptions=False)


def test_a_folder_of_shards_is_one_array(shards, tmp_path):
    folder, X, y = shards
    found = load_dataset(folder, labels=str(tmp_path / "y.npy"))
    np.testing.assert_array_equal(found.X, X)
    assert type(found.X) is np.ndarray  # 1 MB
    np.testing.assert_array_equal(found.labels, y)


def test_large_files_and_folders_are_stored_rows(shards, large, tmp_path):
    folder, X, _ = shards
    np.save(tmp_path / "x.npy", X)
    for source in (folder, tmp_path / "x.npy"):
        found = load_dataset(source)
        assert isinstance(found.X, StoredRows)
        assert found.images is found.X
        np.testing.assert_array_equal(found.X, X)


def test_folders_with_other_files_or_other_arrays_are_refused(shards, tmp_path):
    folder, X, _ = shards
    with pytest.raises(DataError, match=r"has no column 'kind'.*--labels FILE.npy"):
        load_dataset(folder, labels="kind")
    with pytest.raises(DataError, match="is a folder of arrays, for which --columns means nothing"):
        load_dataset(folder, columns="1-2")
    np.save(folder / "wide.npy", X[:, 1:])
    with pytest.raises(DataError, match=r"wide.npy has 19 columns of float32, but .*part-2.npy has 20"):
        load_dataset(folder)
    (folder / "wide.npy").rename(folder / "notes.csv")
    with pytest.raises(DataError, match=r"holds 3 NumPy files and other files, such as .*notes.csv"):
        load_dataset(folder)


def test_fit_and_predict_of_rows_on_disk(shards, large, tmp_path):
    folder, X, _ = shards
    out, labels = tmp_path / "out", tmp_path / "y.npy"
    done = invoke("fit", folder, "--out", out, "--labels", labels, *FIT)
    assert done.exit_code == 0, done.output
    wanted = KSubspaces(K, subspace_dim=D, n_init=2, random_state=0).fit(X)
    np.testing.assert_array_equal(np.load(out / "labels.npy"), wanted.labels_)
    np.testing.assert_allclose(np.load(out / "embedding.npy"), wanted.embedding_, atol=1e-5)
    lines = (out / "labels.csv").read_text().splitlines()
    assert len(lines) == N + 1
    for row in (0, 5000, N - 1):
        number, cluster, confidence = lines[row + 1].split(",")
        assert (int(number), int(cluster)) == (row, wanted.labels_[row])
        assert float(confidence) == pytest.approx(wanted.confidence()[row], abs=1e-5)
    assert json.loads((out / "metrics.json").read_text())["k-subspaces"]["acc"] > 0.98
    assert "report.html" in [file.name for file in out.iterdir()]
    assert not (out / "checkpoint").exists()  # where the embedding was written before it was moved
    for name in ("again.npy", "again.csv"):
        done = invoke("predict", out, folder, "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
        assert f"{N:,} labels, {K} clusters used" in done.output
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), wanted.labels_)
    ids, predicted, confidence = np.loadtxt(tmp_path / "again.csv", delimiter=",", skiprows=1).T
    np.testing.assert_array_equal(ids, np.arange(N))
    np.testing.assert_array_equal(predicted, wanted.labels_)
    np.testing.assert_allclose(confidence, wanted.confidence(), rtol=1e-3, atol=1e-4)


def test_an_embedding_that_is_not_wanted_is_not_computed(shards, large, tmp_path, monkeypatch):
    monkeypatch.setattr(large_arrays.RowWriter, "__init__", None)
    folder, _, _ = shards
    done = invoke("fit", folder, "--out", tmp_path / "out", "--no-embedding", *FIT[:-1])
    assert done.exit_code == 0, done.output
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"labels.npy", "labels.csv", "report.html", "cluster_sizes.png"} <= names
    assert not {"embedding.npy", "embedding.png"} & names
    assert "warning" not in done.output
    done = invoke("predict", tmp_path / "out", folder, "--out", tmp_path / "again.npy")
    assert done.exit_code == 0, done.output


DEEP = ["pretrain_epochs=1", "max_epochs=1", "init=k-means", "n_init=1", "hidden_sizes=16", "batch_size=512"]


@pytest.mark.parametrize("further", [[], ["--no-embedding"]])
def test_a_deep_fit_to_rows_on_disk(shards, large, tmp_path, further):
    folder, X, _ = shards
    out = tmp_path / "out"
    options = [word for one in DEEP for word in ("--set", one)]
    done = invoke("fit", folder, "--model", "desc", "--clusters", K, "--out", out, *options, *further)
    assert done.exit_code == 0, done.output
    assert "warning" not in done.output
    names = {file.name for file in out.iterdir()}
    assert {"labels.npy", "labels.csv", "report.html", "cluster_sizes.png"} <= names
    assert not (out / "checkpoint").exists()  # where the codes were written
    model = load_model(out / "model")
    np.testing.assert_array_equal(np.load(out / "labels.npy"), model.predict(X))
    confidence = np.loadtxt(out / "labels.csv", delimiter=",", skiprows=1)[:, 2]
    np.testing.assert_allclose(confidence, model.predict_proba(X).max(1), atol=1e-5)
    assert ({"embedding.npy", "embedding.png"} & names == set()) == bool(further)
    if not further:
        np.testing.assert_array_equal(np.load(out / "embedding.npy"), model.transform(X))
    done = invoke("predict", out, folder, "--out", tmp_path / "again.npy")
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), np.load(out / "labels.npy"))


def test_an_embedding_in_memory_can_be_left_out_too(tmp_path):
    np.save(tmp_path / "x.npy", planted(200)[0])
    done = invoke("fit", tmp_path / "x.npy", "--out", tmp_path / "out", "--no-embedding", *FIT)
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "out" / "embedding.npy").exists()


KILLED = """
import os, signal, sys
import numpy
from desc_ext import cli, data
from desc_ext.engine import inputs, large_arrays, rows
from desc_ext.engine.streamed_rows import StreamedRows
for module in (data.arrays, inputs):
    module.READ_WHOLE = 0
large_arrays.LARGEST_IN_MEMORY, rows._BLOCK_ENTRIES = 0, 4000 * 20
owner, name = {"pass": (StreamedRows, "nearest"), "embedding": (large_arrays.RowWriter, "append"),
               "results": (large_arrays.os, "rename"), "labels": (numpy, "save")}[sys.argv[1]]
real, calls, wanted = getattr(owner, name), [], int(sys.argv[2])
def killed(*arguments, **options):
    calls.append(name)
    result = real(*arguments, **options)
    if len(calls) == wanted:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, name, killed)
sys.argv[1:] = sys.argv[3:]
cli.main()
"""


@pytest.mark.parametrize(("where", "call"), [("pass", 1), ("embedding", 2), ("results", 1)])
def test_a_run_that_is_killed_leaves_nothing_that_could_be_taken_for_whole(
    shards, large, tmp_path, where, call
):
    """Killed in a pass, with half an embedding, and with the embedding moved: the command then does it all."""
    folder, X, _ = shards
    out = tmp_path / "out"
    fit = [str(word) for word in ("fit", folder, "--out", out, *FIT)]
    command = [sys.executable, "-c", KILLED, where, str(call), *fit]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == -9, done.stdout + done.stderr
    assert not (out / "config.json").exists()
    refused = invoke("predict", out, folder, "--out", tmp_path / "again.npy")
    assert refused.exit_code == 2
    assert "holds an interrupted run" in refused.output
    done = invoke(*fit, "--overwrite")  # without it, a run that could go on is not thrown away
    assert done.exit_code == 0, done.output
    wanted = KSubspaces(K, subspace_dim=D, n_init=2, random_state=0).fit(X)
    np.testing.assert_array_equal(np.load(out / "labels.npy"), wanted.labels_)
    np.testing.assert_allclose(np.load(out / "embedding.npy"), wanted.embedding_, atol=1e-5)
    assert not list(out.rglob("desc-ext-*")) + list(out.glob(".results*")) + list(out.glob("checkpoint"))


@pytest.mark.parametrize(("where", "call"), [("pass", 3), ("embedding", 2), ("results", 1)])
def test_a_run_that_is_killed_goes_on(shards, large, tmp_path, where, call):
    """From the last pass that ended; what the killed process left beside its checkpoint goes."""
    folder, _, _ = shards
    options = ("--set", "init=k-means", "--set", "n_init=1", "--set", "subspace_dim=2")
    fit = ["fit", folder, "--model", "k-subspaces", "--clusters", K, *options, "--no-pictures"]
    assert invoke(*fit, "--out", tmp_path / "whole").exit_code == 0
    command = [sys.executable, "-c", KILLED, where, str(call), *map(str, fit), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == -9, done.stdout + done.stderr
    assert "restart" in (tmp_path / "out" / "checkpoint" / "state" / "config.json").read_text()
    assert invoke(*fit, "--out", tmp_path / "out").exit_code == 2  # there is something to go on with
    done = invoke(*fit, "--out", tmp_path / "out", "--resume")
    assert done.exit_code == 0, done.output
    for name in ("labels.npy", "labels.csv", "embedding.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "out").rglob("desc-ext-*")) + list((tmp_path / "out").glob("checkpoint"))


def test_predictions_that_are_cut_short_are_not_there(shards, large, tmp_path):
    folder, _, _ = shards
    assert invoke("fit", folder, "--out", tmp_path / "out", *FIT).exit_code == 0
    target = tmp_path / "again.npy"
    target.write_bytes(b"older")
    predict = [str(word) for word in ("predict", tmp_path / "out", folder, "--out", target)]
    command = [sys.executable, "-c", KILLED, "labels", "1", *predict]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == -9, done.stdout + done.stderr
    assert target.read_bytes() == b"older"
    assert invoke(*predict).exit_code == 0
    np.testing.assert_array_equal(np.load(target), np.load(tmp_path / "out" / "labels.npy"))
    assert {path.name for path in tmp_path.iterdir()} == {"again.npy", "out", "shards", "y.npy"}
