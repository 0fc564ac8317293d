"""The pictures beside the results of a fit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from desc_ext.data import Dataset

__all__ = ["PICTURES", "draw_pictures", "numbered_classes", "rows_name"]

PICTURES = (
    "embedding.png",
    "classes.png",
    "curves.png",
    "cluster_sizes.png",
    "examples.png",
    "affinity.png",
    "spectrum.png",
)
# What the embedding of a method without a network consists of.
_ROWS_NAMES = {"k-subspaces": "distances to the subspaces", "self-expressive": "diffusion coordinates"}


def rows_name(method: str) -> str:
    """What the rows of the embedding of a method are."""
    return _ROWS_NAMES.get(method, "latent rows")


def draw_pictures(folder: Path, estimator: Any, dataset: Dataset) -> None:
    """Writes the pictures of a fitted estimator to ``folder``; one that cannot be drawn is a warning."""
    from desc_ext import plots  # matplotlib takes its time

    heading = f"{estimator.method} on {dataset.name}"
    further = {}
    if hasattr(estimator, "dense_affinity") and estimator.embedding_ is not None:
        further["affinity.png"] = partial(_affinity, estimator, heading)
    spectra = [record for record in estimator.history_ if "eigenvalues" in record]
    if spectra:  # the first is that of the graph in which the number of clusters was looked for
        further["spectrum.png"] = partial(_spectrum, estimator, spectra[0], heading)
    plots.save_pictures(
        folder,
        estimator.history_,
        dataset.X,
        estimator.labels_,
        estimator.confidence(),
        estimator.embedding_,
        estimator.resolved_params_["n_clusters"],
        dataset.image_shape,
        heading=heading,
        rows_name=rows_name(estimator.method),
        classes=None if dataset.labels is None else numbered_classes(dataset),
        further=further,
    )


def numbered_classes(dataset: Dataset) -> tuple[np.ndarray, tuple[str, ...]]:
    """The known classes of a data set as numbers from 0, and the classes' names."""
    values = np.asarray(dataset.labels)
    values = values.astype(str) if values.dtype == object else values  # whatever they are, they can be sorted
    classes, numbers = np.unique(values, return_inverse=True)
    names = dataset.class_names
    if (
        names is not None
        and np.issubdtype(classes.dtype, np.integer)
        and classes[0] >= 0
        and classes[-1] < len(names)
    ):
        return numbers, tuple(str(names[int(k)]) for k in classes)
    return numbers, tuple(str(value) for value in classes.tolist())


def _spectrum(estimator: Any, record: dict[str, Any], heading: str) -> Any:
    from desc_ext import plots

    k, candidates = estimator.resolved_params_["n_clusters"], record.get("candidates", [])
    return plots.spectrum_figure(record["eigenvalues"], k, candidates, f"{heading}: spectrum")


def _affinity(estimator: Any, heading: str) -> Any:
    from desc_ext import plots

    landmarks = getattr(
        estimator, "landmarks_", None
    )  # the only rows that have an affinity, where there are some
    numbers = np.arange(len(estimator.labels_)) if landmarks is None else landmarks
    # rows of all clusters, in the order of the clusters
    rows = numbers[plots.rows_by_cluster(estimator.labels_[numbers])]
    affinity = estimator.dense_affinity(rows)
    return plots.affinity_figure(affinity, estimator.labels_[rows], f"{heading}: affinity")
