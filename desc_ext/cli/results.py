"""The folder of results: what a finished fit writes, and how it is read again."""

from __future__ import annotations

import csv
import io
import json
import platform
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

import desc_ext
from desc_ext.cli.inputs import load_preparation, naming_data, save_preparation
from desc_ext.cli.labels import write_labels_csv
from desc_ext.cli.lock import locked
from desc_ext.cli.pictures import PICTURES
from desc_ext.cli.settings import find_model
from desc_ext.cli.swap import finish_swap, new_set, swap_is_pending
from desc_ext.data import Dataset
from desc_ext.durable import json_object, replace_file, replacing
from desc_ext.engine.estimator import Estimator
from desc_ext.engine.large_arrays import file_of, has_moved, move_array
from desc_ext.engine.rows import Input
from desc_ext.messages import counted

__all__ = [
    "RESULTS", "check_kind", "check_predicts", "estimator_input", "load_result", "write_json", "write_predictions",
    "write_results",
]  # fmt: skip

RESULTS = (
    "labels.npy", "labels.csv", "embedding.npy", "model", "input", "history.csv", "metrics.json", "config.json",
    "report.html", *PICTURES,
)  # fmt: skip


def write_results(
    folder: Path,
    estimator: Any,
    dataset: Dataset,
    metrics: dict[str, dict[str, float]],
    config: dict[str, Any],
    keep_embedding: bool = True,
) -> None:
    """Replaces the results in ``folder`` by those of a fitted estimator, all at once; pictures and report come after.

    Args:
        metrics: for metrics.json.
        config: for config.json, to which versions and threads are added.
        keep_embedding: whether there is to be an embedding.npy. One that lies in a file is moved, not copied.

    Raises:
        OSError: they could not be written; older results are as they were.
    """
    with new_set(folder, RESULTS) as new:
        with replacing(new / "labels.npy") as file:
            _save_array(file, estimator.labels_)
        with replacing(new / "labels.csv") as file:
            write_labels_csv(file, estimator.labels_, dataset.ids, estimator.confidence())
        if keep_embedding:
            _write_embedding(new / "embedding.npy", estimator.embedding_)
        estimator.save(new / "model")
        save_preparation(new, dataset.preparation)
        _write_history(new / "history.csv", estimator.history_)
        write_json(new / "metrics.json", metrics)
        versions = {
            "desc_ext": desc_ext.__version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        }
        write_json(new / "config.json", config | {"versions": versions, "threads": torch.get_num_threads()})
    if keep_embedding and file_of(estimator.embedding_) is not None:
        has_moved(estimator.embedding_, folder / "embedding.npy")


def _write_embedding(path: Path, embedding: np.ndarray) -> None:
    if file_of(embedding) is not None:
        move_array(embedding, path)
        return
    with replacing(path) as file:
        _save_array(file, embedding)


class _Writer:
    """A file as NumPy does not know it: it then writes by this method, whose errors say what is wrong with the disk."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write


def _save_array(file: BinaryIO, array: np.ndarray) -> None:
    np.save(_Writer(file), array, allow_pickle=False)


def write_json(path: Path, content: dict[str, Any]) -> None:
    replace_file(path, (json.dumps(content, indent=2, default=str) + "\n").encode())


def _write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """One line an epoch; a list (cluster sizes) is one cell, its numbers separated by spaces."""
    columns = list(dict.fromkeys(key for record in history for key in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for record in history:
        writer.writerow(
            {k: " ".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in record.items()}
        )
    replace_file(path, text.getvalue().encode(errors="backslashreplace"))


def write_predictions(path: Path, estimator: Any, dataset: Dataset) -> np.ndarray:
    """Writes the clusters of a data set to a .npy or .csv file, and returns them; to .csv how sure they are, too."""
    rows, confidence = estimator_input(estimator, dataset), None
    with naming_data(dataset.source):
        if path.suffix != ".csv":
            labels = estimator.predict(rows)
        elif hasattr(estimator, "predict_proba"):
            labels, confidence = estimator.predict(rows), estimator.predict_proba(rows).max(axis=1)
        else:
            labels, confidence = estimator._sure_labels(rows)
    with replacing(path) as file:
        if path.suffix == ".csv":
            write_labels_csv(file, labels, dataset.ids, confidence)
        else:
            _save_array(file, labels)
    return labels


# Reading


def load_result(folder: Path) -> tuple[str, Estimator]:
    """Name and fitted estimator from a folder of results, or from one that an estimator's ``save`` wrote.

    Raises:
        ValueError: when the folder holds no result, or a damaged one.
    """
    if swap_is_pending(Path(folder)):  # a run was killed while it moved its results into place
        with locked(Path(folder)):
            finish_swap(Path(folder), RESULTS)
    config = Path(folder) / "config.json"
    if (Path(folder) / "checkpoint" / "run.json").is_file() and not config.is_file():
        raise ValueError(f"{folder} holds an interrupted run: go on with it first, desc-ext fit ... --resume")
    if not config.is_file():
        raise ValueError(
            f"{folder} is neither a folder of results nor a saved model: it has no config.json (desc-ext fit --out writes it)"
        )
    content = json_object(config)
    if content.get("kind") == "model" and isinstance(content.get("method"), str):
        return content["method"], find_model(content["method"]).load(folder)
    name = content.get("model")
    if not isinstance(name, str):
        raise ValueError(f"{config} is damaged: its model is {name!r}")
    return name, find_model(name).load(Path(folder) / "model")


def estimator_input(estimator: Estimator, dataset: Dataset) -> Input:
    """What a fitted estimator takes of a data set: images if it was fitted to images, else rows."""
    of_images = estimator.features_ is not None or estimator.resolved_params_["image_shape"]
    return dataset.images if of_images else dataset.X


def check_kind(estimator: Estimator, dataset: Dataset, source: str, folder: Path) -> None:
    """Raises ValueError for rows of another width than those of the fit; the message says what the fit was of.

    Args:
        source: how the user named the data.
    """
    wanted, got = estimator.n_features_in_, dataset.X.shape[1]
    if got == wanted:
        return
    shape = load_preparation(folder).image_shape
    if shape is None and estimator.resolved_params_["image_shape"]:
        channels, *size = estimator.resolved_params_["image_shape"]
        shape = tuple(size) if channels == 1 else (*size, channels)
    kind = counted(wanted, "column") if shape is None else f"images {'×'.join(map(str, shape))}"
    has = (
        counted(got, "column")
        if dataset.image_shape is None
        else f"images {'×'.join(map(str, dataset.image_shape))}"
    )
    raise ValueError(f"{source} has {has}, and the result in {folder} was fitted to {kind}")


def check_predicts(name: str, estimator: Estimator, folder: Path) -> None:
    """Raises ValueError for a method that knows no clusters of new rows."""
    if not hasattr(estimator, "predict"):
        raise ValueError(
            f"{name} assigns no new rows to its clusters (nor does scikit-learn's SpectralClustering): the clusters of "
            f"the rows it was fitted to are in {Path(folder) / 'labels.npy'}; for others fit again, or use a model "
            "that predicts"
        )
