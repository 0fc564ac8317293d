"""First clusters of rows on disk, or of their codes in a file: found in some of them or in passes over all."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from desc_ext import ops
from desc_ext.algorithms.first_clusters import (
    FirstClusters,
    by_kmeans,
    distances_to,
    margins_of,
    nearest_and_margins,
    ranked,
)
from desc_ext.algorithms.k_subspaces import KSubspacesOptions, leading_directions, search
from desc_ext.algorithms.kmeans import kmeans_model, one_thread
from desc_ext.algorithms.landmarks import chosen_landmarks
from desc_ext.engine.chunks import map_in_memory
from desc_ext.engine.rows import Rows
from desc_ext.engine.stored_values import StoredValues, row_blocks
from desc_ext.engine.streamed_rows import StreamedRows

__all__ = [
    "bases_of_stored",
    "by_kmeans_of_stored",
    "by_subspaces_of_stored",
    "given_to_stored",
    "means_of_stored",
]


def by_kmeans_of_stored(z: StoredValues, n_clusters: int, n_init: int, seed: int) -> FirstClusters:
    """k-means on codes ``z`` [n, p], of more than 200,000 on landmarks; the others go to the nearest centre."""
    landmarks = chosen_landmarks(len(z), None, n_clusters, seed)
    if landmarks is None:
        return by_kmeans(z[:], n_clusters, n_init, seed)
    some = z[torch.from_numpy(landmarks)].cpu().numpy()
    centres = kmeans_model(some, n_clusters, n_init, seed).cluster_centers_
    found = map_in_memory(
        lambda part: torch.from_numpy(nearest_and_margins(distances_to(part.cpu().numpy(), centres))), z
    ).numpy()
    return ranked(
        z, found[:, 0].astype(np.int64), found[:, 1], torch.from_numpy(centres).to(z.device, z.dtype)
    )


def by_subspaces_of_stored(
    rows: Rows, n_components: int, n_clusters: int, dim: int, n_init: int, seed: int, directions: bool
) -> FirstClusters:
    """k-subspaces on rows, or on their directions, in passes over the file.

    Args:
        n_components: columns at most, beyond which the rows are projected as :meth:`Rows.axes` says.
        dim: of a subspace.
    """
    axes = rows.axes(n_components, torch.Generator().manual_seed(seed), directions)
    passes = StreamedRows(rows, axes, directions)
    found = search(passes, KSubspacesOptions(n_clusters, min(dim, passes.shape[1]), n_init, seed))
    labels, margins = found.labels.cpu().numpy().astype(np.int64), np.empty(len(rows))

    def of_block(start: int, z: Tensor) -> tuple[int, np.ndarray]:
        reduced = z if axes is None else z @ axes
        residual = ops.projection_residual(reduced, found.bases).double().cpu().numpy()
        return start, margins_of(residual, labels[start : start + len(z)])

    for start, part in rows.stream(of_block, directions):
        margins[start : start + len(part)] = part
    return ranked(rows, labels, margins)


def given_to_stored(rows: Rows, labels: np.ndarray, n_clusters: int) -> FirstClusters:
    """:func:`given_clusters` of the directions of rows on disk."""
    numbers = torch.from_numpy(labels)

    def sums(start: int, z: Tensor) -> tuple[Tensor, Tensor]:
        return z, numbers[start : start + len(z)].to(z.device)

    means = _means(rows.stream(sums, directions=True), n_clusters).cpu().numpy()
    margins = np.empty(len(rows))

    def of_block(start: int, z: Tensor) -> tuple[int, np.ndarray]:
        away = distances_to(z.double().cpu().numpy(), means)
        return start, margins_of(away, labels[start : start + len(z)])

    for start, part in rows.stream(of_block, directions=True):
        margins[start : start + len(part)] = part
    return ranked(rows, labels, margins)


def means_of_stored(z: StoredValues, labels: Tensor, n_clusters: int) -> Tensor:
    """Means [K, p] of the codes ``z`` [n, p] of each cluster; the mean of all codes where a cluster has none."""
    return _means(row_blocks(z, labels), n_clusters).to(z.dtype)


def _means(blocks: Iterable[tuple[Tensor, ...]], n_clusters: int) -> Tensor:
    total = count = torch.zeros(())
    with one_thread():
        for z, labels in blocks:
            if not total.ndim:
                total = torch.zeros(n_clusters, z.shape[1], dtype=torch.float64, device=z.device)
                count = torch.zeros(n_clusters, dtype=torch.int64, device=z.device)
            total.index_add_(0, labels, z.double())
            count += torch.bincount(labels, minlength=n_clusters)
    return torch.where(count[:, None] > 0, total / count.clamp_min(1)[:, None], total.sum(0) / count.sum())


def bases_of_stored(z: StoredValues, labels: Tensor, n_clusters: int, dim: int) -> Tensor:
    """:func:`desc_ext.algorithms.k_subspaces.subspace_bases` of codes in a file."""
    p = z.shape[1]
    gram = torch.zeros(n_clusters, p, p, dtype=torch.float64, device=z.device)
    for part, of_part in row_blocks(z, labels):
        gram += ops.segment_gram(part, of_part, n_clusters)
    return leading_directions(gram, dim).to(z.dtype)
