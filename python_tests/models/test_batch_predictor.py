"""Batches of pandas, pyarrow and NumPy under a saved model: the clusters that predict gives to the same rows."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers.commands import run
from sklearn.datasets import load_digits, load_iris

from desc_ext.models import BatchPredictor, DSCNet, KSubspaces

IRIS = load_iris(as_frame=True).data
NAMES = list(IRIS.columns)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "saved"
    model = KSubspaces(3, subspace_dim=1, n_init=2, random_state=0).fit(IRIS)
    model.save(folder)
    return folder, model.predict(IRIS)


@pytest.mark.parametrize("kind", ["pandas", "table", "record batch", "arrays", "after pickling"])
def test_batches_of_every_kind_come_back_with_clusters(fitted, kind):
    folder, expected = fitted
    predictor = BatchPredictor(folder, output="group")
    shuffled = IRIS[NAMES[::-1]].assign(other="x")  # columns are taken by name, others are left alone
    if kind == "arrays":
        batch = {name: shuffled[name].to_numpy() for name in shuffled}
        found = predictor(batch)
        assert list(found) == [*batch, "group"]
        np.testing.assert_array_equal(found["group"], expected)
        return
    if kind == "after pickling":
        predictor = pickle.loads(pickle.dumps(predictor))
        assert predictor._model is None  # it is loaded where it is used
    batches = {"table": pa.Table.from_pandas(shuffled), "record batch": pa.RecordBatch.from_pandas(shuffled)}
    found = predictor(batches.get(kind, shuffled))
    assert type(found) is type(batches.get(kind, shuffled))
    frame = found if isinstance(found, pd.DataFrame) else found.to_pandas()
    assert list(frame) == [*shuffled.columns, "group"]
    assert frame["group"].dtype == np.int64
    np.testing.assert_array_equal(frame["group"], expected)
    np.testing.assert_array_equal(frame[NAMES], IRIS)
    parts = list(predictor.over([found.slice(0, 0), found] if kind in batches else [found[:0], found]))
    assert [len(part) for part in parts] == [0, 150]


def test_the_folder_is_that_of_the_beginning_and_a_column_is_replaced(fitted, tmp_path, monkeypatch):
    folder, expected = fitted
    monkeypatch.chdir(folder.parent)
    sent = pickle.dumps(BatchPredictor(folder.name))
    monkeypatch.chdir(tmp_path)
    for batch in (IRIS.assign(cluster=-1), pa.Table.from_pandas(IRIS.assign(cluster=-1))):
        found = pickle.loads(sent)(batch)
        frame = found if isinstance(found, pd.DataFrame) else found.to_pandas()
        assert list(frame).count("cluster") == 1
        np.testing.assert_array_equal(frame["cluster"], expected)


def test_one_column_may_hold_vectors(tmp_path):
    rows = load_digits().data[:200]
    model = KSubspaces(4, subspace_dim=2, n_init=2, random_state=0).fit(rows)
    model.save(tmp_path / "saved")
    predictor = BatchPredictor(tmp_path / "saved", ["pixels"])
    frame = pd.DataFrame({"pixels": list(rows)})
    np.testing.assert_array_equal(predictor(frame)["cluster"], model.predict(rows))
    np.testing.assert_array_equal(predictor({"pixels": rows})["cluster"], model.predict(rows))
    table = pa.table({"pixels": list(rows)})
    np.testing.assert_array_equal(predictor(table).column("cluster"), model.predict(rows))


def test_the_results_of_the_command_line_bring_their_columns_and_images(tmp_path):
    IRIS.assign(name="x").to_csv(tmp_path / "iris.csv", index=False)
    quick = ["--set", "n_init=2", "--no-pictures", "--no-report"]
    command = ["--model", "k-subspaces", "--clusters", 3, *quick, "--out"]
    assert run("fit", tmp_path / "iris.csv", "--drop", "name", *command, tmp_path / "table")[0] == 0
    predictor = BatchPredictor(tmp_path / "table")
    assert predictor.columns == NAMES
    np.testing.assert_array_equal(predictor(IRIS)["cluster"], np.load(tmp_path / "table" / "labels.npy"))
    images = np.random.default_rng(0).integers(0, 255, (60, 6, 5, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    assert run("fit", tmp_path / "images.npy", *command, tmp_path / "images")[0] == 0
    found = BatchPredictor(tmp_path / "images", ["image"])({"image": images})
    np.testing.assert_array_equal(found["cluster"], np.load(tmp_path / "images" / "labels.npy"))
    found = BatchPredictor(tmp_path / "images", ["image"])({"image": images.astype(np.int64)})
    np.testing.assert_array_equal(found["cluster"], np.load(tmp_path / "images" / "labels.npy"))
    with pytest.raises(
        ValueError, match=r"pixels go up to 25.*, and the fit was given bytes, divided by 255"
    ):
        BatchPredictor(tmp_path / "images", ["image"])({"image": images.astype(np.float64)})


def test_what_cannot_be_used_is_refused(tmp_path, fitted):
    X = load_digits().data[:60]
    KSubspaces(3, subspace_dim=1, n_init=1, random_state=0).fit(X).save(tmp_path / "plain")
    with pytest.raises(ValueError, match="was fitted to rows without names; columns must name those"):
        BatchPredictor(tmp_path / "plain")
    DSCNet(3, pretrain_epochs=1, max_steps=1, hidden_sizes=(8,), random_state=0).fit(X).save(tmp_path / "no")
    with pytest.raises(ValueError, match="holds a DSCNet, which assigns no new rows"):
        BatchPredictor(tmp_path / "no", ["x"])
    with pytest.raises(FileNotFoundError):
        BatchPredictor(tmp_path / "missing")
    predictor = BatchPredictor(fitted[0])
    with pytest.raises(
        ValueError, match=r"the column 'petal length .cm.' 0 times, wanted once; its columns are sepal"
    ):
        predictor(IRIS[NAMES[:2]])
    with pytest.raises(ValueError, match=r"the column 'petal width .cm.' 2 times"):
        predictor(IRIS[[*NAMES, NAMES[-1]]])
    with pytest.raises(ValueError, match=r"'sepal length .cm.' holds datetime64.* wanted a number a row"):
        predictor(IRIS.assign(**{NAMES[0]: pd.Timestamp("2020")}))
    with pytest.raises(ValueError, match=r"'sepal width .cm.' holds .* without missing ones"):
        predictor(IRIS.assign(**{NAMES[1]: "x"}))
    with pytest.raises(ValueError, match=r"the columns have \[149, 150\] rows"):
        predictor({name: IRIS[name].to_numpy()[i == 2 :] for i, name in enumerate(NAMES)})
    with pytest.raises(
        TypeError, match="must be of pandas or pyarrow, or a dictionary of arrays; got ndarray"
    ):
        predictor(IRIS.to_numpy())
    with pytest.raises(ValueError, match=r"fitted to .* leave columns out"):
        BatchPredictor(fitted[0], NAMES[::-1])
    with pytest.raises(ValueError, match="each once"):
        BatchPredictor(tmp_path / "plain", ["a", "a"])
    with pytest.raises(ValueError, match="output must be a name that no feature has"):
        BatchPredictor(fitted[0], output=NAMES[0])
    (tmp_path / "texts").mkdir()
    for i in range(40):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"{'cat dog' if i % 2 else 'sun moon'} number {i}")
    done = run(
        "fit", tmp_path / "texts", "--model", "k-subspaces", "--clusters", 2, "--set", "n_init=1", "--no-pictures",
        "--no-report", "--out", tmp_path / "of-texts",
    )  # fmt: skip
    assert done[0] == 0, done
    with pytest.raises(ValueError, match="was fitted to texts"):
        BatchPredictor(tmp_path / "of-texts", ["text"])
