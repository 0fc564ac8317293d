"""Rows on disk against the same rows in memory: files, shards, Parquet, memory maps, torch data sets; and what is no rows."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.base import clone

from desc_ext import stored as stored_module
from desc_ext.data import DataError, StoredRows, stored_rows
from desc_ext.models import LRSC
from desc_ext.stored import blocks, finite_sample, part_of_map, rows_at, written_rows

N, M = 53, 5


def table(dtype="float32", n=N):
    """Rows of numbers of which no two are equal."""
    return (np.random.default_rng(0).permutation(n * M).reshape(n, M) % 251).astype(dtype)


def npy(X, folder):
    np.save(folder / "x.npy", X)
    return folder / "x.npy"


def shards(X, folder):
    """Named so that the order of letters is not that of numbers."""
    for number, part in zip((2, 10, 9), (X[:20], X[21:], X[20:21]), strict=True):
        np.save(folder / f"part-{number}.npy", part)
    return folder


def parquet(X, folder):
    columns = pa.table({f"c{i}": X[:, i] for i in range(M)})
    pq.write_table(columns, folder / "x.parquet", row_group_size=11)
    return folder / "x.parquet"


def parquet_folder(X, folder):
    for number, part in ((2, X[:30]), (10, X[30:])):
        pq.write_table(
            pa.table({f"c{i}": part[:, i] for i in range(M)}), folder / f"p{number}.pq", row_group_size=7
        )
    return folder


def memory_map(X, folder):
    return np.load(npy(X, folder), mmap_mode="r")


def map_of_bytes(X, folder):
    """A slice of a map that begins within a file."""
    (folder / "x.bin").write_bytes(b"?" * 5000 + X[:3].tobytes() + X.tobytes() + b"!")
    whole = np.memmap(folder / "x.bin", X.dtype, "r", offset=5000, shape=(N + 3, M))
    return whole[3:]


class _Items(torch.utils.data.Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, number):
        return self.items[number]


class Items(_Items):
    def __getitem__(self, i):
        return torch.from_numpy(self.items[i].reshape(1, M)), i


def items(X, folder):
    return Items(X)


KINDS = (npy, shards, parquet, parquet_folder, memory_map, map_of_bytes, items)


def nameless(X, folder):
    return written_rows(N, [X[:20], X[20:]], folder)


def read_elsewhere(rows):
    """All of them, as another process finds them, which has nothing of this one's memory."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        return other.submit(np.asarray, rows).result()


@pytest.mark.parametrize("kind", [npy, parquet_folder, items, nameless])
def test_other_processes_read_them(kind, tmp_path):
    X = table()
    source = kind(X, tmp_path)
    stored = source if kind is nameless else stored_rows(source)
    np.testing.assert_array_equal(stored[3:5], X[3:5])  # what was read is not sent
    assert len(pickle.dumps(stored)) < 6000
    np.testing.assert_array_equal(read_elsewhere(stored.between(2, 40)), X[2:40])


def test_a_file_without_a_name_is_not_taken_for_another(tmp_path):
    rows = nameless(table(), tmp_path)
    sent = pickle.dumps(rows)
    number = int(pickle.loads(sent).parts[0].path.name)
    other = open(tmp_path / "other", "w+b")  # noqa: SIM115 - which takes the number of the one that went
    other.write(b"?" * 10_000)
    other.flush()
    os.dup2(other.fileno(), number)
    with pytest.raises(OSError, match="has changed since it was opened"):
        pickle.loads(sent)[:3]
    del rows
    with pytest.raises(OSError, match="is gone since it was opened"):
        pickle.loads(sent)[:3]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_stored_rows_are_those_of_the_array(kind, dtype, tmp_path):
    X = table(dtype)
    stored = stored_rows(kind(X, tmp_path))
    assert isinstance(stored, StoredRows)
    assert (stored.shape, stored.dtype, stored.ndim, len(stored)) == (X.shape, X.dtype, 2, N)
    assert (stored.size, stored.nbytes) == (X.size, X.nbytes)
    for index in (
        slice(None), slice(3, 31), slice(19, 22), slice(40, 400), slice(9, 9), slice(-4, None), slice(50, 2, -7),
        np.array([52, 0, 19, 20, 20, 21, 7]), np.arange(N)[::-1], np.array([], dtype=np.int64), [3, -1], 20, -2,
    ):  # fmt: skip
        found = stored[index]
        assert found.dtype == X.dtype
        np.testing.assert_array_equal(found, X[index])
    np.testing.assert_array_equal(np.asarray(stored), X)
    assert np.asarray(stored, dtype=np.float64).dtype == np.float64
    for size in (1, 10, N, 100):
        found = list(blocks(stored, size))
        assert [len(part) for part in found] == [len(X[i : i + size]) for i in range(0, N, size)]
        np.testing.assert_array_equal(np.concatenate(found), X)


