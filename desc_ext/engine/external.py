"""External data: other rows, with or without classes, from which a method learns how to represent its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from desc_ext.engine.rows import Rows, Scaling, scaled_rows
from desc_ext.features import channels_first, resized_images
from desc_ext.features.images import as_numpy

__all__ = ["External", "external_rows"]

_FEWEST_EPISODE_ROWS = 4  # a training and a test split of two rows
_FEWEST_ROWS = 2 * _FEWEST_EPISODE_ROWS  # two halves


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
        scaling: Scaling,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
    ) -> External:
        """Rows ``X`` [n, m] with classes ``y`` [n] = 0, 1, ...; the halves are drawn with ``seed``."""
        order = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))
        first, second = order.tensor_split(2)
        labels = None if y is None else torch.from_numpy(y)
        n_classes = 0 if y is None else int(y.max()) + 1
        return cls(scaled_rows(X, scaling, device, dtype), labels, n_classes, (first, second))

    @property
    def half_of(self) -> Tensor:
        """0 or 1 for every row (int64 [n], CPU)."""
        number = torch.zeros(len(self.rows), dtype=torch.int64)
        number[self.halves[1]] = 1
        return number

    def draw_episode(
        self, n_classes: int, size: int, generator: torch.Generator
    ) -> tuple[int, Tensor, Tensor]:
        """A half of the data, and the row numbers (int64) of a training and a test split of it, disjoint.

        Both splits together are at most ``size`` rows of at most ``n_classes`` classes, drawn at random from that half
        alone: teacher features of the two halves come from different teachers and have no common distances. Of unlabelled
        data, any rows of the half are drawn.
        """
        half = int(torch.randint(2, (), generator=generator))
        rows = self.halves[half]
        if self.labels is not None:
            classes = torch.randperm(self.n_classes, generator=generator)[:n_classes]
            of_task = rows[torch.isin(self.labels[rows], classes)]
            rows = of_task if len(of_task) >= _FEWEST_EPISODE_ROWS else rows
        chosen = rows[torch.randperm(len(rows), generator=generator)[:size]]
        train, test = chosen.tensor_split(2)
        return half, train, test


def external_rows(
    model: Any, external: Any, shape: tuple[int, ...] | None, n_columns: int, needs_labels: bool
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Rows [n, n_columns] of the data ``external``, their classes as 0, 1, ... or None, and what identifies them.

    Args:
        model: the estimator, after ``training_rows``: it is named in messages, and ``features_``, where it
            has them, are taken of the external images too.
        external: (X, y), or X alone.
        shape: [C, H, W] where the rows are images; external images of another size are resized to it.
        n_columns: of the estimator's own rows.
        needs_labels: whether classes are needed.

    Raises:
        ValueError: data that do not fit those of the estimator, or lack classes.
    """
    name = type(model).__name__
    X, y = _arrays(name, external)
    features = model.features_
    X = _fitting(name, X, shape if features is None else features.image_shape_)
    wanted = n_columns if features is None else features.n_features_in_
    if X.shape[1] != wanted:
        raise ValueError(
            f"{name}: external data have {X.shape[1]} columns, but X has {wanted}; both must be of one space (of "
            "texts: one vocabulary, load_dataset(..., external=...)); images of another size must be a stack"
        )
    if not np.isfinite(X).all():
        raise ValueError(
            f"{name}: external data contain NaN or infinity; impute these values or drop the rows"
        )
    if features is not None:
        X = features.transform(X)
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
        raise ValueError(
            f"{name}: external must be (X, y) or X, got the name {external!r}; data of that name, and in the space of the "
            f"texts where they are texts, are load_dataset(..., external={external!r}).external of desc_ext.data: pass its "
            "(images, labels)"
        )
    if isinstance(external, (tuple, list)):
        if len(external) != 2:
            raise ValueError(f"{name}: external must be (X, y) or X alone; got {len(external)} parts")
        X, y = external
        y = y.cpu().numpy() if isinstance(y, Tensor) else y
        return X, None if y is None else np.asarray(y)
    return external, None


def _fitting(name: str, X: Any, shape: tuple[int, ...] | None) -> np.ndarray:
    """External ``X`` as rows, its images resized to ``shape`` [C, H, W] where the estimator's are images."""
    X = as_numpy(X) if isinstance(X, Tensor) else np.asarray(X)
    if X.dtype.kind not in "fiub" or X.ndim not in (2, 3, 4):
        raise ValueError(
            f"{name}: external X must be rows [n, m] or images [n, H, W], [n, C, H, W] or [n, H, W, C] of numbers; got "
            f"dtype {X.dtype}, shape {list(X.shape)}"
        )
    if X.ndim == 2:
        return X
    if shape is None:
        stack = channels_first(f"{name}: external", X)
    elif sorted(X.shape[1:]) == sorted(shape):
        stack = channels_first(f"{name}: external", X, shape)
    else:
        stack = channels_first(f"{name}: external", X, n_channels=shape[0])
        if stack.shape[1] != shape[0]:
            raise ValueError(
                f"{name}: external images are grey, but those of X have {shape[0]} channels; bring both to one"
            )
        stack = resized_images(stack, (shape[1], shape[2]))
    return stack.reshape(len(stack), -1)


def _digest(X: np.ndarray, y: np.ndarray | None) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(X).data)
    if y is not None:
        digest.update(np.ascontiguousarray(y).data)
    return digest.hexdigest()[:16]
