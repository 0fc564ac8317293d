"""Clusters of new rows where an engine for large tables hands them over batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from desc_ext.data import Preparation
from desc_ext.engine.state_folder import read_state_folder

__all__ = ["BatchPredictor"]

_INPUT = "input"  # the folder beside a command line's model that says how data became rows


class BatchPredictor:
    """A saved estimator as a function of a batch of rows: the batch comes back with a column of clusters.

    Batches are of pandas (DataFrame), pyarrow (Table, RecordBatch) or dictionaries of NumPy arrays, and come back as the
    same: what Ray Data's ``map_batches``, Dask's ``map_partitions`` and Spark's ``mapInPandas`` and ``mapInArrow`` call.
    The estimator is loaded once in every process, not sent with every task.

    Args:
        folder: of the results of ``desc-ext fit``, or of an estimator's ``save``.
        columns: names of the columns that are features, in the order of the fit; None takes those of the fit, where it had
            names. A single column may hold a vector, or an image, in every row.
        output: name of the column of clusters, int64.

    Raises:
        FileNotFoundError: the folder holds no saved estimator.
        ValueError: it is damaged, its method assigns no new rows, it was fitted to texts, or ``columns`` are not named and
            the fit had no names, contradict its names, or hold one twice.
    """

    def __init__(
        self, folder: str | os.PathLike[str], columns: Sequence[str] | None = None, output: str = "cluster"
    ) -> None:
        # absolute: a worker that it is sent to may have another current folder
        self.folder, self.output = Path(folder).absolute(), output
        self._model: Any = None
        self._prepared = Preparation()
        names = self._fitted_columns()
        if columns is None and not names:
            raise ValueError(
                f"BatchPredictor: the model in {folder} was fitted to rows without names; columns must name those of its "
                "features in a batch, in the order of the fit"
            )
        self.columns = _checked_columns(names, columns, output)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_model": None}

    def _loaded(self) -> Any:
        if self._model is None:
            from desc_ext.models import load_model  # which imports this module

            inner = self.folder / "model"
            self._model = load_model(inner if inner.is_dir() else self.folder)
            # which it would miss: batches are asked for their columns by name, and it is given arrays
            self._names = list(self._model.__dict__.pop("feature_names_in_", ()))
        return self._model

    def _fitted_columns(self) -> list[str]:
        model = self._loaded()
        if not hasattr(model, "predict"):
            raise ValueError(
                f"BatchPredictor: {self.folder} holds a {type(model).__name__}, which assigns no new rows to its clusters; "
                "use a model that predicts"
            )
        if (self.folder / _INPUT).is_dir():
            self._prepared = Preparation.from_state(*read_state_folder(self.folder / _INPUT, _INPUT))
            if self._prepared.text_features is not None:
                raise ValueError(
                    f"BatchPredictor: {self.folder} was fitted to texts, and batches hold numbers; use desc-ext predict"
                )
            return list(self._prepared.columns or ())
        return self._names

    def __call__(self, batch: Any) -> Any:
        """The batch with the column ``output``, which replaces one of that name; an empty batch has an empty one.

        Raises:
            ValueError: a column is missing, there twice, or holds no numbers; rows that ``predict`` does not take.
            TypeError: no batch of one of the kinds.
        """
        if isinstance(batch, Mapping):
            names, get = list(batch), lambda name: np.asarray(batch[name])
        elif hasattr(batch, "column_names"):  # pyarrow
            names, get = list(batch.column_names), lambda name: _values(batch.column(name))
        elif hasattr(batch, "assign") and hasattr(batch, "columns"):
            names, get = list(batch.columns), lambda name: batch[name].to_numpy()
        else:
            raise TypeError(
                f"BatchPredictor: a batch must be of pandas or pyarrow, or a dictionary of arrays; got {type(batch).__name__}"
            )
        for name in self.columns:
            if names.count(name) != 1:
                raise ValueError(
                    f"BatchPredictor: the batch has the column {name!r} {names.count(name)} times, wanted once; its columns "
                    f"are {', '.join(map(str, names[:12]))}"
                )
        labels = self._clusters([_numbers(name, get(name), len(self.columns)) for name in self.columns])
        if isinstance(batch, Mapping):
            return {**batch, self.output: labels}
        if not hasattr(batch, "column_names"):
            return batch.assign(**{self.output: labels})
        import pyarrow as pa

        kept = [name for name in names if name != self.output]
        columns = [batch.column(name) for name in kept]
        return type(batch).from_arrays([*columns, pa.array(labels)], names=[*kept, self.output])

    def over(self, batches: Iterable[Any]) -> Iterator[Any]:
        """This function of each of the batches: what ``mapInPandas`` and ``mapInArrow`` take."""
        return map(self, batches)

    def _clusters(self, columns: list[np.ndarray]) -> np.ndarray:
        if not len(columns[0]):
            return np.zeros(0, np.int64)
        lengths = {len(column) for column in columns}
        if len(lengths) > 1:
            raise ValueError(
                f"BatchPredictor: the columns have {sorted(lengths)} rows; they must have the same number"
            )
        rows = columns[0] if len(columns) == 1 else np.stack(columns, 1)
        return self._loaded().predict(self._as_fitted(rows if rows.ndim > 1 else rows[:, None]))

    def _as_fitted(self, rows: np.ndarray) -> np.ndarray:
        """Rows as the command line gave them to the fit: images of bytes in [0, 1], the channels first."""
        if self._prepared.of_bytes and rows.dtype.kind in "iu":
            rows = rows.astype(np.float32) / 255
        if self._prepared.of_bytes and rows.max() > 1:
            raise ValueError(
                f"BatchPredictor: pixels go up to {rows.max():g}, and the fit was given bytes, divided by 255; give integers "
                "from 0 to 255, or numbers from 0 to 1"
            )
        shape = self._prepared.image_shape
        if shape is None:
            return rows
        images = rows.reshape(len(rows), *shape)
        return images if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def _values(column: Any) -> np.ndarray:
    """A column of pyarrow; one of lists becomes an array of arrays."""
    return column.to_numpy() if hasattr(column, "num_chunks") else column.to_numpy(zero_copy_only=False)


def _numbers(name: str, values: np.ndarray, n_columns: int) -> np.ndarray:
    """The values of a column as numbers [n], or where it is the only one [n, ...]."""
    if values.dtype == object:  # a list or an array in every row, or numbers some of which are missing
        try:
            found = np.stack([np.asarray(value) for value in values]) if len(values) else np.zeros(0)
        except ValueError:
            raise ValueError(
                f"BatchPredictor: the rows of column {name!r} have different shapes; all must be alike"
            ) from None
        values = found
    if values.dtype.kind not in "biuf" or (values.ndim > 1 and n_columns > 1):
        what = f"{values.dtype} of shape {list(values.shape[1:])} a row" if values.ndim > 1 else values.dtype
        raise ValueError(
            f"BatchPredictor: column {name!r} holds {what}, wanted a number a row without missing ones, or a single column "
            "of vectors; convert it, or name others by columns"
        )
    return values


def _checked_columns(names: list[str], columns: Sequence[str] | None, output: str) -> list[str]:
    """The columns of features, where the fit had ``names`` or none."""
    wanted = list(names if columns is None else columns)
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"BatchPredictor: columns must be names, each once, at least one; got {wanted}")
    if set(wanted) & set(names) and wanted != names:
        raise ValueError(
            f"BatchPredictor: columns are {wanted}, but the model was fitted to {names}; leave columns out, or give them in "
            "that order"
        )
    if not isinstance(output, str) or output in wanted:
        raise ValueError(f"BatchPredictor: output must be a name that no feature has; got {output!r}")
    return wanted
