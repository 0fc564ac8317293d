"""A run of one method on one data set: its folder of results, its checkpoint, its baselines."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from desc_ext.algorithms.kmeans import kmeans_model
from desc_ext.algorithms.landmarks import chosen_landmarks
from desc_ext.cli.inputs import naming_data
from desc_ext.cli.occupied import check_folder, holds_checkpoint, keeps_checkpoints
from desc_ext.cli.pictures import draw_pictures
from desc_ext.cli.results import RESULTS, estimator_input, write_json, write_results
from desc_ext.cli.settings import OF_THE_RUN
from desc_ext.data import Dataset, StoredRows
from desc_ext.durable import json_object
from desc_ext.engine.callbacks import Callback, Evaluate, ProgressBar
from desc_ext.engine.estimator import Estimator
from desc_ext.engine.inputs import BLOCK_ROWS, input_rows
from desc_ext.engine.large_arrays import remove_left_over
from desc_ext.engine.options import option_fields
from desc_ext.engine.rows import Input, scaling_statistics
from desc_ext.messages import counted
from desc_ext.metrics import clustering_scores
from desc_ext.models import MODELS
from desc_ext.norms import unit_rows
from desc_ext.stored import blocks

__all__ = ["STATE", "Run", "scaled_input", "with_image_shape"]

_LISTED = 20  # clusters whose rows are told one by one
STATE = "state"  # the estimator's own folder in that of the checkpoint


Metrics = dict[str, dict[str, float]]  # method → acc, nmi, ari (if known) and seconds


class Run:
    """One method on one data set, with a folder of results.

    While it runs, everything lies in ``folder/checkpoint``: the estimator's state and what was asked for.
    Only when the fit has ended are older results replaced, so an interrupted run loses nothing.

    Args:
        folder: where results go; made if missing.
        model: the method's name in ``desc_ext.models.MODELS``.
        options: constructor arguments of the estimator.
        dataset: the rows; their known classes, if any, are only used by the Evaluate callback and metrics.
        resume: go on with the checkpoint in ``folder``, which must be of the same run.
        overwrite: allow a folder that is not empty.
        distributed: fit together with the other processes of torch.distributed's group.
        keep_embedding: whether the embedding is among the results; of many rows on disk it is not even computed.
        reading: what was asked of how the data are read, for ``config.json``: arguments of ``load_dataset``.

    Raises:
        ValueError: when the folder is not empty, or there is nothing to resume, or it is another run's.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        options: dict[str, Any],
        dataset: Dataset,
        resume: bool = False,
        overwrite: bool = False,
        distributed: bool = False,
        keep_embedding: bool = True,
        reading: dict[str, Any] | None = None,
    ) -> None:
        self.distributed = distributed
        self.folder, self.model, self.dataset = Path(folder), model, dataset
        self.options, self.resume = dict(options), resume
        self._keep_embedding, self._reading = keep_embedding, dict(reading or {})
        self.keeps_checkpoints = keeps_checkpoints(model)
        self._report: Any = None
        self._checkpoint = self.folder / "checkpoint"
        self._asked = {
            "model": model,
            "options": json.loads(json.dumps(options)),
            "data": {"name": dataset.name, "source": dataset.source, "shape": list(dataset.X.shape)},
        }
        check_folder(self.folder, model, resume, overwrite)
        if resume:
            self._refuse_another_run()

    def can_resume(self) -> bool:
        """Whether the folder holds a checkpoint."""
        return holds_checkpoint(self.folder)

    def _refuse_another_run(self) -> None:
        then, now = _flat(json_object(self._checkpoint / "run.json")), _flat(self._asked)
        for what in [*then, *(key for key in now if key not in then)]:
            if then.get(what) != now.get(what):
                raise ValueError(
                    f"{self.folder} was started with {what} = {then.get(what)}, and --resume was given with "
                    f"{now.get(what)}: give the same command as before, or start anew with --overwrite"
                )

    def fit(self) -> Metrics:
        """Fits, writes all results, returns the metrics: method to acc, nmi, ari (if known) and seconds."""
        if not self.resume:
            shutil.rmtree(self._checkpoint, ignore_errors=True)
        self._checkpoint.mkdir(parents=True, exist_ok=True)
        remove_left_over(self._checkpoint)
        write_json(self._checkpoint / "run.json", self._asked)
        options, other = self.options | {"callbacks": self._callbacks()}, self.dataset.external
        if other is not None:
            other = other.in_memory()  # of whatever size: a teacher is taught by all of them
            options["external"] = other.images if other.labels is None else (other.images, other.labels)
        if self.keeps_checkpoints:
            options |= {"checkpoint": self._checkpoint / STATE, "resume": self.resume}
        if self.distributed:
            options["distributed"] = True
        estimator = MODELS[self.model](**with_image_shape(options, self.dataset))
        # where a large one is moved from into the results, which are of the same file system
        estimator._large_files, estimator._keeps_embedding = self._checkpoint, self._keep_embedding
        started = time.perf_counter()
        try:
            with naming_data(self.dataset.source):
                estimator.fit(self.dataset.images)
            seconds = time.perf_counter() - started
            if self.resume:  # the parts before, which only the history knows
                seconds = sum(record["seconds"] for record in estimator.history_)
            self._metrics = {self.model: self._scores(estimator.labels_, seconds)}
            parameters = self._parameters(estimator)
            self._write(estimator, {**self._asked, "reading": self._reading, "parameters": parameters})
        finally:
            self._forget_if_nothing_was_kept()
        shutil.rmtree(self._checkpoint, ignore_errors=True)
        self._estimator = estimator
        return self._metrics

    def _write(self, estimator: Estimator, config: dict[str, Any]) -> None:
        try:
            write_results(self.folder, estimator, self.dataset, self._metrics, config, self._keep_embedding)
        except OSError as error:
            kept = (
                "the fit is kept, go on with --resume" if self.can_resume() else "nothing of the fit is kept"
            )
            raise OSError(
                f"the results could not be written to {self.folder}: {error}; make room there: {kept}"
            ) from error

    @property
    def written(self) -> list[str]:
        """Names of the results in the folder."""
        return [name for name in RESULTS if (self.folder / name).exists()]

    def sizes(self) -> str:
        """The rows of each cluster in a line, of many clusters the smallest, the median and the largest."""
        sizes = np.bincount(self._estimator.labels_, minlength=self._estimator.resolved_params_["n_clusters"])
        clusters, used = counted(len(sizes), "cluster"), sizes[sizes > 0]
        if len(sizes) <= _LISTED:
            return (
                f"{clusters}: {', '.join(f'{size:,}' for size in sizes)} row{'' if sizes.max() == 1 else 's'}"
            )
        empty = f", {len(sizes) - len(used):,} empty" if len(used) < len(sizes) else ""
        return f"{clusters}{empty}: {used.min():,} to {used.max():,} rows, median {np.median(used):,.0f}"

    def draw(self) -> None:
        """Draws the pictures; one that cannot be drawn is a warning."""
        draw_pictures(self.folder, self._estimator, self.dataset)

    def write_report(self, pictures: bool) -> None:
        """Writes report.html, anew where scores have come since; what cannot be reported is a warning."""
        from desc_ext.cli import report  # which imports what nothing else needs

        try:
            if self._report is None:
                seconds = self._metrics[self.model]["seconds"]
                self._report = report.describe_run(self._estimator, self.dataset, seconds, pictures)
            report.write_report(self.folder, self._report, self._metrics, pictures)
        except Exception as error:  # no report is worth a result
            warnings.warn(f"the report could not be written: {type(error).__name__}: {error}", stacklevel=2)

    def _parameters(self, estimator: Estimator) -> dict[str, Any]:
        parameters = estimator.get_params() | estimator.resolved_params_
        if "external" in self.options:  # its name rather than its rows
            parameters["external"] = self.options["external"]
        return {name: value for name, value in parameters.items() if name not in OF_THE_RUN}

    def _forget_if_nothing_was_kept(self) -> None:
        """Removes a checkpoint folder without a checkpoint, so that a refused run does not block the next."""
        if not self.can_resume():
            shutil.rmtree(self._checkpoint, ignore_errors=True)

    def _callbacks(self) -> list[Callback]:
        callbacks: list[Callback] = [ProgressBar()]
        if self.dataset.labels is not None:
            callbacks.insert(0, Evaluate(self.dataset.labels))
        return callbacks

    def _scores(self, labels: np.ndarray, seconds: float) -> dict[str, float]:
        known = self.dataset.labels
        scores = {} if known is None else clustering_scores(known, labels)
        return {**scores, "seconds": round(seconds, 3)}

    def add_baselines(self) -> Metrics:
        """Runs k-means on the equally scaled rows and autoencoder + k-means, into metrics.json too."""
        k, seed = self._estimator.resolved_params_["n_clusters"], self.options["random_state"]
        n_init = self._estimator.resolved_params_.get("n_init", 20)
        started = time.perf_counter()
        labels = _kmeans_labels(scaled_input(self._estimator, self.dataset), k, n_init, seed)
        self._metrics["k-means"] = self._scores(labels, time.perf_counter() - started)
        if self.model != "ae-kmeans":
            allowed = option_fields(MODELS["ae-kmeans"])
            options = {key: value for key, value in self.options.items() if key in allowed}
            options |= {"n_clusters": k, "features": self._estimator.resolved_params_["features"]}
            started = time.perf_counter()
            options = with_image_shape(options | {"callbacks": [ProgressBar()]}, self.dataset)
            estimator = MODELS["ae-kmeans"](**options).fit(self.dataset.images)
            self._metrics["ae-kmeans"] = self._scores(estimator.labels_, time.perf_counter() - started)
        write_json(self.folder / "metrics.json", self._metrics)
        return self._metrics


