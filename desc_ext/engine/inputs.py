"""What an estimator is given, rows or image stacks, as rows of numbers or as features of the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from desc_ext.device import resolve_device
from desc_ext.engine.chunks import CHUNK_ROWS
from desc_ext.engine.large_arrays import require_room
from desc_ext.engine.rows import Input, check_rows, check_training_rows
from desc_ext.features import Scattering2D, image_rows
from desc_ext.nn import parameter_dtype
from desc_ext.stored import READ_WHOLE, StoredRows, part_of_map, written_rows

__all__ = [
    "BLOCK_ROWS",
    "FeatureRows",
    "checked_training_rows",
    "featured_training_rows",
    "input_rows",
    "input_width",
    "restore_features",
    "saved_features",
    "training_rows",
    "unread_input_rows",
    "worth_scattering",
]

# Rows that are read together where not all are held: features of images are quicker by the thousand.
BLOCK_ROWS = 16 * CHUNK_ROWS

_PREFIX = "features."
# Images of fewer pixels a side leave scattering too little to average over: of the 8×8 digits its features are worse.
_SCATTERED_PIXELS = 16


class InputOptions(Protocol):
    """The options of an estimator that turn its input into rows."""

    n_clusters: int | None
    features: str | None
    feature_dim: int | None
    image_shape: tuple[int, ...] | None
    device: str | torch.device
    dtype: str


class FeatureRows:
    """Features [n, p] of images, computed where rows of them are read: an array of all of them is never made.

    Args:
        images: flat images [n, m], checked; a memory map, and stored rows, stay what they are.
        features: fitted to images like these.
    """

    def __init__(self, images: Input, features: Scattering2D) -> None:
        self._images, self._features = images, features
        self.shape = (len(images), len(features.get_feature_names_out()))
        self.size, self.dtype = self.shape[0] * self.shape[1], np.dtype(features.dtype)
        self.nbytes = self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        if isinstance(index, slice) and index == slice(None):  # block by block, where they lie on disk
            return self._features.transform(self._images)
        return self._features.transform(self._images[index])

    def kept(self, folder: Path | None) -> Input:
        """The features of all rows, computed once: an array, or of images on disk, above 64 MiB, rows on disk too.

        They lie in a file without a name, which goes with them. Like codes they are computed anew by a fit that goes on from
        a checkpoint: the bits are the same, and a pass over the images costs less than one epoch.

        Args:
            folder: of that file; None: the system's folder for temporary files (``TMPDIR``).

        Raises:
            OSError: the disk has no room for them.
        """
        if not isinstance(self._images, StoredRows) or self.nbytes <= READ_WHOLE:
            return self[:]
        require_room(self.shape, self.dtype, folder)
        return written_rows(len(self), self._features.transformed_blocks(self._images), folder)


def checked_training_rows(model: Any, X: Any, options: InputOptions) -> tuple[Any, tuple[int, ...] | None]:
    """The rows [n, m] of ``X`` as :func:`training_rows` checks them, flat images too, and the shape (C, H, W) of images.

    Sets ``model.n_features_in_``, and ``options.features`` where it is "auto".
    """
    X, shape = image_rows(type(model).__name__, X, model.image_shape)
    X = check_rows(model, _placed(X), reset=True)
    check_training_rows(X, options.n_clusters or 1)
    if options.features == "auto":
        options.features = "scattering" if worth_scattering(shape) else None
    return X, shape


def featured_training_rows(model: Any, X: Any, shape: tuple[int, ...] | None, options: InputOptions) -> Any:
    """What :func:`training_rows` makes of the rows of :func:`checked_training_rows`, features where they are read."""
    model.features_ = None
    options.image_shape = shape
    if options.features is None:
        return X
    name = type(model).__name__
    if shape is None:
        raise ValueError(
            f"{name}: features={options.features!r} are of images, but X has flat rows, shape "
            f"{list(X.shape)}; set image_shape=(H, W) or (C, H, W), or give a stack [n, H, W], [n, C, H, W] or "
            "[n, H, W, C]"
        )
    dtype = str(parameter_dtype(options.dtype)).removeprefix("torch.")
    features = Scattering2D(options.feature_dim, image_shape=shape, device=model.device, dtype=dtype)
    model.features_, options.image_shape = features.fit(X), None
    return FeatureRows(X, features)


def training_rows(model: Any, X: Any, options: InputOptions) -> Any:
    """The rows [n, m] that ``model`` is fitted to: those of ``X``, or with ``features`` those of its features.

    An array, or :class:`desc_ext.stored.StoredRows` where rows on disk (these, and memory maps), or their features, are more
    than 64 MiB.

    Sets ``model.n_features_in_`` (columns of ``X``) and ``model.features_`` (the fitted transformer, or None), and
    ``options.image_shape``: (C, H, W) where the rows returned are images, else None; where ``options.features`` is "auto",
    what it means for ``X``.

    Raises:
        ValueError, TypeError: ``X`` or ``image_shape`` is not usable, as ``image_rows``, ``check_rows``,
            ``check_training_rows`` and ``Scattering2D.fit`` say.
    """
    rows = featured_training_rows(model, *checked_training_rows(model, X, options), options)
    return rows.kept(model._large_files) if isinstance(rows, FeatureRows) else rows


def _placed(X: Any) -> Any:
    """Rows in memory, or on disk where they are many."""
    large = getattr(X, "nbytes", 0) > READ_WHOLE
    if isinstance(X, StoredRows):
        return X if large else np.asarray(X)
    part = part_of_map(X) if large else None
    return X if part is None else StoredRows([part], part.n_columns, part.dtype)


def worth_scattering(shape: tuple[int, ...] | None) -> bool:
    """Whether scattering features of images (C, H, W) are better rows than their pixels; never where ``shape`` is None."""
    return shape is not None and min(shape[1:]) >= _SCATTERED_PIXELS


def input_rows(model: Any, X: Any) -> Any:
    """The rows of new data ``X`` under a fitted model, as :func:`training_rows` gave those that it was fitted to.

    Raises:
        ValueError, TypeError: ``X`` has another shape than the data of ``fit``, or is not usable, as ``check_rows`` says.
    """
    rows = unread_input_rows(model, X)
    return rows.kept(None) if isinstance(rows, FeatureRows) else rows


def unread_input_rows(model: Any, X: Any) -> Any:
    """:func:`input_rows`, features where they are read."""
    name = type(model).__name__
    fitted = model.resolved_params_["image_shape"]
    if model.features_ is not None:
        fitted = model.features_.image_shape_
    if not hasattr(X, "shape"):
        X = np.asarray(X)
    X, _ = image_rows(name, X, fitted if len(X.shape) > 2 else None)
    X = check_rows(model, _placed(X), reset=False)
    return X if model.features_ is None else FeatureRows(X, model.features_)


def input_width(model: Any) -> int:
    """Columns of :func:`input_rows`."""
    return model.n_features_in_ if model.features_ is None else len(model.features_.get_feature_names_out())


def saved_features(model: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a saved model keeps of ``features_``: an entry of its configuration, and tensors."""
    if model.features_ is None:
        return {"features": None}, {}
    config, tensors = model.features_.state()
    return {"features": config}, {_PREFIX + name: tensor for name, tensor in tensors.items()}


def restore_features(model: Any, path: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Sets ``features_`` from what :func:`saved_features` kept, and takes its tensors out of ``tensors``.

    Raises:
        ValueError: one of its tensors in the file ``path`` is missing, superfluous or misshapen.
    """
    own = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_PREFIX)}
    model.features_ = None
    if config.get("features") is not None:
        resolve_device(model.device)
        try:
            model.features_ = Scattering2D.from_state(
                config["features"], {name.removeprefix(_PREFIX): tensor for name, tensor in own.items()}
            )
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    elif own:
        raise ValueError(f"{path} is damaged: tensor {next(iter(own))!r} is not part of it")
