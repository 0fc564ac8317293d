"""The door of the data: a name, a file or a folder becomes a data set."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from desc_ext.data.catalogue import KNOWN, load_known
from desc_ext.data.dataset import DataError, Dataset
from desc_ext.data.files import FILE_SUFFIXES, read_file
from desc_ext.data.text import TEXT_SUFFIXES, Documents, as_rows, is_text, read_documents

__all__ = ["load_dataset"]


def load_dataset(
    source: str | os.PathLike,
    labels: str | None = None,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    *,
    external: str | os.PathLike | None = None,
    external_labels: str | None = None,
    dimension: int | None = None,
) -> Dataset:
    """Reads a known data set, a file, or a folder of texts.

    Texts become rows by :class:`desc_ext.features.TextFeatures`: tf-idf, truncated SVD, unit rows. Vocabulary and singular
    directions are those of ``source``, and the texts of ``external`` are put into that space.

    Args:
        source: a name of :data:`KNOWN`; the path of a .npy, .npz, .csv or .parquet file of numbers; or texts: a .jsonl
            or .jsonl.gz file (an object a line with the key "text"), a .csv file with a column "text", or a folder
            with a folder of text files for each class.
        labels: where a file's known classes are: the name of a column (.csv, .parquet), array (.npz) or key (.jsonl),
            the number of a column (.csv without a header; -1 is the last), or a .npy file (.npy, .npz).
        data_dir: the folder to look into first for a known data set.
        download: fetch a known data set of images through scikit-learn from OpenML where no folder has it.
        external: other data, named as ``source`` is; they become ``external`` of the result.
        external_labels: as ``labels``, of the external data.
        dimension: columns of the rows of texts; None: 256, and 512 for 20 Newsgroups.

    Raises:
        DataError: for a name that is not known, a file that is missing or damaged, or a column that is
            missing or not numeric; the message says where it looked and what would help.
    """
    target = _read(source, labels, data_dir, download)
    other = None if external is None else _read(external, external_labels, data_dir, download)
    if isinstance(target, Documents) and not isinstance(other, Dataset):
        dataset, of_external = as_rows(target, dimension, other)
    elif isinstance(target, Dataset) and not isinstance(other, Documents):
        dataset, of_external = target, other
    else:
        raise DataError(
            f"'{source}' and the external data '{external}' do not fit: one is text, the other is not"
        )
    return dataset if of_external is None else replace(dataset, external=of_external)


def _read(
    source: str | os.PathLike, labels: str | None, data_dir: str | os.PathLike | None, download: bool
) -> Dataset | Documents:
    path = Path(source)
    if str(source) in KNOWN:
        if labels is not None:
            raise DataError(f"{source} brings its own known classes; leave out --labels")
        return load_known(KNOWN[str(source)], data_dir, download)
    if is_text(path):
        return read_documents(path, labels)
    if path.suffix.lower() not in FILE_SUFFIXES:
        raise DataError(
            f"'{source}' is neither a known data set ({', '.join(KNOWN)}) "
            f"nor a {', '.join((*FILE_SUFFIXES, *TEXT_SUFFIXES))} file nor a folder of texts"
        )
    if not path.is_file():
        raise DataError(f"the file {path} does not exist (looked in {path.absolute().parent})")
    return read_file(path, labels)