def with_image_shape(options: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    """The options, and which axis of the images has the channels, which the file's reader knows."""
    shape = dataset.shape_of_images
    return options if shape is None else {"image_shape": shape, **options}


def scaled_input(estimator: Estimator, dataset: Dataset) -> Input:
    """The rows as the estimator scales them before its network, its subspaces or its regression see them.

    Rows on disk, and features of such, are scaled where they are read.
    """
    rows, options = input_rows(estimator, estimator_input(estimator, dataset)), estimator.resolved_params_
    offset, scale = scaling_statistics(rows, options.get("scaling", "none"))

    def scaled(block: np.ndarray) -> np.ndarray:
        block = (np.asarray(block) - offset) / scale
        return unit_rows(torch.from_numpy(block)).numpy() if options.get("unit_rows") else block

    return rows.changed(scaled, rows.shape[1], scale.dtype) if isinstance(rows, StoredRows) else scaled(rows)


def _kmeans_labels(X: Input, n_clusters: int, n_init: int, seed: int) -> np.ndarray:
    """Clusters [n] of k-means; of more than 200,000 rows on disk of landmarks, the others' nearest centres."""
    landmarks = None
    if isinstance(X, StoredRows):
        landmarks = chosen_landmarks(len(X), None, n_clusters, seed)
    if landmarks is None:
        return kmeans_model(np.asarray(X, dtype=np.float32), n_clusters, n_init, seed).labels_
    model = kmeans_model(X[landmarks].astype(np.float32), n_clusters, n_init, seed)
    return np.concatenate([model.predict(block.astype(np.float32)) for block in blocks(X, BLOCK_ROWS)])


def _flat(asked: dict[str, Any]) -> dict[str, Any]:
    """The nested dictionary with keys such as ``options.epochs``."""
    flat: dict[str, Any] = {}
    for key, value in asked.items():
        flat.update({f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value})
    return flat
