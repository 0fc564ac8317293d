"""A folder of results and a file are all that predict and evaluate need: columns, texts and images come as in the fit."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from helpers.commands import run
from PIL import Image
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from desc_ext.data import arrays
from desc_ext.engine import inputs
from desc_ext.metrics import clustering_scores
from desc_ext.models import KSubspaces, load_model


def lines_in_space(n, seed):
    """Rows near two lines in space, and which line."""
    rng = np.random.default_rng(seed)
    lines = np.array([[1.0, 2.0, -1.0], [-2.0, 1.0, 0.5]])
    kinds = rng.integers(0, 2, n)
    return rng.normal(size=(n, 1)) * lines[kinds] + 0.01 * rng.normal(size=(n, 3)), kinds


def fit(tmp_path, source, *further):
    code, _, errors = run(
        "fit", source, "--model", "k-subspaces", "--clusters", "2", "--set", "subspace_dim=1", "--out", tmp_path / "r",
        *further,
    )  # fmt: skip
    assert code == 0, errors
    return tmp_path / "r"


@pytest.fixture
def table(tmp_path):
    X, kinds = lines_in_space(60, 0)
    frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(kind=kinds)
    frame.to_csv(tmp_path / "fit.csv")
    return fit(tmp_path, tmp_path / "fit.csv", "--labels", "kind")


@pytest.mark.parametrize("place", ["r/model", "r/model/"])
def test_the_model_of_a_result_stands_for_the_result(tmp_path, table, place):
    X, kinds = lines_in_space(30, 1)
    frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(kind=kinds)
    frame[["c", "kind", "b", "a"]].to_csv(tmp_path / "new.csv", index=False)
    code, _, errors = run("predict", f"{tmp_path}/{place}", tmp_path / "new.csv", "--out", tmp_path / "y.npy")
    assert code == 0, errors
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), KSubspaces.load(table / "model").predict(X))
    code, out, _ = run("evaluate", f"{tmp_path}/{place}", tmp_path / "new.csv")
    assert (code, out.count("1.000")) == (0, 3)


def test_a_model_that_was_saved_by_itself(tmp_path):
    X, kinds = lines_in_space(60, 0)
    model = KSubspaces(2, subspace_dim=1, random_state=0).fit(X)
    model.save(tmp_path / "alone")
    np.save(tmp_path / "new.npy", X[:20])
    code, _, errors = run("predict", tmp_path / "alone", tmp_path / "new.npy", "--out", tmp_path / "y.npy")
    assert code == 0, errors
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), model.predict(X[:20]))
    pd.DataFrame(X, columns=["a", "b", "c"]).assign(kind=kinds).to_csv(tmp_path / "new.csv", index=False)
    code, out, errors = run("evaluate", tmp_path / "alone", tmp_path / "new.csv", "--labels", "kind")
    assert (code, out.count("1.000")) == (0, 3), errors


def test_columns_in_another_order_give_the_same_clusters(tmp_path, table):
    X, kinds = lines_in_space(30, 1)
    frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(kind=kinds)
    frame[["c", "kind", "b", "a"]].to_csv(tmp_path / "new.csv", index=False)
    assert run("predict", table, tmp_path / "new.csv", "--out", tmp_path / "y.npy")[0] == 0
    labels = np.load(tmp_path / "y.npy")
    np.testing.assert_array_equal(labels, KSubspaces.load(table / "model").predict(X))
    assert clustering_scores(kinds, labels)["acc"] == 1
    code, out, _ = run(
        "evaluate", table, tmp_path / "new.csv"
    )  # the column of the classes is known from the fit
    assert (code, out.count("1.000")) == (0, 3)


def test_other_columns_are_refused(tmp_path, table):
    X, _ = lines_in_space(30, 1)
    pd.DataFrame(X, columns=["a", "b", "d"]).to_csv(tmp_path / "new.csv", index=False)
    code, _, errors = run("predict", table, tmp_path / "new.csv", "--out", tmp_path / "y.npy")
    assert code == 2
    assert "lacks columns that the result was fitted to: c; it has d" in errors
    assert not (tmp_path / "y.npy").exists()


def test_what_was_left_out_is_said(tmp_path):
    X, _ = lines_in_space(20, 0)
    pd.DataFrame(X).to_csv(tmp_path / "fit.csv")
    code, _, errors = run(
        "fit", tmp_path / "fit.csv", "--model", "k-subspaces", "--clusters", "2", "--out", tmp_path / "r"
    )
    assert code == 0
    assert "note: " in errors
    assert "the first column, which has no name, is taken for names of the rows" in errors


def test_new_texts_are_put_into_the_space_of_the_fit(tmp_path):
    """FAULTS 1: with a space of their own, new texts fall into other clusters."""
    rng = np.random.default_rng(0)
    words = [[f"{name}{i}" for i in range(12)] for name in ("ship", "cloud", "metal")]
    kinds = rng.integers(0, 3, 240)
    texts = [" ".join(rng.choice(words[k], 7)) for k in kinds]
    for name, part in (("fit", slice(0, 150)), ("new", slice(150, None))):
        lines = [
            json.dumps({"text": t, "kind": str(k)})
            for t, k in zip(texts[part], kinds[part].tolist(), strict=True)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    code, _, errors = run(
        "fit", tmp_path / "fit.jsonl", "--model", "k-subspaces", "--clusters", "3", "--labels", "kind",
        "--set", "subspace_dim=3", "--out", tmp_path / "r",
    )  # fmt: skip
    assert code == 0, errors
    assert run("predict", tmp_path / "r", tmp_path / "new.jsonl", "--out", tmp_path / "y.npy")[0] == 0
    vectoriser = TfidfVectorizer(
        sublinear_tf=True, min_df=3, max_df=0.5, stop_words="english", dtype=np.float32
    )
    svd = TruncatedSVD(36, random_state=0)
    svd.fit(vectoriser.fit_transform(texts[:150]))
    rows = normalize(svd.transform(vectoriser.transform(texts[150:]))).astype(np.float32)
    predicted = np.load(tmp_path / "y.npy")
    np.testing.assert_array_equal(predicted, load_model(tmp_path / "r" / "model").predict(rows))
    code, out, _ = run("evaluate", tmp_path / "r", tmp_path / "new.jsonl")
    assert code == 0
    assert f"{clustering_scores(kinds[150:], predicted)['acc']:.3f}" in out
    assert clustering_scores(kinds[150:], predicted)["acc"] > 0.9


def test_a_folder_of_images_for_a_model_of_images(tmp_path):
    rng = np.random.default_rng(0)
    for folder, size in (("fit", 8), ("new", 16)):
        for kind, rows in (("top", slice(0, size // 2)), ("bottom", slice(size // 2, None))):
            (tmp_path / folder / kind).mkdir(parents=True)
            for i in range(8):
                image = np.zeros((size, size))
                image[rows] = rng.uniform(100, 255)
                path = tmp_path / folder / kind / f"{i}.png"
                Image.fromarray(image.astype(np.uint8)).save(path)
    folder = fit(tmp_path, tmp_path / "fit")
    code, out, errors = run("evaluate", folder, tmp_path / "new")
    assert (code, out.count("1.000")) == (0, 3)
    assert "16 of 16 images were brought to 8x8" in errors


@pytest.mark.parametrize("command", [["predict", "--out", "y.npy"], ["evaluate", "--labels", "kind"]])
def test_data_of_another_kind_are_told_what_the_fit_was_of(tmp_path, table, command):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "i.npy", rng.integers(0, 256, (20, 6, 8, 3), dtype=np.uint8))
    code, _, errors = run(
        "fit", tmp_path / "i.npy", "--model", "k-subspaces", "--clusters", 2, "--set", "subspace_dim=1", "--features",
        "none", "--out", tmp_path / "i",
    )  # fmt: skip
    assert code == 0, errors
    name, option, value = command
    value = tmp_path / value if option == "--out" else value
    expected = f"{tmp_path / 'fit.csv'} has {3 + (name == 'predict')} columns, and the result in"
    for folder in (tmp_path / "i", tmp_path / "i" / "model"):
        code, _, errors = run(name, folder, tmp_path / "fit.csv", option, value)
        assert (code, expected in errors, "was fitted to images 6×8×3\n" in errors) == (2, True, True), errors
    if name == "predict":
        errors = run(name, table, tmp_path / "i.npy", option, value)[2]
        assert f"i.npy has images 6×8×3, and the result in {table} was fitted to 3 columns\n" in errors


def test_results_of_an_earlier_version_have_no_preparation(tmp_path, table):
    shutil.rmtree(table / "input")
    X, _ = lines_in_space(30, 1)
    np.save(tmp_path / "new.npy", X)
    assert run("predict", table, tmp_path / "new.npy", "--out", tmp_path / "y.npy")[0] == 0


def test_a_damaged_preparation_is_named(tmp_path, table):
    config = json.loads((table / "input" / "config.json").read_text())
    for change in ({"columns": 3}, {"tensor_file": "../model/x"}, {"reading": {"exec": "x"}}):
        (table / "input" / "config.json").write_text(json.dumps(config | change))
        code, _, errors = run("predict", table, tmp_path / "fit.csv", "--out", tmp_path / "y.npy")
        assert code == 2
        assert "config.json is damaged" in errors


@pytest.mark.parametrize("words", ["0x4", "4x", "x4", "-4", "4.5", "4x4x3", ""])
def test_image_sizes_that_are_none(tmp_path, words):
    (tmp_path / "f").mkdir()
    code, _, errors = run(
        "fit", tmp_path / "f", "--clusters", "2", "--image-size", words, "--out", tmp_path / "r"
    )
    assert (code, "--image-size must be HEIGHTxWIDTH" in errors) == (2, True)


@pytest.mark.parametrize("shape", [(24, 6, 4, 1), (24, 3, 5, 4)])
def test_channels_are_what_the_file_says(tmp_path, shape):
    """The stack that an estimator is given, channels first, might be read in two ways: 1x6x4, 4x3x5."""
    stack = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "s.npy", stack)
    if shape == (24, 3, 5, 4):
        code, _, errors = run("fit", tmp_path / "s.npy", "--clusters", "2", "--out", tmp_path / "r")
        assert (code, "both of its axes 1 and 3" in errors) == (2, True)
        return
    folder = fit(tmp_path, tmp_path / "s.npy")
    rows = stack.reshape(24, -1).astype(np.float32) / 255
    np.testing.assert_array_equal(np.load(folder / "labels.npy"), load_model(folder / "model").predict(rows))
    assert run("predict", folder, tmp_path / "s.npy", "--out", tmp_path / "y.npy")[0] == 0


@pytest.mark.parametrize("kind", ["csv", "npy", "on disk"])
def test_the_shards_of_a_prediction_are_the_whole(tmp_path, table, kind, monkeypatch):
    X, _ = lines_in_space(41, 1)
    if kind == "csv":
        source = tmp_path / "new.csv"
        pd.DataFrame(X, columns=["a", "b", "c"]).to_csv(source, index=False)
    else:
        source = tmp_path / "new.npy"
        np.save(source, X)
    if kind == "on disk":
        monkeypatch.setattr(arrays, "READ_WHOLE", 0)
        monkeypatch.setattr(inputs, "READ_WHOLE", 0)
    assert run("predict", table, source, "--out", tmp_path / "all.csv")[0] == 0
    parts = []
    for number in (1, 2, 3):
        code, output, errors = run(
            "predict", table, source, "--shard", f"{number}/3", "--out", tmp_path / f"{number}.csv"
        )
        assert code == 0, errors
        parts.append(pd.read_csv(tmp_path / f"{number}.csv"))
        assert f"{len(parts[-1])} labels" in output
    assert [len(part) for part in parts] == [13, 14, 14]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), pd.read_csv(tmp_path / "all.csv"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("0/3", "from 1"),
        ("4/3", "from 1"),
        ("3", "such as 2/8"),
        ("1/61", "only 60 rows"),
        ("-1/2", "from 1"),
    ],
)
def test_shards_that_are_none(tmp_path, table, words, message):
    code, _, errors = run(
        "predict", table, tmp_path / "fit.csv", f"--shard={words}", "--out", tmp_path / "y.npy"
    )
    assert code == 2
    assert "error: --shard" in errors
    assert message in errors