@pytest.mark.parametrize("dtype", [">f4", "<f2", "bool", "uint64"])
def test_files_keep_their_dtype_and_truth_values_are_0_and_1(dtype, tmp_path):
    X = (table() % 2).astype(dtype)
    stored = stored_rows(npy(X, tmp_path))
    assert stored.dtype == (np.uint8 if dtype == "bool" else X.dtype)
    np.testing.assert_array_equal(stored[:], X)


def test_numbers_of_rows_far_apart_and_close_together(tmp_path):
    """Rows are read one by one, or with what lies between them."""
    X = np.arange(200_000 * 3, dtype=np.float32).reshape(-1, 3)
    stored = stored_rows(npy(X, tmp_path))
    random = np.random.default_rng(0)
    for most, step in ((200_000, 1), (200_000, 1000), (3000, 1)):
        index = random.integers(0, most, size=2000) // step * step
        np.testing.assert_array_equal(stored[index], X[index])


def test_rows_that_are_asked_for_otherwise(tmp_path):
    stored = stored_rows(npy(table(), tmp_path))
    for index in (N, np.array([0, -N - 1])):
        with pytest.raises(IndexError, match="out of range, there are 53 rows"):
            stored[index]
    for index in (np.array([0.5]), np.ones(N, dtype=bool), np.zeros((2, 2), dtype=int), "a"):
        with pytest.raises(IndexError, match="index must be a slice or whole numbers"):
            stored[index]
    with pytest.raises(ValueError, match="leave out copy=False"):
        np.asarray(stored, copy=False)


def test_which_columns_of_a_parquet_file(tmp_path):
    columns = {
        "id": list("abcd"),
        "x": np.arange(4),
        "y": np.array([0.5, 1, 2, 3], "f4"),
        "gap": [1, None, 2, 3],
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    stored = stored_rows(tmp_path / "x.parquet", columns=["y", "x"])
    assert stored.dtype == np.float64
    np.testing.assert_array_equal(stored[:], [[0.5, 0], [1, 1], [2, 2], [3, 3]])
    with pytest.raises(DataError, match=r"column 'id' is not numeric \(string\)"):
        stored_rows(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="lacks the column 'z'"):
        stored_rows(tmp_path / "x.parquet", columns=["z"])
    with pytest.raises(DataError, match=r"column 'gap' has no value in 1 rows"):
        stored_rows(tmp_path / "x.parquet", columns=["gap"])[:]


# ---------------------------------------------------------------------- what is no rows


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.asfortranarray(table()), r"Fortran order.*numpy.save\(path, numpy.ascontiguousarray\(X\)\)"),
        (np.array([["a", None]], dtype=object), "Python objects"),
        (np.array([["a", "b"]]), "must hold real numbers; got dtype <U1"),
        (np.zeros((2, 2), dtype=complex), "must hold real numbers"),
        (
            np.zeros((2, 2), dtype=np.longdouble),
            r"longdouble\), and at most float64 is read; .*X.astype\(numpy.float64\)",
        ),
        (np.zeros(4), r"must hold rows and columns, \[n, m\]; got shape \[4\]"),
        (np.zeros((2, 2, 2)), r"got shape \[2, 2, 2\]"),
        (np.zeros((0, 3)), r"is empty: shape \[0, 3\]"),
    ],
)
def test_arrays_that_are_no_rows_are_refused(array, message, tmp_path):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=message) as error:
        stored_rows(tmp_path / "x.npy")
    assert "x.npy" in str(error.value)


