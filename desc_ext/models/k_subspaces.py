"""k-subspaces: every cluster a linear subspace, every row in its nearest one."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from desc_ext import ops
from desc_ext.models.base import damaged_config, from_config, saved_config
from desc_ext.models.inputs import input_rows, input_width, restore_features, saved_features, training_rows
from desc_ext.models.options import (
    FLAG,
    Check,
    check_options,
    choice,
    integer,
    number,
    optional,
    resolve_device,
)
from desc_ext.models.rows import Rows
from desc_ext.models.start import (
    Search,
    leading_directions,
    neighbours,
    one_thread,
    reduced_rows,
    search,
    subspace_bases,
)
from desc_ext.training import ProgressBar, check_tensors, read_state_folder, write_state_folder

__all__ = ["KSubspaces"]

_DEFAULT_DIM = 8


_OPTIONS: dict[str, Check] = {
    "subspace_dim": optional(integer(1)),
    "unit_rows": FLAG,
    "n_components": optional(integer(1)),
    "init": choice("k-subspaces++", "k-means"),
    "n_init": integer(1),
    "max_iter": integer(1),
    "tol": number(0, 1),
    "decay": number(0, 1),
}
_KEPT_BY_PARTIAL_FIT = ("n_clusters", "dtype", "subspace_dim", "unit_rows", "features", "feature_dim")


class KSubspaces(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """k-subspaces clustering (Bradley and Mangasarian, 2000; Tseng, 2000), with restarts.

    Minimises Σ_i min_k ‖x_i − S_k S_kᵀ x_i‖² over K orthonormal bases S_k [p, d], by Lloyd's alternation: every
    row goes to its nearest subspace, every subspace to the d leading eigenvectors of Σ x xᵀ over its rows. The
    restart with the smallest sum is kept. Subspaces pass through the origin; nothing is centred.

    Args:
        n_clusters: K.
        subspace_dim: d; None takes 8, or half of the columns (at least 1) where those are fewer than 16.
        unit_rows: cluster x / ‖x‖, so that rows count alike and the angle alone decides; a row of zeros stays.
        n_components: wider rows are clustered within the span of this many leading (uncentred) principal
            directions, q, which bounds time and memory: [n, q] rows in memory, K eigen-decompositions of q×q an
            iteration. Bases and residuals are those of the full space all the same. None: no such bound.
        init: where a restart begins: "k-subspaces++" (rows drawn by their residual, each with the rows nearest to it
            in angle) or "k-means" (the clusters of one k-means run).
        n_init: restarts. With more than 10,000 rows they see a random subset of as many, and the best one is
            continued on all rows.
        max_iter: iterations of a restart, and of the continuation on all rows, at most.
        tol: an alternation ends when no larger share of the labels changes in an iteration.
        decay: what is left of a cluster's Gram matrix at each mini-batch of :meth:`partial_fit` that brings it
            rows; 1 forgets nothing.
        features: None clusters the rows as they are, "scattering" the wavelet scattering features of images
            (:class:`desc_ext.features.Scattering2D`, J = 3, L = 8); the fitted transformer is ``features_``.
        feature_dim: principal components of the features, at most; None keeps all channels.
        image_shape: (H, W) or (C, H, W) of the images that flat rows hold; stacks [n, H, W] and [n, C, H, W] bring theirs.
        random_state: int, RandomState or None. The same integer on the same machine gives the same bits, for any
            number of torch's threads.
        device: "auto" (CUDA where there is one), or a torch device.
        dtype: "float32" or "float64", of rows and bases.
        callbacks: list of :class:`desc_ext.training.Callback`; stages are "restart" and "refine".
        verbose: 0, or 1 for a progress bar on the terminal.

    Attributes:
        bases_: [K, p, d], orthonormal columns, by decreasing energy.
        energies_: float64 [K, d], Σ (s_jᵀ x_i)² over the cluster's rows, column by column of its basis.
        labels_: int64 [n], clusters of the training rows (``partial_fit``: of the last mini-batch).
        embedding_: [n, K], their distances, as :meth:`transform` gives them.
        inertia_: Σ_i r_i over the same rows, r_i the squared residual to the nearest subspace.
        n_iter_: iterations of the restart kept, with those of its continuation; ``partial_fit`` adds 1 a call.
        n_repaired_: empty clusters that were given rows, in all restarts and mini-batches.
        history_: one dict a restart (stage "restart": epoch, seconds, loss, n_iter, n_repaired), one an iteration of
            the restart kept, or of its continuation on all rows (stage "refine": epoch, seconds, loss,
            label_change, n_repaired, cluster_sizes), one a mini-batch (stage "partial_fit": as "refine" without
            label_change). The loss is the mean residual.
        resolved_params_: every option with its value.
        features_: the fitted :class:`desc_ext.features.Scattering2D`, or None.
        n_features_in_: columns of the training data, a row an image; p without features.
    """

    _method: ClassVar[str] = "k-subspaces"

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        subspace_dim: int | None = None,
        unit_rows: bool = True,
        n_components: int | None = 100,
        init: str = "k-subspaces++",
        n_init: int = 20,
        max_iter: int = 100,
        tol: float = 0.0,
        decay: float = 0.9,
        features: str | None = None,
        feature_dim: int | None = 500,
        image_shape: tuple[int, ...] | None = None,
        random_state: Any = None,
        device: str = "auto",
        dtype: str = "float32",
        callbacks: list | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.subspace_dim = subspace_dim
        self.unit_rows = unit_rows
        self.n_components = n_components
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.decay = decay
        self.features = features
        self.feature_dim = feature_dim
        self.image_shape = image_shape
        self.random_state = random_state
        self.device = device
        self.dtype = dtype
        self.callbacks = callbacks
        self.verbose = verbose

    # ------------------------------------------------------------------ fit
    @torch.no_grad()
    def fit(self, X: Any, y: Any = None) -> KSubspaces:
        """Finds K subspaces for ``X``, rows [n_samples, n_features] or images; ``y`` is ignored. Returns self.

        Raises:
            ValueError: ``X`` or an option is not usable; the message says which and why.
            TypeError: ``X`` is sparse or not numeric.
        """
        options = check_options(self, _OPTIONS)
        X = training_rows(self, X, options)
        options = self._for_width(options, X.shape[1])
        seed = self._seed()
        rows = self._rows(X, options)
        self.resolved_params_, self.history_ = options, []
        self._memory = None
        callbacks = [*(self.callbacks or []), *([ProgressBar()] if self.verbose else [])]
        try:
            for callback in callbacks:
                callback.on_fit_begin(self, {"restart": options["n_init"], "refine": options["max_iter"]})
            with one_thread():
                z, axes = reduced_rows(
                    rows,
                    options["n_components"] or X.shape[1],
                    torch.Generator().manual_seed(seed),
                    options["unit_rows"],
                )
            self._check_range(z)
            found = search(z, self._search(options, seed), _Recorder(self, callbacks))
        finally:
            for callback in callbacks:
                callback.on_fit_end(self)
        bases = found.bases.double()
        self.energies_ = _energies(ops.segment_gram(z, found.labels, options["n_clusters"]), bases)
        with one_thread():
            bases = bases if axes is None else axes.double() @ bases
        self.bases_ = bases.to(rows.dtype).cpu().numpy()
        self.n_iter_, self.n_repaired_ = found.n_iter, found.n_repaired
        self._look(rows)
        n_used = len(np.unique(self.labels_))
        if n_used < options["n_clusters"]:
            warnings.warn(
                f"only {n_used} of n_clusters={options['n_clusters']} clusters have rows: the other subspaces are "
                "no row's nearest; lower n_clusters or subspace_dim",
                ConvergenceWarning,
                stacklevel=3,  # torch.no_grad stands between
            )
        return self

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """``fit(X)``, then ``labels_`` [n_samples] (int64)."""
        return self.fit(X).labels_

    @torch.no_grad()
    def partial_fit(self, X: Any, y: Any = None) -> KSubspaces:
        """One step on the mini-batch ``X`` [m, n_features]; ``y`` is ignored. Returns self.

        The first mini-batch finds the features, if any, and the subspaces as :meth:`fit` does, but in the full space,
        and needs at least n_clusters rows. Every later one adds its rows to the Gram matrices of their nearest
        subspaces, of which ``decay`` is left, and takes the leading eigenvectors anew. A cluster is empty when
        mini-batches of the weight 1, ``decay``, ``decay``², … back in time brought it less than one row; it then
        begins anew at the row that fits worst. After :meth:`fit`, its clusters count as one mini-batch.

        Keeps K·p² values beside the bases, and decomposes a p×p matrix for each cluster that gained rows: reduce
        very wide rows first (e.g. with PCA).

        Raises:
            ValueError, TypeError: as :meth:`fit`; also where n_clusters, subspace_dim, unit_rows, dtype, features or
                feature_dim are no longer those of the earlier steps.
        """
        started = time.perf_counter()
        options = check_options(self, _OPTIONS)
        begun = self.__sklearn_is_fitted__()
        if begun:
            X = input_rows(self, X)
            options |= {"features": self.features, "feature_dim": self.feature_dim}
            options["image_shape"] = self.resolved_params_["image_shape"]
        else:
            X = training_rows(self, X, options)
        options = self._for_width(options, X.shape[1])
        if begun:
            self._refuse_other_options(options)
        rows = self._rows(X, options)
        z = torch.cat(list(rows.chunks(options["unit_rows"])))
        self._check_range(z)
        if begun:
            loss, sizes, n_repaired = self._step(z, options)
        else:
            self.history_, self.n_iter_, self.n_repaired_ = [], 0, 0
            found = search(z, self._search(options, self._seed()))
            loss, n_repaired = found.residual, found.n_repaired
            gram = ops.segment_gram(z, found.labels, options["n_clusters"])
            sizes = torch.bincount(found.labels, minlength=options["n_clusters"])
            self.bases_, self._memory = found.bases.cpu().numpy(), (gram, sizes.double())
        self.resolved_params_ = options
        gram, _ = self._memory
        self.energies_ = _energies(gram, torch.from_numpy(self.bases_).to(gram).double())
        self.n_iter_ += 1
        self.n_repaired_ += n_repaired
        self._look(rows)
        record = {"stage": "partial_fit", "epoch": self.n_iter_, "seconds": time.perf_counter() - started}
        record |= {"loss": loss, "n_repaired": n_repaired, "cluster_sizes": sizes.tolist()}
        self.history_.append(record)
        return self

    def _step(self, z: Tensor, options: dict[str, Any]) -> tuple[float, Tensor, int]:
        """Mean residual and cluster sizes of a mini-batch before the step, and clusters begun anew."""
        n_clusters, dim = options["n_clusters"], options["subspace_dim"]
        bases = torch.from_numpy(self.bases_).to(z)
        gram, counts = self._remembered(bases)
        labels, residual = ops.nearest_subspace(z, bases)
        loss = float(residual.cpu().double().numpy().mean())
        sizes = torch.bincount(labels, minlength=n_clusters)
        served = sizes > 0
        gram = torch.where(served[:, None, None], options["decay"] * gram, gram)
        gram += ops.segment_gram(z, labels, n_clusters)
        counts = options["decay"] * counts + sizes
        empty = (counts < 1).nonzero().flatten().tolist()
        directions = torch.nn.functional.normalize(z, dim=1) if empty else z
        with one_thread():
            bases[served] = leading_directions(gram[served], dim)
            for cluster in empty:
                members = neighbours(directions, residual.argmax()[None], dim)[0]
                together = torch.zeros_like(members)
                gram[cluster] = ops.segment_gram(z[members], together, 1)[0]
                bases[cluster] = subspace_bases(z[members], together, 1, dim)[0]
                counts[cluster] = len(members)
                residual[members] = -1
        self.bases_, self._memory = bases.cpu().numpy(), (gram, counts)
        return loss, sizes, len(empty)

    def _remembered(self, bases: Tensor) -> tuple[Tensor, Tensor]:
        """Gram matrices [K, p, p] and row counts [K] of what was seen so far."""
        if self._memory is not None:
            return tuple(part.to(bases.device) for part in self._memory)
        # after fit: its subspaces with their energies; what lay outside of them is forgotten
        energies = torch.from_numpy(self.energies_).to(bases)
        with one_thread():
            gram = (bases * energies[:, None, :]) @ bases.mT
        counts = np.bincount(self.labels_, minlength=len(bases))
        return gram, torch.from_numpy(counts).to(bases.device, torch.float64)

    def _refuse_other_options(self, options: dict[str, Any]) -> None:
        for name in _KEPT_BY_PARTIAL_FIT:
            if options[name] != self.resolved_params_[name]:
                raise ValueError(
                    f"KSubspaces: {name}={options[name]!r}, but partial_fit goes on from a fit with "
                    f"{name}={self.resolved_params_[name]!r}; set it back, or start anew with fit or a clone"
                )

    # ------------------------------------------------------------------ what a fit needs
    def _for_width(self, options: dict[str, Any], n_features: int) -> dict[str, Any]:
        """The options with the default of subspace_dim put in, refused where it does not fit the columns."""
        dim, n_components = options["subspace_dim"], options["n_components"]
        width = min(n_features, n_components or n_features)
        if dim is None:
            dim = min(_DEFAULT_DIM, max(1, width // 2))
        if dim > width:
            narrow = (
                f"the {n_features} columns of X" if width == n_features else f"n_components={n_components}"
            )
            raise ValueError(
                f"KSubspaces: subspace_dim={dim} must be <= {narrow}: a subspace cannot be larger than its space"
            )
        return options | {"subspace_dim": dim}

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _rows(self, X: np.ndarray, options: dict[str, Any]) -> Rows:
        device, dtype = resolve_device(self.device), getattr(torch, options["dtype"])
        return Rows(X, torch.zeros(X.shape[1]), torch.ones(X.shape[1]), device, dtype)

    def _check_range(self, z: Tensor) -> None:
        if not torch.isfinite(z.square().sum(1)).all():
            raise ValueError(
                f"Input X has rows whose squared norm overflows {self.dtype}; scale X, or use unit_rows=True or "
                "dtype='float64'"
            )

    def _search(self, options: dict[str, Any], seed: int) -> Search:
        names = ("n_clusters", "n_init", "init", "max_iter", "tol")
        return Search(
            dim=options["subspace_dim"], seed=seed, one_thread=True, **{name: options[name] for name in names}
        )

    def _look(self, rows: Rows) -> None:
        """Labels, distances and inertia of rows under the bases."""
        residual = self._residuals(rows)
        self.labels_ = residual.argmin(1)
        self.inertia_ = float(residual.min(1).astype(np.float64).sum())
        self.embedding_ = np.sqrt(residual)

    @torch.no_grad()
    def _residuals(self, rows: Rows) -> np.ndarray:
        bases = torch.from_numpy(self.bases_).to(rows.device, rows.dtype)
        directions = self.resolved_params_["unit_rows"]
        return rows.map(lambda z: ops.projection_residual(z, bases), directions).cpu().numpy()

    # ------------------------------------------------------------------ scikit-learn's contract
    def transform(self, X: Any) -> np.ndarray:
        """Distances ‖x_i − S_k S_kᵀ x_i‖ [n_samples, K] (with ``unit_rows``, of x_i / ‖x_i‖: sines of angles)."""
        return np.sqrt(self._residuals_of(X))

    def predict(self, X: Any) -> np.ndarray:
        """Nearest subspace of every row of ``X`` (int64 [n_samples])."""
        return self._residuals_of(X).argmin(1)

    def certainty(self) -> np.ndarray:
        """How certain each training row's cluster is [n], larger is more: minus its distance to the subspace."""
        check_is_fitted(self)
        return -self.embedding_.min(axis=1)

    def score(self, X: Any, y: Any = None) -> float:
        """Minus the sum of squared residuals of ``X`` to the nearest subspaces: larger is better."""
        return -float(self._residuals_of(X).min(1).astype(np.float64).sum())

    def _residuals_of(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = input_rows(self, X)
        return self._residuals(self._rows(X, self.resolved_params_))

    @property
    def _n_features_out(self) -> int:
        return len(self.bases_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "embedding_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = []  # distances come out in the estimator's dtype
        return tags

    # ------------------------------------------------------------------ saving and loading
    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the fitted estimator to ``folder`` (safetensors and JSON, no pickle).

        ``callbacks`` are not saved; a ``random_state`` that is no integer is saved as None. After
        ``partial_fit`` its Gram matrices are saved too, so that it goes on with the same bits.
        """
        check_is_fitted(self)
        features, tensors = saved_features(self)
        tensors |= {name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS}
        if self._memory is not None:
            tensors["gram"], tensors["counts"] = self._memory
        config = saved_config(self) | features | {"inertia": self.inertia_, "n_repaired": self.n_repaired_}
        write_state_folder(folder, "model", config, tensors)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> KSubspaces:
        """The estimator that :meth:`save` wrote to ``folder``.

        Raises:
            FileNotFoundError: the folder or one of its files is missing.
            ValueError: a damaged file or tensor (named), another method, another format version.
        """
        config, tensors = read_state_folder(folder, "model")
        with damaged_config(folder):
            model = from_config(cls, folder, config)
            model.inertia_, model.n_repaired_ = config["inertia"], config["n_repaired"]
            k, d = model.resolved_params_["n_clusters"], model.resolved_params_["subspace_dim"]
            path = Path(folder) / config["tensor_file"]
            restore_features(model, path, config, tensors)
            p, n = input_width(model), len(tensors.get("labels_", ()))
        shapes = {"bases_": [k, p, d], "energies_": [k, d], "labels_": [n], "embedding_": [n, k]}
        if "gram" in tensors:
            shapes |= {"gram": [k, p, p], "counts": [k]}
        check_tensors(path, tensors, shapes)
        for name in _ARRAYS:
            setattr(model, name, tensors[name].numpy())
        model._memory = (tensors["gram"], tensors["counts"]) if "gram" in tensors else None
        return model


_ARRAYS = ("bases_", "energies_", "labels_", "embedding_")


def _energies(gram: Tensor, bases: Tensor) -> np.ndarray:
    """s_jᵀ G_k s_j [K, d] of the columns of ``bases`` [K, p, d] (float64)."""
    with one_thread():
        return (bases * (gram.double() @ bases)).sum(1).cpu().numpy()


class _Recorder:
    """Puts what the search reports into the history and before the callbacks."""

    def __init__(self, model: KSubspaces, callbacks: list) -> None:
        self.model, self.callbacks = model, callbacks
        self.since = time.perf_counter()

    def __call__(self, record: dict[str, Any], labels: Tensor | None) -> bool:
        now = time.perf_counter()
        record["seconds"], self.since = now - self.since, now
        if labels is not None:
            self.model.labels_ = labels.cpu().numpy()
        self.model.history_.append(record)
        asked = [bool(callback.on_epoch_end(self.model, record)) for callback in self.callbacks]
        return any(asked)
