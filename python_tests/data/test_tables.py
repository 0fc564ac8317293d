"""Tables as other programs write them: what becomes a feature, what a class, what a name of a row, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from desc_ext.data import DataError, DataNote, load_dataset

X = np.random.default_rng(0).normal(size=(6, 3))
FRAME = pd.DataFrame(X, columns=["a", "b", "c"])
KINDS = ["u", "v", "u", "w", "v", "u"]


def noted(path, **options):
    """The data set, and what was said about it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = load_dataset(path, **options)
    assert all(issubclass(one.category, DataNote) for one in said)
    return found, " | ".join(str(one.message) for one in said)


def quiet(path, **options):
    found, said = noted(path, **options)
    assert not said
    return found


def text(tmp_path, content, name="t.csv"):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path / name


# Names of rows


@pytest.mark.parametrize("order", ["as it is", "shuffled"])
@pytest.mark.parametrize("columns", ["words", "numbers"])
def test_the_index_that_pandas_writes_is_no_feature(tmp_path, order, columns):
    frame = FRAME if columns == "words" else pd.DataFrame(X)
    frame = frame if order == "as it is" else frame.sample(frac=1, random_state=0)
    frame.to_csv(tmp_path / "t.csv")
    found, said = noted(tmp_path / "t.csv")
    np.testing.assert_allclose(found.X, frame.to_numpy(), rtol=1e-15)
    assert found.ids.tolist() == [str(i) for i in frame.index]
    assert found.columns == tuple(map(str, frame.columns))
    assert "first column, which has no name" in said


def test_row_names_of_r_are_no_feature(tmp_path):
    found, _ = noted(text(tmp_path, '"","a","b"\n"x1",1,2\n"x2",3,4\n'))
    assert found.X.tolist() == [[1, 2], [3, 4]]
    assert found.ids.tolist() == ["x1", "x2"]


@pytest.mark.parametrize("index", [None, "name"])
def test_the_index_in_parquet_is_no_feature(tmp_path, index):
    frame = FRAME.sample(frac=1, random_state=0)
    frame.index.name = index
    frame.to_parquet(tmp_path / "t.parquet")
    found = quiet(tmp_path / "t.parquet")
    np.testing.assert_array_equal(found.X, frame.to_numpy())
    assert found.ids.tolist() == [str(i) for i in frame.index]


def test_a_column_that_counts_is_named_and_can_be_the_id(tmp_path):
    path = text(tmp_path, "id,x\n1,5\n2,4\n3,9\n")
    found, said = noted(path)
    assert (found.X.shape, "'id' counts the rows" in said) == ((3, 2), True)
    found = quiet(path, id="id")
    assert (found.X.tolist(), found.ids.tolist()) == ([[5], [4], [9]], ["1", "2", "3"])


def test_ids_are_kept_as_they_are_written(tmp_path):
    found = quiet(text(tmp_path, "key,x\n007,1\n010,2\n"), id="key")
    assert found.ids.tolist() == ["007", "010"]


# Headers


@pytest.mark.parametrize("names", [[0, 1, 2], [400.0, 410.0, 420.0]])
def test_a_header_of_numbers_is_a_header(tmp_path, names):
    pd.DataFrame(X, columns=names).to_csv(tmp_path / "t.csv", index=False)
    found, said = noted(tmp_path / "t.csv")
    np.testing.assert_allclose(found.X, X, rtol=1e-15)
    assert found.columns == tuple(map(str, names))
    assert "--no-header" in said
    assert quiet(tmp_path / "t.csv", header=False).X.shape == (7, 3)
    assert quiet(tmp_path / "t.csv", header=True).X.shape == (6, 3)


@pytest.mark.parametrize(
    "content",
    ["1,2,3\n2,3,4\n3,4,5\n", "1,2\n5,3\n", "3,1,2\n5,3,1\n", "1,2,4\n3,1,1\n", "0.1,0.2\n0.3,0.1\n"],
)
def test_rows_of_numbers_are_no_header(tmp_path, content):
    assert len(quiet(text(tmp_path, content)).X) == content.count("\n")


def test_quoted_numbers_above_plain_ones_are_a_header(tmp_path):
    assert quiet(text(tmp_path, '"5","3"\n1,2\n3,4\n')).columns == ("5", "3")