def test_damaged_files_are_refused(tmp_path):
    whole = npy(table(), tmp_path).read_bytes()
    for content, message in (
        (b"", "cannot be read as a NumPy file"),
        (b"no array at all", "cannot be read as a NumPy file"),
        (whole[:60], "cannot be read as a NumPy file"),
        (whole[:-1], r"it has 1,187 bytes, and \[53, 5\] of float32 need 1,188; it was cut short"),
        (whole[:6] + b"\x09\x00" + whole[8:], "cannot be read as a NumPy file"),
    ):
        (tmp_path / "x.npy").write_bytes(content)
        with pytest.raises(DataError, match=message):
            stored_rows(tmp_path / "x.npy")
    (tmp_path / "x.parquet").write_bytes(parquet(table(), tmp_path).read_bytes()[:-20])
    with pytest.raises(DataError, match=r"x.parquet cannot be read as parquet"):
        stored_rows(tmp_path / "x.parquet")


def test_a_file_that_becomes_shorter_while_it_is_read(tmp_path):
    stored = stored_rows(npy(table(), tmp_path))
    with open(tmp_path / "x.npy", "r+b") as file:
        file.truncate(600)
    np.testing.assert_array_equal(stored[:20], table()[:20])
    for index in (slice(None), np.array([N - 1])):
        with pytest.raises(OSError, match="has become shorter since it was opened"):
            stored[index]


def test_shards_that_differ_are_refused(tmp_path):
    shards(table(), tmp_path)
    for other, message in (
        (table("float64"), r"part-11.npy has 5 columns of float64, but .*part-2.npy has 5 of float32"),
        (table()[:, :4], r"part-11.npy has 4 columns of float32, but .*part-2.npy has 5 of float32"),
    ):
        np.save(tmp_path / "part-11.npy", other)
        with pytest.raises(DataError, match=message):
            stored_rows(tmp_path)
    (tmp_path / "part-11.npy").rename(tmp_path / "notes.csv")
    with pytest.raises(
        DataError, match=r"a folder of files of one of these kinds or of images; got .*notes.csv"
    ):
        stored_rows(tmp_path)


def test_sources_that_are_none(tmp_path):
    for source, message in (
        (tmp_path / "none.npy", "none.npy does not exist"),
        (table(), "give arrays to the estimator"),
        (np.load(npy(table(), tmp_path), mmap_mode="r").T, "memory map of rows"),
        ([[1, 2]], "got list"),
        (iter(()), "a torch Dataset of known length"),
        (Items(table()[:0]), "Items is empty"),
        (Items(np.zeros((2, M), dtype=complex)), "items must be numbers x"),
    ):
        with pytest.raises(DataError, match=message):
            stored_rows(source)
    uneven = Items(table("int16"))
    stored = stored_rows(uneven)
    uneven.items = uneven.items.astype(np.float64)
    with pytest.raises(DataError, match="item 3 of Items has 5 numbers of float64, but the first"):
        stored[[3]]


def test_maps_whose_rows_the_file_does_not_hold(tmp_path):
    """Of parts that do not lie together, of changes that are not written, and of what arithmetic made of a map."""
    X = np.load(npy(table(), tmp_path), mmap_mode="r")
    np.testing.assert_array_equal(part_of_map(X[7:19]).read(0, 12), table()[7:19])
    changed = np.load(tmp_path / "x.npy", mmap_mode="c")
    for other in (
        X[::2],
        X[:, 1:],
        X.T,
        X + 1,
        X[:0],
        changed,
        table(),
        np.memmap(tmp_path / "new", "f4", "w+", shape=4),
    ):
        assert part_of_map(other) is None
    (tmp_path / "x.npy").unlink()
    assert part_of_map(X) is None
    npy(table() + 1, tmp_path)
    assert part_of_map(X) is None  # another file of that name


