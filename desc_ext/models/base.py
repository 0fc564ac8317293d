"""The loop that every estimator shares: scale the input, pretrain, initialise, refine, predict."""

from __future__ import annotations

import contextlib
import math
import os
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from desc_ext.models.checkpoint import read_checkpoint, restore_optimizer, write_checkpoint
from desc_ext.models.inputs import input_rows, input_width, restore_features, saved_features, training_rows
from desc_ext.models.options import CHECKS, Check, resolve_device, resolve_options
from desc_ext.models.rows import Rows, map_chunks, scaling_statistics
from desc_ext.nn import Autoencoder, parameter_dtype, set_dtype
from desc_ext.training import (
    Callback,
    ProgressBar,
    adam,
    check_tensors,
    read_state_folder,
    write_state_folder,
)

__all__ = [
    "Assessment", "ClusteringNetwork", "DeepClusterer", "DeepEmbedding", "Fit", "damaged_config", "from_config",
    "saved_config",
]  # fmt: skip


class ClusteringNetwork(nn.Module):
    """What an estimator trains and saves: the autoencoder, the input scaling and the method's own parts."""

    def __init__(self, n_features: int, options: dict[str, Any], generator: torch.Generator) -> None:
        super().__init__()
        self.autoencoder = self._autoencoder(n_features, options, generator)
        self.register_buffer("offset", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(n_features, dtype=torch.float64))

    def _autoencoder(self, n_features: int, options: dict[str, Any], generator: torch.Generator) -> nn.Module:
        return Autoencoder(
            n_features,
            options["hidden_sizes"],
            options["latent_dim"],
            generator,
            unit_codes=options["unit_codes"],
        )


@dataclass
class Assessment:
    """One look at the whole data set, at the end of an epoch; constant during the next one."""

    z: Tensor  # codes [n, p]
    labels: Tensor  # int64 [n]
    target: Tensor | None = None  # [n, K], what the clustering loss aims at
    sample_weight: Tensor | None = None  # H [n]
    record: dict[str, Any] = field(default_factory=dict)  # what this look adds to the history


@dataclass
class Fit:
    """The moving parts of one call of ``fit``: all that a checkpoint has to hold."""

    options: dict[str, Any]
    rows: Rows
    network: ClusteringNetwork
    seed: int
    order: torch.Generator  # draws the mini-batches (CPU)
    noise: torch.Generator  # draws the input corruption (on the device)
    callbacks: list[Callback]
    stage: str = "pretrain"  # one of the estimator's _stages
    without_clusters: tuple[str, ...] = ("pretrain",)  # the stages before there are initial labels
    epoch: int = 0  # epochs finished in this stage
    stopped: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    initial_labels: Tensor | None = None
    optimizer_state: dict[int, dict[str, Tensor]] | None = None  # read from a checkpoint, not yet in use


class DeepEmbedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Base class: the scikit-learn contract, the training loop, checkpoints, saving and loading.

    A method defines ``_method`` (its name in saved folders), ``_presets`` and the functions ``_build``,
    ``_initialise``, ``_assess`` and ``_refine_losses``; with ``_assign`` it is a :class:`DeepClusterer`. Stages other
    than "pretrain" and "refine" take ``_stages`` and a ``_refine`` of its own.
    """

    _method: ClassVar[str]
    _presets: ClassVar[dict[str, dict[str, Any]]]
    _checks: ClassVar[dict[str, Check]] = CHECKS

    # ------------------------------------------------------------------ what a method adds
    @abstractmethod
    def _build(self, n_features: int, options: dict[str, Any], generator: torch.Generator):
        """The untrained network, a ClusteringNetwork, on the CPU in float32."""

    @abstractmethod
    def _initialise(self, fit: Fit, z: Tensor) -> Tensor:
        """Sets the clusters of the pretrained network from its codes ``z``; returns their labels [n]."""

    @abstractmethod
    def _assess(self, fit: Fit, z: Tensor) -> Assessment:
        """Labels, targets and weights of all rows for the codes ``z`` of the current network."""

    def _refine_losses(
        self, fit: Fit, z: Tensor, index: Tensor, now: Assessment
    ) -> dict[str, tuple[float, Tensor]]:
        """The method's loss terms on one mini-batch: name → (weight, mean over its rows)."""
        return {}

    def _repair(self, fit: Fit, now: Assessment, optimizer: torch.optim.Optimizer) -> int:
        """Re-seeds clusters that have no rows; returns how many. Only where a method can lose clusters."""
        return 0

    # ------------------------------------------------------------------ scikit-learn's contract
    def fit(self, X: Any, y: Any = None):
        """Fits network and clusters to ``X``, rows [n_samples, n_features] or images; ``y`` is ignored. Returns self.

        Raises:
            ValueError: ``X`` or an option is not usable (the message says which and why), or ``resume``
                meets a checkpoint of another fit.
            TypeError: ``X`` is sparse or not numeric.
            FloatingPointError: the loss became NaN or infinite; the last checkpoint is left as it was.
        """
        options = self._resolve_options()
        fit = self._begin(training_rows(self, X, options), options)
        if self.resume and (Path(self.checkpoint) / "config.json").exists():
            read_checkpoint(self.checkpoint, self._method, fit)
        self.resolved_params_ = options
        self.history_ = fit.history
        before = torch.backends.cudnn.deterministic
        torch.backends.cudnn.deterministic = True  # the fastest convolutions of a GPU add in any order
        try:
            for callback in fit.callbacks:
                callback.on_fit_begin(self, self._stages(options))
            self._pretrain(fit)
            self._refine(fit)
        finally:
            torch.backends.cudnn.deterministic = before
            for callback in fit.callbacks:
                callback.on_fit_end(self)
        self.network_ = fit.network
        self.initial_labels_ = fit.initial_labels.cpu().numpy()
        self.n_iter_ = fit.epoch
        return self

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """``fit(X)``, then ``labels_`` [n_samples] (int64)."""
        return self.fit(X).labels_

    def transform(self, X: Any) -> np.ndarray:
        """Latent codes [n_samples, latent_dim] of ``X`` in the estimator's dtype."""
        return self._codes(X).cpu().numpy()

    def certainty(self) -> np.ndarray:
        """How certain each training row's cluster is [n], larger is more: minus its code's distance to their mean."""
        check_is_fitted(self)
        clusters, number = np.unique(self.labels_, return_inverse=True)
        means = np.stack([self.embedding_[number == k].mean(0) for k in range(len(clusters))])
        return -np.linalg.norm(self.embedding_ - means[number], axis=1)

    @property
    def _n_features_out(self) -> int:
        return self.resolved_params_["latent_dim"]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        # codes come out in the dtype of the network, whatever dtype went in
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _codes(self, X: Any) -> Tensor:
        check_is_fitted(self)
        X = input_rows(self, X)
        network = self.network_
        parameter = next(network.parameters())
        rows = Rows(X, network.offset, network.scale, parameter.device, parameter.dtype)
        with torch.no_grad():
            return rows.map(network.autoencoder.encode)

    # ------------------------------------------------------------------ the loop
    def _resolve_options(self) -> dict[str, Any]:
        return resolve_options(self, self._presets, self._checks)

    def _stages(self, options: dict[str, Any]) -> dict[str, int]:
        """The stages in their order, with the most epochs of each."""
        return {"pretrain": options["pretrain_epochs"], "refine": options["epochs"]}

    def _enter_next_stage(self, fit: Fit) -> None:
        stages = list(self._stages(fit.options))
        fit.stage, fit.epoch, fit.stopped = stages[stages.index(fit.stage) + 1], 0, False

    def _begin(self, X: np.ndarray, options: dict[str, Any]) -> Fit:
        device, dtype = resolve_device(self.device), parameter_dtype(options["dtype"])
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        network = self._build(X.shape[1], options, torch.Generator().manual_seed(seed))
        offset, scale = scaling_statistics(X, options["scaling"])
        set_dtype(network, options["dtype"])
        network.offset, network.scale = torch.from_numpy(offset), torch.from_numpy(scale)
        network.to(device)
        return Fit(
            options=options,
            rows=Rows(X, network.offset, network.scale, device, dtype),
            network=network,
            seed=seed,
            order=torch.Generator().manual_seed(seed + 1),
            noise=torch.Generator(device).manual_seed(seed + 2),
            callbacks=[*(self.callbacks or []), *([ProgressBar()] if self.verbose else [])],
        )

    def _pretrain(self, fit: Fit) -> None:
        if fit.stage != "pretrain":
            return
        parameters = list(fit.network.autoencoder.parameters())
        self._train_codes(fit, adam(parameters, fit.options["pretrain_learning_rate"]))
        fit.initial_labels = self._initialise(fit, self._encode_all(fit)).clone()
        self._enter_next_stage(fit)

    def _refine(self, fit: Fit) -> None:
        self._train_clusters(fit, adam(fit.network.parameters(), fit.options["learning_rate"]))

    def _train_codes(self, fit: Fit, optimizer: torch.optim.Optimizer) -> None:
        """The epochs of a stage that has no clusters."""
        restore_optimizer(optimizer, fit)
        while fit.epoch < self._stages(fit.options)[fit.stage] and not fit.stopped:
            started = time.perf_counter()
            losses = self._epoch(fit, optimizer, None)
            record = {"stage": fit.stage, "epoch": fit.epoch + 1, "seconds": time.perf_counter() - started}
            self._end_epoch(fit, optimizer, {**record, **losses}, stop=False)

    def _train_clusters(self, fit: Fit, optimizer: torch.optim.Optimizer) -> None:
        """The epochs of a stage with clusters, and a look at all rows at the end of each."""
        options = fit.options
        restore_optimizer(optimizer, fit)
        now = self._look(fit)
        while fit.epoch < self._stages(options)[fit.stage] and not fit.stopped:
            started, before = time.perf_counter(), now.labels
            losses = self._epoch(fit, optimizer, now)
            fit.epoch += 1  # targets of the next epoch depend on its number
            now, n_repaired = self._look_and_repair(fit, optimizer)
            fit.epoch -= 1
            change = float((now.labels != before).double().mean())
            record = {"stage": fit.stage, "epoch": fit.epoch + 1, "seconds": time.perf_counter() - started}
            record |= losses | now.record | {"label_change": change, "n_repaired": n_repaired}
            record["cluster_sizes"] = torch.bincount(now.labels, minlength=options["n_clusters"]).tolist()
            warm = fit.epoch + 1 <= options.get("warmup_epochs", 0)
            self._end_epoch(fit, optimizer, record, stop=change < options["tol"] and not warm)

    def _epoch(self, fit: Fit, optimizer: torch.optim.Optimizer, now: Assessment | None) -> dict[str, float]:
        """One pass of mini-batches; the mean of every loss term over their rows."""
        sums: dict[str, Tensor] = {}
        batches = list(self._batches(fit))
        n = sum(map(len, batches))
        for index in batches:
            terms = self._terms(fit, index, now)
            loss = sum(weight * value for weight, value in terms.values())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            for name, value in {"loss": loss, **{k: v for k, (_, v) in terms.items()}}.items():
                sums[name] = sums.get(name, 0.0) + value.detach().double() * (len(index) / n)
        return {name: float(value) for name, value in sums.items()}

    def _batches(self, fit: Fit) -> Iterable[Tensor]:
        """Row numbers (int64) of the mini-batches of one epoch."""
        return torch.randperm(len(fit.rows), generator=fit.order).split(fit.options["batch_size"])

    def _terms(self, fit: Fit, index: Tensor, now: Assessment | None) -> dict[str, tuple[float, Tensor]]:
        """All loss terms on the mini-batch of rows ``index``: name → (weight, mean over its rows)."""
        x = fit.rows.take(index.numpy())
        z, reconstruction = fit.network.autoencoder(self._corrupt(fit, x))
        terms = {"reconstruction": (1.0, self._reconstruction(fit, x, reconstruction))}
        if now is not None:
            terms |= self._refine_losses(fit, z, index.to(x.device), now)
        return terms

    def _corrupt(self, fit: Fit, x: Tensor) -> Tensor:
        if not fit.options["corruption"]:
            return x
        kept = torch.rand(x.shape, generator=fit.noise, device=x.device) >= fit.options["corruption"]
        return x * kept

    def _reconstruction(self, fit: Fit, x: Tensor, reconstruction: Tensor) -> Tensor:
        squared = (x - reconstruction).square()
        return squared.sum(1).mean() if fit.options["reconstruction"] == "sum" else squared.mean()

    def _encode_all(self, fit: Fit) -> Tensor:
        with torch.no_grad():
            return fit.rows.map(fit.network.autoencoder.encode)

    def _look(self, fit: Fit) -> Assessment:
        with torch.no_grad():
            now = self._assess(fit, self._encode_all(fit))
        self.labels_ = now.labels.cpu().numpy()
        self.embedding_ = now.z.cpu().numpy()
        return now

    def _look_and_repair(self, fit: Fit, optimizer: torch.optim.Optimizer) -> tuple[Assessment, int]:
        now, n_repaired = self._look(fit), 0
        for _ in range(fit.options["n_clusters"]):  # a re-seeded cluster may empty another one
            with torch.no_grad():
                repaired = self._repair(fit, now, optimizer)
            if not repaired:
                break
            n_repaired += repaired
            now = self._look(fit)
        return now, n_repaired

    def _end_epoch(
        self, fit: Fit, optimizer: torch.optim.Optimizer, record: dict[str, Any], stop: bool
    ) -> None:
        if not math.isfinite(record["loss"]):
            raise FloatingPointError(
                f"{type(self).__name__}: the loss became {record['loss']} in {record['stage']} epoch "
                f"{record['epoch']}; lower the learning rate, or set scaling so that inputs are of order 1"
            )
        fit.epoch += 1
        fit.history.append(record)
        asked = [bool(callback.on_epoch_end(self, record)) for callback in fit.callbacks]
        fit.stopped = stop or any(asked)
        if self.checkpoint is not None:
            self._write_checkpoint(fit, optimizer)

    def _write_checkpoint(self, fit: Fit, optimizer: torch.optim.Optimizer) -> None:
        write_checkpoint(self.checkpoint, self._method, fit, optimizer)

    # ------------------------------------------------------------------ saving and loading
    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the fitted estimator to ``folder`` (safetensors and JSON, no pickle).

        ``callbacks`` are not saved; a ``random_state`` that is no integer is saved as None.
        """
        check_is_fitted(self)
        features, tensors = saved_features(self)
        tensors |= {f"network.{name}": value for name, value in self.network_.state_dict().items()}
        for name in ("labels_", "initial_labels_", "embedding_"):
            tensors[name] = torch.from_numpy(getattr(self, name))
        write_state_folder(folder, "model", saved_config(self) | features, tensors)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]):
        """The estimator that :meth:`save` wrote to ``folder``, on the CPU or the device it asks for.

        Raises:
            FileNotFoundError: the folder or one of its files is missing.
            ValueError: a damaged file or tensor (named), another method, another format version.
        """
        config, tensors = read_state_folder(folder, "model")
        with damaged_config(folder):
            model = from_config(cls, folder, config)
            options = model.resolved_params_
            path = Path(folder) / config["tensor_file"]
            restore_features(model, path, config, tensors)
            network = model._build(input_width(model), options, torch.Generator().manual_seed(0))
        n_samples = len(tensors["labels_"]) if "labels_" in tensors else 0
        shapes = {f"network.{name}": t.shape for name, t in network.state_dict().items()}
        shapes |= {"labels_": [n_samples], "initial_labels_": [n_samples]}
        shapes["embedding_"] = [n_samples, options["latent_dim"]]
        check_tensors(path, tensors, shapes)
        set_dtype(network, options["dtype"])
        network.offset, network.scale = network.offset.double(), network.scale.double()
        network.load_state_dict({n: tensors[f"network.{n}"] for n in network.state_dict()})
        model.network_ = network.to(resolve_device(model.device))
        for name in ("labels_", "initial_labels_", "embedding_"):
            setattr(model, name, tensors[name].numpy())
        return model


class DeepClusterer(DeepEmbedding):
    """Base class of the methods that assign new rows to their clusters."""

    @abstractmethod
    def _assign(self, network: ClusteringNetwork, z: Tensor) -> Tensor:
        """Soft assignment [n, K] of codes."""

    def predict_proba(self, X: Any) -> np.ndarray:
        """Soft assignments [n_samples, n_clusters] of ``X``; rows sum to 1."""
        return self._proba(self._codes(X))

    def certainty(self) -> np.ndarray:
        """How certain each training row's cluster is [n], larger is more: its largest soft assignment."""
        check_is_fitted(self)
        parameter = next(self.network_.parameters())
        z = torch.as_tensor(self.embedding_, device=parameter.device, dtype=parameter.dtype)
        return self._proba(z).max(axis=1)

    @torch.no_grad()
    def _proba(self, z: Tensor) -> np.ndarray:
        return map_chunks(lambda part: self._assign(self.network_, part), z).cpu().numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Cluster of every row of ``X`` (int64 [n_samples]): the arg max of ``predict_proba``."""
        return self.predict_proba(X).argmax(1).astype(np.int64)


def saved_config(model: Any) -> dict[str, Any]:
    """What every saved estimator's ``config.json`` holds; :func:`from_config` reads it back."""
    params = model.get_params(deep=False) | {"callbacks": None}
    if not isinstance(params.get("external", ""), str):  # data, not a name
        params["external"] = None
    if not isinstance(params["random_state"], (int, np.integer)):
        params["random_state"] = None
    return {
        "method": model._method,
        "params": {name: _jsonable(value) for name, value in params.items()},
        "resolved_params": model.resolved_params_,
        "n_features": int(model.n_features_in_),
        "feature_names": getattr(model, "feature_names_in_", np.array([])).tolist(),
        "n_iter": model.n_iter_,
        "history": model.history_,
    }


def from_config(cls: type, folder: str | os.PathLike[str], config: dict[str, Any]) -> Any:
    """The estimator with what :func:`saved_config` wrote, still without its tensors."""
    if config.get("method") != cls._method:
        raise ValueError(
            f"{folder} holds a model of method {config.get('method')!r}, but {cls.__name__} is "
            f"{cls._method!r}; load it with desc_ext.models.load_model"
        )
    model = cls(**{n: tuple(v) if isinstance(v, list) else v for n, v in config["params"].items()})
    model.resolved_params_, model.n_features_in_ = config["resolved_params"], config["n_features"]
    model.n_iter_, model.history_ = config["n_iter"], config["history"]
    if config["feature_names"]:
        model.feature_names_in_ = np.array(config["feature_names"], dtype=object)
    return model


@contextlib.contextmanager
def damaged_config(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what goes wrong on reading a configuration's values into a ValueError that names the file."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{Path(folder) / 'config.json'} is damaged: {error!r}") from error


def _jsonable(value: Any) -> Any:
    if isinstance(value, (os.PathLike, torch.device)):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    return list(value) if isinstance(value, tuple) else value