def test_comments_and_a_declared_delimiter_come_before_the_header(tmp_path):
    assert quiet(text(tmp_path, "# written by\n#\n\na,b\n1,2\n3,4\n")).X.tolist() == [[1, 2], [3, 4]]
    assert quiet(text(tmp_path, "sep=;\na;b\n1;2\n3;4\n")).columns == ("a", "b")
    np.savetxt(tmp_path / "n.txt", X, header="a b c")
    found = quiet(tmp_path / "n.txt")
    np.testing.assert_allclose(found.X, X, rtol=1e-15)
    assert found.columns == ("a", "b", "c")


# Fields


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x\n1,5\n2,7\n", r"line 2 has 2 fields, but the header has 1.*decimal commas"),
        ('"a" "b"\n"1" 0.5 1.5\n"2" 0.7 1.7\n', r"line 2 has 3 fields, but the header has 2.*write\.table"),
        ("a,b\n1,2\n\n3,4,5\n", r"line 4 has 3 fields, but the header has 2.*quotes"),
        ("a,b\n1,2\n3\n", r"line 3 has 1 field, but the header has 2"),
        ("1,2\n3,4\n5\n", r"line 3 has 1 field, but the first row has 2"),
        ("a,b\n1,2,\n3,4,\n", r"line 2 has 3 fields"),
        ('a,b\n1,"2\n3",4\n5,6,7\n', r"line 2 has 3 fields"),
        ("a,b\n" + "1,2\n" * 300 + "1,x\n", r"line 302: column 'b' holds 'x'"),
        ("a,b\n1,2\n\n3,\n5,nan\n", r"column 'b' has no value in 2 of 3 rows, the first line 4"),
        ("a,b\n1,2\n3,inf\n", r"column 'b' holds inf, line 3"),
        ("a,b\n1,2\n3,1e999\n", r"column 'b' holds inf, line 3"),
        ("a,b,c\n1,2,x\n3,?,y\n", r"columns b, c are not numeric \('\?', line 3, for one\); .* --drop b,c"),
        ("a,b\n1\0,2\n", "zero bytes"),
        (b"a,b\n1,\xff\xfe\n", "not numeric|as text|UTF8"),
        ("", "has no rows$"),
        ("\n\n", "has no rows$"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_their_line(tmp_path, content, message):
    path = text(tmp_path, content)
    with pytest.raises(DataError, match=message) as error:
        load_dataset(path)
    assert str(path) in str(error.value)


def test_a_line_is_counted_as_an_editor_does(tmp_path):
    path = text(tmp_path, 'a,kind,b\r\n1,"two\r\nlines",2\r\n\r\n3,one,\r\n')
    with pytest.raises(DataError, match="the first line 5"):
        load_dataset(path, labels="kind")


def test_decimal_commas_between_semicolons(tmp_path):
    found, said = noted(text(tmp_path, "a;b\n1,5;2\n-2,25e1;3\n"))
    assert found.X.tolist() == [[1.5, 2], [-22.5, 3]]
    assert "decimal comma" in said


@pytest.mark.parametrize("late", ["2.5", "1e3"])
def test_numbers_of_another_kind_may_come_late(tmp_path, late):
    """What pyarrow infers of the first block would be whole numbers."""
    found = quiet(text(tmp_path, "a\n" + "1\n" * 3_000_000 + f"{late}\n"))
    assert (len(found.X), found.X[-1, 0]) == (3_000_001, float(late))


@pytest.mark.parametrize("ending", ["\r\n", "\r", " \n "])
def test_endings_of_lines(tmp_path, ending):
    assert quiet(text(tmp_path, ending.join(["1 2", "3 4", ""]), "t.txt")).X.tolist() == [[1, 2], [3, 4]]
    assert quiet(text(tmp_path, ending.strip(" ").join(["a,b", "1,2", "3,4", ""]))).X.tolist() == [
        [1, 2],
        [3, 4],
    ]


@pytest.mark.parametrize("spaces", [" ", "   ", "\t ", " \t"])
def test_white_space_parts_fields(tmp_path, spaces):
    rows = "\n".join(spaces + spaces.join(map(repr, row.tolist())) + " " for row in X)
    np.testing.assert_array_equal(quiet(text(tmp_path, rows, "t.txt")).X, X)


def test_fields_of_any_length(tmp_path):
    found = quiet(text(tmp_path, "a" * 200_000 + ",b\n1,2\n3,4\n"))
    assert found.X.tolist() == [[1, 2], [3, 4]]
    texts = [f"alpha beta {'gamma ' * 30_000}", *["alpha beta", "delta", "eps zeta"] * 4]
    path = text(tmp_path, "text ,kind\n" + "".join(f"{t},x\n" for t in texts), "long.csv")
    assert quiet(path, labels="kind", dimension=2).texts == texts


# Kinds of files


def compressed(path, content: bytes):
    if path.name.endswith(".gz"):
        content = gzip.compress(content)
    elif path.name.endswith(".bz2"):
        content = bz2.compress(content)
    elif path.name.endswith(".zst"):
        content = pa.compress(content, codec="zstd", asbytes=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("packing", ["", ".gz", ".bz2", ".zst"])
@pytest.mark.parametrize("kind", [".csv", ".tsv", ".txt"])
def test_text_files_packed_or_not(tmp_path, kind, packing):
    content = FRAME.to_csv(index=False, sep="\t" if kind == ".tsv" else ",").encode()
    found = quiet(compressed(tmp_path / f"name{kind}{packing}", content))
    np.testing.assert_allclose(found.X, X, rtol=1e-15)
    assert (found.name, found.columns) == ("name", ("a", "b", "c"))


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".zst"])
def test_a_packed_file_that_is_cut_off_is_damaged(tmp_path, packing):
    content = FRAME.sample(3000, replace=True, random_state=0).to_csv(index=False).encode()
    path = compressed(tmp_path / f"t.csv{packing}", content)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"t\.csv.* cannot be read"):
        load_dataset(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_encodings_that_say_what_they_are(tmp_path, encoding):
    content = "größe,b\n1,2\n3,4\n"
    mark = b"\xff\xfe" if encoding == "utf-16-le" else b""
    assert quiet(text(tmp_path, mark + content.encode(encoding))).columns == ("größe", "b")


@pytest.mark.parametrize("kind", ["feather", "arrow file", "arrow stream"])
def test_arrow_files(tmp_path, kind):
    table, path = pa.Table.from_pandas(FRAME), tmp_path / f"t.{kind.split()[0]}"
    if kind == "feather":
        FRAME.to_feather(path)
    else:
        open_file = pa.ipc.new_file if kind == "arrow file" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, open_file(sink, table.schema) as writer:
            writer.write_table(table)
    np.testing.assert_array_equal(quiet(path).X, X)


def test_parts_of_a_parquet_table(tmp_path):
    folder = tmp_path / "table"
    for i, kind in enumerate(("x", "y")):
        (folder / f"kind={kind}").mkdir(parents=True)
        FRAME[3 * i : 3 * i + 3].to_parquet(folder / f"kind={kind}" / "part-0.parquet", index=False)
    (folder / "_SUCCESS").write_text("")
    found, said = noted(folder)
    np.testing.assert_array_equal(found.X, X)
    assert "kind, from the names of folders, is no feature" in said
    assert quiet(folder, labels="kind").labels.tolist() == ["x"] * 3 + ["y"] * 3
    (folder / "notes.txt").write_text("some words")
    with pytest.raises(DataError, match=r"2 Parquet files and other files, such as .*notes\.txt"):
        load_dataset(folder)


@pytest.mark.parametrize(
    ("dtypes", "wanted"),
    [("f4 f4", "f4"), ("u1 u1", "u1"), ("f2 f4", "f4"), ("i8 f4", "f8"), ("? u1", "u1"), ("f8 f4", "f8")],
)
def test_numbers_keep_the_precision_of_the_file(tmp_path, dtypes, wanted):
    columns = {name: np.arange(4).astype(dtype) for name, dtype in zip("ab", dtypes.split(), strict=True)}
    pd.DataFrame(columns).to_parquet(tmp_path / "t.parquet")
    assert quiet(tmp_path / "t.parquet").X.dtype == np.dtype(wanted)


def test_small_differences_of_large_numbers_stay(tmp_path):
    large = X + 1e8
    np.save(tmp_path / "t.npy", large)
    pd.DataFrame(large).to_csv(tmp_path / "t.csv", index=False, header=["a", "b", "c"])
    for name in ("t.npy", "t.csv"):
        np.testing.assert_array_equal(quiet(tmp_path / name).X, large)


def test_words_and_categories_are_named_with_what_helps(tmp_path):
    FRAME.assign(kind=pd.Categorical(KINDS), when=pd.Timestamp("2024-01-01")).to_parquet(
        tmp_path / "t.parquet"
    )
    with pytest.raises(DataError, match=r"columns kind, when are not numeric .*--drop kind,when.*--labels"):
        load_dataset(tmp_path / "t.parquet")
    found = quiet(tmp_path / "t.parquet", labels="kind", drop=["when"])
    assert found.labels.tolist() == KINDS
    assert found.columns == ("a", "b", "c")


# Choosing columns


def test_columns_by_name_number_and_range(tmp_path):
    FRAME.assign(kind=KINDS).to_csv(tmp_path / "t.csv", index=False)
    for asked in (["c", "a"], ["c,a"], ["2", "0"], ["-2,0"]):
        found = quiet(tmp_path / "t.csv", columns=asked)
        np.testing.assert_array_equal(found.X, X[:, [2, 0]])
        assert found.columns == ("c", "a")
    np.testing.assert_array_equal(quiet(tmp_path / "t.csv", columns=["0-1"]).X, X[:, :2])
    np.testing.assert_array_equal(quiet(tmp_path / "t.csv", drop=["b", "kind"]).X, X[:, [0, 2]])
    with pytest.raises(DataError, match=r"no column 'd' \(--columns\); its columns are a, b, c, kind"):
        load_dataset(tmp_path / "t.csv", columns=["d"])
    with pytest.raises(DataError, match="'kind' is named twice"):
        load_dataset(tmp_path / "t.csv", columns=["a,kind"], labels="kind")


def test_a_name_with_a_comma(tmp_path):
    path = text(tmp_path, '"x, y",z\n1,2\n3,4\n')
    assert quiet(path, columns=["x, y"]).columns == ("x, y",)


# Known classes


@pytest.mark.parametrize("kind", ["csv", "parquet", "npy", "npz"])
@pytest.mark.parametrize("missing", [None, np.nan])
def test_a_missing_class_is_refused_in_every_format(tmp_path, kind, missing):
    y = [1.0, 2.0, missing, 1.0, 2.0, 1.0]
    path, labels = tmp_path / f"t.{kind}", "kind"
    if kind == "csv":
        FRAME.assign(kind=y).to_csv(path, index=False)
    elif kind == "parquet":
        FRAME.assign(kind=y).to_parquet(path)
    elif kind == "npz":
        np.savez(path, X=X, kind=np.array(y, float))
    else:
        np.save(path, X)
        np.save(tmp_path / "y.npy", np.array(y, float))
        labels = str(tmp_path / "y.npy")
    with pytest.raises(
        DataError, match=r"the known class is missing in 1 of 6 rows, the first (line 4|row 3|row 2)"
    ):
        load_dataset(path, labels=labels)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(6, complex), "numbers or words, got complex128"),
        (np.zeros(6, [("a", int)]), "numbers or words, got"),
        (np.zeros((6, 2)), r"one value a row, \[6\]; got shape \[6, 2\]"),
        (np.zeros(5), r"one value a row, \[6\]; got shape \[5\]"),
    ],
)
def test_classes_that_no_score_could_take_are_refused_before_the_fit(tmp_path, values, message):
    np.save(tmp_path / "t.npy", X)
    np.save(tmp_path / "y.npy", values)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / "t.npy", labels=str(tmp_path / "y.npy"))


