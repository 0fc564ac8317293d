"""The folder of results: what a finished fit writes, and how it is read again."""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

import desc_ext
from desc_ext.cli.inputs import save_preparation
from desc_ext.cli.settings import find_model
from desc_ext.data import Dataset
from desc_ext.engine.estimator import Estimator

__all__ = ["check_predicts", "estimator_input", "load_result", "write_json", "write_results"]

_RESULTS = (
    "labels.npy", "embedding.npy", "model", "input", "config.json", "history.csv", "metrics.json",
    "embedding.png", "curves.png", "cluster_sizes.png", "examples.png", "affinity.png",
)  # fmt: skip
# What the embedding of a method without a network consists of.
_ROWS_NAMES = {"k-subspaces": "distances to the subspaces", "self-expressive": "rows of the eigenvectors"}


def write_results(
    folder: Path,
    estimator: Any,
    dataset: Dataset,
    heading: str,
    metrics: dict[str, dict[str, float]],
    config: dict[str, Any],
) -> list[str]:
    """Replaces the results in ``folder`` by those of a fitted estimator; returns the names of what was written.

    Args:
        heading: what was clustered by what, for the pictures.
        metrics: for metrics.json.
        config: for config.json, to which versions and threads are added.
    """
    for name in _RESULTS:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)  # a fit without epochs keeps no checkpoint and no folder
    np.save(folder / "labels.npy", estimator.labels_)
    np.save(folder / "embedding.npy", estimator.embedding_)
    estimator.save(folder / "model")
    save_preparation(folder, dataset.preparation)
    _write_history(folder / "history.csv", estimator.history_)
    write_json(folder / "metrics.json", metrics)
    _draw(folder, estimator, dataset, heading)
    versions = {
        "desc_ext": desc_ext.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    write_json(folder / "config.json", config | {"versions": versions, "threads": torch.get_num_threads()})
    return [name for name in _RESULTS if (folder / name).exists()]


def _draw(folder: Path, estimator: Any, dataset: Dataset, heading: str) -> None:
    from desc_ext import plots

    plots.save_pictures(
        folder,
        estimator.history_,
        dataset.X,
        estimator.labels_,
        estimator.confidence(),
        estimator.embedding_,
        estimator.n_clusters,
        dataset.image_shape,
        heading=heading,
        rows_name=_ROWS_NAMES.get(estimator.method, "latent rows"),
    )
    if hasattr(estimator, "dense_affinity"):  # rows of all clusters, in the order of the clusters
        rows = plots.rows_by_cluster(estimator.labels_)
        affinity = estimator.dense_affinity(rows)
        figure = plots.affinity_figure(affinity, estimator.labels_[rows], f"{heading}: affinity")
        plots.save_figure(figure, folder / "affinity.png")


def write_json(path: Path, content: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2, default=str) + "\n")
    os.replace(part, path)


def _write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """One line an epoch; a list (cluster sizes) is one cell, its numbers separated by spaces."""
    columns = list(dict.fromkeys(key for record in history for key in record))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for record in history:
            writer.writerow(
                {k: " ".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in record.items()}
            )


# Reading


def load_result(folder: Path) -> tuple[str, Estimator]:
    """Name and fitted estimator from a folder of results.

    Raises:
        ValueError: when the folder holds no result, or a damaged one.
    """
    config = Path(folder) / "config.json"
    if not config.is_file():
        raise ValueError(
            f"{folder} is not a folder of results: it has no config.json (desc-ext fit --out writes it)"
        )
    try:
        name = json.loads(config.read_text())["model"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{config} is damaged: {error}") from error
    return name, find_model(name).load(Path(folder) / "model")


def estimator_input(estimator: Estimator, dataset: Dataset) -> np.ndarray:
    """What a fitted estimator takes of a data set: images if it was fitted to images, else rows."""
    of_images = estimator.features_ is not None or estimator.resolved_params_["image_shape"]
    return dataset.images if of_images else dataset.X


def check_predicts(name: str, estimator: Estimator, folder: Path) -> None:
    """Raises ValueError for a method that knows no clusters of new rows."""
    if not hasattr(estimator, "predict"):
        raise ValueError(
            f"{name} assigns no new rows to its clusters (nor does scikit-learn's SpectralClustering): the clusters of "
            f"the rows it was fitted to are in {Path(folder) / 'labels.npy'}; for others fit again, or use a model "
            "that predicts"
        )
