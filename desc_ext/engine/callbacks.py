"""Callbacks: what is called while an estimator fits, and the record of a fit."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from desc_ext.metrics import clustering_scores

__all__ = ["Callback", "Evaluate", "ProgressBar", "Recorder"]


class Callback:
    """Hooks that an estimator calls while it fits. Subclass it and override what you need."""

    def on_fit_begin(self, model: Any, stages: Mapping[str, int]) -> None:
        """Called once before the first epoch; ``stages`` maps "pretrain" and "refine" to their epochs."""

    def on_epoch_end(self, model: Any, record: dict[str, Any]) -> bool | None:
        """Called after every epoch with its history record; keys may be added to it (arrays become lists).

        In the "refine" stage ``model.labels_`` and ``model.embedding_`` are those of this epoch's end.
        A true return value ends the current stage after this epoch.
        """

    def on_fit_end(self, model: Any) -> None:
        """Called once when fitting ends, also when it ends by an error or Ctrl-C."""


class Evaluate(Callback):
    """Adds "acc", "nmi" and "ari" to the record of every refinement epoch.

    ``labels`` [n] (integers) are the true classes of the training rows. They are only compared with the
    clusters: nothing of the fit depends on them.
    """

    def __init__(self, labels: Any) -> None:
        self.labels = labels

    def on_epoch_end(self, model: Any, record: dict[str, Any]) -> None:
        if record["stage"] == "refine":
            scores = clustering_scores(np.asarray(self.labels), model.labels_)
            record.update({name: float(scores[name]) for name in ("acc", "nmi", "ari")})


class ProgressBar(Callback):
    """A rich progress bar on standard error: stage, loss, number of non-empty clusters, time left.

    Silent where standard error is no terminal.
    """

    def __init__(self) -> None:
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}

    def on_fit_begin(self, model: Any, stages: Mapping[str, int]) -> None:
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._tasks = {
            stage: self._progress.add_task(stage, total=n_epochs, note="")
            for stage, n_epochs in stages.items()
            if n_epochs
        }
        self._progress.start()

    def on_epoch_end(self, model: Any, record: dict[str, Any]) -> None:
        if self._progress is None:
            return
        note = f"loss {record['loss']:.4g}" if "loss" in record else ""
        if "cluster_sizes" in record:
            note += f"  clusters {sum(size > 0 for size in record['cluster_sizes'])}"
        self._progress.update(self._tasks[record["stage"]], completed=record["epoch"], note=note)

    def on_fit_end(self, model: Any) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_progress": None, "_tasks": {}}  # a live terminal cannot be pickled with the model


class Recorder:
    """Puts the records of a fit into its history and passes them to the callbacks."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.history: list[dict[str, Any]] = []
        self._callbacks: list[Callback] = [
            *(model.callbacks or []),
            *([ProgressBar()] if model.verbose else []),
        ]
        self._begun = False

    def begin(self, stages: Mapping[str, int]) -> None:
        """Calls ``on_fit_begin`` with the stages and the most epochs of each."""
        self.model.history_ = self.history
        self._begun = True
        for callback in self._callbacks:
            callback.on_fit_begin(self.model, stages)

    def record(self, record: dict[str, Any]) -> bool:
        """Adds the record of an epoch; returns whether a callback wants its stage to end."""
        self.history.append(record)
        answers = [bool(callback.on_epoch_end(self.model, record)) for callback in self._callbacks]
        for name, value in record.items():
            if isinstance(value, (np.generic, np.ndarray, Tensor)):
                record[name] = value.tolist()  # what a callback added: checkpoints and saved models are JSON
        return any(answers)

    def end(self) -> None:
        """Calls ``on_fit_end``, if the fit has begun."""
        if self._begun:
            for callback in self._callbacks:
                callback.on_fit_end(self.model)
