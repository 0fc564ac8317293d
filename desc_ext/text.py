"""Text: documents from .jsonl and .csv files or folders, and their words as rows of numbers (tf-idf, truncated SVD)."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from desc_ext.data import Dataset

__all__ = ["TEXT_SUFFIXES", "Documents", "TextFeatures", "as_rows", "is_text", "read_documents"]

TEXT_SUFFIXES = (".jsonl", ".jsonl.gz")
TEXT_FIELD = "text"
DEFAULT_DIMENSION = 256


@dataclass(frozen=True)
class Documents:
    """Texts, and what is known about them; ``as_rows`` makes a :class:`~desc_ext.data.Dataset` of them."""

    name: str
    texts: list[str]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    source: str = ""
    dimension: int = DEFAULT_DIMENSION


class TextFeatures:
    """Rows of texts: tf-idf of their words, a truncated SVD of that (scikit-learn), each row divided by its norm.

    Words are lower-cased, English stop words left out, and so are words of fewer than ``min_documents`` or more than half
    of the fitted texts; counts enter by 1 + log. Vocabulary, weights and singular directions are those of the fitted
    texts: other texts, such as external data, are put into the same space by ``transform``.

    Args:
        dimension: singular directions; fewer where there are fewer words or texts.
        unit_rows: divide every row by its norm; a text without a known word stays 0.
        min_documents: texts a word must be in.
    """

    def __init__(self, dimension: int = DEFAULT_DIMENSION, unit_rows: bool = True, min_documents: int = 3):
        self.dimension, self.unit_rows, self.min_documents = dimension, unit_rows, min_documents

    def fit_transform(self, texts: Sequence[str]) -> np.ndarray:
        """Fits to ``texts`` and returns their rows [n, dimension], float32.

        Raises:
            ValueError: no word is in enough of the texts.
        """
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectoriser = TfidfVectorizer(
            sublinear_tf=True, min_df=self.min_documents, max_df=0.5, stop_words="english", dtype=np.float32
        )
        try:
            weights = self._vectoriser.fit_transform(texts)
        except ValueError as error:
            raise ValueError(
                f"{len(texts)} texts have no word that is in {self.min_documents} of them and not in more than half"
            ) from error
        self._svd = TruncatedSVD(min(self.dimension, *weights.shape), random_state=0)
        return self._finished(self._svd.fit_transform(weights))

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """Rows of other texts in the space of the fitted ones."""
        return self._finished(self._svd.transform(self._vectoriser.transform(texts)))

    def _finished(self, rows: np.ndarray) -> np.ndarray:
        from sklearn.preprocessing import normalize

        return (normalize(rows) if self.unit_rows else rows).astype(np.float32)


def as_rows(
    documents: Documents, dimension: int | None = None, external: Documents | None = None
) -> tuple[Dataset, Dataset | None]:
    """Rows of ``documents`` by :class:`TextFeatures`, and those of ``external`` in the same space.

    The space is that of ``documents`` alone, so their rows are the same with and without external data.

    Raises:
        DataError: the texts share no words.
    """
    from desc_ext.data import DataError, Dataset

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
    from desc_ext.data import DataError

    if path.is_dir():
        if labels is not None:
            raise DataError(f"the classes of the folder {path} are its folders; leave out --labels")
        texts, known = _read_folder(path)
    else:
        if not path.is_file():
            raise DataError(f"the file {path} does not exist (looked in {path.absolute().parent})")
        read = _read_jsonl if path.name.lower().endswith(TEXT_SUFFIXES) else _read_csv
        texts, known = read(path, labels)
    if classes is not None:
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
    from desc_ext.data import DataError

    texts, known = [], []
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    item = json.loads(line)
                    texts.append(_field(path, number, item, TEXT_FIELD, str))
                    known.append(None if labels is None else str(_field(path, number, item, labels, object)))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {number} is not JSON: {error}") from error
    return texts, None if labels is None else known


def _field(path: Path, number: int, item: Any, key: str, kind: type) -> Any:
    from desc_ext.data import DataError

    if not isinstance(item, dict) or item.get(key) is None or not isinstance(item[key], kind):
        found = ", ".join(item) if isinstance(item, dict) else type(item).__name__
        what = "a text" if kind is str else "a class"
        raise DataError(f"{path}, line {number}: wanted an object with {what} under '{key}', got {found}")
    return item[key]


def _read_csv(path: Path, labels: str | None) -> tuple[list[str], list[str] | None]:
    from desc_ext.data import DataError

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
    from desc_ext.data import DataError

    def files(folder: Path) -> list[Path]:
        return sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))

    folders = sorted(
        folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith(".")
    )
    found = [(file, folder.name) for folder in folders for file in files(folder)] or [
        (file, None) for file in files(path)
    ]
    texts = []
    for file, _ in found:
        try:
            texts.append(file.read_text(encoding="utf-8", errors="replace"))
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error}") from error
    return texts, [kind for _, kind in found] if folders and texts else None
