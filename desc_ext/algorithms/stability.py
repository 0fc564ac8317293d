"""How many neighbours of images, by whether a sample of the rows is clustered as all of them are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from desc_ext.algorithms.distinct import distinct_rows
from desc_ext.algorithms.landmarks import chosen_landmarks
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
    sample = chosen_landmarks(len(z), len(z) // _SHARE, n_clusters, seed)
    assert sample is not None
    rows = z[torch.from_numpy(sample).to(z.device)]
    distinct = distinct_rows(rows)
    shares = {options.n_neighbors: 1.0}  # where nearly all rows repeat others
    if len(distinct) > n_clusters:
        # the ridge is for the spectrum of the sample
        ridge = usual_expression(rows, distinct, n_clusters, images=True).ridge

        def agreement(all_rows: SelfExpressiveClusters, chosen: ExpressionOptions) -> float:
            chosen = replace(chosen, ridge=ridge, n_components=min(chosen.n_components, len(distinct)))
            alone = cluster_by_self_expression(rows, distinct, n_clusters, chosen, seed)
            return clustering_accuracy(all_rows.labels[sample], alone.labels)

        few = shares[options.n_neighbors] = agreement(found, options)
        if few < _STABLE:
            usual = usual_neighbors(len(found.distinct) / n_clusters, False)
            others = replace(options, n_neighbors=usual)
            again = cluster_by_self_expression(z, found.distinct, n_clusters, others, seed)
            shares[usual] = agreement(again, others)
            if shares[usual] > few:
                found, options = again, others
    if record is not None:
        record["agreement"] = {str(neighbors): share for neighbors, share in shares.items()}
        record["n_neighbors"] = options.n_neighbors
    return found, options
