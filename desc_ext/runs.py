"""A run of one method on one data set: its options, its folder of results, its checkpoint, its baselines."""

from __future__ import annotations

import contextlib
import csv
import difflib
import inspect
import json
import os
import platform
import shutil
import time
import types
import typing
from pathlib import Path

import numpy as np
import torch
from sklearn.preprocessing import normalize

import desc_ext
from desc_ext.data import Dataset
from desc_ext.metrics import clustering_scores
from desc_ext.models import MODELS
from desc_ext.models.inputs import input_rows
from desc_ext.models.rows import scaling_statistics
from desc_ext.training import Evaluate, ProgressBar

__all__ = ["Run", "estimator_options", "find_model", "load_model", "parse_setting"]

# Options of the estimators that have a flag of their own, or belong to the run.
_FLAGS = {
    "n_clusters": "--clusters",
    "random_state": "--seed",
    "preset": "--preset",
    "features": "--features",
    "external": "--external",
}
_OF_THE_RUN = ("callbacks", "checkpoint", "resume", "verbose")
_RESULTS = (
    "labels.npy", "embedding.npy", "model", "config.json", "history.csv", "metrics.json",
    "embedding.png", "curves.png", "cluster_sizes.png", "examples.png", "affinity.png",
)  # fmt: skip


# What the embedding of a method without a network consists of.
_ROWS_NAMES = {"k-subspaces": "distances to the subspaces", "self-expressive": "rows of the eigenvectors"}


def find_model(name: str):
    """The estimator class called ``name``.

    Raises:
        ValueError: for a name that is not known; the message lists those that are.
    """
    if name not in MODELS:
        raise ValueError(
            f"there is no model '{name}'; models are {', '.join(MODELS)}{_closest(name, MODELS)}"
        )
    return MODELS[name]


def _closest(name: str, names) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def estimator_options(name: str, estimator_class, settings: list[str], chosen: dict) -> dict:
    """Constructor arguments from the command line's flags and its ``--set NAME=VALUE``.

    Args:
        settings: the texts NAME=VALUE, each value read as the type of that argument.
        chosen: what the flags say; None stands for a flag that was not given.

    Raises:
        ValueError: for a name that the estimator does not have, or a value of the wrong type.
    """
    hints = typing.get_type_hints(estimator_class.__init__)
    names = [n for n in inspect.signature(estimator_class).parameters if n not in (*_FLAGS, *_OF_THE_RUN)]
    options = {key: value for key, value in chosen.items() if value is not None}
    for key in [key for key in options if key not in inspect.signature(estimator_class).parameters]:
        raise ValueError(f"{name} has no option {key}: leave out {_FLAGS.get(key, '--' + key)}")
    for text in settings:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            raise ValueError(f"--set wants NAME=VALUE; got '{text}'")
        if key in _FLAGS:
            raise ValueError(f"{key} is set by {_FLAGS[key]}, not by --set")
        if key not in names:
            raise ValueError(
                f"{name} has no option '{key}'{_closest(key, names)}; its options are {', '.join(names)}"
            )
        if key in options:
            raise ValueError(f"{key} is set twice")
        options[key] = parse_setting(key, value.strip(), hints.get(key, str))
    return options


def parse_setting(name: str, text: str, hint):
    """Reads ``text`` as the type ``hint``: numbers, booleans, None, words, and tuples such as 500,500,1000.

    Raises:
        ValueError: when the text is none of the types that the hint allows.
    """
    for kind in _alternatives(hint):
        try:
            return _parse(text, kind)
        except ValueError:
            continue
    raise ValueError(f"{name}={text}: wanted {_spell(hint)}")


def _alternatives(hint) -> list:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [part for option in typing.get_args(hint) for part in _alternatives(option)]
        # The narrower type first: 5 is an int where a float is allowed too; str takes anything, so last.
        order = {type(None): 0, bool: 1, int: 2, float: 3}
        return sorted(parts, key=lambda kind: 9 if kind is str else order.get(kind, 5))
    return [hint]


def _parse(text: str, kind):
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    lower = text.lower()
    if kind is type(None):
        if lower in ("none", "null"):
            return None
        raise ValueError
    if kind is bool:
        if lower in ("true", "yes", "on", "1"):
            return True
        if lower in ("false", "no", "off", "0"):
            return False
        raise ValueError
    if kind in (int, float, str):
        return kind(text)
    if origin is typing.Literal:
        return next(iter(value for value in arguments if str(value) == text), None) or _refuse()
    if kind in (tuple, list) or origin in (tuple, list) or "Sequence" in str(kind):
        item = next((argument for argument in arguments if argument is not Ellipsis), int)
        parts = [part.strip() for part in text.strip("()[]").split(",") if part.strip()]
        return tuple(parse_setting("item", part, item) for part in parts)
    raise ValueError


def _refuse():
    raise ValueError