@pytest.mark.parametrize("name", ["t.npy", "t.csv", "t.parquet", "t.npz"])
def test_a_file_of_classes_beside_any_table(tmp_path, name):
    np.save(tmp_path / "t.npy", X)
    np.savez(tmp_path / "t.npz", X=X)
    FRAME.to_csv(tmp_path / "t.csv", index=False)
    FRAME.to_parquet(tmp_path / "t.parquet")
    np.save(tmp_path / "y.npy", np.array(KINDS).astype(bytes)[:, None])
    assert quiet(tmp_path / name, labels=str(tmp_path / "y.npy")).labels.tolist() == KINDS


# What was found by trying


@pytest.mark.parametrize(
    ("index", "n_names"),
    [
        ([0, 1, 2, 0, 1, 2], 1),
        ([3.0, 1.0, 2.0, 5.0, 4.0, 3.0], 1),
        (pd.MultiIndex.from_product([["p", "q"], [1, 2, 3]]), 2),
    ],
)
def test_names_of_rows_that_repeat_or_have_levels(tmp_path, index, n_names):
    FRAME.set_axis(index, axis=0).to_csv(tmp_path / "t.csv")
    found, said = noted(tmp_path / "t.csv")
    np.testing.assert_allclose(found.X, X, rtol=1e-15)
    assert found.columns == ("a", "b", "c")
    assert found.preparation.left_out == ("",) * n_names
    assert "taken for names of the rows" in said


