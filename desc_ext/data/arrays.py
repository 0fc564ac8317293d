"""Arrays from .npy, .npz, MATLAB and AnnData files, as rows or stacks of images."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from desc_ext.data.classes import is_label_file, known_classes, labels_of_file
from desc_ext.data.dataset import Dataset
from desc_ext.data.isolated import read_apart
from desc_ext.data.matlab import matlab_arrays
from desc_ext.data.messages import DataError, note
from desc_ext.data.numpy_files import load_numpy, reason
from desc_ext.data.preparation import Preparation, Reading
from desc_ext.data.shards import in_natural_order, npy_rows
from desc_ext.data.tables import chosen_columns, listed
from desc_ext.features.images import channels_first
from desc_ext.stored import READ_WHOLE, StoredRows, part_of_map

__all__ = ["ARRAY_SUFFIXES", "read_array_file", "read_npy_folder"]

ARRAY_SUFFIXES = (".npy", ".npz", ".mat", ".h5ad")
# Names under which archives usually keep their rows.
_ROWS = ("X", "x", "data", "images", "features", "fea", "embeddings", "arr_0")
_TO_DENSE = (
    "scikit-learn's TruncatedSVD(200).fit_transform(X) makes rows of it, which numpy.save writes (of word counts, "
    "TfidfTransformer comes before)"
)
_LARGEST_DENSE = 2**32  # bytes of the rows that a sparse array becomes


def read_array_file(path: Path, reading: Reading, preparation: Preparation | None) -> Dataset:
    """The rows of a file with one of :data:`ARRAY_SUFFIXES`; see :func:`desc_ext.data.load_dataset`.

    Raises:
        DataError: a file that is damaged, an array that is missing, or one that holds no rows of real numbers.
    """
    reading.refuse(path, "an array", "text", "image_size", "header")
    suffix = path.suffix.lower()
    if suffix != ".h5ad":
        reading.refuse(path, "an array without names", "columns", "drop", "id")
    try:
        if suffix == ".npy":
            reading.refuse(path, "a single array", "array")
            return _from_npy(path, reading, preparation)
        if suffix == ".h5ad":
            return _from_anndata(path, reading, preparation)
        saved = None if preparation is None else preparation.reading.array
        with _npz_arrays(path) if suffix == ".npz" else matlab_arrays(path) as arrays:
            if reading.array is None and saved in arrays:
                reading = replace(reading, array=saved)
            return _from_arrays(path, arrays, reading, preparation)
    except DataError:
        raise
    except Exception as error:  # an array of an archive is read when it is asked for
        raise DataError(f"{path} cannot be read: {reason(error)}") from error


# Formats


def _from_npy(path: Path, reading: Reading, preparation: Preparation | None) -> Dataset:
    stored = load_numpy(path, mmap_mode="r")
    of_bytes = _checked(stored, path, preparation)
    rows = _on_disk(stored, path, of_bytes)
    X: Any
    X, shape = _converted(stored, path, of_bytes) if rows is None else rows
    return _dataset(path, X, shape, _classes_of(path, reading, len(X)), reading, stored.dtype == np.uint8)


def _on_disk(
    stored: np.ndarray, path: Path, of_bytes: bool
) -> tuple[StoredRows, tuple[int, ...] | None] | None:
    """What :func:`_converted` makes of the array in the file ``path``, converted where it is read; None below 64 MiB.

    None, too, of what does not lie there row after row.
    """
    one, shape = _converted(stored[:1], path, of_bytes)
    if len(stored) * one.nbytes <= READ_WHOLE:
        return None
    part = part_of_map(stored.reshape(len(stored), -1))
    if part is None:
        return None
    if stored.ndim == 2 and not of_bytes:
        return npy_rows([path]), None
    part = replace(part, path=path.absolute(), changed=path.stat().st_mtime_ns)

    def converted(rows: np.ndarray) -> np.ndarray:
        return _converted(rows.reshape(-1, *stored.shape[1:]), path, of_bytes)[0]

    return StoredRows([part], part.n_columns, part.dtype).changed(converted, one.shape[1], one.dtype), shape


def read_npy_folder(
    path: Path, files: list[Path], reading: Reading, preparation: Preparation | None
) -> Dataset:
    """The rows of the .npy files of a folder, one after the other in the natural order of their names.

    Raises:
        DataError: one that is damaged, holds no rows, or differs from the others in width or dtype.
    """
    reading.refuse(
        path, "a folder of arrays", "text", "image_size", "header", "array", "columns", "drop", "id"
    )
    stored = npy_rows(in_natural_order(files))
    of_bytes = preparation is not None and preparation.of_bytes and stored.dtype == np.uint8
    X: Any = stored
    if stored.nbytes <= READ_WHOLE or of_bytes:
        X, _ = _as_rows(np.asarray(stored), path, preparation)
    return _dataset(path, X, None, _classes_of(path, reading, len(X)), reading)


def _classes_of(path: Path, reading: Reading, n: int) -> np.ndarray | None:
    """Known classes [n] from the .npy file that is named, the only place where rows without names can have them."""
    if reading.labels is None:
        return None
    if not is_label_file(reading.labels):
        raise DataError(
            f"{path} has no column '{reading.labels}': give the known classes as a .npy file, --labels FILE.npy"
        )
    return labels_of_file(reading.labels, n)


def _npz_arrays(path: Path) -> Any:
    archive = load_numpy(path)
    if not hasattr(archive, "files"):
        raise DataError(f"{path} is not an archive of arrays, whatever its name says; call it .npy")
    if set(archive.files) >= {"indices", "indptr", "shape"}:
        raise DataError(
            f"{path} holds a sparse array (scipy.sparse.save_npz), which no method takes; {_TO_DENSE}"
        )
    return archive


def _from_arrays(path: Path, arrays: Any, reading: Reading, preparation: Preparation | None) -> Dataset:
    names = list(arrays.keys())
    from_file = is_label_file(reading.labels, names)
    labels = None if from_file else reading.labels
    if labels is not None and labels not in names:
        raise DataError(f"{path} has no array '{labels}' for the known classes; it has {listed(names)}")
    chosen = _chosen(path, [name for name in names if name != labels], reading.array)
    found = arrays[chosen]
    if isinstance(found, str):  # what matlab_arrays says of it
        how = f"; {_TO_DENSE}" if "sparse" in found else ""
        raise DataError(f"{path}: '{chosen}' is {found}, which no method takes{how}")
    if labels is not None and isinstance(arrays[labels], str):
        raise DataError(
            f"{path}: '{labels}' is {arrays[labels]}, which cannot be read; save the classes as numbers"
        )
    y = None if labels is None else np.asarray(arrays[labels])
    if y is not None and found.ndim == 2 and y.size == found.shape[1] != found.shape[0]:
        raise DataError(
            f"{path}: '{chosen}' is {list(found.shape)} and '{labels}' has {y.size} values, one a column; rows must be what "
            "is clustered: transpose the array"
        )
    X, shape = _as_rows(found, path, preparation)
    if from_file:
        y = labels_of_file(str(reading.labels), len(X))
    elif y is not None:
        y = known_classes(y, len(X), f"{path}: array '{labels}'")
    return _dataset(path, X, shape, y, replace(reading, array=chosen), found.dtype == np.uint8)


def _chosen(path: Path, names: list[str], asked: str | None) -> str:
    """The name of the array with the rows."""
    if asked is not None:
        if asked not in names:
            raise DataError(f"{path} has no array '{asked}' (--array); it has {listed(names)}")
        return asked
    usual = [name for name in _ROWS if name in names] or names
    if len(names) > 1 and usual is names:
        example = next((name for name in names if "train" in name), names[0])
        raise DataError(
            f"{path} has several arrays ({listed(names)}); say which one holds the rows, and which one known classes if any: "
            f"--array {example} --labels NAME"
        )
    if not usual:
        raise DataError(f"{path} has no array with the rows")
    return usual[0]


def _from_anndata(path: Path, reading: Reading, preparation: Preparation | None) -> Dataset:
    if find_spec("anndata") is None:
        raise DataError("reading .h5ad needs anndata, which is not installed: pip install anndata")
    saved = None if preparation is None else preparation.reading.array
    reading = replace(reading, array=reading.array or saved or "X")
    asked = {
        "array": reading.array,
        "labels": reading.labels,
        "id": reading.id,
        "largest": _LARGEST_DENSE,
    }
    with read_apart("anndata_process.py", path, "AnnData", **asked) as (folder, found):
        _refuse_missing(path, reading, found)
        X, shape = _as_rows(load_numpy(folder / "rows.npy", mmap_mode="r"), path)
    names, columns = found["names"], None
    if names is not None:
        chosen = _columns_of(path, names, reading, preparation)
        columns = tuple(names[i] for i in chosen)
        X = X if chosen == list(range(len(names))) else X[:, chosen]
    y = None
    if reading.labels is not None:
        y = known_classes(found["labels"], len(X), f"{path}: '{reading.labels}'")
    data = _dataset(path, X, shape, y, reading)
    prepared = replace(data.preparation or Preparation(), columns=columns)
    return replace(data, columns=columns, ids=np.array(found["ids"]), preparation=prepared)


def _refuse_missing(path: Path, reading: Reading, found: dict[str, Any]) -> None:
    """Raises DataError where an AnnData file lacks what is asked for, or its sparse rows are too many."""
    if reading.array not in found["arrays"]:
        raise DataError(f"{path} has no array '{reading.array}' (--array); it has {listed(found['arrays'])}")
    for column, flag, key in ((reading.labels, "--labels", "labels"), (reading.id, "--id", "ids")):
        if column is not None and found.get(key) is None:
            raise DataError(f"{path} has no column '{column}' in obs ({flag}); it has {listed(found['obs'])}")
    if found.get("too_large"):
        raise DataError(
            f"{path}: its sparse array would be {found['too_large'] / 2**30:.1f} GiB of rows; choose variable genes before, "
            "or take principal components, --array obsm/X_pca"
        )


def _columns_of(path: Path, names: list[str], reading: Reading, preparation: Preparation | None) -> list[int]:
    """Numbers of the columns that become features."""
    fitted = None if preparation is None else preparation.columns
    asked = reading.columns if fitted is None else fitted
    chosen = list(range(len(names))) if asked is None else chosen_columns(path, names, asked, "--columns")
    dropped = set(chosen_columns(path, names, reading.drop, "--drop"))
    return [i for i in chosen if i not in dropped]


# Rows


def _dataset(
    path: Path,
    X: Any,
    shape: tuple[int, ...] | None,
    y: np.ndarray | None,
    reading: Reading,
    of_bytes: bool = False,
) -> Dataset:
    # A file of classes holds those of these rows alone.
    labels = None if is_label_file(reading.labels) else reading.labels
    scaled = None if shape is None else of_bytes  # those of rows stay what they are
    prepared = Preparation(replace(reading, labels=labels), image_shape=shape, of_bytes=scaled)
    return Dataset(path.stem, X, y, image_shape=shape, source=str(path), preparation=prepared)


def _as_rows(
    X: Any, path: Path, preparation: Preparation | None = None
) -> tuple[np.ndarray, tuple[int, ...] | None]:
    """Rows [n, m] in the file's dtype, and (height, width) or (height, width, channels) of a stack of images.

    Images of bytes become float32 in [0, 1]; under the ``preparation`` of a result, all bytes do where those of the fit did,
    and none where they did not.
    """
    return _converted(X, path, _checked(X, path, preparation))


def _checked(X: Any, path: Path, preparation: Preparation | None) -> bool:
    """Whether the numbers of ``X``, an array of rows or images, are bytes that become numbers in [0, 1].

    Raises:
        DataError: it is no such array.
    """
    if not isinstance(X, np.ndarray) or X.dtype.kind not in "biuf":
        kind = X.dtype if isinstance(X, np.ndarray) else type(X).__name__
        raise DataError(f"{path} must hold real numbers; got dtype {kind}")
    if X.ndim == 1:
        raise DataError(f"{path} must hold rows and columns, [n, m]; got one dimension, [{len(X)}]")
    if X.ndim not in (2, 3, 4):
        raise DataError(f"{path} must hold rows [n, m] or images [n, H, W]; got {list(X.shape)}")
    if 0 in X.shape:
        raise DataError(f"{path} is empty: shape {list(X.shape)}")
    was = None if preparation is None else preparation.of_bytes
    of_bytes = X.dtype == np.uint8 and (X.ndim > 2 if was is None else was)
    _tell_of_ranges(X, path, was)
    return of_bytes


def _converted(X: np.ndarray, path: Path, of_bytes: bool) -> tuple[np.ndarray, tuple[int, ...] | None]:
    """The rows of :func:`_as_rows`, each converted for itself."""
    if X.dtype == bool:
        X = X.view(np.uint8)
    if X.ndim == 2:
        return (X.astype(np.float32) / 255 if of_bytes else X), None
    stack = X
    if X.ndim == 4:
        try:
            stack = channels_first(str(path), X, None).transpose(0, 2, 3, 1)
        except ValueError as error:
            raise DataError(str(error)) from error
    rows = stack.reshape(len(stack), -1)
    return rows.astype(np.float32) / 255 if of_bytes else rows, stack.shape[1:]


def _tell_of_ranges(X: np.ndarray, path: Path, was: bool | None) -> None:
    """A note where the fit saw bytes as numbers in [0, 1], and these are larger ones that are no bytes."""
    if was and X.dtype != np.uint8 and np.abs(X[:1000]).max() > 2:
        note(
            f"{path} holds numbers beyond [0, 1], where the result was fitted to bytes divided by 255; divide them too"
        )
