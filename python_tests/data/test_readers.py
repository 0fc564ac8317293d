"""Tables that are written in any of the usual ways are read as what they are."""

from __future__ import annotations

import csv
import gzip
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from desc_ext.data import load_dataset

in_one_folder = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
floats = st.floats(-1e6, 1e6, width=32)
words = st.text("abcdefgh XYZ_-é", min_size=1, max_size=8).map(str.strip).filter(bool)


@st.composite
def tables(draw):
    """Rows, names of the columns, and a class for each row."""
    n, m = draw(st.integers(2, 12)), draw(st.integers(1, 6))
    X = draw(arrays.arrays(np.float32, (n, m), elements=floats))
    names = draw(st.lists(words.map("x{}".format), min_size=m, max_size=m, unique=True))
    return X, names, draw(st.lists(words, min_size=n, max_size=n))


@in_one_folder
@given(
    table=tables(),
    delimiter=st.sampled_from(",;\t"),
    ending=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    header=st.booleans(),
    place=st.integers(0, 6),
)
def test_csv(tmp_path, table, delimiter, ending, encoding, quoting, header, place):
    X, names, classes = table
    place = min(place, len(names))
    with open(tmp_path / "t.csv", "w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=ending, quoting=quoting)
        if header:
            writer.writerow([*names[:place], "class", *names[place:]])
        for row, name in zip(X.tolist(), classes, strict=True):
            writer.writerow([*row[:place], name, *row[place:]])
    found = load_dataset(tmp_path / "t.csv", labels="class" if header else str(place))
    np.testing.assert_array_equal(found.X, X)
    assert found.labels.tolist() == classes


@in_one_folder
@given(
    X=arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.int16, np.uint8, np.bool_]),
        arrays.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=5),
    ),
    order=st.sampled_from("CF"),
)
def test_numpy_arrays(tmp_path, X, order):
    """Stacks of images of bytes are scaled to [0, 1]; all else keeps its values and its dtype."""
    expected = X.reshape(len(X), -1)
    if X.dtype == bool:
        expected = expected.astype(np.uint8)
    if X.ndim == 3 and X.dtype == np.uint8:
        expected = expected.astype(np.float32) / 255
    np.save(tmp_path / "x.npy", np.asarray(X, order=order))
    np.savez(tmp_path / "x.npz", X=X, y=np.arange(len(X)))
    for found in (load_dataset(tmp_path / "x.npy"), load_dataset(tmp_path / "x.npz", labels="y")):
        np.testing.assert_array_equal(found.X, expected)
        assert found.X.dtype == expected.dtype
        assert found.image_shape == (X.shape[1:] if X.ndim == 3 else None)


@in_one_folder
@given(table=tables(), row_group=st.integers(1, 12))
def test_parquet(tmp_path, table, row_group):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    X, names, classes = table
    columns = dict(zip(names, X.T, strict=True)) | {"class": classes}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=row_group)
    found = load_dataset(tmp_path / "t.parquet", labels="class")
    np.testing.assert_array_equal(found.X, X)
    assert found.labels.tolist() == classes


@in_one_folder
@given(
    texts=st.lists(
        st.lists(st.sampled_from(["sun", "moon", "star", "sea", "hill"]), min_size=1), min_size=6, max_size=20
    ),
    compressed=st.booleans(),
    blank=st.booleans(),
    escaped=st.booleans(),
)
def test_jsonl(tmp_path, texts, compressed, blank, escaped):
    """The documents come as they are, whatever the escapes, with blank lines between them or not."""
    from desc_ext.data import read_documents

    lines = [
        json.dumps({"text": " ".join(words) + " é", "kind": len(words)}, ensure_ascii=escaped)
        for words in texts
    ]
    path = tmp_path / ("t.jsonl.gz" if compressed else "t.jsonl")
    with (gzip.open if compressed else open)(path, "wt", encoding="utf-8") as file:
        file.write(("\n\n" if blank else "\n").join(lines) + "\n")
    found = read_documents(path, "kind")
    assert found.texts == [" ".join(words) + " é" for words in texts]
    assert [found.class_names[k] for k in found.labels] == [str(len(words)) for words in texts]
