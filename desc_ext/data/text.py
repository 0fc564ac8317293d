"""Texts: documents from .jsonl and .csv files or folders, and as rows of numbers."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from desc_ext.data.dataset import DataError, Dataset
from desc_ext.features.text import DEFAULT_DIMENSION, TextFeatures

__all__ = ["TEXT_SUFFIXES", "Documents", "as_rows", "is_text", "read_documents"]

TEXT_SUFFIXES = (".jsonl", ".jsonl.gz")
TEXT_FIELD = "text"


@dataclass(frozen=True)
class Documents:
    """Texts, and what is known about them; ``as_rows`` makes a :class:`~desc_ext.data.Dataset` of them."""

    name: str
    texts: list[str]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    source: str = ""
    dimension: int = DEFAULT_DIMENSION


def as_rows(
    documents: Documents, dimension: int | None = None, external: Documents | None = None
) -> tuple[Dataset, Dataset | None]:
    """Rows of ``documents`` by :class:`TextFeatures`, and those of ``external`` in the same space.

    The space is that of ``documents`` alone, so their rows are the same with and without external data.

    Raises:
        DataError: the texts share no words.
    """
    features = TextFeatures(dimension or documents.dimension)
    try:
        rows = features.fit_transform(documents.texts)
    except ValueError as error:
        raise DataError(f"{documents.source}: {error}") from error

    def dataset(of: Documents, X: np.ndarray) -> Dataset:
        return Dataset(of.name, X, of.labels, of.class_names, source=of.source, of_text=True)

    other = None if external is None else dataset(external, features.transform(external.texts))
    return dataset(documents, rows), other


# Reading


def is_text(path: Path) -> bool:
    """Whether ``path`` is read as text: a .jsonl file, a folder, or a .csv file with a column called text."""
    if path.is_dir():
        return True
    if path.name.lower().endswith(TEXT_SUFFIXES):
        return True
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return TEXT_FIELD in [name.strip() for name in next(csv.reader(file), [])]
    except (UnicodeDecodeError, csv.Error):
        return False


def read_documents(path: Path, labels: str | None = None, classes: Iterable[str] | None = None) -> Documents:
    """The texts of a file or folder.

    Args:
        path: a .jsonl file, gzipped or not (an object a line, its text under "text"); a .csv file with a header that
            has a column "text"; or a folder: of one folder of text files a class, or of text files.
        labels: the key or column of the known classes; a folder's classes are its folders.
        classes: only the texts of these classes.

    Raises:
        DataError: a file that is missing, damaged or without texts, or a key or column that is missing.
    """
    if path.is_dir():
        if labels is not None:
            raise DataError(f"the classes of the folder {path} are its folders; leave out --labels")
        texts, known = _read_folder(path)
    else:
        if not path.is_file():
            raise DataError(f"the file {path} does not exist (looked in {path.absolute().parent})")
        read = _read_jsonl if path.name.lower().endswith(TEXT_SUFFIXES) else _read_csv
        texts, known = read(path, labels)
    if classes is not None and known is not None:
        chosen = [i for i, kind in enumerate(known) if kind in set(classes)]
        texts, known = [texts[i] for i in chosen], [known[i] for i in chosen]
    if len(texts) < 2:
        raise DataError(f"{path} has {len(texts)} texts; wanted 2 at least")
    name = path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".csv")
    if known is None:
        return Documents(name, texts, source=str(path))
    names, numbers = np.unique(known, return_inverse=True)
    return Documents(name, texts, numbers.astype(np.int64), tuple(map(str, names)), str(path))


def _read_jsonl(path: Path, labels: str | None) -> tuple[list[str], list[str] | None]:
    texts: list[str] = []
    known: list[str] = []
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    item = json.loads(line)
                    texts.append(_field(path, number, item, TEXT_FIELD, str))
                    if labels is not None:
                        known.append(str(_field(path, number, item, labels, object)))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {number} is not JSON: {error}") from error
    return texts, None if labels is None else known


def _field(path: Path, number: int, item: Any, key: str, kind: type) -> Any:
    if not isinstance(item, dict) or item.get(key) is None or not isinstance(item[key], kind):
        found = ", ".join(item) if isinstance(item, dict) else type(item).__name__
        what = "a text" if kind is str else "a class"
        raise DataError(f"{path}, line {number}: wanted an object with {what} under '{key}', got {found}")
    return item[key]


def _read_csv(path: Path, labels: str | None) -> tuple[list[str], list[str] | None]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as text: {error}") from error
    names = list(rows[0]) if rows else []
    if labels is not None and rows and labels not in names:
        raise DataError(f"{path} has no column '{labels}'; its columns are {', '.join(map(str, names))}")
    short = next((i for i, row in enumerate(rows, 2) if None in row.values() or None in row), None)
    if short is not None:
        raise DataError(f"{path}: row {short} does not have the {len(names)} fields of the header")
    return [row[TEXT_FIELD] for row in rows], None if labels is None else [row[labels] for row in rows]


def _read_folder(path: Path) -> tuple[list[str], list[str] | None]:
    def files(folder: Path) -> list[Path]:
        return sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))

    folders = sorted(
        folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith(".")
    )
    found: list[tuple[Path, str | None]] = [
        (file, folder.name) for folder in folders for file in files(folder)
    ]
    if not found:
        found = [(file, None) for file in files(path)]
    texts = []
    for file, _ in found:
        try:
            texts.append(file.read_text(encoding="utf-8", errors="replace"))
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error}") from error
    known = [kind for _, kind in found if kind is not None]
    return texts, known or None