def test_fractions_without_a_name_are_a_feature_and_that_is_said(tmp_path):
    found, said = noted(text(tmp_path, ",b\n0.5,1\n1.5,2\n"))
    assert (found.X.shape, "column 0, which has no name, is a feature" in said) == ((2, 2), True)


@pytest.mark.parametrize(
    "content",
    ["NA,2.5,0.3\n1,3,4\n2,5,5\n", "5.2,?\n1,3\n2,5\n", "1,,7\n1,3,4\n", ",2.5,0.3\n1,3,4\n2,5,5\n"],
)
def test_a_first_row_with_a_missing_value_is_no_header(tmp_path, content):
    with pytest.raises(DataError, match="line 1"):
        load_dataset(text(tmp_path, content))


@pytest.mark.parametrize("names", ["0,1", "0", "2001,2002,2003", "1990,2000,2005", "2003,2002,2001"])
def test_more_headers_of_numbers(tmp_path, names):
    rows = "\n".join(",".join(["1.5", "2", "3"][: names.count(",") + 1]) for _ in range(3))
    found, said = noted(text(tmp_path, f"{names}\n{rows}\n"))
    assert (len(found.X), found.columns, "--no-header" in said) == (3, tuple(names.split(",")), True)


@pytest.mark.parametrize("content", ["0,1\n1,0\n1,1\n", "2001,2002\n2003,2004\n2005,2006\n", "0\n1\n1\n"])
def test_more_rows_that_are_no_headers(tmp_path, content):
    assert len(quiet(text(tmp_path, content)).X) == 3


