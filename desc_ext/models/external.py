"""External data: other rows, with or without classes, from which a method learns how to represent its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from desc_ext.features import image_rows, resized_images
from desc_ext.models.rows import Rows, scaling_statistics

__all__ = ["External", "external_rows"]

_FEWEST_ROWS = 8  # two halves, each of episodes with a training and a test half of two rows


@dataclass
class External:
    """External rows, scaled by their own statistics, in two random halves; their classes, or None."""

    rows: Rows
    labels: Tensor | None  # int64 [n], on the CPU
    n_classes: int
    halves: tuple[Tensor, Tensor]  # row numbers (int64, CPU)

    @classmethod
    def split(
        cls,
        X: np.ndarray,
        y: np.ndarray | None,
        scaling: str,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
    ) -> External:
        """Rows ``X`` [n, m] with classes ``y`` [n] = 0, 1, ...; the halves are drawn with ``seed``."""
        offset, scale = (torch.from_numpy(part) for part in scaling_statistics(X, scaling))
        order = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))
        first, second = order.tensor_split(2)
        labels = None if y is None else torch.from_numpy(y)
        n_classes = 0 if y is None else int(y.max()) + 1
        return cls(Rows(X, offset, scale, device, dtype), labels, n_classes, (first, second))

    def half_of(self) -> Tensor:
        """0 or 1 for every row (int64 [n], CPU)."""
        number = torch.zeros(len(self.rows), dtype=torch.int64)
        number[self.halves[1]] = 1
        return number


def external_rows(
    model: BaseEstimator, external: Any, shape: list[int] | None, n_columns: int, needs_labels: bool
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Rows [n, n_columns] of the data ``external``, their classes as 0, 1, ... or None, and what identifies them.

    Args:
        model: the estimator that asks, after ``training_rows``: its name stands in messages, and ``features_``, where it
            has them, are taken of the external images too.
        external: (X, y), X alone, or the name of a known data set of images.
        shape: [C, H, W] where the rows are images; external images of another size are resized to it.
        n_columns: of the estimator's own rows.
        needs_labels: whether classes are needed.

    Raises:
        ValueError: data that do not fit those of the estimator, or lack classes.
    """
    name = type(model).__name__
    X, y = _arrays(name, external)
    of_features = None if model.features_ is None else model.features_.image_shape_
    X = _fitting(name, X, shape if of_features is None else of_features, model.image_shape)
    if of_features is not None:
        X = model.features_.transform(X)
    if X.shape[1] != n_columns:
        raise ValueError(
            f"{name}: external data have {X.shape[1]} columns, but X has {n_columns}; both must be of one space (of "
            "texts: one vocabulary, load_dataset(..., external=...))"
        )
    if not np.isfinite(X).all():
        raise ValueError(
            f"{name}: external data contain NaN or infinity; impute these values or drop the rows"
        )
    if len(X) < _FEWEST_ROWS:
        raise ValueError(f"{name}: external data have {len(X)} rows; wanted {_FEWEST_ROWS} at least")
    if y is not None:
        if np.shape(y) != (len(X),):
            raise ValueError(
                f"{name}: external classes must be one a row, [{len(X)}]; got shape {list(np.shape(y))}"
            )
        classes, y = np.unique(y, return_inverse=True)
        y = y.astype(np.int64)
        if len(classes) < 2 and needs_labels:
            raise ValueError(
                f"{name}: external data have one class; wanted two at least, or teacher='autoencoder'"
            )
    elif needs_labels:
        raise ValueError(
            f"{name}: teacher='classifier' needs classes of the external data, external=(X, y); for unlabelled data use "
            "teacher='autoencoder'"
        )
    identity = {"rows": len(X), "columns": X.shape[1], "classes": 0 if y is None else int(y.max()) + 1}
    return X, y, identity | {"digest": _digest(X, y)}


def _arrays(name: str, external: Any) -> tuple[Any, Any]:
    if isinstance(external, str):
        from desc_ext.data import KNOWN, load_dataset

        known = KNOWN.get(external)
        dataset = None if known is not None and known.documents else load_dataset(external)
        if dataset is None or dataset.of_text:
            raise ValueError(
                f"{name}: external={external!r} is text, which needs the vocabulary of X: load both by "
                f"load_dataset(..., external={external!r}) and pass external=(data.external.X, data.external.labels)"
            )
        return dataset.images, dataset.labels
    if isinstance(external, (tuple, list)):
        if len(external) != 2:
            raise ValueError(
                f"{name}: external must be (X, y), X alone, or the name of a data set; got {len(external)} parts"
            )
        X, y = external
        y = y.cpu().numpy() if isinstance(y, Tensor) else y
        return X, None if y is None else np.asarray(y)
    return external, None


def _fitting(name: str, X: Any, shape: Any, given: Any) -> np.ndarray:
    """External ``X`` as rows, its images resized to ``shape`` [C, H, W] where the estimator's are images."""
    if isinstance(X, Tensor):
        X = X.detach().cpu().numpy()
    X = np.asarray(X)
    if X.dtype.kind not in "fiub" or X.ndim not in (2, 3, 4):
        raise ValueError(
            f"{name}: external X must be rows [n, m] or images [n, H, W] or [n, C, H, W] of numbers; got dtype {X.dtype}, "
            f"shape {list(X.shape)}"
        )
    if shape is None or X.ndim == 2:
        return image_rows(name, X, None)[0]
    rows, found = image_rows(name, X, None)
    if found[0] != shape[0]:
        raise ValueError(
            f"{name}: external images have {found[0]} channels, those of X have {shape[0]}; bring both to the same"
        )
    if tuple(found) == tuple(shape):
        return rows
    return image_rows(name, resized_images(rows.reshape(-1, *found), shape[1:]), None)[0]


def _digest(X: np.ndarray, y: np.ndarray | None) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(X))
    if y is not None:
        digest.update(y)
    return digest.hexdigest()[:16]
