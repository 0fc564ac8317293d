"""Numbers of each cluster, and how clusters and known classes meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import silhouette_samples
from sklearn.metrics.cluster import contingency_matrix

from desc_ext.stored import finite_sample, rows_at

__all__ = ["Cluster", "Confusion", "confusion", "describe_clusters"]

MOST_CLUSTERS = 60  # in the report
_MOST_CELLS = 40  # rows and columns of the table of classes
_SILHOUETTE_ROWS = 2000  # whose distances to each other are computed

Classes = tuple[np.ndarray, tuple[str, ...]]  # numbers of the rows' classes, names of the classes


@dataclass
class Cluster:
    """A cluster: its numbers, and what its rows are like.

    Attributes:
        share: of all rows.
        confidence, silhouette: means over its rows, or None where there is none.
        majority, majority_share: the class most of its rows are of, "" where classes are not known.
        picture: a strip of its images as a data URI, with ``n_pictures`` images.
        terms: words that are more frequent in it than elsewhere.
        samples: beginnings of some of its texts.
        profile: columns in which it differs most from all rows: name, mean, difference in standard deviations.
    """

    number: int
    size: int
    share: float
    confidence: float | None
    silhouette: float | None
    majority: str = ""
    majority_share: float = 0.0
    picture: str = ""
    n_pictures: int = 0
    terms: Sequence[str] = ()
    samples: Sequence[str] = ()
    profile: Sequence[tuple[str, float, float]] = field(default_factory=list)

    @property
    def has_details(self) -> bool:
        """Whether anything is said of what its rows are like."""
        return bool(self.picture or self.terms or self.samples or self.profile)


@dataclass(frozen=True)
class Confusion:
    """Rows by cluster and class, the classes in the order of the clusters that they are matched with."""

    classes: Sequence[str]
    rows: Sequence[tuple[int, Sequence[int]]]  # number of a cluster, its rows of each class
    matched: int  # classes that have a cluster of their own: the diagonal


def describe_clusters(
    labels: np.ndarray,
    confidence: np.ndarray,
    embedding: np.ndarray | None,
    n_clusters: int,
    classes: Classes | None,
) -> tuple[list[Cluster], int]:
    """The clusters with the most rows, by their numbers, and how many are left out; no embedding, no silhouettes."""
    sizes = np.bincount(labels, minlength=n_clusters)
    shown = np.sort(np.argsort(-sizes, kind="stable")[:MOST_CLUSTERS])
    silhouettes = {} if embedding is None else _silhouettes(embedding, labels)
    clusters = []
    for k in shown.tolist():
        members = labels == k
        cluster = Cluster(
            k,
            int(sizes[k]),
            float(sizes[k] / max(len(labels), 1)),
            _mean(confidence[members]),
            silhouettes.get(k),
        )
        if classes is not None and sizes[k]:
            counts = np.bincount(classes[0][members])
            cluster.majority = classes[1][int(counts.argmax())]
            cluster.majority_share = float(counts.max() / sizes[k])
        clusters.append(cluster)
    return clusters, len(sizes) - len(shown)


def _mean(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean(dtype=np.float64)) if len(finite) else None


def _silhouettes(embedding: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """Mean silhouette of the clusters in a sample of the rows; empty where there is only one cluster to see."""
    rows = finite_sample(embedding, _SILHOUETTE_ROWS)
    labels = labels[rows]
    present = np.unique(labels)
    if not 2 <= len(present) < len(rows):
        return {}
    points = rows_at(embedding, rows).astype(np.float64)
    values = silhouette_samples(points / (np.abs(points).max() or 1), labels)
    return {int(k): float(values[labels == k].mean()) for k in present}


def confusion(
    labels: np.ndarray, n_clusters: int, numbers: np.ndarray, names: tuple[str, ...]
) -> Confusion | None:
    """The table of clusters and classes, or None where it would be too large to read."""
    if max(n_clusters, len(names)) > _MOST_CELLS:
        return None
    table: Any = np.zeros((n_clusters, len(names)), dtype=np.int64)
    present = np.unique(labels)
    table[present] = contingency_matrix(numbers, labels).T
    rows, columns = linear_sum_assignment(table, maximize=True)
    row_order = [*rows.tolist(), *(k for k in range(n_clusters) if k not in set(rows.tolist()))]
    column_order = [*columns.tolist(), *(c for c in range(len(names)) if c not in set(columns.tolist()))]
    return Confusion(
        [names[c] for c in column_order],
        [(k, table[k, column_order].tolist()) for k in row_order],
        len(rows),
    )
