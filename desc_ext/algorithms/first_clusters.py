"""First clusters of a refinement, and how certain each row's is; no label of the data is seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from desc_ext import ops
from desc_ext.algorithms.distinct import distinct_rows
from desc_ext.algorithms.extension import extension_of
from desc_ext.algorithms.k_subspaces import k_subspaces
from desc_ext.algorithms.kmeans import kmeans_model, one_thread
from desc_ext.algorithms.self_expression import (
    SelfExpressiveClusters,
    cluster_by_self_expression,
    usual_expression,
)
from desc_ext.algorithms.stability import has_other_neighbors, stable_clusters
from desc_ext.norms import unit_rows

__all__ = [
    "FirstClusters", "by_kmeans", "by_landmarks", "by_self_expression", "by_subspaces", "certainty_of_margins",
    "cluster_means", "distances_to", "given_clusters", "margins_of", "nearest_and_margins", "ranked",
]  # fmt: skip

_BLOCK_VALUES = 2**24  # of differences that are held at a time


@dataclass(frozen=True)
class FirstClusters:
    """A partition of n rows.

    Attributes:
        labels: int64 [n].
        certainty: float64 [n] in (0, 1]: the rank of a row's margin among those of its cluster, over the cluster's size, so
            that every cluster has rows of all certainties.
        centres: [K, p] where the partition is one by k-means, else None.
    """

    labels: Tensor
    certainty: Tensor
    centres: Tensor | None = None

    def to(self, device: torch.device | str) -> FirstClusters:
        """The same on ``device``."""
        centres = None if self.centres is None else self.centres.to(device)
        return FirstClusters(self.labels.to(device), self.certainty.to(device), centres)


def by_kmeans(z: Tensor, n_clusters: int, n_init: int, seed: int) -> FirstClusters:
    """k-means on rows ``z`` [n, p]; the margin is between the distances to the two nearest centres."""
    model = kmeans_model(z.cpu().numpy(), n_clusters, n_init, seed)
    labels, centres = model.labels_.astype(np.int64), model.cluster_centers_
    certainty = certainty_of_margins(distances_to(z.cpu().numpy(), centres), labels)
    return FirstClusters(_on(z, labels), _on(z, certainty), torch.from_numpy(centres).to(z))


def by_subspaces(directions: Tensor, n_clusters: int, dim: int, n_init: int, seed: int) -> FirstClusters:
    """k-subspaces on unit rows [n, p]; the margin is between the residuals to the two nearest subspaces."""
    labels, bases = k_subspaces(directions, n_clusters, dim, n_init, seed)
    residual = ops.projection_residual(directions, bases).double().cpu().numpy()
    return FirstClusters(labels, _on(labels, certainty_of_margins(residual, labels.cpu().numpy())))


def by_self_expression(z: Tensor, n_clusters: int, seed: int, images: bool) -> FirstClusters:
    """The closed form on rows [n, p], each divided by its norm; the margin is that of k-means in its embedding.

    ``images``: whether rows are images or features of images.

    Where no more rows differ than there are clusters, every distinct row is a cluster.
    """
    directions = unit_rows(z)
    distinct = distinct_rows(directions)
    if len(distinct) <= n_clusters:
        certainty = torch.ones(len(z), dtype=torch.float64, device=z.device)
        return FirstClusters(_on(z, distinct.number), certainty)
    options = usual_expression(directions, distinct, n_clusters, images)
    found = cluster_by_self_expression(directions, distinct, n_clusters, options, seed)
    if images and has_other_neighbors(len(distinct), n_clusters):
        found, _ = stable_clusters(directions, found, n_clusters, options, seed)
    return FirstClusters(
        _on(z, found.labels), _on(z, certainty_of_margins(_embedded_distances(found), found.labels))
    )


def by_landmarks(
    z: Tensor,
    landmarks: np.ndarray,
    map_rows: Callable[[Callable[[Tensor], Tensor]], Tensor],
    n_clusters: int,
    seed: int,
    images: bool,
) -> FirstClusters:
    """:func:`by_self_expression` of some of n rows; the others go to the nearest centre of k-means, as new rows do.

    Where no more of the landmarks differ than there are clusters, every one that differs is a centre itself.

    Args:
        z: the landmarks, rows [m, p].
        landmarks: int64 [m], their numbers among all rows.
        map_rows: calls a function of rows [m', p] with all n, some at a time, and concatenates what it returns.
        images: whether rows are images or features of images.
    """
    directions = unit_rows(z)
    distinct = distinct_rows(directions)
    coordinates: Callable[[Tensor], Tensor]
    if len(distinct) <= n_clusters:
        coordinates, centres = unit_rows, distinct.take(directions).cpu().numpy()
        labels, distances = distinct.number, distances_to(directions.cpu().numpy(), centres)
    else:
        options = usual_expression(directions, distinct, n_clusters, images)
        found = cluster_by_self_expression(directions, distinct, n_clusters, options, seed)
        if images and has_other_neighbors(len(distinct), n_clusters):
            found, options = stable_clusters(directions, found, n_clusters, options, seed)
        extension = extension_of(found, directions, options, z.dtype)
        coordinates, centres = extension.coordinates, found.kmeans.cluster_centers_
        labels, distances = found.labels, _embedded_distances(found)

    def assign(rows: Tensor) -> Tensor:
        away = distances_to(coordinates(unit_rows(rows)).cpu().numpy(), centres)
        return torch.from_numpy(nearest_and_margins(away))

    assigned, margins = map_rows(assign).numpy().T.copy()
    assigned[landmarks], margins[landmarks] = labels, margins_of(distances, labels)
    return ranked(z, assigned.astype(np.int64), margins)


def given_clusters(z: Tensor, labels: np.ndarray, n_clusters: int) -> FirstClusters:
    """The partition ``labels`` [n] of rows ``z`` [n, p]; the margin is between the distances to the two nearest means.

    A row that another cluster's mean is nearer to has a negative margin.
    """
    rows = z.double().cpu().numpy()
    means = cluster_means(torch.from_numpy(rows), torch.from_numpy(labels), n_clusters).numpy()
    return FirstClusters(_on(z, labels), _on(z, certainty_of_margins(distances_to(rows, means), labels)))


def cluster_means(z: Tensor, labels: Tensor, n_clusters: int) -> Tensor:
    """Means [K, p] of the rows ``z`` [n, p] of each cluster; the mean of all rows where a cluster has none."""
    with one_thread():
        means = z.double().mean(0).repeat(n_clusters, 1)
        for cluster in labels.unique():
            means[cluster] = z[labels == cluster].double().mean(0)
    return means.to(z.dtype)


def certainty_of_margins(distances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Certainty [n] of :class:`FirstClusters` from distances [n, K] and labels [n]; equal margins rank by their row.

    The margin of a row is its distance to the nearest other cluster less that to its own.
    """
    return _ranks(margins_of(distances, labels), labels)


def ranked(
    like: Any, labels: np.ndarray, margins: np.ndarray, centres: Tensor | None = None
) -> FirstClusters:
    """The partition ``labels`` int64 [n] with the certainty that ``margins`` [n] give, on the device of ``like``."""
    return FirstClusters(_on(like, labels), _on(like, _ranks(margins, labels)), centres)


def nearest_and_margins(distances: np.ndarray) -> np.ndarray:
    """The number of the smallest of each row's ``distances`` [m, K], and the row's margin there: float64 [m, 2]."""
    nearest = distances.argmin(1)
    return np.stack([nearest, margins_of(distances, nearest)], axis=1)


def margins_of(distances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each row the distance to the nearest other cluster less that to its own, from [n, K] and labels [n]."""
    rows = np.arange(len(labels))
    others = distances.copy()
    others[rows, labels] = np.inf
    return others.min(1) - distances[rows, labels]


def _ranks(margin: np.ndarray, labels: np.ndarray) -> np.ndarray:
    certainty = np.empty(len(labels))
    for cluster in np.unique(labels):
        members = np.flatnonzero(labels == cluster)
        order = members[np.argsort(margin[members], kind="stable")]
        certainty[order] = np.arange(1, len(members) + 1) / len(members)
    return certainty


def _embedded_distances(found: SelfExpressiveClusters) -> np.ndarray:
    """Distances [n, K] of all rows to the centres of k-means in their embedding."""
    return distances_to(found.coordinates.embedding[found.distinct.number], found.kmeans.cluster_centers_)


def distances_to(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Euclidean distances [n, K], float64, from differences: no product whose bits depend on the number of threads."""
    n_rows = max(_BLOCK_VALUES // centres.size, 1)
    blocks = (rows[start : start + n_rows] for start in range(0, len(rows), n_rows))
    centres = centres.astype(np.float64)
    return np.concatenate([np.sqrt(np.square(block[:, None] - centres).sum(2)) for block in blocks])


def _on(like: Any, array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).to(like.device)
