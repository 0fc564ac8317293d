"""A data set in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from desc_ext.data.preparation import Preparation
from desc_ext.stored import StoredRows

__all__ = ["Dataset"]


@dataclass(frozen=True)
class Dataset:
    """Rows to cluster, and what is known about them.

    Attributes:
        name: what the data set is called in messages and results.
        X: rows [n, m] in the dtype of the file; a memory map where the file allows it, and :class:`StoredRows` of more than
            64 MiB of .npy and Parquet files and folders of images. Images of bytes are float32 in [0, 1].
        labels: known classes [n], for evaluation only, or None.
        class_names: names of the classes 0, 1, ..., or None.
        image_shape: (height, width) or (height, width, channels) of a row that is an image, else None.
        source: the file or folder that was read.
        of_text: whether the rows are those of texts (:class:`desc_ext.features.TextFeatures`).
        external: other data in the space of these rows, for methods that learn from such, or None.
        columns: names of the columns of X where it was a table with names, else None.
        ids: what names the rows [n] in results: a column, the files of a folder; None: their numbers.
        texts: the texts that the rows are of, or None.
        preparation: what turns other data into rows of the same space, or None.
    """

    name: str
    X: Any
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    image_shape: tuple[int, ...] | None = None
    source: str = ""
    of_text: bool = False
    external: Dataset | None = None
    columns: tuple[str, ...] | None = None
    ids: np.ndarray | None = None
    texts: Sequence[str] | None = None
    preparation: Preparation | None = None

    @property
    def images(self) -> Any:
        """X as a stack [n, H, W], or [n, C, H, W] of several colours; rows that are no images stay rows [n, m].

        So do images on disk, channel after channel: rows of images of :attr:`shape_of_images`.
        """
        if self.image_shape is None:
            return self.X
        if isinstance(self.X, StoredRows):
            if len(self.image_shape) == 2:
                return self.X
            return self.X.changed(
                partial(_channel_after_channel, self.image_shape), self.X.shape[1], self.X.dtype
            )
        stack = self.X.reshape(len(self.X), *self.image_shape)
        return stack if stack.ndim == 3 else stack.transpose(0, 3, 1, 2)

    @property
    def shape_of_images(self) -> tuple[int, ...] | None:
        """(H, W), or (C, H, W), of :attr:`images`, as ``image_shape`` of estimators; None where rows are no images."""
        shape = self.image_shape
        return shape if shape is None or len(shape) == 2 else (shape[2], *shape[:2])

    def in_memory(self) -> Dataset:
        """The same, no rows on disk."""
        return replace(self, X=np.asarray(self.X)) if isinstance(self.X, StoredRows) else self

    def part(self, start: int, stop: int) -> Dataset:
        """The rows ``start`` to ``stop`` - 1, at least one, named by their numbers here where nothing else names them."""
        rows = slice(start, stop)
        X: Any = self.X.between(start, stop) if isinstance(self.X, StoredRows) else self.X[rows]
        return replace(
            self,
            X=X,
            ids=np.arange(start, stop) if self.ids is None else self.ids[rows],
            labels=None if self.labels is None else self.labels[rows],
            texts=None if self.texts is None else self.texts[rows],
        )


def _channel_after_channel(shape: tuple[int, ...], rows: np.ndarray) -> np.ndarray:
    """Rows [t, m] of images of ``shape`` (H, W, C), as they are and as estimators take them."""
    return np.moveaxis(rows.reshape(-1, *shape), 3, 1).reshape(rows.shape)
