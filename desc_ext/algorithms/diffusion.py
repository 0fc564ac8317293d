"""Diffusion coordinates: eigenvectors of a graph, weighed by how slowly a random walk on it forgets them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize

from desc_ext.algorithms.graph import degree_roots
from desc_ext.algorithms.kmeans import kmeans_model
from desc_ext.algorithms.spectral import leading_eigenvectors

__all__ = ["Diffusion", "diffusion_clusters", "diffusion_coordinates", "diffusion_time", "restarts_of"]

_CPU = torch.device("cpu")
# Eigenvalues that differ by less than this are the same but for rounding.
_EQUAL = 1e-9
# An eigenvector of a smaller eigenvalue is rounding noise, which the extension to new rows would only magnify.
_SMALLEST_EIGENVALUE = 1e-6
# An eigenvector with a larger entry at a row without affinity is that row's indicator.
_ALONE = 0.5
# k-means of few rows is a matter of milliseconds, and of many clusters its restarts seldom agree.
_RESTART_ROWS, _FEWEST_RESTARTS, _MOST_RESTARTS = 500_000, 10, 300


@dataclass(frozen=True)
class Diffusion:
    """The eigenvectors of an affinity, and the coordinates that they give its rows.

    The random walk P = D⁻¹W has the eigenvectors v_j / √d, v_j those of D^(-1/2) W D^(-1/2). After t steps the distance of
    two rows i is that of their coordinates λ_j^t v_ij / √d_i (Coifman and Lafon, 2006). They are then divided by their
    norm: rows far inside a cluster and rows at its border have the same direction.
    """

    eigenvalues: np.ndarray  # [m], descending from 1
    time: float  # t
    embedding: np.ndarray  # [n, q], coordinates of unit length; q = m − 1 of a connected graph
    # [n, q], what each row adds to the coordinates of a new row, before their unit length
    extension: np.ndarray


def restarts_of(n_init: int | None, n: int) -> int:
    """Restarts of k-means on ``n`` rows: ``n_init``, or where it is None 500,000/n, at least 10 and at most 300."""
    return n_init or min(max(_RESTART_ROWS // n, _FEWEST_RESTARTS), _MOST_RESTARTS)


def diffusion_time(eigenvalues: np.ndarray, n_clusters: int, ratio: float) -> float:
    """t such that (λ_{K+1}/λ_2)^t = ``ratio`` for ``eigenvalues`` [m] that descend from λ_1 = 1.

    What tells K clusters apart varies like the eigenvectors 2 to K; t weighs them nearly alike, and those after them less
    and less, so that their number hardly matters. Where λ_{K+1} = λ_2 no time does, and t is 1.
    """
    if len(eigenvalues) < 3:
        return 1.0
    second, last = eigenvalues[1], eigenvalues[min(n_clusters, len(eigenvalues) - 1)]
    if last <= _SMALLEST_EIGENVALUE or second - last < _EQUAL:
        return 1.0
    return math.log(ratio) / math.log(last / second)


def diffusion_coordinates(
    affinity: np.ndarray | sparse.csr_array,
    n_clusters: int,
    n_components: int,
    ratio: float,
    solver: str,
    seed: int,
    weights: np.ndarray | None = None,
    device: torch.device = _CPU,
) -> Diffusion:
    """Eigenvectors and diffusion coordinates of ``affinity`` [n, n].

    The trivial eigenvector √d of a connected graph is left out; of a graph that falls into components, their indicators
    are all kept.

    Args:
        n_components: eigenvectors, m; n at most.
        ratio: of :func:`diffusion_time`.
        solver, seed, device: of :func:`~desc_ext.algorithms.spectral.leading_eigenvectors`.
        weights: how often each row comes, where :func:`~desc_ext.algorithms.graph.hold_copies` has given the affinity their
            weight; None: once. A walk that stays with the copies is slower by their number.
    """
    eigenvalues, vectors = leading_eigenvectors(affinity, n_components, solver, seed, device)
    values = eigenvalues
    if weights is not None:
        values = 1 - (1 - values) * np.median(weights)
    # Where the K-th is not positive (a few rows that are all linked), a walk that stays where it is every other step.
    lazy = values[min(n_clusters, len(values)) - 1] <= _SMALLEST_EIGENVALUE
    # That of two rows has 1 and 0: without its second coordinate they would be one cluster.
    walk = ((1 + values) / 2).clip(_SMALLEST_EIGENVALUE) if lazy else values.clip(0)
    time = diffusion_time(walk, n_clusters, ratio)
    first = int(len(values) > 1 and values[1] < 1 - _EQUAL)
    values, walk, vectors = values[first:], walk[first:], vectors[:, first:]
    roots = degree_roots(affinity)
    alone = roots == 0
    roots[alone] = 1
    # a row without affinity is where it began for ever, though its eigenvalue is 0
    indicator = np.abs(vectors[alone]).max(0, initial=0) > _ALONE
    weight = np.where(indicator, 1, walk**time)
    coordinates = vectors * roots[:, None]
    # φ_j(i) = Σ_i' P_ii' φ_j(i') / λ_j
    usable = np.abs(values) > _SMALLEST_EIGENVALUE
    step = np.divide(weight, values, out=np.zeros_like(values), where=usable)
    return Diffusion(eigenvalues, time, normalize(coordinates * weight), coordinates * step)


def diffusion_clusters(
    embedding: np.ndarray, n_clusters: int, n_init: int | None, seed: int, weights: np.ndarray | None = None
) -> KMeans:
    """k-means of the coordinates [n, q], rows counting as often as ``weights`` [n] say; n_init as for :func:`restarts_of`."""
    return kmeans_model(embedding, n_clusters, restarts_of(n_init, len(embedding)), seed, weights)
