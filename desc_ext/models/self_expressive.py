"""Self-expressive clustering: rows as combinations of each other, then spectral clustering of the coefficients."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from desc_ext import ops
from desc_ext.fixed_shapes import row_linear
from desc_ext.models.base import damaged_config, from_config, saved_config
from desc_ext.models.inputs import input_rows, input_width, restore_features, saved_features, training_rows
from desc_ext.models.options import (
    CHECKS,
    FLAG,
    Check,
    check_options,
    choice,
    integer,
    number,
    optional,
    resolve_device,
)
from desc_ext.models.rows import Rows, scaling_statistics
from desc_ext.models.spectral import (
    degree_roots,
    join_small_components,
    leading_eigenvectors,
    spectral_kmeans,
    symmetric_affinity,
)
from desc_ext.training import ProgressBar, check_tensors, read_state_folder, write_state_folder

__all__ = ["SelfExpressiveClustering", "all_affinities", "sparse_affinity"]

_OPTIONS: dict[str, Check] = {
    "scaling": CHECKS["scaling"],
    "unit_rows": FLAG,
    "ridge": number(0, strict=True),
    "k": integer(1),
    "n_vectors": optional(integer(1)),
    "eigen_solver": choice("arpack", "lobpcg"),
    "n_init": integer(1),
}
_STAGES = ("rows", "coefficients", "affinity", "eigenvectors", "k-means")
_ARRAYS = ("labels_", "embedding_", "cluster_centers_", "eigenvalues_")
_PRIVATE = ("_z", "_inverse", "_extension", "_offset", "_scale")


class SelfExpressiveClustering(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator
):
    """Least squares regression of every row on all others (LSR, Lu et al., 2012), then spectral clustering, at scale.

    The coefficients C minimise ‖C‖² + ‖Z − C Z‖²/ε with diag C = 0 over the scaled rows Z [n, p]. Each row keeps its k
    largest |C_ij|; the affinity is W = (|C| + |Cᵀ|)/2 of those. The m leading eigenvectors of D^(-1/2) W D^(-1/2), their
    rows divided by their norm, are clustered by k-means (Ng, Jordan and Weiss, 2001). C has a closed form whose
    entries :func:`desc_ext.ops.coefficient_topk` computes by tiles: no n×n array is stored, and memory is O(n (p + k)).

    Small components of the graph would each claim an eigenvector: every row in a component of fewer than n/(10 K) rows
    is joined to the row outside of it with the largest (|C_ij| + |C_ji|)/2.

    New rows are regressed on the training rows with the same ε; their k largest coefficients extend the eigenvectors
    to them (Nyström), and the nearest k-means centre is their cluster. A training row then takes part in its own
    regression, so ``predict`` of the training rows may differ from ``labels_`` where clusters meet.

    Args:
        n_clusters: K.
        scaling: of the columns: "none", "global" (column means and one overall deviation), "standard" (column by
            column) or "minmax" (overall range to [0, 1]).
        unit_rows: divide the scaled rows by their norm, so that rows count alike; a row of zeros stays.
        ridge: ε, in units of the mean ‖z_i‖².
        k: coefficients kept of each row; n − 1 at most.
        n_vectors: m; None takes K + 1, which are K beside the trivial D^(1/2) 1: where one class falls into two parts
            more readily than two classes part from each other, K vectors would merge those two.
        eigen_solver: "arpack" or "lobpcg".
        n_init: k-means runs; the one with the smallest inertia is kept.
        features: None takes the rows as they are, "scattering" the wavelet scattering features of images
            (:class:`desc_ext.features.Scattering2D`, J = 3, L = 8); the fitted transformer is ``features_``.
        feature_dim: principal components of the features, at most; None keeps all channels.
        image_shape: (H, W) or (C, H, W) of the images that flat rows hold; stacks [n, H, W] and [n, C, H, W] bring theirs.
        random_state: int, RandomState or None. The same integer on the same machine with the same number of threads
            gives the same bits.
        device: "auto" (CUDA where there is one), or a torch device, for the coefficients; the eigenvectors are SciPy's.
        dtype: "float32" or "float64", of rows, coefficients and results.
        callbacks: list of :class:`desc_ext.training.Callback`; stages are "rows", "coefficients", "affinity",
            "eigenvectors" and "k-means", of one epoch each.
        verbose: 0, or 1 for a progress bar on the terminal.

    Attributes:
        labels_: int64 [n], clusters of the training rows.
        affinity_matrix_: W, a SciPy CSR array [n, n].
        embedding_: [n, m], what k-means saw.
        eigenvalues_: [m], of D^(-1/2) W D^(-1/2), descending from 1; 1 − eigenvalue is the normalised Laplacian's.
        cluster_centers_: [K, m], the k-means centres.
        inertia_: their sum of squared distances.
        n_iter_: iterations of the k-means run kept.
        history_: one dict a stage: stage, epoch (1), seconds; "affinity" adds n_joined (rows of small components),
            "eigenvectors" the eigenvalues, "k-means" loss (the inertia) and cluster_sizes.
        resolved_params_: every option with its value.
        features_: the fitted :class:`desc_ext.features.Scattering2D`, or None.
        n_features_in_: columns of the training data, a row an image.
    """

    _method: ClassVar[str] = "self-expressive"

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        scaling: str = "none",
        unit_rows: bool = True,
        ridge: float = 1.0,
        k: int = 5,
        n_vectors: int | None = None,
        eigen_solver: str = "arpack",
        n_init: int = 20,
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
        self.scaling = scaling
        self.unit_rows = unit_rows
        self.ridge = ridge
        self.k = k
        self.n_vectors = n_vectors
        self.eigen_solver = eigen_solver
        self.n_init = n_init
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
    def fit(self, X: Any, y: Any = None) -> SelfExpressiveClustering:
        """Clusters ``X``, rows [n_samples, n_features] or images; ``y`` is ignored. Returns self.

        Raises:
            ValueError: ``X`` or an option is not usable; the message says which and why.
            TypeError: ``X`` is sparse or not numeric.
            scipy.sparse.linalg.ArpackNoConvergence: the eigenvectors did not converge.
        """
        options = check_options(self, _OPTIONS)
        resolve_device(self.device)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.history_ = []
        callbacks = [*(self.callbacks or []), *([ProgressBar()] if self.verbose else [])]
        try:
            for callback in callbacks:
                callback.on_fit_begin(self, dict.fromkeys(_STAGES, 1))
            self._fit(X, options, seed, callbacks)
        finally:
            for callback in callbacks:
                callback.on_fit_end(self)
        return self

    def _fit(self, X: Any, options: dict[str, Any], seed: int, callbacks: list) -> None:
        n_clusters = options["n_clusters"]
        with self._stage("rows", callbacks):
            X = training_rows(self, X, options)
            n_vectors = n_clusters + 1 if options["n_vectors"] is None else options["n_vectors"]
            options["n_vectors"] = min(n_vectors, len(X))
            self.resolved_params_ = options
            offset, scale = scaling_statistics(X, options["scaling"])
            self._offset, self._scale = torch.from_numpy(offset), torch.from_numpy(scale)
            z = torch.cat([self._shaped(chunk) for chunk in self._rows(X).chunks()])
            squares = z.square().sum(1).double()
            if not torch.isfinite(squares).all():
                raise ValueError(
                    f"Input X has rows whose squared norm overflows {self.dtype}; scale X, or use unit_rows=True or "
                    "dtype='float64'"
                )
        with self._stage("coefficients", callbacks):
            ridge = options["ridge"] * float(squares.mean())
            y = ops.ridge_self_expression(z, ridge)
            indices, values = ops.coefficient_topk(y, min(options["k"], len(z) - 1))
            self._z, self._inverse = z, _inverse(z, ridge)
        with self._stage("affinity", callbacks) as record:
            self.affinity_matrix_, record["n_joined"] = sparse_affinity(y, indices, values, n_clusters)
            del y
        with self._stage("eigenvectors", callbacks) as record:
            solver = options["eigen_solver"]
            eigenvalues, vectors = leading_eigenvectors(
                self.affinity_matrix_, options["n_vectors"], solver, seed
            )
            record["eigenvalues"] = eigenvalues.tolist()
        with self._stage("k-means", callbacks) as record:
            embedding, kmeans = spectral_kmeans(vectors, n_clusters, options["n_init"], seed)
            self.labels_ = kmeans.labels_.astype(np.int64)
            self.inertia_, self.n_iter_ = float(kmeans.inertia_), int(kmeans.n_iter_)
            record["loss"] = self.inertia_
            record["cluster_sizes"] = np.bincount(self.labels_, minlength=n_clusters).tolist()
        self.eigenvalues_ = eigenvalues
        self.embedding_ = embedding.astype(options["dtype"])
        self.cluster_centers_ = kmeans.cluster_centers_.astype(options["dtype"])
        # v_i = Σ_j W_ij v_j / (λ √(d_i d_j)): what row j adds to the embedding of a row that is like it
        inverse = np.divide(1.0, eigenvalues, out=np.zeros_like(eigenvalues), where=eigenvalues > 1e-6)
        extension = vectors * inverse * degree_roots(self.affinity_matrix_)[:, None]
        self._extension = torch.from_numpy(extension.astype(options["dtype"])).to(z.device)

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """``fit(X)``, then ``labels_`` [n_samples] (int64)."""
        return self.fit(X).labels_

    @contextmanager
    def _stage(self, name: str, callbacks: list) -> Iterator[dict[str, Any]]:
        """Times a stage, and puts what it reports into the history and before the callbacks."""
        started, record = time.perf_counter(), {"stage": name, "epoch": 1, "seconds": 0.0}
        yield record
        record["seconds"] = time.perf_counter() - started
        self.history_.append(record)
        for callback in callbacks:
            callback.on_epoch_end(self, record)

    def _rows(self, X: np.ndarray) -> Rows:
        return Rows(X, self._offset, self._scale, resolve_device(self.device), torch.float64)

    def _shaped(self, scaled: Tensor) -> Tensor:
        """Rows of Z from scaled rows in float64."""
        if self.resolved_params_["unit_rows"]:
            scaled = torch.nn.functional.normalize(scaled, dim=1)
        return scaled.to(getattr(torch, self.resolved_params_["dtype"]))

    # ------------------------------------------------------------------ new rows
    def transform(self, X: Any) -> np.ndarray:
        """Embedding [n_samples, m] of ``X``: the eigenvectors extended to it, each row divided by its norm."""
        check_is_fitted(self)
        return self._rows(input_rows(self, X)).map(self._embed).cpu().numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Cluster of every row of ``X`` (int64 [n_samples]): the nearest centre to its embedding."""
        distances = self.transform(X)[:, None] - self.cluster_centers_
        return np.square(distances).sum(2).argmin(1)

    @torch.no_grad()
    def _embed(self, scaled: Tensor) -> Tensor:
        size, rows = self._on_training_rows(self._shaped(scaled)).abs().topk(self._k, dim=1)
        return torch.nn.functional.normalize((size[..., None] * self._extension[rows]).sum(1), dim=1)

    @property
    def _k(self) -> int:
        return min(self.resolved_params_["k"], len(self._z) - 1)

    def _on_training_rows(self, z: Tensor) -> Tensor:
        """Coefficients [m, n] of the ridge regression of rows ``z`` [m, p] on all training rows."""
        if len(self._inverse) == self._z.shape[1]:
            return row_linear(row_linear(z, self._inverse.T), self._z)
        return row_linear(row_linear(z, self._z), self._inverse.T)

    # ------------------------------------------------------------------ looks at the result
    @torch.no_grad()
    def dense_affinity(self, rows: Any) -> np.ndarray:
        """(|C_ij| + |C_ji|)/2 [m, m] between the training rows with the numbers ``rows`` [m], of all coefficients."""
        check_is_fitted(self)
        rows = torch.as_tensor(rows).to(self._z.device)
        product = self._on_training_rows(self._z[rows])[:, rows].double()
        product = (product + product.T) / 2  # the same but for rounding
        scale = 1 / (1 - product.diagonal()).clamp_min(torch.finfo(self._z.dtype).eps)
        affinity = product.abs() * (scale[:, None] + scale) / 2
        return affinity.fill_diagonal_(0).cpu().numpy()

    def certainty(self) -> np.ndarray:
        """How certain each training row's cluster is [n], larger is more: minus its distance to the k-means centre."""
        check_is_fitted(self)
        return -np.linalg.norm(self.embedding_ - self.cluster_centers_[self.labels_], axis=1)

    # ------------------------------------------------------------------ scikit-learn's contract
    @property
    def _n_features_out(self) -> int:
        return self.resolved_params_["n_vectors"]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_extension")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = []  # the embedding comes out in the estimator's dtype
        return tags

    # ------------------------------------------------------------------ saving and loading
    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the fitted estimator to ``folder`` (safetensors and JSON, no pickle), with its training rows.

        ``callbacks`` are not saved; a ``random_state`` that is no integer is saved as None.
        """
        check_is_fitted(self)
        features, tensors = saved_features(self)
        tensors |= {name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS}
        tensors |= {name.strip("_"): getattr(self, name) for name in _PRIVATE}
        for part in ("data", "indices", "indptr"):
            tensors[f"affinity.{part}"] = torch.from_numpy(getattr(self.affinity_matrix_, part))
        write_state_folder(
            folder, "model", saved_config(self) | features | {"inertia": self.inertia_}, tensors
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> SelfExpressiveClustering:
        """The estimator that :meth:`save` wrote to ``folder``, on the CPU or the device it asks for.

        Raises:
            FileNotFoundError: the folder or one of its files is missing.
            ValueError: a damaged file or tensor (named), another method, another format version.
        """
        config, tensors = read_state_folder(folder, "model")
        with damaged_config(folder):
            model = from_config(cls, folder, config)
            model.inertia_ = config["inertia"]
            path = Path(folder) / config["tensor_file"]
            restore_features(model, path, config, tensors)
            k, m = (model.resolved_params_[name] for name in ("n_clusters", "n_vectors"))
            p = input_width(model)
            n, n_edges = (len(tensors.get(name, ())) for name in ("labels_", "affinity.data"))
        q = min(n, p)
        shapes = {"labels_": [n], "embedding_": [n, m], "cluster_centers_": [k, m], "eigenvalues_": [m]}
        shapes |= {"z": [n, p], "inverse": [q, q], "extension": [n, m], "offset": [p], "scale": [p]}
        shapes |= {"affinity.data": [n_edges], "affinity.indices": [n_edges], "affinity.indptr": [n + 1]}
        check_tensors(path, tensors, shapes)
        for name in _ARRAYS:
            setattr(model, name, tensors[name].numpy())
        for name in _PRIVATE:
            setattr(model, name, tensors[name.strip("_")].to(resolve_device(model.device)))
        parts = [tensors[f"affinity.{part}"].numpy() for part in ("data", "indices", "indptr")]
        model.affinity_matrix_ = sparse.csr_array(tuple(parts), shape=(n, n))
        return model


def _inverse(z: Tensor, ridge: float) -> Tensor:
    """(zᵀz + ridge·I)⁻¹ [p, p], or (z zᵀ + ridge·I)⁻¹ [n, n] where n < p."""
    parts = z.split(8192) if len(z) >= z.shape[1] else [z.T]
    gram = sum(part.double().T @ part.double() for part in parts)
    gram.diagonal().add_(ridge)
    return torch.cholesky_inverse(torch.linalg.cholesky(gram)).to(z.dtype).contiguous()


def all_affinities(y: Tensor, rows: Tensor) -> Tensor:
    """(|C_ij| + |C_ji|)/2 [m, n] of the rows with the numbers ``rows`` [m] to all, C of ``ridge_self_expression``'s y."""
    scale = 1 / (1 - y.square().sum(1)).clamp_min(torch.finfo(y.dtype).eps)
    return (y[rows] @ y.T).abs() * (scale[rows, None] + scale) / 2


def sparse_affinity(
    y: Tensor, indices: Tensor, values: Tensor, n_clusters: int
) -> tuple[sparse.csr_array, int]:
    """(|C| + |Cᵀ|)/2 of coefficients [n, k] from y, and how many rows of small components were joined to others."""
    affinity = symmetric_affinity(indices.cpu().numpy(), values.cpu().numpy())
    return join_small_components(affinity, lambda rows: all_affinities(y, rows), n_clusters, y.device)
