"""Tables in text files: .csv, .tsv, .txt, compressed or not. How they are laid out is found here; pyarrow parses them."""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as arrow_csv

from desc_ext.data.messages import DataError, note
from desc_ext.data.tables import Table, listed

__all__ = ["DELIMITED_SUFFIXES", "lines_of_words", "read_delimited"]

DELIMITED_SUFFIXES = (".csv", ".tsv", ".txt")
_DELIMITERS = "\t;|,"
_SAMPLE_ROWS = 100
_BLOCK_BYTES = 1 << 24
_LARGEST_BLOCK = (1 << 31) - 1
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?")
_MISSING = frozenset(arrow_csv.ConvertOptions().null_values)


@dataclass(frozen=True)
class _Layout:
    """How the text of a table is laid out.

    Attributes:
        delimiter: between fields; a space stands for any white space.
        encoding: of Python.
        skipped: lines before the header, or before the first row.
        header: whether the first row holds names.
        has_names: whether there are names, in the first row or in a comment above it.
        names: of the columns, or their numbers as words.
        sample: the first rows below the header.
    """

    delimiter: str
    encoding: str
    skipped: int
    header: bool
    has_names: bool
    names: list[str]
    sample: list[list[str]]


def read_delimited(
    path: Path, header: bool | None, as_words: frozenset[str], known_names: Sequence[str] | None = None
) -> Table:
    """The columns of a table in a text file, numbers as float64, all else as strings.

    Args:
        header: whether the first row holds names; None finds out.
        as_words: names of columns, or numbers of them, that stay strings whatever they hold.
        known_names: of the columns of a fit, none if its file had no header: numbers are then names only where they are among
            these. None: nothing is known.

    Raises:
        DataError: a file that is missing, damaged, no text or without rows; a row of more or fewer fields than the first; a
            value that is no number among numbers. The message names the line, counted as an editor does.
    """
    try:
        layout = _find_layout(path, _encoding(path), header, known_names)
        words = _columns_of_words(layout, as_words)
        comma = layout.delimiter != "," and bool(words - _named(layout, as_words)) and _has_commas(layout)
        if comma:
            words = _columns_of_words(_with_points(layout), as_words)
        table = _parse(path, layout, words, "," if comma else ".")
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as text: {error}") from error
    if comma:
        note(f"{path}: numbers such as {_first_comma(layout)} were read with a decimal comma")
    return Table(
        path=path,
        names=layout.names,
        columns=table.columns,
        has_names=layout.has_names,
        place=lambda row: f"line {_line_of(path, layout, row)}",
    )


def lines_of_words(path: Path) -> list[str] | None:
    """The lines of a text file, blank ones left out, where it is no table; None where it is one.

    A table has a number in more than half of its first hundred rows below the first one, or a column called "text".

    Raises:
        DataError: the file is damaged, no text, or without lines.
    """
    try:
        encoding = _encoding(path)
        first, *below = _find_layout(path, encoding, False, ()).sample
        rows = below or [first]
        of_numbers = sum(any(map(_is_number, row)) for row in rows)
        if 2 * of_numbers > len(rows) or any(name.strip().lower() == "text" for name in first):
            return None
        with _opened(path, encoding) as text:
            return [line for line in map(str.strip, text) if line]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as text: {error}") from error


# Layout


