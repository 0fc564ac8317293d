"""Parquet tables above 64 MiB: the rows, classes, names and errors of those that are read whole, with the rows on disk."""

from __future__ import annotations

import decimal
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from desc_ext.data import DataError, StoredRows, columnar, load_dataset

N = 500


def columns() -> dict[str, pa.Array]:
    random = np.random.default_rng(0)
    return {
        "name": pa.array([f"row {i}" for i in range(N)]),
        "small": pa.array(random.integers(0, 200, N).astype(np.uint8)),
        "x": pa.array(random.normal(size=N)),
        "y": pa.array(random.normal(size=N).astype(np.float32)),
        "kind": pa.array([("u", "v")[i % 2] for i in range(N)]),
        "truth": pa.array(random.random(N) > 0.5),
        "list": pa.array(list(random.normal(size=(N, 3)).astype(np.float32))),
        "fixed": pa.FixedSizeListArray.from_arrays(pa.array(random.normal(size=2 * N)), 2),
        "price": pa.array([decimal.Decimal(i) / 4 for i in range(N)]),
    }


def a_file(table, folder):
    pq.write_table(table, folder / "t.parquet", row_group_size=130)
    return folder / "t.parquet"


def a_folder(table, folder):
    """Part 10 comes before part 2 in the order of paths."""
    (folder / "t").mkdir()
    for number, rows in ((10, table[:200]), (2, table[200:])):
        pq.write_table(rows, folder / "t" / f"part-{number}.parquet", row_group_size=70)
    return folder / "t"


def folders_of_kinds(table, folder):
    for kind in (3, 5):
        (folder / "t" / f"kind={kind}").mkdir(parents=True)
        rows = table.drop_columns("kind")[: N // 2] if kind == 3 else table.drop_columns("kind")[N // 2 :]
        pq.write_table(rows, folder / "t" / f"kind={kind}" / "0.parquet")
    return folder / "t"


def loaded(source, **options):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = load_dataset(source, **options)
    return found, [str(one.message) for one in said]


@pytest.fixture
def large(monkeypatch):
    """Makes every table one that is not read whole, in batches of 64 rows."""

    def begin():
        monkeypatch.setattr(columnar, "READ_WHOLE", 0)
        monkeypatch.setattr(columnar, "_BATCH_ROWS", 64)

    return begin


@pytest.mark.parametrize("layout", [a_file, a_folder, folders_of_kinds])
@pytest.mark.parametrize(
    "options",
    [
        {"labels": "kind", "id": "name"},
        {"columns": ["x", "small"]},
        {"columns": "1-2", "labels": "truth"},
        {"drop": ["name", "price"], "labels": "kind"},
        {"columns": ["fixed", "y"], "id": "x"},
        {"columns": ["small", "truth"]},
        {"columns": ["kind", "x"]},
    ],
)
def test_a_large_table_is_that_in_memory(layout, options, tmp_path, large):
    if options.get("columns") == ["kind", "x"] and layout is not folders_of_kinds:
        options = {"columns": ["price", "x"]}
    source = layout(pa.table(columns()), tmp_path)
    wanted, wanted_notes = loaded(source, **options)
    large()
    found, notes = loaded(source, **options)
    assert type(wanted.X) is np.ndarray
    assert isinstance(found.X, StoredRows)
    assert (found.X.dtype, found.X.shape) == (wanted.X.dtype, wanted.X.shape)
    assert np.asarray(found.X).tobytes() == wanted.X.tobytes()
    for name in ("labels", "ids"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert (found.columns, found.preparation, found.name) == (wanted.columns, wanted.preparation, wanted.name)
    assert notes == wanted_notes
    again, _ = loaded(source, preparation=wanted.preparation)
    assert np.asarray(again.X).tobytes() == wanted.X.tobytes()


def test_whole_numbers_in_one_part_are_fractions_in_another(tmp_path, large):
    (tmp_path / "t").mkdir()
    pq.write_table(pa.table({"a": [1, 2], "b": [0.5, 1]}), tmp_path / "t" / "0.parquet")
    pq.write_table(pa.table({"b": [7, 8], "a": [0.25, 3]}), tmp_path / "t" / "1.parquet")
    wanted = [[1, 0.5], [2, 1], [0.25, 7], [3, 8]]
    np.testing.assert_array_equal(loaded(tmp_path / "t")[0].X, wanted)
    large()
    np.testing.assert_array_equal(np.asarray(loaded(tmp_path / "t")[0].X), wanted)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            {"x": [None if i in (321, 498) else 1.0 for i in range(N)]},
            {},
            r"column 'x' has no value in 2 of 500 rows, the first row 322",
        ),
        ({"x": pa.array([], pa.float64()), "y": pa.array([], pa.float64())}, {}, "has no rows"),
        ({"x": [np.inf if i == 77 else 1.0 for i in range(N)]}, {}, r"column 'x' holds inf, row 78"),
        ({"x": ["word"] * N}, {}, r"column x is not numeric \('word', row 1, for one\)"),
        ({"x": [[1.0] * (1 + (i > 300)) for i in range(N)]}, {}, "have different lengths"),
        ({}, {"columns": "z"}, r"has no column 'z' \(--columns\)"),
        ({}, {"labels": "x", "columns": "x"}, "column 'x' is named twice"),
        ({"y": [None] * 3 + ["u"] * (N - 3)}, {"labels": "y"}, "the known class is missing in 3 of 500 rows"),
    ],
)
def test_the_errors_are_those_in_memory(change, options, message, tmp_path, large):
    table = pa.table({name: columns()[name] for name in ("x", "y")} | change)
    source = a_file(table, tmp_path)
    with pytest.raises(DataError, match=message):
        load_dataset(source, **options)
    large()
    with pytest.raises(DataError, match=message):
        load_dataset(source, **options)


def test_few_chosen_columns_of_a_large_table_are_in_memory(tmp_path, large, monkeypatch):
    source = a_file(pa.table(columns()), tmp_path)
    large()
    monkeypatch.setattr(columnar, "READ_WHOLE", 8 * N)
    found, _ = loaded(source, columns="x")
    assert type(found.X) is np.ndarray
    assert isinstance(loaded(source, columns=["x", "y"])[0].X, StoredRows)


def test_a_damaged_large_table_is_refused(tmp_path, large):
    source = a_file(pa.table(columns()), tmp_path)
    content = bytearray(source.read_bytes())
    content[300:3000] = bytes(2700)
    large()
    for damaged in (bytes(content), bytes(content[:-30])):
        source.write_bytes(damaged)
        with pytest.raises(DataError, match=r"t.parquet cannot be read as parquet"):
            load_dataset(source, columns=["x", "small"])


def test_texts_of_a_large_table_are_texts(tmp_path, large):
    table = pa.table({"text": ["ship sea", "rain sky"] * 4, "kind": ["x", "y"] * 4})
    source = a_file(table, tmp_path)
    large()
    found, _ = loaded(source, labels="kind", dimension=2)
    assert found.texts == ["ship sea", "rain sky"] * 4
    assert found.labels.tolist() == [0, 1] * 4