def _spell(hint) -> str:
    names = {
        type(None): "none",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a word",
    }
    spelled = []
    for kind in sorted(_alternatives(hint), key=lambda kind: kind is type(None)):
        if typing.get_origin(kind) is typing.Literal:
            spelled.append(", ".join(map(str, typing.get_args(kind))))
        else:
            spelled.append(names.get(kind, "numbers such as 500,500,1000"))
    return " or ".join(dict.fromkeys(spelled))


def load_model(folder: Path):
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


def estimator_input(estimator, dataset: Dataset) -> np.ndarray:
    """What a fitted estimator takes of a data set: images if it was fitted to images, else rows."""
    of_images = estimator.features_ is not None or estimator.resolved_params_.get("image_shape")
    return dataset.images if of_images else dataset.X


def check_predicts(name: str, estimator, folder: Path) -> None:
    """Raises ValueError for a method that knows no clusters of new rows."""
    if not hasattr(estimator, "predict"):
        raise ValueError(
            f"{name} assigns no new rows to its clusters (nor does scikit-learn's SpectralClustering): the clusters of "
            f"the rows it was fitted to are in {Path(folder) / 'labels.npy'}; for others fit again, or use a model "
            "that predicts"
        )


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

    Raises:
        ValueError: when the folder is not empty, or there is nothing to resume, or it is another run's.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        options: dict,
        dataset: Dataset,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.folder, self.model, self.dataset = Path(folder), model, dataset
        self.options, self.resume = dict(options), resume
        self.written: list[str] = []
        # a fit without a network is short, or its method would keep checkpoints
        self.keeps_checkpoints = "checkpoint" in inspect.signature(MODELS[model]).parameters
        self._checkpoint = self.folder / "checkpoint"
        self._asked = {
            "model": model,
            "options": json.loads(json.dumps(options)),
            "data": {"name": dataset.name, "source": dataset.source, "shape": list(dataset.X.shape)},
        }
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file, not a folder for results")
        if resume:
            self._check_resume()
        elif self.folder.is_dir() and any(self.folder.iterdir()) and not overwrite:
            raise ValueError(self._why_not_empty())

    def _why_not_empty(self) -> str:
        if self.can_resume():
            return (
                f"{self.folder} holds an interrupted run: go on with --resume, or start anew with --overwrite"
            )
        if (self.folder / "config.json").is_file() and (self.folder / "model").is_dir():
            return (
                f"{self.folder} holds results already: replace them with --overwrite, or choose another --out"
            )
        return f"{self.folder} is not empty: choose another --out, or write there with --overwrite"

    def can_resume(self) -> bool:
        """Whether the folder holds a checkpoint."""
        return all((self._checkpoint / name).is_file() for name in ("run.json", "state/config.json"))

    def _check_resume(self) -> None:
        if not self.keeps_checkpoints:
            raise ValueError(
                f"{self.model} keeps no checkpoints, so there is nothing to resume; leave out --resume"
            )
        if not self.can_resume():
            why = (
                "its run has finished"
                if (self.folder / "metrics.json").is_file()
                else "it holds no checkpoint"
            )
            raise ValueError(f"there is nothing to resume in {self.folder}: {why}; leave out --resume")
        try:
            before = json.loads((self._checkpoint / "run.json").read_text())
        except ValueError as error:
            raise ValueError(f"{self._checkpoint / 'run.json'} is damaged: {error}") from error
        then, now = _flat(before), _flat(self._asked)
        for what in [*then, *(key for key in now if key not in then)]:
            if then.get(what) != now.get(what):
                raise ValueError(
                    f"{self.folder} was started with {what} = {then.get(what)}, and --resume was given with "
                    f"{now.get(what)}: give the same command as before, or start anew with --overwrite"
                )

    def fit(self) -> dict[str, dict]:
        """Fits, writes all results, returns the metrics: method to acc, nmi, ari (if known) and seconds."""
        if not self.resume:
            shutil.rmtree(self._checkpoint, ignore_errors=True)
        self._checkpoint.mkdir(parents=True, exist_ok=True)
        _write_json(self._checkpoint / "run.json", self._asked)
        kept = {"checkpoint": self._checkpoint / "state", "resume": self.resume}
        options, other = dict(self.options), self.dataset.external
        if other is not None:
            options["external"] = other.images if other.labels is None else (other.images, other.labels)
        estimator = MODELS[self.model](
            **options, callbacks=self._callbacks(), **(kept if self.keeps_checkpoints else {})
        )
        started = time.perf_counter()
        try:
            estimator.fit(self.dataset.images)
        finally:
            self._forget_if_nothing_was_kept()
        seconds = time.perf_counter() - started
        if self.resume:  # the parts before, which only the history knows
            seconds = sum(record["seconds"] for record in estimator.history_)
        self._metrics = {self.model: self._scores(estimator.labels_, seconds)}
        self._write(estimator)
        shutil.rmtree(self._checkpoint, ignore_errors=True)
        self._estimator = estimator
        return self._metrics

    def _forget_if_nothing_was_kept(self) -> None:
        """Removes a checkpoint folder without a checkpoint, so that a refused run does not block the next."""
        if not self.can_resume():
            shutil.rmtree(self._checkpoint, ignore_errors=True)
            with contextlib.suppress(OSError):  # not empty: results of an earlier run
                self.folder.rmdir()

    def _callbacks(self) -> list:
        callbacks = [ProgressBar()]
        if self.dataset.labels is not None:
            callbacks.insert(0, Evaluate(self.dataset.labels))
        return callbacks

    def _scores(self, labels, seconds: float) -> dict[str, float]:
        known = self.dataset.labels
        scores = {} if known is None else clustering_scores(known, labels)
        return {**scores, "seconds": round(seconds, 3)}

    def _write(self, estimator) -> None:
        from desc_ext import plots

        folder, dataset = self.folder, self.dataset
        for name in _RESULTS:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)  # a fit without epochs keeps no checkpoint and no folder
        np.save(folder / "labels.npy", estimator.labels_)
        np.save(folder / "embedding.npy", estimator.embedding_)
        estimator.save(folder / "model")
        _write_history(folder / "history.csv", estimator.history_)
        _write_json(folder / "metrics.json", self._metrics)
        plots.save_pictures(
            folder,
            estimator.history_,
            dataset.X,
            estimator.labels_,
            estimator.certainty(),
            estimator.embedding_,
            self.options["n_clusters"],
            dataset.image_shape,
            heading=f"{self.model} on {dataset.name}",
            rows_name=_ROWS_NAMES.get(self.model, "latent rows"),
        )
        self._draw_affinity(estimator)
        parameters = estimator.get_params() | estimator.resolved_params_
        if "external" in self.options:  # its name rather than its rows
            parameters["external"] = self.options["external"]
        versions = {
            "desc_ext": desc_ext.__version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        }
        config = {
            **self._asked,
            "parameters": {k: parameters[k] for k in parameters if k not in _OF_THE_RUN},
            "versions": versions,
            "threads": torch.get_num_threads(),
        }
        _write_json(folder / "config.json", config)
        self.written = [name for name in _RESULTS if (folder / name).exists()]

    def _draw_affinity(self, estimator) -> None:
        """affinity.png, of the methods that learn one: rows of all clusters, in the order of the clusters."""
        from desc_ext import plots

        if not hasattr(estimator, "dense_affinity"):
            return
        rows = plots.rows_by_cluster(estimator.labels_)
        affinity = estimator.dense_affinity(rows)
        title = f"{self.model} on {self.dataset.name}: affinity"
        plots.save_figure(
            plots.affinity_figure(affinity, estimator.labels_[rows], title), self.folder / "affinity.png"
        )

    def add_baselines(self) -> dict[str, dict]:
        """Runs k-means on the equally scaled rows and autoencoder + k-means, into metrics.json too."""
        from sklearn.cluster import KMeans

        k, seed = self.options["n_clusters"], self.options["random_state"]
        n_init = self._estimator.resolved_params_.get("n_init", 20)
        started = time.perf_counter()
        scaled = _scaled(self._estimator, self.dataset).astype(np.float32)
        labels = KMeans(k, n_init=n_init, random_state=seed).fit(scaled).labels_
        self._metrics["k-means"] = self._scores(labels, time.perf_counter() - started)
        if self.model != "ae-kmeans":
            allowed = inspect.signature(MODELS["ae-kmeans"]).parameters
            options = {key: value for key, value in self.options.items() if key in allowed}
            started = time.perf_counter()
            estimator = MODELS["ae-kmeans"](**options, callbacks=[ProgressBar()]).fit(self.dataset.images)
            self._metrics["ae-kmeans"] = self._scores(estimator.labels_, time.perf_counter() - started)
        _write_json(self.folder / "metrics.json", self._metrics)
        return self._metrics


def _scaled(estimator, dataset: Dataset) -> np.ndarray:
    """The rows as the estimator scales them before its network, its subspaces or its regression see them."""
    rows, options = input_rows(estimator, estimator_input(estimator, dataset)), estimator.resolved_params_
    offset, scale = scaling_statistics(rows, options.get("scaling", "none"))
    rows = (rows - offset) / scale
    return normalize(rows) if options.get("unit_rows") else rows


def _flat(asked: dict) -> dict:
    """The nested dictionary with keys such as ``options.epochs``."""
    flat = {}
    for key, value in asked.items():
        flat.update({f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value})
    return flat


def _write_json(path: Path, content: dict) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2, default=str) + "\n")
    os.replace(part, path)


def _write_history(path: Path, history: list[dict]) -> None:
    """One line an epoch; a list (cluster sizes) is one cell, its numbers separated by spaces."""
    columns = list(dict.fromkeys(key for record in history for key in record))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for record in history:
            writer.writerow(
                {k: " ".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in record.items()}
            )
