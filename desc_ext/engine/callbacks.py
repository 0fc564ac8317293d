"""Callbacks: what is called while an estimator fits, progress, and the record of a fit."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from desc_ext.metrics import clustering_scores

__all__ = ["Callback", "Evaluate", "ProgressBar", "Recorder", "check_callbacks"]


_HOOKS = ("on_fit_begin", "on_stage_begin", "on_epoch_end", "on_fit_end")
_LOGGER = logging.getLogger("desc_ext")
_SECONDS_BETWEEN_LINES = 5.0


class Callback:
    """Hooks that an estimator calls while it fits. Subclass it and override what you need.

    Any object with some of these methods is a callback too.
    """

    def on_fit_begin(self, model: Any, stages: Mapping[str, int]) -> None:
        """Called once before the first epoch; ``stages`` maps "pretrain" and "refine" to their epochs."""

    def on_stage_begin(self, model: Any, stage: str) -> None:
        """Called at the beginning of every stage with its name, unless the method has no stages but its epochs."""

    def on_epoch_end(self, model: Any, record: dict[str, Any]) -> bool | None:
        """Called after every epoch with its history record; keys may be added to it (arrays become lists).

        In the "refine" stage ``model.labels_`` and ``model.embedding_`` are those of this epoch's end; of rows on disk
        ``embedding_`` comes at the end of the fit.
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
    """Says how far a fit is: stage, epoch, loss, clusters that have rows, time.

    On a terminal a rich progress bar on standard error. Elsewhere lines of the logger "desc_ext" (level INFO): the first and
    the last epoch of every stage, and others when five seconds have passed since the last line. They go to standard error
    where no handler of ``logging`` is there to take them.
    """

    def __init__(self) -> None:
        self._display: _Bar | _Lines | None = None

    def on_fit_begin(self, model: Any, stages: Mapping[str, int]) -> None:
        self._display = _Bar(stages) if sys.stderr.isatty() else _Lines(type(model).__name__, stages)

    def on_stage_begin(self, model: Any, stage: str) -> None:
        if self._display is not None:
            self._display.enter(stage)

    def on_epoch_end(self, model: Any, record: dict[str, Any]) -> None:
        if self._display is not None:
            self._display.show(record)

    def on_fit_end(self, model: Any) -> None:
        if self._display is not None:
            self._display.close()
            self._display = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_display": None}  # a live terminal cannot be pickled with the model


def _note(record: Mapping[str, Any]) -> list[str]:
    note = [f"loss {record['loss']:.4g}"] if "loss" in record else []
    if "cluster_sizes" in record:
        note.append(f"clusters {sum(size > 0 for size in record['cluster_sizes'])}")
    return note


class _Bar:
    """A progress bar on a terminal."""

    def __init__(self, stages: Mapping[str, int]) -> None:
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

    def enter(self, stage: str) -> None:
        """Called where a stage begins, which its bar shows already."""

    def show(self, record: dict[str, Any]) -> None:
        self._progress.update(
            self._tasks[record["stage"]], completed=record["epoch"], note="  ".join(_note(record))
        )

    def close(self) -> None:
        self._progress.stop()


class _Lines:
    """Lines of a log."""

    def __init__(self, name: str, stages: Mapping[str, int]) -> None:
        self._name, self._stages = name, stages
        self._begun, self._last = time.monotonic(), -math.inf
        self._stage, self._held = (
            "",
            "",
        )  # what the last record was of, and its line where it was not yet said
        self._level = _LOGGER.level
        self._handler: logging.Handler | None = None
        if not _LOGGER.hasHandlers():
            self._handler = logging.StreamHandler()
            _LOGGER.addHandler(self._handler)
        if self._level == logging.NOTSET:  # else the root's level would decide, which is WARNING by default
            _LOGGER.setLevel(logging.INFO)

    def enter(self, stage: str) -> None:
        self._say_held()
        if self._stages.get(stage):
            _LOGGER.info("%s: %s begins, %.1f s", self._name, stage, time.monotonic() - self._begun)

    def show(self, record: dict[str, Any]) -> None:
        stage, epoch, now = record["stage"], record["epoch"], time.monotonic()
        first = stage != self._stage
        if first:
            self._say_held()
        self._stage, n_epochs = stage, self._stages.get(stage, epoch)
        parts = [f"{self._name}: {stage} {epoch} of {n_epochs}", *_note(record), f"{now - self._begun:.1f} s"]
        self._held = ", ".join(parts)
        if first or epoch == n_epochs or now - self._last >= _SECONDS_BETWEEN_LINES:
            self._say_held()

    def _say_held(self) -> None:
        if self._held:
            _LOGGER.info("%s", self._held)
            self._held, self._last = "", time.monotonic()

    def close(self) -> None:
        self._say_held()
        _LOGGER.setLevel(self._level)
        if self._handler is not None:
            _LOGGER.removeHandler(self._handler)


class Recorder:
    """Puts the records of a fit into its history and passes them to the callbacks."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.history: list[dict[str, Any]] = []
        self._callbacks = [*(model.callbacks or []), *([ProgressBar()] if model.verbose else [])]
        self._begun = False

    def begin(self, stages: Mapping[str, int]) -> None:
        """Calls ``on_fit_begin`` with the stages and the most epochs of each."""
        self.model.history_ = self.history
        self._begun = True
        self._call("on_fit_begin", stages)

    def enter(self, stage: str) -> None:
        """Calls ``on_stage_begin`` with the name of a stage."""
        self._call("on_stage_begin", stage)

    def record(self, record: dict[str, Any]) -> bool:
        """Adds the record of an epoch; returns whether a callback wants its stage to end."""
        self.history.append(record)
        answers = self._call("on_epoch_end", record)
        for name, value in record.items():
            if isinstance(value, (np.generic, np.ndarray, Tensor)):
                record[name] = value.tolist()  # what a callback added: checkpoints and saved models are JSON
        return any(answers)

    def end(self) -> None:
        """Calls ``on_fit_end``, if the fit has begun."""
        if self._begun:
            self._call("on_fit_end")

    def _call(self, hook: str, *arguments: Any) -> list[bool]:
        called = [getattr(callback, hook) for callback in self._callbacks if hasattr(callback, hook)]
        return [bool(method(self.model, *arguments)) for method in called]


def check_callbacks(name: str, callbacks: Any) -> None:
    """Raises ValueError where ``callbacks`` are no sequence of objects with one of the hooks."""
    if callbacks is None:
        return
    if not isinstance(callbacks, (list, tuple)):
        raise ValueError(f"{name}: callbacks must be a list of callbacks, got {callbacks!r}")
    for callback in callbacks:
        if isinstance(callback, type):
            raise ValueError(
                f"{name}: callbacks has the class {callback.__name__}, wanted an object of it: {callback.__name__}()"
            )
        if not any(callable(getattr(callback, hook, None)) for hook in _HOOKS):
            raise ValueError(
                f"{name}: callbacks has {callback!r}, which has none of the methods that are called: {', '.join(_HOOKS)}"
            )