def test_a_blank_line_in_a_single_column_is_a_missing_value(tmp_path):
    with pytest.raises(DataError, match="the first line 3"):
        load_dataset(text(tmp_path, "x\n1\n\n3\n"))
    assert len(quiet(text(tmp_path, "x\n1\n3\n\n\n")).X) == 2


def test_other_encodings_and_signs(tmp_path):
    found, said = noted(text(tmp_path, "größe,b\n1,2\n3,4\n".encode("cp1252")))
    assert (found.columns, "read as Windows-1252" in said) == (("größe", "b"), True)
    assert quiet(text(tmp_path, "1   2 \n 3 4\n".encode("utf-16"), "t.txt")).X.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(
        DataError, match=r"line 2: column 'a' holds '1\.234', and numbers with decimal commas elsewhere"
    ):
        load_dataset(text(tmp_path, "a;b\n1.234;1,5\n"))


@pytest.mark.parametrize("word", ["NA", "null", "N/A", ""])
def test_words_for_no_class(tmp_path, word):
    with pytest.raises(DataError, match="the known class is missing in 1 of 2 rows, the first line 3"):
        load_dataset(text(tmp_path, f"a,kind\n1,x\n2,{word}\n"), labels="kind")


def test_columns_of_one_name(tmp_path):
    with pytest.raises(
        DataError, match=r"2 columns are called 'a'; rename them, or leave all but one out .* --drop 0"
    ):
        load_dataset(text(tmp_path, "a,a,b\n1,2,3\n4,5,6\n"))


def test_numbers_and_single_names_of_columns_in_python(tmp_path):
    FRAME.assign(kind=KINDS).to_csv(tmp_path / "t.csv", index=False)
    assert quiet(tmp_path / "t.csv", labels=-1).labels.tolist() == KINDS
    assert quiet(tmp_path / "t.csv", columns=[1, 2]).columns == ("b", "c")
    assert quiet(tmp_path / "t.csv", drop="kind").columns == ("a", "b", "c")
    assert quiet(tmp_path / "t.csv", columns="b,a").columns == ("b", "a")


def test_parts_of_a_table_have_the_same_columns(tmp_path):
    FRAME[:3].to_parquet(tmp_path / "part-0.parquet", index=False)
    FRAME[3:].assign(d=1).to_parquet(tmp_path / "part-1.parquet", index=False)
    with pytest.raises(
        DataError, match=r"part-1\.parquet has other columns than .*part-0\.parquet: d in one of them alone"
    ):
        load_dataset(tmp_path)
    FRAME[3:].assign(a=7)[["c", "a", "b"]].to_parquet(tmp_path / "part-1.parquet", index=False)
    np.testing.assert_array_equal(quiet(tmp_path).X, np.r_[X[:3], np.c_[[7.0] * 3, X[3:, 1:]]])


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "npz", "svg"])
def test_a_folder_of_other_files_is_not_taken_for_texts(tmp_path, suffix):
    for i in range(4):
        (tmp_path / f"{i}.{suffix}").write_text("alpha beta\n1,2\n")
    with pytest.raises(
        DataError,
        match=rf"0\.{suffix}: of folders, those of Parquet parts, of \.npy parts, of images and of texts are",
    ):
        load_dataset(tmp_path)
