"""Agreement of a clustering with known classes. Labels are compared only up to a renaming of the clusters."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

__all__ = ["clustering_accuracy", "clustering_scores", "matched_clusters"]


def _check_labels(labels_true: ArrayLike, labels_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    labels_true, labels_pred = np.asarray(labels_true), np.asarray(labels_pred)
    for name, labels in (("labels_true", labels_true), ("labels_pred", labels_pred)):
        if labels.ndim != 1:
            raise ValueError(f"{name} must be one-dimensional, [n]; got shape {list(labels.shape)}")
    if len(labels_true) != len(labels_pred):
        raise ValueError(
            "labels_true and labels_pred must have the same length; "
            f"got {len(labels_true)} and {len(labels_pred)}"
        )
    if len(labels_true) == 0:
        raise ValueError("labels_true and labels_pred are empty: there is nothing to compare")
    return labels_true, labels_pred


def clustering_accuracy(labels_true: ArrayLike, labels_pred: ArrayLike) -> float:
    """Share of rows that are right under the best one-to-one naming of clusters by classes.

    The naming is the maximum-weight matching of the contingency table (Hungarian method). The numbers of
    classes and clusters may differ: rows of a cluster or class left without a partner count as wrong.

    Args:
        labels_true: known classes [n], any dtype that can be compared.
        labels_pred: cluster labels [n].

    Raises:
        ValueError: for labels that are not one-dimensional, of different length, or empty.
    """
    labels_true, labels_pred = _check_labels(labels_true, labels_pred)
    table = contingency_matrix(labels_true, labels_pred)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / len(labels_true))


def matched_clusters(classes: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """The cluster that each class 0, 1, ... is matched with for :func:`clustering_accuracy`.

    Args:
        classes: known classes [n], numbers from 0.
        labels: cluster labels [n], numbers from 0.

    Returns:
        int64 [largest class + 1]; classes beyond the clusters get numbers that no cluster has.
    """
    classes, labels = np.asarray(classes), np.asarray(labels)
    found = np.full(int(classes.max()) + 1, -1)
    present, clusters = np.unique(classes), np.unique(labels)
    rows, columns = linear_sum_assignment(contingency_matrix(classes, labels), maximize=True)
    found[present[rows]] = clusters[columns]
    free = itertools.count(int(labels.max()) + 1)
    return np.array([next(free) if cluster < 0 else cluster for cluster in found])


def clustering_scores(labels_true: ArrayLike, labels_pred: ArrayLike) -> dict[str, float]:
    """ACC, NMI and ARI of a clustering against known classes.

    Args:
        labels_true: known classes [n].
        labels_pred: cluster labels [n].

    Returns:
        ``acc`` (see :func:`clustering_accuracy`), ``nmi`` (mutual information over the arithmetic mean of the
            two entropies) and ``ari`` (adjusted Rand index); 1 is perfect, chance gives an ``ari`` of 0.

    Raises:
        ValueError: for labels that are not one-dimensional, of different length, or empty.
    """
    labels_true, labels_pred = _check_labels(labels_true, labels_pred)
    return {
        "acc": clustering_accuracy(labels_true, labels_pred),
        "nmi": float(normalized_mutual_info_score(labels_true, labels_pred)),
        "ari": float(adjusted_rand_score(labels_true, labels_pred)),
    }
