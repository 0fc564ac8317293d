"""Tables, from whatever file: which columns are features, known classes and names of rows, and their values as rows."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from desc_ext.data.classes import is_label_file, known_classes, labels_of_file
from desc_ext.data.dataset import Dataset
from desc_ext.data.messages import DataError, note
from desc_ext.data.preparation import Preparation, Reading

__all__ = [
    "Table",
    "chosen_columns",
    "listed",
    "names_of_rows",
    "refuse_words",
    "rows_of_table",
    "text_column",
]

# What pandas writes for a column of row names that has no name of its own.
_UNNAMED = re.compile(r"(Unnamed: \d+)?")


@dataclass(frozen=True)
class Table:
    """Columns of one length, with what the kind of file says about them.

    Attributes:
        path: of the file or folder.
        names: of the columns, [m]; their numbers as words where the file has no names.
        columns: pyarrow's chunked arrays [m].
        has_names: whether the names are the file's own.
        place: the words for row i (the first is 0) in messages, such as "line 3".
        row_names: numbers of columns that the file itself marks as names of the rows (pandas' index).
        parts: numbers of columns that come from the names of folders (``kind=a/part-0.parquet``).
    """

    path: Path
    names: list[str]
    columns: Sequence[pa.ChunkedArray]
    has_names: bool
    place: Callable[[int], str]
    row_names: list[int] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.columns[0])

    def type_of(self, i: int) -> pa.DataType:
        """The type of the values of column i."""
        return self.columns[i].type

    def numbers(self, features: Sequence[int]) -> tuple[Any, list[str]]:
        """Rows [n, m] of columns in their common dtype, and the name of each column of them.

        Raises:
            DataError: a column that is not numeric, or not complete.
        """
        return _numbers(self, features)


def listed(names: Iterable[Any]) -> str:
    """The names with commas between them, the first twelve if they are many."""
    names = [name if len(name) <= 40 else f"{name[:40]}..." for name in map(str, names)]
    names = [name or "(without a name)" for name in names]
    return ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")


def chosen_columns(source: object, names: Sequence[str], asked: Iterable[str], flag: str) -> list[int]:
    """Numbers of the columns that ``asked`` names: names, numbers (-1 is the last), ranges 2-5, several with commas.

    Raises:
        DataError: a name that is none of these, or that two columns have.
    """
    return [i for word in asked for i in _columns_of(source, names, word, flag)]


def _columns_of(source: object, names: Sequence[str], word: str, flag: str) -> list[int]:
    same = [i for i, name in enumerate(names) if name == word]
    if len(same) > 1:
        raise DataError(
            f"{source}: {len(same)} columns are called '{word}'; name one by its number, {flag} {same[0]}"
        )
    if same:
        return same
    if re.fullmatch(r"-?\d{1,9}", word) and -len(names) <= int(word) < len(names):
        return [int(word) % len(names)]
    ends = re.fullmatch(r"(\d{1,9})-(\d{1,9})", word)
    if ends and int(ends[1]) <= int(ends[2]) < len(names):
        return list(range(int(ends[1]), int(ends[2]) + 1))
    if "," in word:
        return [i for part in word.split(",") for i in _columns_of(source, names, part.strip(), flag)]
    raise DataError(f"{source} has no column '{word}' ({flag}); its columns are {listed(names)}")


def text_column(table: Table, reading: Reading, preparation: Preparation | None) -> int | None:
    """The number of the column of texts: the one that is asked for, or one called "text" that holds words."""
    saved = None if preparation is None else preparation.reading.text
    if reading.text is None and saved in table.names:
        return table.names.index(saved)
    if reading.text is not None:
        return chosen_columns(table.path, table.names, [reading.text], "--text")[0]
    if reading.columns is not None:
        return None
    named = [i for i, name in enumerate(table.names) if name.lower() == "text"]
    return next((i for i in named if _is_text(table.type_of(i))), None)


def rows_of_table(table: Table, reading: Reading, preparation: Preparation | None) -> Dataset:
    """The rows of a table: all columns but those of known classes, of row names, and those that are left out.

    Args:
        reading: what is asked for.
        preparation: of a result, whose columns are taken by their names; None chooses them anew.

    Raises:
        DataError: a column that is missing, not numeric, or not complete.
    """
    labels, from_file = _label_column(table, reading)
    ids, unnamed = _id_columns(table, reading, preparation)
    dropped = chosen_columns(table.path, table.names, reading.drop, "--drop")
    special = [i for i in (labels, ids, *unnamed) if i is not None]
    if preparation is not None and preparation.columns is not None and table.has_names:
        features = _as_fitted(table, preparation, [*special, *dropped])
    elif reading.columns is not None:
        features = chosen_columns(table.path, table.names, reading.columns, "--columns")
        for i in features:
            if i in special or i in dropped:
                raise DataError(
                    f"{table.path}: column '{table.names[i]}' is named twice, by --columns and another option"
                )
    else:
        features = _features(table, [*special, *dropped], preparation)
    if not features:
        raise DataError(
            f"{table.path} has no column besides {listed(table.names[i] for i in (*special, *dropped))}"
        )
    _refuse_equal_names(table, features)
    X, names = table.numbers(features)
    found = replace(
        reading,
        columns=None if reading.columns is None else tuple(table.names[i] for i in features),
        labels=None if labels is None else table.names[labels],
        id=None if ids is None else table.names[ids],
    )
    prepared = Preparation(
        found,
        tuple(table.names[i] for i in features) if table.has_names else None,
        tuple(name for i, name in enumerate(table.names) if i not in features),
        len(features),
    )
    y = None
    if from_file is not None:
        y = labels_of_file(from_file, len(X))
    elif labels is not None:
        y = known_classes(
            table.columns[labels], len(X), f"{table.path}: column '{table.names[labels]}'", table.place
        )
    return Dataset(
        table.path.name.split(".")[0] or table.path.name,
        X,
        y,
        source=str(table.path),
        columns=tuple(names) if table.has_names else None,
        ids=None if ids is None else names_of_rows(table.columns[ids]),
        preparation=prepared,
    )


def _label_column(table: Table, reading: Reading) -> tuple[int | None, str | None]:
    """The number of the column of known classes, or the file that holds them."""
    if reading.labels is None:
        return None, None
    if is_label_file(reading.labels, table.names):
        return None, reading.labels
    return chosen_columns(table.path, table.names, [reading.labels], "--labels")[0], None


def _id_columns(
    table: Table, reading: Reading, preparation: Preparation | None
) -> tuple[int | None, list[int]]:
    """The number of the column that names the rows, and of further ones that do: what is asked for, else what is marked.

    pandas and R write names of rows, or the levels of them, to first columns without a name.
    """
    unnamed = []
    if table.has_names and reading.columns is None and any(table.names):
        leading = itertools.takewhile(lambda i: _UNNAMED.fullmatch(table.names[i]), range(len(table.names)))
        unnamed = [i for i in leading if _names_rows(table.columns[i])]
    if reading.id is not None:
        return chosen_columns(table.path, table.names, [reading.id], "--id")[0], unnamed
    saved = None if preparation is None else preparation.reading.id
    if saved and table.has_names and saved in table.names:
        return table.names.index(saved), unnamed
    if table.row_names:
        return table.row_names[0], unnamed
    if not unnamed:
        return None, []
    which = (
        "column, which has no name, is"
        if len(unnamed) == 1
        else f"{len(unnamed)} columns, which have no names, are"
    )
    note(
        f"{table.path}: the first {which} taken for names of the rows, not as features; name them to have them as such"
    )
    return unnamed[0], unnamed


def _names_rows(values: pa.ChunkedArray) -> bool:
    """Whether the values are words or whole numbers."""
    if values.null_count == len(values):
        return False
    if pa.types.is_floating(values.type):
        array = values.drop_null().to_numpy()
        return bool((array == np.floor(array)).all())
    return not _is_numeric(values.type) or pa.types.is_integer(values.type)


def _counts_rows(values: pa.ChunkedArray) -> bool:
    """Whether the values are whole numbers, no two the same."""
    if values.null_count or not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        return False
    array = values.to_numpy()
    return bool((array == np.floor(array)).all()) and len(np.unique(array)) == len(array)


def names_of_rows(values: pa.ChunkedArray) -> np.ndarray:
    """A column as words, whole numbers without a point."""
    if pa.types.is_floating(values.type) and _counts_rows(values):
        values = values.cast(pa.int64())
    return np.array(["" if value is None else str(value) for value in values.to_pylist()])


def _refuse_equal_names(table: Table, features: list[int]) -> None:
    """Columns of one name could not be told apart in new data."""
    names = [table.names[i] for i in features]
    for i, name in zip(features, names, strict=True):
        if names.count(name) > 1:
            raise DataError(
                f"{table.path}: {names.count(name)} columns are called '{name}'; rename them, or leave all but one "
                f"out by their numbers, --drop {i}"
            )


def _features(table: Table, others: list[int], preparation: Preparation | None) -> list[int]:
    """All columns but ``others``, names of rows and parts of a folder's name."""
    left_out = {*others, *table.row_names, *table.parts}
    if preparation is not None and preparation.width is not None and preparation.columns is None:
        numbers = [int(name) for name in preparation.left_out if name.isdigit()]
        if len(table.names) == preparation.width + len(numbers):  # the file of the fit, or one like it
            left_out |= set(numbers)
    if table.parts and (free := [table.names[i] for i in table.parts if i not in others]):
        note(
            f"{table.path}: {listed(free)}, from the names of folders, is no feature; --columns or --labels can name it"
        )
    features = []
    for i, name in enumerate(table.names):
        if i in left_out:
            continue
        if table.has_names and _UNNAMED.fullmatch(name) and table.columns[i].null_count == len(table):
            continue  # what a delimiter at the end of every line makes
        features.append(i)
        if table.has_names and _UNNAMED.fullmatch(name):
            note(f"{table.path}: column {i}, which has no name, is a feature; leave it out with --drop {i}")
        if (
            table.has_names
            and re.fullmatch(r"(?i)(row_?)?(id|index|nr|no|number)", name)
            and _is_range(table.columns[i])
        ):
            note(
                f"{table.path}: column '{name}' counts the rows and is a feature all the same; leave it out with --id {name}"
            )
    return features


def _is_range(values: pa.ChunkedArray) -> bool:
    return _counts_rows(values) and bool((np.diff(values.to_numpy()) == 1).all())


def _as_fitted(table: Table, preparation: Preparation, others: list[int]) -> list[int]:
    """The columns of a fit, by name and in its order.

    Raises:
        DataError: some are missing, or others are there that the fit did not know.
    """
    wanted = preparation.columns or ()
    free = [name if i not in others else None for i, name in enumerate(table.names)]
    missing = [name for name in wanted if name not in free]
    known = {
        *wanted,
        *preparation.left_out,
        *(table.names[i] for i in (*others, *table.row_names, *table.parts)),
    }
    further = [name for name in table.names if name not in known and not _UNNAMED.fullmatch(name)]
    drop = shlex.quote(",".join(further))
    if missing:
        beside = f"; it has {listed(further)}, which the result does not know" if further else ""
        raise DataError(
            f"{table.path} lacks columns that the result was fitted to: {listed(missing)}{beside}"
        )
    if further:
        raise DataError(
            f"{table.path} has columns that the result was not fitted to: {listed(further)}; leave them out with "
            f"--drop {drop}"
        )
    for name in wanted:
        if free.count(name) > 1:
            raise DataError(
                f"{table.path}: {free.count(name)} columns are called '{name}'; rename them, or leave all but one "
                "out by their numbers with --drop"
            )
    return [free.index(name) for name in wanted]


# Values


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _item_type(kind: pa.DataType) -> tuple[pa.DataType, bool]:
    """The type of a column's numbers, and whether a value is a list of them."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return (kind.value_type, True) if is_list else (kind, False)


def _is_numeric(kind: pa.DataType) -> bool:
    return any(
        check(kind)
        for check in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    )


def _numbers(table: Table, features: Sequence[int]) -> tuple[np.ndarray, list[str]]:
    """As :meth:`Table.numbers`."""
    refuse_words(table, features)
    parts = [_numbers_of(table, i) for i in features]
    dtypes = {np.dtype(np.uint8) if part.dtype == bool else part.dtype for part in parts}
    X = np.empty((len(table), sum(part.shape[1] for part in parts)), np.result_type(*dtypes))
    names, start = list[str](), 0
    for i, part in zip(features, parts, strict=True):
        X[:, start : start + part.shape[1]] = part
        start += part.shape[1]
        name = table.names[i]
        names += [name] if part.shape[1] == 1 else [f"{name}[{j}]" for j in range(part.shape[1])]
    return X, names


def refuse_words(table: Table, features: Sequence[int]) -> None:
    """Raises DataError where a column is not numeric."""
    words = [i for i in features if not _is_numeric(_item_type(table.type_of(i))[0])]
    if not words:
        return
    values, row = table.columns[words[0]].drop_null(), 0
    example = f" ('{str(values[0].as_py())[:40]}' for one)" if len(values) else ""
    if pa.types.is_string(values.type):
        row = _first_word(table.columns[words[0]])
        example = f" ('{str(table.columns[words[0]][row].as_py())[:40]}', {table.place(row)}, for one)"
    names = [table.names[i] for i in words]
    if not table.has_names and row == 0 and len(words) == len(features):
        raise DataError(
            f"{table.path}: {table.place(0)} holds words alone, as a row of names does; leave out --no-header, or say "
            "--header"
        )
    flat = shlex.quote(",".join(names)) if len(names) <= 12 else "..."
    which = f"column {names[0]} is" if len(names) == 1 else f"columns {listed(names)} are"
    raise DataError(
        f"{table.path}: {which} not numeric{example}; leave out with --drop {flat}, encode as numbers (one column a "
        "category), or, for the known classes, name with --labels"
    )


def _first_word(values: pa.ChunkedArray) -> int:
    """The first row whose value is neither missing nor a number."""
    for row, value in enumerate(values.to_pylist()):
        try:
            float(value or 0)
        except ValueError:
            return row
    return 0


def _numbers_of(table: Table, i: int) -> np.ndarray:
    """One column as numbers [n, 1], or [n, w] where each of its values is a list of w numbers."""
    name, column = table.names[i], table.columns[i]
    kind, is_list = _item_type(column.type)
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise DataError(
            f"{table.path}: column '{name}' has no value in {column.null_count} of {len(column)} rows, the first "
            f"{table.place(row)}; fill them, drop the rows, or leave the column out with --drop "
            f"{shlex.quote(name)}"
        )
    if is_list:
        widths = np.unique(pc.list_value_length(column).to_numpy())
        if len(widths) != 1:
            raise DataError(
                f"{table.path}: the lists of column '{name}' have different lengths: {listed(widths)}"
            )
        flat, width = pc.list_flatten(column), int(widths[0])
    else:
        flat, width = column, 1
    if flat.null_count:
        raise DataError(f"{table.path}: the lists of column '{name}' lack {flat.null_count} of their values")
    if pa.types.is_decimal(kind):
        flat = flat.cast(pa.float64())
    values = flat.to_numpy() if isinstance(flat, pa.ChunkedArray) else flat.to_numpy(zero_copy_only=False)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0]) // width
        raise DataError(
            f"{table.path}: column '{name}' holds {values[~np.isfinite(values)][0]}, {table.place(row)}; put a number there "
            f"or leave the column out with --drop {name}"
        )
    return values.reshape(len(column), width)
