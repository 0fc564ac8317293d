"""Folders of images, image stacks and Parquet tables above 64 MiB from the command line, against the same in memory."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from desc_ext import cli
from desc_ext.algorithms import landmarks
from desc_ext.cli.run import scaled_input
from desc_ext.data import StoredRows, arrays, columnar, load_dataset, pictures
from desc_ext.engine import inputs
from desc_ext.metrics import clustering_scores
from desc_ext.models import load_model

N, SIDE = 240, 16
SMALL = {
    "desc": ["pretrain_epochs=2", "max_epochs=2", "channels=4,4,8", "n_init=2", "batch_size=64"],
    "k-subspaces": ["subspace_dim=3", "n_init=2"],
    "self-expressive": [],
}


@pytest.fixture
def large(monkeypatch, tmp_path):
    """Makes all rows those that stay on disk."""
    monkeypatch.setenv("DESC_EXT_CACHE", str(tmp_path / "cache"))

    def begin():
        for module in (pictures, arrays, columnar, inputs):
            monkeypatch.setattr(module, "READ_WHOLE", 0)

    return begin


def stack(channels):
    """Three patterns in turn, brighter or darker and with noise, as bytes [N, SIDE, SIDE] or [N, SIDE, SIDE, 3]."""
    random = np.random.default_rng(0)
    patterns = random.integers(40, 200, (3, SIDE, SIDE, channels))
    images = [patterns[i % 3] * random.uniform(0.7, 1) for i in range(N)]
    found = np.clip(images + random.normal(0, 12, (N, SIDE, SIDE, channels)), 0, 255).astype(np.uint8)
    return found[..., 0] if channels == 1 else found


@pytest.fixture(params=[1, 3], ids=["grey", "colour"])
def folder(request, tmp_path):
    for i, image in enumerate(stack(request.param)):
        path = tmp_path / "pictures" / ("cat", "dog", "ship")[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "pictures"


def invoke(*arguments):
    done = CliRunner().invoke(cli.app, [str(word) for word in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def options_of(model):
    return ["--model", model, "--clusters", 3, *(word for one in SMALL[model] for word in ("--set", one))]


@pytest.mark.parametrize("model", sorted(SMALL))
def test_fit_predict_and_evaluate_of_a_folder_of_images(model, folder, large, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    invoke("fit", folder, "--out", whole, "--no-pictures", *options_of(model))
    large()
    output = invoke("fit", folder, "--out", out, "--baselines", *options_of(model))
    assert "warning" not in output
    names = {file.name for file in out.iterdir()}
    assert {"labels.csv", "report.html", "examples.png", "embedding.npy", "input"} <= names
    assert "data:image/png" in (out / "report.html").read_text()
    lines = [(one / "labels.csv").read_text().splitlines() for one in (out, whole)]
    assert [line.split(",")[0] for line in lines[0]] == [line.split(",")[0] for line in lines[1]]
    scores = [json.loads((one / "metrics.json").read_text()) for one in (out, whole)]
    assert set(scores[0]) == {model, "k-means", "ae-kmeans"}
    if model == "self-expressive":  # whose steps see all rows, features of images
        np.testing.assert_array_equal(np.load(out / "labels.npy"), np.load(whole / "labels.npy"))
        np.testing.assert_array_equal(np.load(out / "embedding.npy"), np.load(whole / "embedding.npy"))
    assert scores[0][model]["acc"] > (0.6 if model == "desc" else 0.9)  # that of 2 epochs
    fitted, images = load_model(out / "model"), load_dataset(folder).in_memory().images
    wanted = fitted.predict(images)
    invoke("predict", out, folder, "--out", tmp_path / "again.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), wanted)
    invoke("predict", out, folder, "--out", tmp_path / "part.npy", "--shard", "2/3")
    np.testing.assert_array_equal(np.load(tmp_path / "part.npy"), wanted[80:160])
    np.testing.assert_array_equal(fitted.transform(load_dataset(folder).images), fitted.transform(images))
    acc = clustering_scores(load_dataset(folder).labels, wanted)["acc"]
    assert f"{acc:.3f}" in invoke("evaluate", out, folder)


def test_a_deep_fit_to_images_on_disk_in_one_mini_batch_is_that_in_memory(folder, large, tmp_path):
    """Where the order of the rows does not matter: no training, the start in the features of all images."""
    options = ["--model", "dec", "--clusters", 3, "--no-pictures"]
    for one in ("pretrain_epochs=0", "max_rounds=0", "n_init=2"):
        options += ["--set", one]
    for name in ("whole", "out"):
        invoke("fit", folder, "--out", tmp_path / name, *options)
        large()
    found, wanted = (load_model(tmp_path / name / "model") for name in ("out", "whole"))
    np.testing.assert_array_equal(found.initial_labels_, wanted.initial_labels_)
    np.testing.assert_allclose(found.embedding_, wanted.embedding_, atol=1e-5)


@pytest.mark.parametrize("order", ["grey", "last", "first"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "bool"])
def test_stacks_of_images_stay_on_disk(order, dtype, large, tmp_path):
    images = stack(1 if order == "grey" else 3)
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if order == "first" else images
    np.save(tmp_path / "x.npy", images > 99 if dtype == "bool" else images.astype(dtype))
    wanted = load_dataset(tmp_path / "x.npy")
    assert not isinstance(wanted.X, StoredRows)
    large()
    found = load_dataset(tmp_path / "x.npy")
    assert isinstance(found.X, StoredRows)
    assert found.X.dtype == wanted.X.dtype
    np.testing.assert_array_equal(np.asarray(found.X), wanted.X)
    assert (found.image_shape, found.preparation) == (wanted.image_shape, wanted.preparation)
    np.testing.assert_array_equal(np.asarray(found.images), wanted.images.reshape(N, -1))
    assert found.shape_of_images == wanted.images.shape[1:]
    again = load_dataset(tmp_path / "x.npy", preparation=wanted.preparation)
    np.testing.assert_array_equal(np.asarray(again.X), wanted.X)


def test_a_parquet_table_from_the_command_line(large, tmp_path):
    X = stack(1).reshape(N, -1)[:, ::9].astype(np.float64)
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])
    frame["kind"], frame["name"] = np.array(["a", "b", "c"])[np.arange(N) % 3], [f"row {i}" for i in range(N)]
    frame.to_parquet(tmp_path / "t.parquet", index=False, row_group_size=70)
    given = ["--labels", "kind", "--id", "name", "--drop", "x3"]
    options = [*options_of("k-subspaces"), "--no-pictures"]
    for name in ("whole", "out"):
        invoke("fit", tmp_path / "t.parquet", "--out", tmp_path / name, *given, *options)
        large()
    for name in ("labels.csv", "labels.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    invoke(
        "predict", tmp_path / "out", tmp_path / "t.parquet", "--drop", "x3", "--out", tmp_path / "again.npy"
    )
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), np.load(tmp_path / "whole" / "labels.npy"))


def test_k_means_beside_rows_on_disk(large, tmp_path, monkeypatch):
    """Of few rows that of the array, of many one of landmarks."""
    X = stack(1).reshape(N, -1).astype(np.float32)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", np.arange(N) % 3)
    fit = [
        "fit",
        tmp_path / "x.npy",
        "--labels",
        tmp_path / "y.npy",
        "--baselines",
        *options_of("k-subspaces"),
    ]
    scores = []
    for name in ("whole", "out", "landmarks"):
        if name == "landmarks":
            monkeypatch.setattr(landmarks, "MOST_ROWS", 100)
            monkeypatch.setattr(landmarks, "USUAL_LANDMARKS", 100)
            monkeypatch.setattr(landmarks, "LANDMARKS_PER_CLUSTER", 1)
        invoke(*fit, "--out", tmp_path / name, "--no-pictures")
        scores.append(json.loads((tmp_path / name / "metrics.json").read_text())["k-means"])
        large()
    assert scores[0] | {"seconds": 0} == scores[1] | {"seconds": 0}
    assert scores[2]["acc"] > 0.8
    model = load_model(tmp_path / "out" / "model")
    scaled = scaled_input(model, load_dataset(tmp_path / "x.npy"))
    assert isinstance(scaled, StoredRows)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(scaled), axis=1), 1)