def test_a_sample_has_finite_rows_whether_all_are_looked_at_or_few(tmp_path, monkeypatch):
    X = table("float32")
    X[::2] = np.nan
    mapped = np.load(npy(X, tmp_path), mmap_mode="r")
    for looked_through in (N, N - 1):
        monkeypatch.setattr(stored_module, "_LOOKED_THROUGH", looked_through)
        for array in (X, mapped):
            rows = finite_sample(array, 10)
            assert len(np.unique(rows)) == len(rows) <= 10
            assert len(rows) > 5
            assert (rows % 2 == 1).all()
            assert (np.diff(rows) > 0).all()
            np.testing.assert_array_equal(rows, finite_sample(X, 10))
            np.testing.assert_array_equal(rows_at(array, rows), X[rows])
    monkeypatch.undo()
    assert len(finite_sample(X, 100)) == N // 2


def test_what_is_read_does_not_depend_on_the_current_folder(tmp_path, monkeypatch):
    for name, value in (("one", 0), ("two", 1)):
        (tmp_path / name / "rows").mkdir(parents=True)
        np.save(tmp_path / name / "rows" / "x.npy", table() + value)
    monkeypatch.chdir(tmp_path / "one")
    of_folder, of_file = stored_rows("rows"), stored_rows("rows/x.npy")
    monkeypatch.chdir(tmp_path / "two")
    np.testing.assert_array_equal(np.asarray(of_folder), table())
    np.testing.assert_array_equal(of_file[np.array([3])], table()[3:4])


def test_a_file_that_is_written_anew_while_it_is_open(tmp_path):
    path = npy(table(), tmp_path)
    rows = stored_rows(path)
    np.save(path, table("int32"))
    os.utime(path, ns=(1, 1))  # whatever the clock of the file system is worth
    for index in (slice(0, 3), np.array([1, 50])):
        with pytest.raises(OSError, match=r"x.npy has changed since it was opened; start anew"):
            rows[index]


def test_items_of_data_sets_that_are_no_rows(tmp_path):
    wider = _Items([np.array([1, 2], "i1"), np.array([300, 1000], "i8")])
    with pytest.raises(
        DataError, match=r"item 1 of _Items has 2 numbers of int64, but the first has 2 of int8"
    ):
        np.asarray(stored_rows(wider))
    for item in ([1.0, 2.0, 3.0], (torch.tensor(3), torch.ones(4))):
        with pytest.raises(
            DataError, match=r"item 0 of _Items begins with a single number; items must be rows x"
        ):
            stored_rows(_Items([item, item]))
    trained = _Items([torch.ones(4, dtype=torch.bfloat16, requires_grad=True)] * 3)
    np.testing.assert_array_equal(np.asarray(stored_rows(trained)), np.ones((3, 4), np.float32))
    for source in (pd.DataFrame(table()), {"x": table()}, range(20), b"x.npy", [table()]):
        with pytest.raises(DataError, match="give tables and arrays to the estimator"):
            stored_rows(source)


def test_shards_of_several_folders_and_files_that_are_gone(tmp_path):
    (tmp_path / "further").mkdir()
    for folder in (tmp_path, tmp_path / "further"):
        np.save(folder / "x.npy", table())
    with pytest.raises(DataError, match=r"further.x.npy and .*x.npy lie in different folders"):
        stored_rows(tmp_path)
    rows = stored_rows(tmp_path / "further")
    (tmp_path / "further" / "x.npy").unlink()
    with pytest.raises(OSError, match=r"x.npy is gone since it was opened; put it back"):
        rows[:3]


def test_a_copy_of_an_estimator_takes_its_external_rows_with_it(tmp_path):
    """Rows of a file without a name, which can be opened once alone."""
    rows = stored_module.written_rows(N, [table()])
    external = clone(LRSC(3, external=(rows, np.arange(N) % 3))).external
    np.testing.assert_array_equal(np.asarray(external[0]), table())
