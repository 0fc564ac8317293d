"""Affinities of rows from their coefficients: sparse or dense graphs, without small components, with repeated rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from torch import Tensor

__all__ = [
    "degree_roots",
    "hold_copies",
    "join_small_components",
    "keep_share",
    "learned_affinity",
    "row_maxima",
    "row_normalised",
    "symmetric_affinity",
]

# A component of fewer rows than this share of an even cluster is no cluster of its own.
_SMALL_SHARE = 0.1
_JOIN_ROUNDS = 8
_JOIN_ROWS = 256
# Rows of C that are looked at together, where a copy of all of C would be needed.
_BLOCK_ROWS = 512


def row_maxima(values: Tensor) -> Tensor:
    """max_j |C_ij| [n] of coefficients [n, k]; 0 where k = 0."""
    return values.abs().max(1).values if values.shape[1] else values.new_zeros(len(values))


def row_normalised(values: Tensor, largest: Tensor | None = None) -> Tensor:
    """|C_ij| / max_j |C_ij| of coefficients [n, k], or over the ``largest`` [n] of each row; a row of zeros stays."""
    values = values.abs()
    largest = row_maxima(values) if largest is None else largest
    return values / torch.where(largest > 0, largest, 1)[:, None]


def symmetric_affinity(indices: np.ndarray, values: np.ndarray) -> sparse.csr_array:
    """(|C| + |Cᵀ|)/2 [n, n] of the coefficients C that have ``values`` [n, k] in the columns ``indices`` [n, k]."""
    n, k = indices.shape
    coefficients = sparse.csr_array(
        (
            np.abs(values).ravel(),
            indices.ravel().astype(np.int32),
            np.arange(n + 1, dtype=np.int32) * k,
        ),
        shape=(n, n),
    )
    affinity = (coefficients + coefficients.T).tocsr()
    affinity.data /= 2  # in its own dtype
    affinity.eliminate_zeros()
    affinity.sort_indices()
    return affinity


def join_small_components(
    affinity: sparse.csr_array,
    candidates: Callable[[Tensor], Tensor],
    n_clusters: int,
    device: torch.device,
    weights: np.ndarray | None = None,
) -> tuple[sparse.csr_array, int]:
    """The affinity without components of fewer than n/(10 K) rows, and the rows that were joined to others.

    Rows count as often as ``weights`` [n] say (None: once).

    A row of such a component is joined to the row outside of it with the largest of ``candidates(rows)`` [m, n], its
    affinities to all rows.
    """
    n, n_joined = affinity.shape[0], 0
    total = n if weights is None else weights.sum()
    for _ in range(_JOIN_ROUNDS):
        _, component = connected_components(affinity, directed=False)
        size = np.bincount(component, weights)[component]
        rows = np.flatnonzero(size < _SMALL_SHARE * total / n_clusters)
        if not len(rows):
            break
        component = torch.from_numpy(component).to(device)
        found = []
        for part in torch.from_numpy(rows).to(device).split(_JOIN_ROWS):
            found.append(candidates(part).masked_fill_(component[part, None] == component, 0).max(1))
        links = torch.cat([values for values, _ in found]).cpu().numpy()
        others = torch.cat([indices for _, indices in found]).cpu().numpy()
        if not links.any():
            break
        new = sparse.csr_array((links, (rows, others)), shape=(n, n))
        affinity = affinity.maximum(new).maximum(new.T).tocsr()
        affinity.eliminate_zeros()
        n_joined += int((links > 0).sum())
    return affinity, n_joined


def hold_copies(
    affinity: np.ndarray | sparse.csr_array, weights: np.ndarray | None
) -> np.ndarray | sparse.csr_array:
    """The affinity of rows of which row i comes w_i times, ``weights`` [n]: (w_i − 1) Σ_j W_ij is its affinity to itself.

    It then weighs as much as its copies would, and they hold together: a random walk leaves it with the probability
    1/w_i. Where all rows come equally often, no eigenvector changes.
    """
    if weights is None:
        return affinity
    own = ((weights - 1) * np.asarray(affinity.sum(axis=1)).ravel()).astype(affinity.dtype)
    if isinstance(affinity, np.ndarray):
        return affinity + np.diag(own)
    held = (affinity + sparse.diags_array(own)).tocsr()
    held.eliminate_zeros()
    return held


@torch.no_grad()
def learned_affinity(
    coefficient: Tensor,
    kept_share: float,
    n_neighbors: int,
    n_clusters: int,
    weights: np.ndarray | None = None,
) -> np.ndarray | sparse.csr_array:
    """½(|C| + |C|ᵀ) [n, n] of the coefficients that are kept: an array, or with ``n_neighbors`` a CSR array.

    Kept are of each row the ``n_neighbors`` largest |C_ij| at most (0: all), and of those the largest that together make
    up the share ``kept_share`` of Σ_j |C_ij|. With ``n_neighbors`` each row is divided by its largest coefficient, and the
    rows of small components are joined to others. ``weights`` are those of :func:`hold_copies`.
    """
    if not n_neighbors:
        size = keep_share(coefficient.abs(), kept_share)
        affinity = size + size.T
        return hold_copies(affinity.div_(2).cpu().numpy(), weights)
    k = min(n_neighbors, len(coefficient) - 1)
    kept = [_largest(block.abs(), k, kept_share) for block in coefficient.split(_BLOCK_ROWS)]
    values = torch.cat([ordered for ordered, _ in kept])
    indices = torch.cat([order for _, order in kept])
    largest = row_maxima(values)

    def candidates(rows: Tensor) -> Tensor:
        own = row_normalised(coefficient[rows], largest[rows])
        return (own + row_normalised(coefficient[:, rows], largest).T) / 2

    affinity = symmetric_affinity(indices.cpu().numpy(), row_normalised(values, largest).cpu().numpy())
    affinity, _ = join_small_components(affinity, candidates, n_clusters, coefficient.device, weights)
    return hold_copies(affinity, weights)


def keep_share(coefficient: Tensor, kept_share: float) -> Tensor:
    """C [n, n], zero but for the largest |C_ij| of each row that together make up ``kept_share`` of its Σ_j |C_ij|."""
    if kept_share == 1:
        return coefficient
    kept = torch.zeros_like(coefficient)
    for block, found in zip(coefficient.split(_BLOCK_ROWS), kept.split(_BLOCK_ROWS), strict=True):
        ordered, order = _largest(block.abs(), block.shape[1], kept_share)
        found.scatter_(1, order, torch.where(ordered > 0, block.gather(1, order), 0))
    return kept


def _largest(size: Tensor, k: int, kept_share: float) -> tuple[Tensor, Tensor]:
    """The k largest of each row, largest first and zero beyond ``kept_share`` of the row's sum, and their columns."""
    if kept_share == 1:
        return size.topk(k, dim=1)
    ordered, order = size.sort(dim=1, descending=True, stable=True)
    total = ordered.sum(1, keepdim=True)
    # those whose larger ones do not yet make up the share, so the largest at least
    ordered[ordered.cumsum(1) - ordered >= kept_share * total] = 0
    return ordered[:, :k], order[:, :k]


def degree_roots(affinity: sparse.csr_array | np.ndarray) -> np.ndarray:
    """d_i^(-1/2) [n] of the degrees d_i = Σ_j W_ij; 0 for a row without affinity."""
    degree = np.asarray(affinity.sum(axis=1), dtype=np.float64).ravel()
    return np.divide(1.0, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)
