"""Readers against files that the tests write byte by byte or with another library."""

from __future__ import annotations

import csv
import gzip
import struct

import numpy as np
import pytest

from desc_ext import data
from desc_ext.data import DataError, catalogue, load_dataset

CLASSES = np.array(["b", "a", "b", "c", "a"])


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def idx_bytes(values: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def compressed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # the same in every process, for it names a test


def write_idx_folder(folder, n_train=6, n_test=4, compress=True):
    """Random images in the files of MNIST; returns pixels [n, 28, 28] and labels [n] in published order."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (n_train + n_test, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, n_train + n_test, dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", slice(0, n_train)), ("t10k", slice(n_train, None))):
        for kind, values in (("images-idx3", pixels[rows]), ("labels-idx1", labels[rows])):
            name = f"{part}-{kind}-ubyte"
            if compress:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(values)))
            else:
                (folder / name).write_bytes(idx_bytes(values))
    return pixels, labels


@pytest.fixture
def no_other_data(monkeypatch, tmp_path):
    """Hides the machine's own data folders."""
    monkeypatch.delenv("DESC_EXT_DATA", raising=False)
    known_folders = data.data_folders

    def only_given(data_dir=None):
        import os

        given = [data_dir, os.environ.get("DESC_EXT_DATA")]
        return [folder for folder in known_folders(data_dir) if str(folder) in map(str, given)]

    monkeypatch.setattr(catalogue, "data_folders", only_given)


# Known data sets


def test_digits():
    digits = load_dataset("digits")
    assert digits.X.shape == (1797, 64)
    assert digits.X.dtype == np.float32
    assert (digits.X.min(), digits.X.max()) == (0, 1)
    assert digits.image_shape == (8, 8)
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("layout", ["mnist", "MNIST/raw"])
def test_idx_files_are_read_in_published_order(tmp_path, no_other_data, compress, layout):
    pixels, labels = write_idx_folder(tmp_path / layout, compress=compress)
    everything = load_dataset("mnist", data_dir=tmp_path)
    np.testing.assert_array_equal(everything.X * np.float32(255), pixels.reshape(10, 784).astype(np.float32))
    np.testing.assert_array_equal(everything.labels, labels)
    assert everything.image_shape == (28, 28)
    test_part = load_dataset("mnist-test", data_dir=tmp_path)
    np.testing.assert_array_equal(test_part.X, everything.X[6:])
    np.testing.assert_array_equal(test_part.labels, labels[6:])


def test_folder_by_environment_and_by_its_own_name(tmp_path, no_other_data, monkeypatch):
    write_idx_folder(tmp_path / "fashion-mnist")
    monkeypatch.setenv("DESC_EXT_DATA", str(tmp_path))
    assert load_dataset("fashion-mnist").source == str(tmp_path / "fashion-mnist")
    monkeypatch.setenv("DESC_EXT_DATA", str(tmp_path / "fashion-mnist"))
    assert len(load_dataset("fashion-mnist-test").X) == 4


def test_the_files_of_one_data_set_are_never_taken_for_another(tmp_path, no_other_data):
    write_idx_folder(tmp_path / "fashion-mnist")
    with pytest.raises(DataError, match="mnist was not found"):
        load_dataset("mnist", data_dir=tmp_path / "fashion-mnist")


def test_missing_data_says_where_it_looked_and_what_helps(tmp_path, no_other_data):
    with pytest.raises(DataError) as error:
        load_dataset("mnist", data_dir=tmp_path)
    for part in (
        str(tmp_path / "mnist"),
        "t10k-images-idx3-ubyte",
        "--data-dir",
        "DESC_EXT_DATA",
        "--download",
    ):
        assert part in str(error.value)
    with pytest.raises(DataError, match="does not exist"):
        load_dataset("mnist", data_dir=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (compressed(idx_bytes(np.zeros((4, 28, 28), np.uint8)))[:-30], "damaged"),
        (compressed(idx_bytes(np.zeros((4, 28, 28), np.uint8))[:-1]), "3135 values.*4 x 28 x 28"),
        (compressed(b"\x00\x00\x0d\x01\x00\x00\x00\x00"), "not an idx file of bytes"),
        (compressed(b""), "not an idx file of bytes"),
        (b"not gzip at all", "damaged"),
        (compressed(idx_bytes(np.zeros((3, 28, 28), np.uint8))), r"images \[3, 28, 28\], labels \[4\]"),
        (compressed(idx_bytes(np.zeros((4, 8, 8), np.uint8))), r"do not fit mnist-test"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, no_other_data, content, message):
    write_idx_folder(tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        load_dataset("mnist-test", data_dir=tmp_path)
    assert str(tmp_path / "mnist") in str(error.value)


def test_download_takes_the_published_rows_from_openml(no_other_data, monkeypatch):
    import sklearn.datasets

    asked = {}

    class Bunch:
        data = np.repeat(np.arange(70_000) % 256, 784).reshape(70_000, 784).astype(np.uint8)
        target = (np.arange(70_000) % 10).astype(str)

    def fetch_openml(name, version, **options):
        asked["name"] = name, version
        return Bunch

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch_openml)
    fetched = load_dataset("fashion-mnist-test", download=True)
    assert asked["name"] == ("Fashion-MNIST", 1)
    assert fetched.X.shape == (10_000, 784)
    np.testing.assert_array_equal(fetched.labels, np.arange(60_000, 70_000) % 10)
    np.testing.assert_allclose(fetched.X[:, 5] * 255, np.arange(60_000, 70_000) % 256, atol=1e-4)

    def no_network(*args, **options):
        raise OSError("no route")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", no_network)
    with pytest.raises(DataError, match="could not be fetched from OpenML: no route"):
        load_dataset("mnist", download=True)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_published_files(known_data, name):
    dataset = known_data(name)
    assert dataset.X.shape == (70_000, 784)
    counts = np.bincount(dataset.labels)
    if name == "fashion-mnist":
        assert counts.tolist() == [7000] * 10
    else:  # the published class counts of MNIST
        assert counts.tolist() == [6903, 7877, 6990, 7141, 6824, 6313, 6876, 7293, 6825, 6958]
    np.testing.assert_array_equal(known_data(f"{name}-test").labels, dataset.labels[60_000:])


# Files


def test_npy_stays_a_memory_map_and_takes_labels_from_a_file(tmp_path, rows):
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "y.npy", CLASSES)
    loaded = load_dataset(tmp_path / "x.npy", labels=str(tmp_path / "y.npy"))
    assert isinstance(loaded.X, np.memmap)
    np.testing.assert_array_equal(loaded.X, rows)
    assert loaded.labels.tolist() == CLASSES.tolist()
    assert loaded.name == "x"


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 3)])
def test_images_in_npy_become_rows(tmp_path, shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    loaded = load_dataset(tmp_path / "images.npy")
    assert loaded.image_shape == shape[1:]
    np.testing.assert_allclose(loaded.X, images.reshape(4, -1) / 255, rtol=1e-6)
    stack = images if len(shape) == 3 else images.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(loaded.images, stack / 255, rtol=1e-6)
    assert np.shares_memory(loaded.images, loaded.X)


def test_npz_with_labels_that_are_only_read_when_asked_for(tmp_path, rows):
    np.savez(tmp_path / "d.npz", X=rows.astype(np.float64), y=CLASSES)
    assert load_dataset(tmp_path / "d.npz").labels is None
    loaded = load_dataset(tmp_path / "d.npz", labels="y")
    np.testing.assert_array_equal(loaded.X, rows)
    assert loaded.X.dtype == np.float64  # as in the file
    assert loaded.labels.tolist() == CLASSES.tolist()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", [True, False])
def test_csv(tmp_path, rows, delimiter, header):
    with open(tmp_path / "d.csv", "w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        if header:
            writer.writerow(["width", "kind", "height, m", "depth"])
        for row, kind in zip(rows.tolist(), CLASSES, strict=True):
            writer.writerow([row[0], kind, row[1], row[2]])
    loaded = load_dataset(tmp_path / "d.csv", labels="kind" if header else "1")
    np.testing.assert_array_equal(loaded.X, rows)
    assert loaded.labels.tolist() == CLASSES.tolist()


def test_csv_of_numbers_only(tmp_path, rows):
    rows = rows.astype(np.float64)
    np.savetxt(tmp_path / "plain.csv", rows, delimiter=",", fmt="%.17g")
    np.testing.assert_array_equal(load_dataset(tmp_path / "plain.csv").X, rows)
    loaded = load_dataset(tmp_path / "plain.csv", labels="-1")
    np.testing.assert_array_equal(loaded.X, rows[:, :2])


def test_parquet_with_plain_and_list_columns(tmp_path, rows):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    wide = np.arange(20, dtype=np.float64).reshape(5, 4)
    table = pa.table(
        {"a": rows[:, 0], "kind": CLASSES, "code": list(wide), "flag": [True, False, True, True, False]}
    )
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=2)
    loaded = load_dataset(tmp_path / "d.parquet", labels="kind")
    want = np.column_stack([rows[:, 0], wide, [1, 0, 1, 1, 0]]).astype(np.float32)
    np.testing.assert_array_equal(loaded.X, want)
    assert loaded.labels.tolist() == CLASSES.tolist()
    with pytest.raises(DataError, match=r"column kind is not numeric \('b', row 1, for one\).* --drop kind"):
        load_dataset(tmp_path / "d.parquet")
    with pytest.raises(
        DataError, match=r"no column 'species' \(--labels\); its columns are a, kind, code, flag"
    ):
        load_dataset(tmp_path / "d.parquet", labels="species")
    pq.write_table(pa.table({"a": [1.0, None], "b": [1, 2]}), tmp_path / "holes.parquet")
    with pytest.raises(DataError, match="column 'a' has no value in 1 of 2 rows, the first row 2"):
        load_dataset(tmp_path / "holes.parquet")
    pq.write_table(pa.table({"a": [[1.0], [1.0, 2.0]]}), tmp_path / "ragged.parquet")
    with pytest.raises(DataError, match="different lengths: 1, 2"):
        load_dataset(tmp_path / "ragged.parquet")


def write(path, content) -> None:
    if isinstance(content, dict):
        np.savez(path, **content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "labels", "message"),
    [
        ("a.npy", b"no numpy here", None, "cannot be read as a NumPy file"),
        ("a.npy", np.zeros(3, np.float32), None, r"one dimension, \[3\]"),
        ("a.npy", np.zeros((0, 3), np.float32), None, "is empty"),
        ("a.npy", np.array([["a", "b"]]), None, "real numbers; got dtype <U1"),
        ("a.npy", np.zeros((2, 2), np.complex64), None, "real numbers"),
        ("a.npy", np.zeros((2, 5, 4, 5), np.float32), None, "none of its axes 1 and 3 could be the channels"),
        ("a.npy", np.zeros((2, 3), np.float32), "kind", "has no column 'kind'"),
        ("a.npy", np.zeros((2, 3), np.float32), "missing.npy", "missing.npy do not exist"),
        ("a.npz", {"p": np.zeros((2, 2)), "q": np.zeros((2, 2))}, None, "several arrays .p, q."),
        ("a.npz", {"X": np.zeros((2, 2))}, "y", "no array 'y' for the known classes; it has X"),
        ("a.npz", {"X": np.zeros((2, 2)), "y": np.zeros(3)}, "y", r"one value a row, \[2\]; got shape \[3\]"),
        ("a.csv", b"x,y\n1,2\n3,\n", None, "column 'y' has no value in 1 of 2 rows, the first line 3"),
        ("a.csv", b"x,y\n1,2\n3\n", None, "line 3 has 1 field, but the header has 2"),
        ("a.csv", b"x,kind\n1,cat\n3,dog\n", None, "column kind is not numeric"),
        ("a.csv", b"x,y\n1,2\n", "kind", r"no column 'kind' \(--labels\); its columns are x, y"),
        ("a.csv", b"x\n1\n", "x", "no column besides"),
        ("a.csv", b"", None, "has no rows$"),
        ("a.csv", b"x,y\n", None, "has no rows below its header"),
        ("a.csv", b"\xff\xfe\x00", None, "as text"),
        ("a.parquet", b"PAR0", None, "cannot be read as parquet"),
    ],
)
def test_bad_files_give_one_clear_sentence(tmp_path, name, content, labels, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    write(tmp_path / name, content)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / name, labels=labels)


def test_names_that_mean_nothing(tmp_path):
    with pytest.raises(DataError, match=r"neither a known data set \(digits, mnist, .* nor a \.csv"):
        load_dataset("imagenet")
    with pytest.raises(DataError, match="does not exist"):
        load_dataset(tmp_path / "nothing.npy")
    with pytest.raises(DataError, match="brings its own known classes"):
        load_dataset("digits", labels="kind")