@contextmanager
def _long_fields() -> Iterator[None]:
    """Fields of any length in the csv module, whose limit is one for the whole process."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


@contextmanager
def _opened(path: Path, encoding: str) -> Iterator[io.TextIOWrapper]:
    with pa.input_stream(str(path)) as raw, io.TextIOWrapper(raw, encoding, newline="") as text:
        yield text


def _encoding(path: Path) -> str:
    """UTF-16 where the file begins so, UTF-8 where all of it is, else Windows-1252, which is said."""
    with pa.input_stream(str(path)) as raw:
        block = raw.read(4)
        if block[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return "utf-16"
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while block:
                decoder.decode(block)
                block = raw.read(_BLOCK_BYTES)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            note(f"{path} is not UTF-8 and was read as Windows-1252")
            return "cp1252"
    return "utf-8-sig"


def _find_layout(
    path: Path, encoding: str, header: bool | None, known_names: Sequence[str] | None
) -> _Layout:
    skipped, comment, delimiter = 0, "", ""
    lines = list[str]()
    with _opened(path, encoding) as text:
        for line in text:
            bare = line.strip()
            marked = re.fullmatch(r"sep=(.)", bare)
            if lines or (bare and not bare.startswith("#") and not marked):
                lines.append(line)
                if len(lines) > _SAMPLE_ROWS:
                    break
                continue
            skipped += 1
            delimiter = marked[1] if marked else delimiter
            comment = bare.lstrip("#").strip() if bare.startswith("#") else comment
    if not any(line.strip() for line in lines):
        raise DataError(f"{path} has no rows")
    if any("\0" in line for line in lines):
        raise DataError(f"{path} cannot be read as text: it holds zero bytes")
    with _long_fields():
        delimiter = delimiter or _find_delimiter(lines)
        rows = _rows(lines, delimiter)
    # a last row of the sample may be cut within a quoted field
    rows = rows[: max(1, len(rows) - (len(lines) > _SAMPLE_ROWS))]
    if header is None:
        header = _has_header(path, rows, lines, known_names)
    names = [name.strip() for name in rows[0]] if header else [str(i) for i in range(len(rows[0]))]
    if not header and comment:  # numpy.savetxt and gnuplot name columns in a comment
        with _long_fields():
            named = [name.strip() for name in _rows([comment], delimiter)[0]]
        if len(named) == len(names) and not any(map(_is_number, named)):
            return _Layout(delimiter, encoding, skipped, False, True, named, rows)
    if header and len(rows) < 2:
        raise DataError(f"{path} has no rows below its header")
    return _Layout(delimiter, encoding, skipped, header, header, names, rows[1:] if header else rows)


def _rows(lines: list[str], delimiter: str) -> list[list[str]]:
    """The fields of rows, blank ones left out."""
    if delimiter == " ":
        lines = [_single_spaces(line) for line in lines]
    return [row for row in csv.reader(lines, delimiter=delimiter) if row]


def _single_spaces(line: str) -> str:
    return re.sub(r"[ \t]+", " ", line.strip())


def _find_delimiter(lines: list[str]) -> str:
    """The first of tab, semicolon, bar and comma that parts all rows into equally many fields, or white space."""
    words = _rows(lines, " ")
    if len(words[0]) > 1 and all(_is_number(field) for row in words for field in row):
        return " "
    best, most = ",", 1
    for delimiter in _DELIMITERS:
        rows = _rows(lines, delimiter)
        widths = [len(row) for row in rows[: max(1, len(rows) - 1)]]
        if widths[0] > 1 and len(set(widths)) == 1:
            return delimiter
        if widths[0] > most:
            best, most = delimiter, widths[0]
    below = {len(row) for row in words[1 : max(2, len(words) - 1)]}
    return " " if most == 1 and len(words[0]) > 1 and len(below) <= 1 else best


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _has_header(
    path: Path, rows: list[list[str]], lines: list[str], known_names: Sequence[str] | None
) -> bool:
    """Whether the first row holds names: words above numbers, words alone, quoted numbers, or numbers that are no data."""
    first, below = rows[0], rows[1:]
    second = below[0] if below else []
    if any(_is_name(a) and _is_number(b) for a, b in zip(first, second, strict=False)):
        return True
    if any(map(_is_name, first)) and not any(map(_is_number, first)):
        return True
    if known_names is not None:
        return bool({name.strip() for name in first} & set(known_names))
    marks = [line.count('"') for line in lines if line.strip()]
    if marks[0] >= 2 * len(first) and len(marks) > 1 and marks[1] == 0:
        return True
    if first[0] == "" and [*map(_number, first[1:])] == list(
        range(len(first) - 1)
    ):  # pandas.DataFrame(array).to_csv
        return True
    if not _counts_columns(first, below):
        return False
    note(
        f"{path}: the first row, {listed(first)}, was taken for the names of the columns; say --no-header where it is a "
        "row of data"
    )
    return True


def _is_name(text: str) -> bool:
    """A word that neither is a number nor stands for a missing one."""
    return not _is_number(text) and text.strip() not in _MISSING and text.strip() != "?"


def _number(text: str) -> float:
    return float(text) if _is_number(text) else math.nan


def _counts_columns(first: list[str], below: list[list[str]]) -> bool:
    """Whether numbers of the first row are names: 0, 1, ... above fractions, years, or equal steps, unlike what follows."""
    names = [_number(name) for name in first if _is_number(name)]
    rows = [[_number(value) for value in row if _is_number(value)] for row in below]
    if not rows or len(names) < len(first) - 2:
        return False
    if names == list(range(len(names))) and not any("." in name for name in first):
        fractions = any(value % 1 for row in rows for value in row)
        return fractions or (len(names) >= 3 and not _mostly(rows, _counts))
    if len(names) >= 2 and _are_years(names):
        return not _mostly(rows, _are_years)
    return len(names) >= 3 and _counts(names) and not _mostly(rows, _counts)


def _mostly(rows: list[list[float]], is_so: Callable[[list[float]], bool]) -> bool:
    return 2 * sum(map(is_so, rows)) > len(rows)


def _are_years(values: list[float]) -> bool:
    """Different whole numbers of four digits, in order."""
    ordered = sorted(values)
    return (
        all(1000 <= value < 3000 and value % 1 == 0 for value in values)
        and values in (ordered, ordered[::-1])
        and len(set(values)) == len(values)
    )


def _counts(values: list[float]) -> bool:
    """Whether values rise by equal steps."""
    steps = [b - a for a, b in pairwise(values)]
    return bool(steps) and min(steps) > 0 and max(steps) - min(steps) <= 1e-6 * max(steps)


# Columns


def _named(layout: _Layout, asked: frozenset[str]) -> set[int]:
    """Numbers of the columns whose names, or numbers, are among those ``asked`` for."""
    count = len(layout.names)
    return {i for i, name in enumerate(layout.names) if asked & {name, str(i), str(i - count)}}


def _columns_of_words(layout: _Layout, as_words: frozenset[str]) -> set[int]:
    words = _named(layout, as_words)
    for i in range(len(layout.names)):
        values = [row[i].strip() for row in layout.sample if i < len(row)]
        if any(value not in _MISSING and not _is_number(value) for value in values):
            words.add(i)
    return words


def _has_commas(layout: _Layout) -> bool:
    return any(_DECIMAL_COMMA.fullmatch(value.strip()) for row in layout.sample for value in row)


def _first_comma(layout: _Layout) -> str:
    values = (value.strip() for row in layout.sample for value in row)
    return repr(next(value for value in values if _DECIMAL_COMMA.fullmatch(value)))


def _with_points(layout: _Layout) -> _Layout:
    def changed(value: str) -> str:
        return value.replace(",", ".") if _DECIMAL_COMMA.fullmatch(value.strip()) else value

    return replace(layout, sample=[[changed(value) for value in row] for row in layout.sample])


# Parsing


def _parse(path: Path, layout: _Layout, words: set[int], decimal_point: str) -> pa.Table:
    types = {f"f{i}": pa.string() if i in words else pa.float64() for i in range(len(layout.names))}
    convert = arrow_csv.ConvertOptions(column_types=types, decimal_point=decimal_point)
    # a blank line among the rows of a single column is a missing value, at the end it is nothing
    single = len(types) == 1
    parse = arrow_csv.ParseOptions(
        delimiter=layout.delimiter, newlines_in_values=True, ignore_empty_lines=not single
    )
    for block_size in (_BLOCK_BYTES, _LARGEST_BLOCK):
        # names of ours: those of the header may stand twice
        read = arrow_csv.ReadOptions(
            block_size=block_size,
            autogenerate_column_names=True,
            skip_rows=layout.skipped,
            skip_rows_after_names=int(layout.header),
            encoding=layout.encoding.removesuffix("-sig"),
        )
        try:
            with _bytes(path, layout) as content:
                table = arrow_csv.read_csv(content, read, parse, convert)
            if table.num_columns != len(
                types
            ):  # what the csv module, which found the layout, reads otherwise
                _refuse(path, layout, words, decimal_point, f"its rows have {table.num_columns} fields")
            return _without_empty_end(table) if single else table
        except pa.ArrowInvalid as error:
            if "straddling" not in str(error):
                _refuse(path, layout, words, decimal_point, str(error))
    raise DataError(f"{path} cannot be read: a row has more than {_LARGEST_BLOCK:,} bytes")


def _without_empty_end(table: pa.Table) -> pa.Table:
    length = len(table)
    while length and table.column(0)[length - 1].as_py() in (None, ""):
        length -= 1
    return table.slice(0, length)


@contextmanager
def _bytes(path: Path, layout: _Layout) -> Iterator[Any]:
    with pa.input_stream(str(path)) as raw:
        if layout.delimiter != " ":
            yield raw
            return
        text = re.sub(r"[ \t]+", " ", raw.read().decode(layout.encoding))
        text = re.sub(r" ?(?:\r\n|\r|\n) ?", "\n", text).strip(" ")
        yield io.BytesIO(text.encode(layout.encoding))


def _numbered_rows(path: Path, layout: _Layout) -> Iterator[tuple[int, list[str]]]:
    """Rows below the header with the numbers of the lines at which they begin, the first line being 1."""
    with _opened(path, layout.encoding) as text, _long_fields():
        for _ in range(layout.skipped):
            next(text)
        lines = map(_single_spaces, text) if layout.delimiter == " " else text
        numbered = _parsed(lines, layout.delimiter)
        single = len(layout.names) == 1
        rows = ((layout.skipped + line, row or [""]) for line, row in numbered if row or single)
        yield from islice(rows, int(layout.header), None)


def _parsed(text: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader, before = csv.reader(text, delimiter=delimiter), 0
    for row in reader:
        yield before + 1, row
        before = reader.line_num


def _line_of(path: Path, layout: _Layout, row: int) -> int:
    return next(islice(_numbered_rows(path, layout), row, None))[0]


def _refuse(path: Path, layout: _Layout, words: set[int], decimal_point: str, reason: str) -> None:
    """Raises DataError that names the line of the first row that cannot be read."""
    width = len(layout.names)
    for index, (line, row) in enumerate(_numbered_rows(path, layout)):
        if len(row) != width:
            what = "the header" if layout.header else "the first row"
            raise DataError(
                f"{path}, line {line} has {len(row)} field{'s' * (len(row) != 1)}, but {what} has {width}"
                f"{_hint(layout, row, index)}"
            )
        for i, value in enumerate(row):
            bare = value.strip()
            mixed = decimal_point == "," and "." in bare
            if (
                i not in words
                and bare not in _MISSING
                and (mixed or not _is_number(bare.replace(decimal_point, ".")))
            ):
                what = "numbers with decimal commas elsewhere" if decimal_point == "," else "numbers before"
                raise DataError(
                    f"{path}, line {line}: column '{layout.names[i]}' holds '{_cut(value)}', and {what}; correct it, or "
                    "leave the column out with --drop"
                )
    raise DataError(f"{path} cannot be read: {reason}")


def _hint(layout: _Layout, row: list[str], index: int) -> str:
    if len(row) > len(layout.names) and not "".join(row[len(layout.names) :]).strip():
        return ": take the delimiters at the end of the line away"
    if len(row) == len(layout.names) + 1 and index == 0 and all(map(_is_number, row[1:])):
        return (
            ": if the first column holds names of the rows (R's write.table), write the file with col.names=NA or "
            "row.names=FALSE; if numbers have decimal commas, part the columns by semicolons"
        )
    return ": a value that holds the delimiter must stand in quotes, and a missing one leaves an empty field"


def _cut(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:40]}..."
