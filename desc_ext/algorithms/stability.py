"""How many neighbours of images, by whether a sample of the rows is clustered as all of them are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from desc_ext.algorithms.distinct import DistinctRows, distinct_rows
from desc_ext.algorithms.self_expression import (
    ExpressionOptions,
    SelfExpressiveClusters,
    cluster_by_self_expression,
    usual_expression,
    usual_neighbors,
)
from desc_ext.metrics import clustering_accuracy

__all__ = ["has_other_neighbors", "stable_clusters"]

# A third of the rows, in which clusters are still dense and which costs a ninth of the time; from so many on.
_SHARE, _FEWEST_ROWS = 3, 3_000
# What a sample agrees on nine rows of ten with is taken for stable. Of MNIST's first 10,000 images, with 10 neighbours, it
# agrees on .98; of all of Fashion-MNIST on .82 with 10 and .96 with 40.
_STABLE = 0.9


def has_other_neighbors(n: int, n_clusters: int) -> bool:
    """Whether n rows of images are so many that more neighbours, those of other rows, come into question."""
    return n >= _FEWEST_ROWS and usual_neighbors(n / n_clusters, False) > usual_neighbors(
        n / n_clusters, True
    )


def stable_clusters(
    z: Tensor,
    found: SelfExpressiveClusters,
    n_clusters: int,
    options: ExpressionOptions,
    seed: int,
    record: dict[str, Any] | None = None,
) -> tuple[SelfExpressiveClusters, ExpressionOptions]:
    """``found``, or the clusters with as many neighbours as other rows than images have, where those are more stable.

    Of images few neighbours keep curved clusters apart. Where clusters meet, though, few edges between them decide, and
    which clusters come out changes with the rows that there happen to be. So a random third of the rows is clustered by
    itself (von Luxburg, Clustering stability, 2010): where less than nine rows of ten are in the cluster that they are in
    among all, all rows are clustered with more neighbours too, and the more stable of the two is taken.

    Args:
        z: rows [n, p], more of which differ than :func:`has_other_neighbors` asks for.
        found: their clusters with ``options``.
        record: gets the shares of rows on which a sample agrees, by their numbers of neighbours.

    Returns:
        The clusters, and the options that they are by.
    """
    agreement = _agreement(z, found, n_clusters, options, seed)
    shares = {options.n_neighbors: agreement}
    if agreement < _STABLE:
        n = len(found.distinct)
        others = replace(options, n_neighbors=usual_neighbors(n / n_clusters, False))
        again = cluster_by_self_expression(z, found.distinct, n_clusters, others, seed)
        shares[others.n_neighbors] = _agreement(z, again, n_clusters, others, seed)
        if shares[others.n_neighbors] > agreement:
            found, options = again, others
    if record is not None:
        record["agreement"] = {str(neighbors): share for neighbors, share in shares.items()}
        record["n_neighbors"] = options.n_neighbors
    return found, options


def _agreement(
    z: Tensor, found: SelfExpressiveClusters, n_clusters: int, options: ExpressionOptions, seed: int
) -> float:
    """The share of a random third of the rows whose clusters, found among these alone, are those of ``found``."""
    sample = np.sort(
        np.random.default_rng(seed).choice(len(z), len(z) // _SHARE, replace=False, shuffle=False)
    )
    rows = z[torch.from_numpy(sample).to(z.device)]
    distinct: DistinctRows = distinct_rows(rows)
    if len(distinct) <= n_clusters:
        return 1.0  # nearly all rows repeat others
    # the ridge is for the spectrum of the sample
    chosen = replace(
        options, ridge=usual_expression(rows, distinct, n_clusters, images=True).ridge,
        n_components=min(options.n_components, len(distinct)),
    )  # fmt: skip
    of_sample = cluster_by_self_expression(rows, distinct, n_clusters, chosen, seed)
    return clustering_accuracy(found.labels[sample], of_sample.labels)
