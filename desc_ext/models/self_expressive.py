"""Self-expressive clustering: rows as combinations of each other, then spectral clustering of the coefficients."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from typing_extensions import Self

from desc_ext.algorithms.distinct import DistinctRows, distinct_rows
from desc_ext.algorithms.self_expression import (
    SelfExpressiveClusters,
    cluster_by_self_expression,
    leverage_scale,
    ridge_inverse,
)
from desc_ext.algorithms.spectral import degree_roots
from desc_ext.device import resolve_device
from desc_ext.engine.callbacks import Recorder
from desc_ext.engine.estimator import Estimator
from desc_ext.engine.inputs import input_rows, input_width, training_rows
from desc_ext.engine.options import estimator, option
from desc_ext.engine.rows import Rows, Scaling, require_finite_norms, scaling_statistics
from desc_ext.fixed_shapes import row_linear
from desc_ext.norms import unit_rows

__all__ = ["SelfExpressiveClustering"]

_STAGES = ("rows", "coefficients", "affinity", "eigenvectors", "k-means")
_ARRAYS = ("labels_", "embedding_", "cluster_centers_", "eigenvalues_")
_PRIVATE = ("_z", "_inverse", "_extension", "_offset", "_scale")
# Values of the differences between rows and centres that are computed together.
_DIFFERENCES = 2**20
# An eigenvector of a smaller eigenvalue is rounding noise, which the extension to new rows would only magnify.
_SMALLEST_EIGENVALUE = 1e-6


class _Found:
    """Attributes of a fit. (In a class of its own: annotations of an estimator are options.)"""

    affinity_matrix_: sparse.csr_array
    eigenvalues_: np.ndarray
    cluster_centers_: np.ndarray
    inertia_: float
    _z: Tensor  # the scaled training rows, each once
    _number: Tensor | None  # int64 [n], which of them every training row is, where some come more than once
    _inverse: Tensor  # of their ridge regression
    _extension: Tensor  # [d, m], what each of them adds to the embedding of a row that is like it
    _offset: Tensor
    _scale: Tensor


@estimator
class SelfExpressiveClustering(_Found, Estimator):
    """Least squares regression of every row on all others (LSR, Lu et al., 2012), then spectral clustering, at scale.

    The coefficients C minimise ‖C‖² + ‖Z − C Z‖²/ε with diag C = 0 over the scaled rows Z [n, p]. Each row keeps its
    ``n_neighbors`` largest |C_ij|; the affinity is W = (|C| + |Cᵀ|)/2 of those. The m = ``n_components`` leading
    eigenvectors of D^(-1/2) W D^(-1/2), their rows divided by their norm, are clustered by k-means (Ng, Jordan and Weiss,
    2001). C has a closed form whose entries :func:`desc_ext.ops.coefficient_topk` computes by tiles: no n×n array is
    stored, and memory is O(n (p + n_neighbors)).

    Small components of the graph would each claim an eigenvector: every row in a component of fewer than n/(10 K) rows
    is joined to the row outside of it with the largest (|C_ij| + |C_ji|)/2.

    Rows that are equal after the scaling are regressed once, on the others: copies would express nothing but each other.
    They share a cluster; where row i comes w_i times, W_ii = (w_i − 1) Σ_j W_ij holds it together, and k-means counts it
    w_i times.

    New rows are regressed on the training rows with the same ε; their largest coefficients extend the eigenvectors
    to them (Nyström), and the nearest k-means centre is their cluster. A training row then takes part in its own
    regression, so ``predict`` of the training rows may differ from ``labels_`` where clusters meet.

    {options}

    Attributes:
        labels_: int64 [n], clusters of the training rows.
        affinity_matrix_: W, a SciPy CSR array [n, n]; a row that repeats an earlier one has no entries.
        embedding_: [n, m], the rows that k-means clustered.
        eigenvalues_: [m], of D^(-1/2) W D^(-1/2), descending from 1; 1 − eigenvalue is the normalised Laplacian's.
        cluster_centers_: [K, m], the k-means centres.
        inertia_: their sum of squared distances.
        n_iter_: iterations of the k-means run kept.
        history_: one dict a stage ("rows", "coefficients", "affinity", "eigenvectors", "k-means"): stage, epoch (1),
            seconds; "affinity" adds n_joined (rows of small components), "eigenvectors" the eigenvalues, "k-means" loss (the
            inertia) and cluster_sizes.
        resolved_params_: every option with its value.
        features_: the fitted :class:`desc_ext.features.Scattering2D`, or None.
        n_features_in_: columns of the training data, a row an image.
    """

    method = "self-expressive"

    device: str | torch.device = option(
        '"auto" (CUDA where there is one), or a torch device, for the coefficients; the eigenvectors are SciPy\'s',
        default="auto",
        of_run=True,
    )
    scaling: Scaling = option(
        'of the columns: "none", "global" (column means and one overall deviation), "standard" (column by column), "minmax" '
        '(overall range to [0, 1]) or "uncentred" (the overall root mean square)',
        default="none",
    )
    unit_rows: bool = option(
        "divide the scaled rows by their norm, so that rows count alike; a row of zeros stays", default=True
    )
    ridge: float = option("ε, in units of the mean ‖z_i‖²", default=1.0, above=0)
    n_neighbors: int = option("coefficients kept of each row; n − 1 at most", default=5, at_least=1)
    n_components: int | None = option(
        "eigenvectors, m; None takes K + 1, which are K beside the trivial D^(1/2) 1: where one class falls into two parts "
        "more readily than two classes part from each other, K eigenvectors would merge those two",
        default=None,
        at_least=1,
    )
    eigen_solver: Literal["arpack", "lobpcg"] = option("how the eigenvectors are found", default="arpack")
    n_init: int = option("k-means runs; the one with the smallest inertia is kept", default=20, at_least=1)

    # ------------------------------------------------------------------ fit
    def _adapt_options(self, n_samples: int, n_features: int) -> None:
        super()._adapt_options(n_samples, n_features)
        self.n_components = min(self.n_components or self.n_clusters + 1, n_samples)

    @torch.no_grad()
    def _fit(self, X: Any, options: Self, recorder: Recorder) -> None:
        seed = self._draw_seed()
        recorder.begin(dict.fromkeys(_STAGES, 1))
        with _stage("rows", recorder):
            z, squares, distinct = self._read(X, options)
        ridge = options.ridge * float(squares.mean())
        found = cluster_by_self_expression(
            z,
            distinct,
            options.n_clusters,
            ridge=ridge,
            n_neighbors=options.n_neighbors,
            n_components=options.n_components or options.n_clusters,
            n_init=options.n_init,
            seed=seed,
            eigen_solver=options.eigen_solver,
            stage=partial(_stage, recorder=recorder),
        )
        self._z = found.distinct.take(z)
        self._inverse = ridge_inverse(self._z, ridge)
        self._keep(found, options)

    def _read(self, X: Any, options: Self) -> tuple[Tensor, Tensor, DistinctRows]:
        """Rows of Z, their squared norms, and which of them differ."""
        array = training_rows(self, X, options)
        options._adapt_options(*array.shape)
        self._set_options(options)
        offset, scale = scaling_statistics(array, options.scaling)
        self._offset, self._scale = torch.from_numpy(offset), torch.from_numpy(scale)
        z = torch.cat([self._shaped(chunk) for chunk in self._rows(array).chunks()])
        squares = require_finite_norms(z)
        distinct = distinct_rows(z)
        if len(distinct) < options.n_clusters:
            keep = ", or keep the lengths of rows with unit_rows=False" if options.unit_rows else ""
            raise ValueError(
                f"SelfExpressiveClustering: X (n_features={self.n_features_in_}) has {len(distinct)} distinct rows after "
                f"scaling={options.scaling!r} and unit_rows={options.unit_rows}, but n_clusters={options.n_clusters}; ask "
                f"for fewer clusters{keep}"
            )
        return z, squares, distinct

    def _keep(self, found: SelfExpressiveClusters, options: Self) -> None:
        """Sets the attributes, and what extends the eigenvectors to new rows."""
        dtype, distinct = options.dtype, found.distinct
        options.n_components = len(found.eigenvalues)
        self._set_options(options)
        self._number = torch.from_numpy(distinct.number).to(self._z.device) if distinct.repeated else None
        self.labels_, self.affinity_matrix_ = found.labels, distinct.spread(found.affinity)
        self.inertia_, self.n_iter_ = float(found.kmeans.inertia_), int(found.kmeans.n_iter_)
        self.eigenvalues_ = found.eigenvalues
        self.cluster_centers_ = found.kmeans.cluster_centers_.astype(dtype)
        # v_i = Σ_{j≠i} W_ij v_j / (λ_i √(d_i d_j)) with λ_i = 1 − (1 − λ) w_i; a new row counts as one of the usual weight
        values = found.eigenvalues
        if distinct.repeated:
            values = 1 - (1 - values) * np.median(distinct.counts)
        kept = values > _SMALLEST_EIGENVALUE
        inverse = np.divide(1.0, values, out=np.zeros_like(values), where=kept)
        extension = found.vectors * inverse * degree_roots(found.affinity)[:, None]
        self._extension = torch.from_numpy(extension.astype(dtype)).to(self._z.device)
        self.embedding_ = found.embedding[distinct.number].astype(dtype)

    def _rows(self, X: np.ndarray) -> Rows:
        return Rows(X, self._offset, self._scale, resolve_device(self.device), torch.float64)

    def _shaped(self, scaled: Tensor) -> Tensor:
        """Rows of Z from scaled rows in float64."""
        if self._options.unit_rows:
            scaled = unit_rows(scaled)
        return scaled.to(getattr(torch, self._options.dtype))

    # ------------------------------------------------------------------ new rows
    def transform(self, X: Any) -> np.ndarray:
        """Embedding [n_samples, m] of ``X``: the eigenvectors extended to it, each row divided by its norm."""
        return self._embedding_of(X)

    def _embedding_of(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return self._rows(input_rows(self, X)).map(self._embed).cpu().numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Cluster of every row of ``X`` (int64 [n_samples]): the nearest centre to its embedding."""
        # not transform, which gives a data frame after set_output(transform="pandas")
        embedding = self._embedding_of(X)
        n_rows = max(_DIFFERENCES // self.cluster_centers_.size, 1)
        blocks = (embedding[start : start + n_rows] for start in range(0, len(embedding), n_rows))
        return np.concatenate(
            [np.square(block[:, None] - self.cluster_centers_).sum(2).argmin(1) for block in blocks]
        )

    @torch.no_grad()
    def _embed(self, scaled: Tensor) -> Tensor:
        n_neighbors = min(self._options.n_neighbors, len(self._z) - 1)
        size, rows = self._on_training_rows(self._shaped(scaled)).abs().topk(n_neighbors, dim=1)
        return unit_rows((size[..., None] * self._extension[rows]).sum(1))

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
        rows = rows if self._number is None else self._number[rows]
        product = self._on_training_rows(self._z[rows])[:, rows].double()
        product = (product + product.T) / 2  # the same but for rounding
        scale = leverage_scale(product.diagonal(), self._z.dtype)
        affinity = product.abs() * (scale[:, None] + scale) / 2
        return affinity.fill_diagonal_(0).cpu().numpy()

    def confidence(self) -> np.ndarray:
        """How sure each training row's cluster is [n], larger is more: minus its distance to the k-means centre."""
        check_is_fitted(self)
        return -np.linalg.norm(self.embedding_ - self.cluster_centers_[self.labels_], axis=1)

    @property
    def _n_features_out(self) -> int:
        return self.embedding_.shape[1]

    # ------------------------------------------------------------------ saving and loading
    def _saved_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The training rows are part of it."""
        tensors = {name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS}
        tensors |= {name.strip("_"): getattr(self, name) for name in _PRIVATE}
        if self._number is not None:
            tensors["number"] = self._number
        for part in ("data", "indices", "indptr"):
            tensors[f"affinity.{part}"] = torch.from_numpy(getattr(self.affinity_matrix_, part))
        return tensors, {"inertia": self.inertia_}

    def _saved_shapes(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Sequence[int]]:
        self.inertia_ = config["inertia"]
        k, m, p = self._options.n_clusters, self._options.n_components, input_width(self)
        n, n_edges = (len(tensors.get(name, ())) for name in ("labels_", "affinity.data"))
        repeats = {"number": [n]} if "number" in tensors else {}
        d = len(tensors.get("z", ())) if repeats else n
        q = min(d, p)
        shapes = {"labels_": [n], "embedding_": [n, m], "cluster_centers_": [k, m], "eigenvalues_": [m]}
        shapes |= {"z": [d, p], "inverse": [q, q], "extension": [d, m], "offset": [p], "scale": [p]}
        affinity = {"affinity.data": [n_edges], "affinity.indices": [n_edges], "affinity.indptr": [n + 1]}
        return {**shapes, **affinity, **repeats}

    def _restore(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        for name in _ARRAYS:
            setattr(self, name, tensors[name].numpy())
        for name in _PRIVATE:
            setattr(self, name, tensors[name.strip("_")].to(resolve_device(self.device)))
        self._number = tensors["number"].to(self._z.device) if "number" in tensors else None
        if self._number is not None and not bool(
            (self._number >= 0).logical_and(self._number < len(self._z)).all()
        ):
            raise ValueError("the tensor number holds none of a row of z")
        parts = [tensors[f"affinity.{part}"].numpy() for part in ("data", "indices", "indptr")]
        n = len(self.labels_)
        self.affinity_matrix_ = sparse.csr_array(tuple(parts), shape=(n, n))


@contextmanager
def _stage(name: str, recorder: Recorder) -> Iterator[dict[str, Any]]:
    """Times a stage and records what it reports."""
    recorder.enter(name)
    started, record = time.perf_counter(), {"stage": name, "epoch": 1, "seconds": 0.0}
    yield record
    record["seconds"] = time.perf_counter() - started
    recorder.record(record)
