"""Where a refinement begins: the option ``init``, and the rows in which it looks for the first clusters."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from desc_ext.algorithms.first_clusters import (
    FirstClusters,
    by_landmarks,
    by_self_expression,
    by_subspaces,
    given_clusters,
)
from desc_ext.algorithms.landmarks import chosen_landmarks
from desc_ext.engine.inputs import BLOCK_ROWS, FeatureRows, worth_scattering
from desc_ext.engine.rows import Rows
from desc_ext.engine.state import FitState
from desc_ext.engine.stored_starts import by_subspaces_of_stored, given_to_stored
from desc_ext.features import Scattering2D
from desc_ext.nn import parameter_dtype

__all__ = ["check_labels", "first_clusters_of_rows", "labels_digest", "unscaled_rows"]

_SCATTERING_DIM = 500
# Rows of more columns are reduced to as many principal directions before k-subspaces looks for clusters.
_REDUCED_COLUMNS = 100


def check_labels(name: str, labels: np.ndarray, n_samples: int, n_clusters: int) -> np.ndarray:
    """The option ``init`` of the estimator ``name``, an array, as int64 [n_samples].

    Raises:
        ValueError: another shape, values that are not the integers 0 to K − 1, or a cluster without rows.
    """
    wanted = f"labels [n_samples] = [{n_samples}], integers from 0 to n_clusters - 1 = {n_clusters - 1}"
    if labels.shape != (n_samples,):
        raise ValueError(
            f"{name}: init must be {wanted}; got shape {list(labels.shape)}: give one label for every row of X"
        )
    if labels.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: init must be {wanted}; got dtype {labels.dtype}: convert it, init.astype(np.int64)"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= n_clusters))
    if len(outside):
        raise ValueError(
            f"{name}: init must be {wanted}; got {labels[outside[0]]} at row {outside[0]}: number the clusters from 0, "
            "np.unique(init, return_inverse=True)[1], or set n_clusters"
        )
    empty = np.setdiff1d(np.arange(n_clusters), labels)
    if len(empty):
        raise ValueError(
            f"{name}: init must be {wanted}, and every cluster needs rows; got none of cluster {empty[0]} "
            f"({len(empty)} of {n_clusters} are empty): set n_clusters to the number of clusters that init has"
        )
    return labels.astype(np.int64)


def labels_digest(labels: np.ndarray) -> str:
    """SHA-256 of labels, in 16 hexadecimal digits: they are part of what a checkpoint is of."""
    return hashlib.sha256(np.ascontiguousarray(labels, dtype=np.int64).tobytes()).hexdigest()[:16]


def first_clusters_of_rows(state: FitState[Any, Any], subspace_dim: int) -> FirstClusters | None:
    """First clusters by the options ``init`` "self-expressive", "k-subspaces" or an array of labels.

    They are looked for in the scattering features of images of 16 pixels a side and more, else in the rows: by
    self-expression in those that came (beyond 200,000 in landmarks, as SelfExpressiveClustering does), by k-subspaces in the
    scaled ones.

    Returns:
        None where rows have too few columns for subspaces of ``subspace_dim`` dimensions: every row would fit each of them.
    """
    options, seed, n_clusters = state.options, state.seed, state.options.n_clusters
    if isinstance(options.init, str) and options.init == "self-expressive":
        return _by_self_expression(state)
    rows = _start_rows(state)
    if isinstance(options.init, np.ndarray):
        if rows.is_stored:
            return given_to_stored(rows, options.init, n_clusters)
        return given_clusters(_all(rows), options.init, n_clusters)
    if rows.n_features < 2 * subspace_dim:
        return None
    if rows.is_stored:
        return by_subspaces_of_stored(
            rows, _REDUCED_COLUMNS, n_clusters, subspace_dim, options.n_init, seed, directions=True
        )
    generator = torch.Generator().manual_seed(seed)
    directions, _ = rows.reduced(_REDUCED_COLUMNS, generator, directions=True)
    return by_subspaces(directions, n_clusters, subspace_dim, options.n_init, seed)


def _by_self_expression(state: FitState[Any, Any]) -> FirstClusters:
    """In all rows, or in landmarks: the others are then read a block at a time."""
    rows, images = state.rows, state.options._of_images
    n_clusters, seed = state.options.n_clusters, state.seed
    features = _start_features(state)
    X = rows.X if features is None else features
    landmarks = chosen_landmarks(len(X), None, n_clusters, seed)
    if landmarks is None:
        return by_self_expression(_all(unscaled_rows(X[:], rows)), n_clusters, seed, images)

    def map_rows(function: Callable[[Tensor], Tensor]) -> Tensor:
        blocks = (X[start : start + BLOCK_ROWS] for start in range(0, len(X), BLOCK_ROWS))
        return torch.cat([unscaled_rows(block, rows).map(function, directions=True) for block in blocks])

    return by_landmarks(
        _all(unscaled_rows(X[landmarks], rows)), landmarks, map_rows, n_clusters, seed, images
    )


def _start_rows(state: FitState[Any, Any]) -> Rows:
    """The rows of ``state``, or the features of its images."""
    features = _start_features(state)
    return state.rows if features is None else unscaled_rows(features.kept(state.rows.folder), state.rows)


def _start_features(state: FitState[Any, Any]) -> FeatureRows | None:
    """The scattering features of images for which they are worth it."""
    rows, shape = state.rows, state.options.image_shape
    if not worth_scattering(shape):
        return None
    dtype = str(parameter_dtype(state.options.dtype)).removeprefix("torch.")
    scattering = Scattering2D(_SCATTERING_DIM, image_shape=shape, device=rows.device, dtype=dtype)
    return FeatureRows(rows.X, scattering.fit(rows.X))


def unscaled_rows(X: Any, like: Rows) -> Rows:
    """``X`` [n, m] as it is, as rows of the device and dtype of others."""
    width = X.shape[1]
    return Rows(X, torch.zeros(width), torch.ones(width), like.device, like.dtype)


def _all(rows: Rows) -> Tensor:
    return torch.cat(list(rows.chunks(directions=True)))
