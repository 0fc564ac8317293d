"""NCSC's first clusters: what its classifier is taught before the affinity teaches it."""

from __future__ import annotations

from typing import Protocol

import torch
from sklearn.utils import check_random_state
from torch import Tensor, nn

from desc_ext import ops
from desc_ext.algorithms.distinct import distinct_rows
from desc_ext.algorithms.kmeans import kmeans
from desc_ext.algorithms.ncsc_losses import CollaborationOptions, collaborative_terms, separation_limit
from desc_ext.algorithms.self_expression import ExpressionOptions, cluster_by_self_expression
from desc_ext.norms import unit_rows

__all__ = ["InitializationOptions", "first_labels"]

# The graph of the first clusters: each row keeps a fifth of an even cluster, for with few neighbours a topic of one cluster
# parts from the rest more readily than clusters from each other; and no more than this, for the sake of many rows.
_NEIGHBOUR_SHARE, _FEWEST_NEIGHBOURS, _MOST_NEIGHBOURS = 5, 5, 100


class InitializationOptions(CollaborationOptions, Protocol):
    """The options of NCSC that its first clusters depend on."""

    n_clusters: int
    n_init: int
    batch_size: int
    fidelity_weight: float
    upper: float
    separation_share: float


def first_labels(z: Tensor, options: InitializationOptions, seed: int) -> Tensor:
    """Clusters of the codes z [n, p], int64 [n]: by k-means, or by the closed form of λ1.

    It takes whichever has the smaller Ω with a classifier that is certain of them: no label is seen.
    """
    found = [
        kmeans(z, options.n_clusters, options.n_init, seed)[0],
        _self_expressive_labels(z, options, seed),
    ]
    return min(found, key=lambda labels: _loss_of_labels(z, labels, options, seed))


def _self_expressive_labels(z: Tensor, options: InitializationOptions, seed: int) -> Tensor:
    n, n_clusters = len(z), options.n_clusters
    directions = unit_rows(z.double()).to(z.dtype)
    distinct = distinct_rows(directions)
    if len(distinct) <= n_clusters:  # the encoder's units are dead: there is nothing to cluster
        return torch.from_numpy(distinct.number).to(z.device)
    # λ1 for n rows as for a mini-batch of them, in units of the mean ‖z_i‖²
    ridge = 2 / options.fidelity_weight * n / min(n, options.batch_size)
    ridge /= float(z.square().sum(1).double().mean())
    found = cluster_by_self_expression(
        directions,
        distinct,
        n_clusters,
        ExpressionOptions(
            ridge=ridge,
            n_neighbors=min(max(n // (_NEIGHBOUR_SHARE * n_clusters), _FEWEST_NEIGHBOURS), _MOST_NEIGHBOURS),
            n_components=min(2 * n_clusters, n),
            n_init=options.n_init,
        ),
        seed=int(check_random_state(seed).randint(2**31 - 1)),
    )
    return torch.from_numpy(found.labels).to(z.device)


@torch.no_grad()
def _loss_of_labels(z: Tensor, labels: Tensor, options: InitializationOptions, seed: int) -> float:
    """Ω on one mini-batch of the closed form."""
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))
    index = order[: options.batch_size].to(z.device)
    y = ops.ridge_self_expression(z[index], 2 / options.fidelity_weight)
    row_max = ops.affinity_row_max(y)
    limit = separation_limit(y, row_max, options.separation_share if options.separation_weight else 0.0)
    nu = nn.functional.one_hot(labels[index], options.n_clusters).to(z.dtype)
    losses, _ = collaborative_terms(nu, y, row_max, options.upper, limit, options)
    return float(sum(weight * value for weight, value in losses.values()))
