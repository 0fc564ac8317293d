"""labels.csv: ids, clusters and confidences as a table that any program reads."""

from __future__ import annotations

import io
import os

import numpy as np
import pandas as pd
import pytest
from helpers.commands import SMALL, run

from desc_ext.cli.labels import write_labels_csv
from desc_ext.models import DESC

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


def test_predict_leaves_out_a_confidence_that_the_method_does_not_have(small_run, tmp_path):
    X = small_run / "x.npy"
    settings = ["--model", "k-subspaces", "--set", "n_init=1", "--no-pictures", "--no-report"]
    code, _, errors = run("fit", X, "--clusters", 2, "--out", tmp_path / "o", *settings)
    assert code == 0, errors
    assert run("predict", tmp_path / "o", X, "--out", tmp_path / "p.csv")[0] == 0
    assert pd.read_csv(tmp_path / "p.csv").columns.tolist() == ["id", "cluster"]
    code, _, errors = run("predict", tmp_path / "o", X, "--out", tmp_path / "p.txt")
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
