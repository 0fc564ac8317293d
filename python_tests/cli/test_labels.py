"""labels.csv: ids, clusters and confidences as a table that any program reads."""

from __future__ import annotations

import io
import os

import numpy as np
import pandas as pd
import pytest
from helpers.commands import SMALL, run

from desc_ext.cli.labels import write_labels_csv
from desc_ext.models import DESC, load_model

NAMES = [
    "plain", "with, comma", 'with "quotes"', "two\nlines", "carriage\rreturn", "007", "1e3", "NA", "", " padded ", "日本",
    "=1+1", "'", '"',
]  # fmt: skip


def read_back(ids, labels, confidence):
    file = io.BytesIO()
    write_labels_csv(file, labels, ids, confidence)
    return pd.read_csv(io.BytesIO(file.getvalue()), dtype={"id": str}, keep_default_na=False)


def test_any_id_comes_back():
    labels = np.arange(len(NAMES)) % 3
    confidence = np.linspace(0, 1, len(NAMES), dtype=np.float32)
    for ids in (NAMES, np.array(NAMES), np.array(NAMES, dtype=object)):
        table = read_back(ids, labels, confidence)
        assert table.columns.tolist() == ["id", "cluster", "confidence"]
        assert table["id"].tolist() == NAMES
        assert table["cluster"].tolist() == labels.tolist()
        np.testing.assert_allclose(table["confidence"], confidence, rtol=1e-5)


def test_without_ids_rows_are_numbered_from_0_and_without_confidence_there_is_no_column():
    file = io.BytesIO()
    write_labels_csv(file, np.array([2, 0]), None, None)
    assert file.getvalue() == b"id,cluster\n0,2\n1,0\n"
    file = io.BytesIO()
    write_labels_csv(file, np.array([2]), np.array([7]), np.array([np.float32(0.1)]))
    assert file.getvalue() == b"id,cluster,confidence\n7,2,0.1\n"


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32))
    arguments = ["--clusters", 2, "--epochs", 1, "--no-pictures", "--no-report", *SMALL]
    code, _, errors = run("fit", folder / "x.npy", "--out", folder / "o", *arguments)
    assert code == 0, errors
    return folder


def test_fit_writes_the_labels_with_the_confidence_of_the_estimator(small_run):
    table = pd.read_csv(small_run / "o" / "labels.csv")
    assert table["id"].tolist() == list(range(60))
    assert table["cluster"].tolist() == np.load(small_run / "o" / "labels.npy").tolist()
    confidence = DESC.load(small_run / "o" / "model").confidence()
    np.testing.assert_allclose(table["confidence"], confidence, rtol=1e-5)


def test_predict_writes_the_same_table(small_run):
    out = small_run / "p.csv"
    code, _, errors = run("predict", small_run / "o", small_run / "x.npy", "--out", out)
    assert code == 0, errors
    expected = pd.read_csv(small_run / "o" / "labels.csv")
    pd.testing.assert_frame_equal(pd.read_csv(out), expected, rtol=1e-4)


def distances_to_subspaces(model, X):
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    return np.stack(
        [np.linalg.norm(unit - unit @ S @ S.T, axis=1) for S in model.bases_.astype(float)], axis=1
    )


def distances_to_centres(model, X):
    return np.linalg.norm(model.transform(X)[:, None] - model.cluster_centers_, axis=2)


@pytest.mark.parametrize(
    ("method", "distances"),
    [("k-subspaces", distances_to_subspaces), ("self-expressive", distances_to_centres)],
)
def test_predict_writes_minus_the_distance_where_there_are_no_probabilities(tmp_path, method, distances):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(60, 5)).astype(np.float32))
    new = rng.normal(size=(25, 5)).astype(np.float32)
    np.save(tmp_path / "new.npy", new)
    settings = ["--model", method, "--set", "n_init=1", "--no-pictures", "--no-report"]
    code, _, errors = run("fit", tmp_path / "x.npy", "--clusters", 2, "--out", tmp_path / "o", *settings)
    assert code == 0, errors
    assert run("predict", tmp_path / "o", tmp_path / "new.npy", "--out", tmp_path / "p.csv")[0] == 0
    found = pd.read_csv(tmp_path / "p.csv")
    assert found.columns.tolist() == ["id", "cluster", "confidence"]
    expected = distances(load_model(tmp_path / "o" / "model"), new.astype(np.float64))
    assert found["cluster"].tolist() == expected.argmin(1).tolist()
    np.testing.assert_allclose(found["confidence"], -expected.min(1), rtol=1e-4, atol=1e-5)


def test_predictions_are_written_to_two_kinds_of_files(small_run, tmp_path):
    X = small_run / "x.npy"
    code, _, errors = run("predict", small_run / "o", X, "--out", tmp_path / "p.txt")
    assert (code, "must be a .npy or .csv file" in errors) == (2, True)


def test_names_that_are_no_letters_cost_nothing(tmp_path):
    """A folder of images may hold files of any bytes."""
    from PIL import Image

    folder = tmp_path / "f"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(np.full((4, 4), 40 * i, np.uint8)).save(folder / "x.png")
        os.rename(folder / "x.png", os.fsencode(folder) + b"/%d\xff.png" % i)
    arguments = [
        "fit",
        folder,
        "--model",
        "k-subspaces",
        "--clusters",
        2,
        "--no-pictures",
        "--out",
        tmp_path / "o",
    ]
    code, _, errors = run(*arguments)
    assert code == 0, errors
    assert "0\\udcff.png" in (tmp_path / "o" / "labels.csv").read_text()
    assert (tmp_path / "o" / "report.html").is_file()
