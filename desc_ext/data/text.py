"""Texts: documents from .jsonl files, columns of tables or folders, and as rows of numbers."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from desc_ext.data.classes import is_label_file, known_classes, labels_of_file
from desc_ext.data.dataset import Dataset
from desc_ext.data.folders import Member, members
from desc_ext.data.messages import DataError, note
from desc_ext.data.preparation import Preparation, Reading
from desc_ext.data.tables import Table, chosen_columns, listed, names_of_rows
from desc_ext.features.text import DEFAULT_DIMENSION, TextFeatures

__all__ = [
    "TEXT_SUFFIXES",
    "Documents",
    "as_rows",
    "documents_of_lines",
    "documents_of_table",
    "read_jsonl",
    "read_text_folder",
]

TEXT_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.bz2", ".jsonl.zst")
TEXT_FIELD = "text"


@dataclass(frozen=True)
class Documents:
    """Texts, and what is known about them; ``as_rows`` makes a :class:`~desc_ext.data.Dataset` of them.

    ``labels`` are numbers of ``class_names``, ``ids`` name the texts, and ``reading`` says where both were found.
    """

    name: str
    texts: list[str]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    source: str = ""
    dimension: int = DEFAULT_DIMENSION
    ids: np.ndarray | None = None
    reading: Reading = field(default_factory=Reading)

    def of_classes(self, classes: Iterable[str]) -> Documents:
        """Only the texts of these classes.

        Raises:
            DataError: fewer than two are left.
        """
        if self.labels is None or self.class_names is None:
            raise DataError(f"{self.source} comes without classes")
        kinds = np.array(self.class_names)[self.labels]
        kept = np.flatnonzero(np.isin(kinds, list(classes)))
        ids = None if self.ids is None else self.ids[kept]
        return replace(
            _documents(Path(self.source), [self.texts[i] for i in kept], kinds[kept], ids),
            reading=self.reading,
        )


def as_rows(
    documents: Documents,
    dimension: int | None = None,
    external: Documents | None = None,
    features: TextFeatures | None = None,
) -> tuple[Dataset, Dataset | None]:
    """Rows of ``documents`` by :class:`TextFeatures`, and those of ``external`` in the same space.

    The space is that of ``features`` where they are given, else that of ``documents`` alone: their rows are the same with
    and without external data. Of texts without a word that the space knows, whose rows are zero, a note tells.

    Raises:
        DataError: the texts share no words.
    """
    if features is None:
        if len(documents.texts) < 2:
            raise DataError(f"{documents.source} has {len(documents.texts)} texts; wanted 2 at least")
        features = TextFeatures(dimension or documents.dimension)
        try:
            rows = features.fit_transform(documents.texts)
        except ValueError as error:
            raise DataError(f"{documents.source}: {error}") from error
    else:
        rows = features.transform(documents.texts)
    prepared = Preparation(documents.reading, text_features=features)

    def dataset(of: Documents, X: np.ndarray) -> Dataset:
        _tell_of_zero_rows(of, X)
        return Dataset(
            of.name, X, of.labels, of.class_names, source=of.source, of_text=True, ids=of.ids, texts=of.texts,
            preparation=prepared,
        )  # fmt: skip

    other = None if external is None else dataset(external, features.transform(external.texts))
    return dataset(documents, rows), other


def _tell_of_zero_rows(documents: Documents, X: np.ndarray) -> None:
    zero = np.flatnonzero(~X.any(axis=1))
    if len(zero):
        which = listed(zero + 1 if documents.ids is None else documents.ids[zero])
        note(
            f"{documents.source}: {len(zero)} of {len(X)} texts have no word that the features know, so their rows are 0: "
            f"{'number ' if documents.ids is None else ''}{which}"
        )


# Reading


def read_jsonl(path: Path, reading: Reading, preparation: Preparation | None = None) -> Documents:
    """The texts of a .jsonl file, compressed or not: an object a line.

    Args:
        reading: keys of the texts (None: "text", in capitals or not), of the known classes (or a .npy file) and of what names
            the texts in results.
        preparation: of a result, whose key of texts counts again where none is asked for.

    Raises:
        DataError: a file that is damaged or without texts, or a key that is missing; the message names the line.
    """
    reading.refuse(path, "a file of texts", "array", "columns", "drop", "image_size", "header")
    if not path.is_file():
        raise DataError(f"the file {path} does not exist (looked in {path.absolute().parent})")
    from_file = is_label_file(reading.labels)
    key = None if from_file else reading.labels
    saved = None if preparation is None else preparation.reading.text
    texts, known, ids, lines = _read_lines(path, reading.text, saved, key, reading.id)
    y = None
    if from_file:
        y = labels_of_file(str(reading.labels), len(texts))
    elif key is not None:
        y = known_classes(known, len(texts), str(path), lambda row: f"line {lines[row]}").astype(str)
    found = _documents(path, texts, y, None if reading.id is None else np.array(list(map(str, ids))))
    return replace(found, reading=replace(reading, labels=key))


def _documents(path: Path, texts: list[str], y: np.ndarray | None, ids: np.ndarray | None) -> Documents:
    if not texts:
        raise DataError(f"{path} has no texts")
    name = path.absolute().name.split(".")[0] or path.name
    if y is None:
        return Documents(name, texts, source=str(path), ids=ids)
    names, numbers = np.unique(y, return_inverse=True)
    return Documents(name, texts, numbers.astype(np.int64), tuple(map(str, names)), str(path), ids=ids)


def _read_lines(
    path: Path, text: str | None, saved: str | None, labels: str | None, id: str | None
) -> tuple[list[str], list[Any], list[Any], list[int]]:
    """Texts, classes, names and line numbers of the objects of a .jsonl file."""
    texts, known, ids, lines = list[str](), list[Any](), list[Any](), list[int]()
    try:
        with pa.input_stream(str(path)) as raw, io.TextIOWrapper(raw, "utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                item = _parsed(path, number, line)
                texts.append(_text_of(path, number, item, saved if text is None and saved in item else text))
                lines.append(number)
                if labels is not None:
                    known.append(_value_of(path, number, item, labels, "--labels"))
                if id is not None:
                    ids.append(_value_of(path, number, item, id, "--id"))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    return texts, known, ids, lines


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {number} is not JSON: {error}") from error
    if not isinstance(item, dict):
        raise DataError(f"{path}, line {number}: wanted an object with a text, got {type(item).__name__}")
    return item


def _text_of(path: Path, number: int, item: dict[str, Any], asked: str | None) -> str:
    keys = [asked] if asked is not None else [key for key in item if key.lower() == TEXT_FIELD]
    key = keys[0] if keys else TEXT_FIELD
    if key not in item:
        raise DataError(
            f"{path}, line {number}: has no '{key}', only {listed(item) or 'nothing'}; name the key of the texts, --text KEY"
        )
    if not isinstance(item[key], str):
        raise DataError(
            f"{path}, line {number}: wanted a text under '{key}', got {json.dumps(item[key])[:40]}; give it a text or drop "
            "the line"
        )
    return item[key]


def _value_of(path: Path, number: int, item: dict[str, Any], key: str, flag: str) -> Any:
    value = item.get(key)
    if value is None or isinstance(value, (dict, list)):
        raise DataError(
            f"{path}, line {number}: wanted a number or word under '{key}' ({flag}), got "
            f"{json.dumps(value)[:40] if key in item else f'only {listed(item)}'}"
        )
    return value


def documents_of_lines(path: Path, lines: list[str], reading: Reading) -> Documents:
    """One text a line, which is said; known classes can be in a .npy file alone."""
    note(f"{path} holds no table of numbers: its {len(lines):,} lines are texts")
    y = None if reading.labels is None else labels_of_file(reading.labels, len(lines))
    return _documents(path, lines, y, None)


def documents_of_table(table: Table, column: int, reading: Reading) -> Documents:
    """The texts in the column with that number of a table.

    Raises:
        DataError: a text or class is missing, or a column that is asked for.
    """
    path = table.path
    texts = table.columns[column].to_pylist()
    for row, value in enumerate(texts):
        if not isinstance(value, str):
            raise DataError(
                f"{path}, {table.place(row)}: wanted a text in column '{table.names[column]}', got {value!r}"
            )
    y, labels, used = None, reading.labels, {column}
    if is_label_file(labels, table.names):
        y, labels = labels_of_file(str(labels), len(texts)), None
    elif labels is not None:
        i = chosen_columns(path, table.names, [labels], "--labels")[0]
        if i == column:
            raise DataError(
                f"{path}: column '{table.names[i]}' holds the texts, and cannot be their class too (--labels)"
            )
        used.add(i)
        y = known_classes(table.columns[i], len(texts), f"{path}: column '{table.names[i]}'", table.place)
    ids = None
    if reading.id is not None:
        i = chosen_columns(path, table.names, [reading.id], "--id")[0]
        used.add(i)
        ids = names_of_rows(table.columns[i])
    others = [name for i, name in enumerate(table.names) if i not in used]
    if others:
        note(f"{path}: the texts of column '{table.names[column]}' are clustered; left out: {listed(others)}")
    found = _documents(path, texts, y, ids)
    return replace(found, reading=Reading(labels=labels, id=reading.id, text=table.names[column]))


def read_text_folder(path: Path, files: list[Path], reading: Reading) -> Documents:
    """The texts of a folder of text files, or of one folder of them for each class.

    Raises:
        DataError: a file that is no text, or folders that are no classes.
    """
    reading.refuse(path, "a folder of texts, whose folders are the classes", "labels")
    reading.refuse(
        path, "a folder of texts", "array", "columns", "drop", "id", "text", "image_size", "header"
    )
    found: list[Member] = members(path, files)
    texts, others = [], 0
    for member in found:
        text, known = _decoded(member.file)
        texts.append(text)
        others += not known
    if others:
        note(f"{path}: {others} of {len(texts)} texts are not UTF-8 and were read as Windows-1252")
    kinds = [member.kind for member in found]
    y = None if kinds[0] is None else np.array(kinds)
    ids = np.array([str(member.file.relative_to(path)) for member in found])
    return _documents(path, texts, y, ids)


def _decoded(file: Path) -> tuple[str, bool]:
    """The text of a file, and whether it is in an encoding that says what it is."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    marked = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    if b"\0" in content[:1024] and not marked:
        raise DataError(f"{file} is neither a text nor an image; take it out of the folder")
    try:
        return content.decode("utf-16" if marked else "utf-8-sig"), True
    except UnicodeDecodeError:
        pass
    return content.decode("cp1252", errors="replace"), False
