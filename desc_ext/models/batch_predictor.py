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
            the fit had no names.
    """

    def __init__(
        self, folder: str | os.PathLike[str], columns: Sequence[str] | None = None, output: str = "cluster"
    ) -> None:
        self.folder, self.output = Path(folder), output
        self._model: Any = None
        self._prepared = Preparation()
        names = self._fitted_columns()
        if columns is None and not names:
            raise ValueError(
                f"BatchPredictor: the model in {folder} was fitted to rows without names; columns must name those of its "
                "features in a batch, in the order of the fit"
            )
        self.columns = list(names if columns is None else columns)

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
        """The batch with the column ``output``; an empty batch comes back with an empty one.

        Raises:
            KeyError: a column is missing.
            ValueError, TypeError: rows that ``predict`` does not take.
        """
        if isinstance(batch, Mapping):
            return {**batch, self.output: self._clusters([np.asarray(batch[name]) for name in self.columns])}
        if hasattr(batch, "column_names"):  # pyarrow
            return self._of_arrow(batch)
        labels = self._clusters([batch[name].to_numpy() for name in self.columns])
        return batch.assign(**{self.output: labels})

    def _of_arrow(self, batch: Any) -> Any:
        import pyarrow as pa

        labels = pa.array(self._clusters([_values(batch.column(name)) for name in self.columns]))
        names = [*batch.column_names, self.output]
        return type(batch).from_arrays([*batch.columns, labels], names=names)

    def over(self, batches: Iterable[Any]) -> Iterator[Any]:
        """This function of each of the batches: what ``mapInPandas`` and ``mapInArrow`` take."""
        return map(self, batches)

    def _clusters(self, columns: list[np.ndarray]) -> np.ndarray:
        if not len(columns[0]):
            return np.zeros(0, np.int64)
        rows = columns[0] if len(columns) == 1 else np.stack(columns, 1)
        if rows.dtype == object and len(columns) == 1:  # a list or an array in every row
            rows = np.stack([np.asarray(row) for row in rows])
        return self._loaded().predict(self._as_fitted(rows if rows.ndim > 1 else rows[:, None]))

    def _as_fitted(self, rows: np.ndarray) -> np.ndarray:
        """Rows as the command line gave them to the fit: images of bytes in [0, 1], the channels first."""
        if self._prepared.of_bytes and rows.dtype == np.uint8:
            rows = rows.astype(np.float32) / 255
        shape = self._prepared.image_shape
        if shape is None:
            return rows
        images = rows.reshape(len(rows), *shape)
        return images if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def _values(column: Any) -> np.ndarray:
    """A column of pyarrow; one of lists becomes an array of arrays."""
    return column.to_numpy() if hasattr(column, "num_chunks") else column.to_numpy(zero_copy_only=False)
