"""New data become rows in the way that those of a fit did, also after the way was written down and read again."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from desc_ext.data import DataError, DataNote, Preparation, load_dataset
from desc_ext.features import TextFeatures

X = np.random.default_rng(0).normal(size=(8, 3))
KINDS = list("uvuvuvuv")
FRAME = pd.DataFrame(X, columns=["a", "b", "c"]).assign(kind=KINDS)


def saved(preparation: Preparation) -> Preparation:
    config, tensors = preparation.state()
    return Preparation.from_state(json.loads(json.dumps(config)), tensors)


@pytest.fixture
def fitted(tmp_path):
    FRAME.to_csv(tmp_path / "fit.csv")
    with pytest.warns(DataNote, match="first column"):
        return saved(load_dataset(tmp_path / "fit.csv", labels="kind").preparation)


def read(path, preparation, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataNote)
        return load_dataset(path, **options, preparation=preparation)


@pytest.mark.parametrize("kind", ["csv", "parquet", "feather"])
@pytest.mark.parametrize("extra", ["nothing", "index", "classes", "both"])
def test_columns_are_taken_by_their_names(tmp_path, fitted, kind, extra):
    frame = FRAME[["c", "kind", "a", "b"]]
    frame = frame if extra in ("classes", "both") else frame.drop(columns="kind")
    path, index = tmp_path / f"new.{kind}", extra in ("index", "both")
    if kind == "csv":
        frame.to_csv(path, index=index)
    elif kind == "parquet":
        frame.to_parquet(path, index=index)
    else:
        frame.to_feather(path)
    found = read(path, fitted)
    np.testing.assert_allclose(found.X, X, rtol=1e-15)
    assert found.columns == ("a", "b", "c")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["a", "b", "d"],
            "lacks columns that the result was fitted to: c; it has d, which the result does not know",
        ),
        (["a", "b"], "lacks columns that the result was fitted to: c$"),
        (
            ["a", "b", "c", "d"],
            "has columns that the result was not fitted to: d; leave them out with --drop",
        ),
    ],
)
def test_other_columns_are_refused_by_name(tmp_path, fitted, names, message):
    rows = np.random.default_rng(1).normal(size=(4, len(names)))
    pd.DataFrame(rows, columns=names).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "new.csv", fitted)
    if len(names) == 4:
        with pytest.raises(DataError, match="lacks columns that the result was fitted to: c"):
            read(tmp_path / "new.csv", fitted, drop=["c,d"])
        np.testing.assert_array_equal(read(tmp_path / "new.csv", fitted, drop=["d"]).X, rows[:, :3])


def test_data_without_names_are_taken_as_they_are_and_that_is_said(tmp_path, fitted):
    np.save(tmp_path / "new.npy", X)
    with pytest.warns(DataNote, match="no names of columns; they are taken to be those of the fit"):
        found = load_dataset(tmp_path / "new.npy", preparation=fitted)
    np.testing.assert_array_equal(found.X, X)


def test_chosen_columns_count_again(tmp_path):
    FRAME.assign(id=range(10, 18)).to_csv(tmp_path / "fit.csv", index=False)
    first = load_dataset(tmp_path / "fit.csv", columns=["c,a"], id="id")
    again = read(tmp_path / "fit.csv", saved(first.preparation))
    np.testing.assert_array_equal(again.X, X[:, [2, 0]])
    assert again.ids.tolist() == [str(i) for i in range(10, 18)]


def corpus(seed, n=60):
    rng = np.random.default_rng(seed)
    words = [[f"{name}{i}" for i in range(8)] for name in ("ship", "cloud", "metal")]
    topics = rng.integers(0, 3, n)
    return [" ".join(rng.choice(words[t], 9)) for t in topics]


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def write_csv(path, texts):
    pd.DataFrame({"text": texts}).to_csv(path, index=False)


def write_folder(path, texts):
    path.mkdir()
    for i, text in enumerate(texts):
        (path / f"{i:02}.txt").write_text(text)


@pytest.mark.parametrize("name", ["new.jsonl", "new.csv", "new"])
def test_texts_are_put_into_the_space_of_the_fit(tmp_path, name):
    fitted, new = corpus(0), corpus(1, 12)
    write_jsonl(tmp_path / "fit.jsonl", fitted)
    preparation = saved(load_dataset(tmp_path / "fit.jsonl", dimension=6).preparation)
    {"new.jsonl": write_jsonl, "new.csv": write_csv, "new": write_folder}[name](tmp_path / name, new)
    features = TextFeatures(6)
    features.fit_transform(fitted)
    np.testing.assert_array_equal(read(tmp_path / name, preparation).X, features.transform(new))


def test_texts_and_numbers_are_not_taken_for_each_other(tmp_path, fitted):
    write_jsonl(tmp_path / "t.jsonl", corpus(0))
    of_texts = load_dataset(tmp_path / "t.jsonl").preparation
    with pytest.raises(DataError, match="holds texts, and the result was fitted to numbers"):
        read(tmp_path / "t.jsonl", fitted)
    with pytest.raises(DataError, match="holds numbers, and the result was fitted to texts"):
        read("digits", of_texts)


def test_images_are_brought_to_the_size_and_colours_of_the_fit(tmp_path):
    rng = np.random.default_rng(0)
    for folder, shape in (("fit", (8, 6)), ("new", (16, 12, 3))):
        (tmp_path / folder).mkdir()
        for i in range(3):
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / folder / f"{i}.png")
    preparation = saved(load_dataset(tmp_path / "fit", image_size=(4, 6)).preparation)
    with pytest.warns(DataNote, match="3 of 3 images were brought to 4x6"):
        found = load_dataset(tmp_path / "new", preparation=preparation)
    assert found.image_shape == (4, 6)
    grey = np.asarray(
        Image.open(tmp_path / "new" / "0.png").convert("L").resize((6, 4), Image.Resampling.BILINEAR)
    )
    np.testing.assert_allclose(found.X[0].reshape(4, 6), grey / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": "abc"}, "columns is"),
        ({"columns": [1, 2]}, "columns is"),
        ({"left_out": None}, "left_out is None"),
        ({"image_shape": [4, -6]}, "image_shape is"),
        ({"image_shape": [10**9, 10**9]}, "image_shape is"),
        ({"reading": {"path": "/etc/passwd"}}, "unknown entries path"),
        ({"reading": []}, "reading is"),
        ({"text_features": {"words": []}}, "text features lack"),
    ],
)
def test_a_damaged_state_is_refused(tmp_path, fitted, change, message):
    config, tensors = fitted.state()
    with pytest.raises(ValueError, match=message):
        Preparation.from_state(json.loads(json.dumps(config)) | change, tensors)


def test_damaged_text_features_are_refused(tmp_path):
    features = TextFeatures(4)
    features.fit_transform(corpus(0))
    config, tensors = features.state()
    for broken, message in (
        ({"words": config["words"][:-1]}, "words, but weights"),
        ({"words": [*config["words"][:-1], config["words"][0]]}, "not distinct"),
        ({"words": [*config["words"][:-1], 3]}, "no list of words"),
    ):
        with pytest.raises(ValueError, match=message):
            TextFeatures.from_state(config | broken, tensors)
    with pytest.raises(ValueError, match="lack components"):
        TextFeatures.from_state(config, {"word_weights": tensors["word_weights"]})


@pytest.mark.parametrize("first", ["stack of bytes", "stack of numbers"])
@pytest.mark.parametrize("then", ["stack.npy", "rows.npy", "x.npz"])
def test_bytes_are_divided_where_those_of_the_fit_were(tmp_path, first, then):
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "fit.npy", images if first == "stack of bytes" else images.astype(np.float32))
    preparation = saved(load_dataset(tmp_path / "fit.npy").preparation)
    np.save(tmp_path / "stack.npy", images)
    np.save(tmp_path / "rows.npy", images.reshape(6, -1))
    np.savez(tmp_path / "x.npz", X=images)
    found = load_dataset(tmp_path / then, preparation=preparation)
    np.testing.assert_allclose(
        found.X, images.reshape(6, -1) / (255 if first == "stack of bytes" else 1), rtol=1e-6
    )


def test_numbers_far_from_those_of_the_fit_are_said(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "fit.npy", images)
    np.save(tmp_path / "new.npy", images.astype(np.float32))
    with pytest.warns(
        DataNote, match=r"beyond \[0, 1\], where the result was fitted to bytes divided by 255"
    ):
        load_dataset(tmp_path / "new.npy", preparation=load_dataset(tmp_path / "fit.npy").preparation)


def test_the_header_is_that_of_the_fit(tmp_path):
    (tmp_path / "fit.csv").write_text("2001,2002,2003\n5,1,9\n4,4,1\n")
    (tmp_path / "plain.csv").write_text("5,1,9\n4,4,1\n")
    (tmp_path / "new.csv").write_text("2001,2002,2003\n1,2,3\n4,2,8\n")
    (tmp_path / "rows.csv").write_text("1,2,3\n4,2,8\n")
    with pytest.warns(DataNote, match="--no-header"):
        named = load_dataset(tmp_path / "fit.csv").preparation
    assert load_dataset(tmp_path / "new.csv", preparation=named).X.tolist() == [[1, 2, 3], [4, 2, 8]]
    plain = load_dataset(tmp_path / "plain.csv").preparation
    assert load_dataset(tmp_path / "rows.csv", preparation=plain).X.tolist() == [[1, 2, 3], [4, 2, 8]]


def test_a_class_without_a_name_is_left_out_again(tmp_path):
    (tmp_path / "fit.csv").write_text("5,1,u\n4,4,v\n2,3,u\n")
    first = load_dataset(tmp_path / "fit.csv", labels=-1)
    again = load_dataset(tmp_path / "fit.csv", preparation=saved(first.preparation))
    np.testing.assert_array_equal(again.X, first.X)


def test_one_new_text(tmp_path):
    write_jsonl(tmp_path / "fit.jsonl", corpus(0))
    write_jsonl(tmp_path / "new.jsonl", corpus(1, 1))
    preparation = load_dataset(tmp_path / "fit.jsonl", dimension=6).preparation
    assert load_dataset(tmp_path / "new.jsonl", preparation=preparation).X.shape == (1, 6)


def test_the_texts_are_no_classes(tmp_path):
    write_csv(tmp_path / "t.csv", corpus(0))
    with pytest.raises(DataError, match="'text' holds the texts, and cannot be their class too"):
        load_dataset(tmp_path / "t.csv", labels="text")
    pd.DataFrame({"text": corpus(0), "price": 1.0}).to_csv(tmp_path / "p.csv", index=False)
    with pytest.warns(DataNote, match="the texts of column 'text' are clustered; left out: price"):
        load_dataset(tmp_path / "p.csv")
