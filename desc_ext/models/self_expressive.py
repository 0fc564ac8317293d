"""Self-expressive clustering: rows as combinations of each other, then spectral clustering of the coefficients."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
from scipy import sparse
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from typing_extensions import Self

from desc_ext.algorithms.cluster_number import ClusterNumber
from desc_ext.algorithms.diffusion import restarts_of
from desc_ext.algorithms.distinct import DistinctRows, distinct_rows
from desc_ext.algorithms.extension import Extension, extension_of
from desc_ext.algorithms.graph import row_normalised
from desc_ext.algorithms.landmarks import chosen_landmarks
from desc_ext.algorithms.self_expression import (
    ExpressionOptions,
    SelfExpressiveClusters,
    cluster_by_self_expression,
    expression_options,
    gram_eigenvalues,
    mean_square,
    number_of_clusters,
)
from desc_ext.algorithms.stability import has_other_neighbors, stable_clusters
from desc_ext.device import resolve_device
from desc_ext.engine.callbacks import Recorder
from desc_ext.engine.estimator import Estimator
from desc_ext.engine.inputs import (
    BLOCK_ROWS,
    FeatureRows,
    checked_training_rows,
    featured_training_rows,
    input_width,
    unread_input_rows,
)
from desc_ext.engine.large_arrays import require_memory
from desc_ext.engine.options import estimator, option
from desc_ext.engine.rows import Rows, Scaling, require_finite_norms, scaling_statistics
from desc_ext.messages import warn_user
from desc_ext.norms import unit_rows

__all__ = ["SelfExpressiveClustering"]

_NUMBER = "number of clusters"
_OTHERS, _STABILITY = "other rows", "stability"
_STAGES = ("rows", "coefficients", "affinity", "eigenvectors", "k-means")
_ARRAYS = ("labels_", "embedding_", "cluster_centers_", "eigenvalues_")
# Values of the differences between rows and centres that are computed together.
_DIFFERENCES = 2**20
_DENSE_ROWS = 256  # whose coefficients to all rows are in memory together
_FEWEST_FOR_NUMBER = 3  # rows whose spectrum has a gap


class _Found:
    """Attributes of a fit. (In a class of its own: annotations of an estimator are options.)"""

    affinity_matrix_: sparse.csr_array
    eigenvalues_: np.ndarray
    cluster_centers_: np.ndarray
    inertia_: float
    n_clusters_: int
    cluster_candidates_: list[tuple[int, float]]
    landmarks_: np.ndarray | None
    _extension: Extension  # to other rows than the landmarks
    _offset: Tensor
    _scale: Tensor


@estimator
class SelfExpressiveClustering(_Found, Estimator):
    """Least squares regression of every row on all others (LSR, Lu et al., 2012), then clusters of the graph, at scale.

    The coefficients C minimise ‖C‖² + ‖Z − C Z‖²/ε with diag C = 0 over the scaled rows Z [n, p]. Each row keeps its
    ``n_neighbors`` largest |C_ij| (thresholded ridge regression, Peng et al., 2015), divided by the largest of them (as in
    SSC's code); the affinity is W = (|C| + |Cᵀ|)/2 of those. C has a closed form whose entries
    :func:`desc_ext.ops.coefficient_topk` computes by tiles: no n×n array is stored, and memory is O(n (p + n_neighbors)).

    Of W's random walk the m = ``n_components`` leading eigenvectors give the diffusion coordinates λ_j^t v_ij / √d_i
    (Coifman and Lafon, 2006), without the trivial one; v_j are the eigenvectors of D^(-1/2) W D^(-1/2), and t is such that
    (λ_{K+1}/λ_2)^t = ``diffusion_ratio``. k-means clusters them at unit length.

    The borders of round clusters, as those of texts, are lost in few coordinates. So k-means also clusters P²(Z − mean), the
    rows smoothed by two steps of the walk P = D⁻¹W, begun at the means of the clusters found; what it finds is taken where it
    lowers the normalised cut Σ_k cut(k, others)/vol(k) (``smoothing``). Of images, whose clusters are curved, it does not.

    Small components of the graph would each claim an eigenvector: every row in a component of fewer than n/(10 K) rows
    is joined to the row outside of it with the largest affinity.

    Rows that are equal after the scaling are regressed once, on the others: copies would express nothing but each other.
    They share a cluster; where row i comes w_i times, W_ii = (w_i − 1) Σ_j W_ij holds it together, and k-means counts it
    w_i times.

    ``n_clusters=None`` takes the k from 2 to 50 with the largest relative gap (λ_k − λ_{k+1}) / (1 − λ_{k+1} + 0.02) of the
    spectrum, and warns where that gap is below 0.4 or less than twice the next one, unless it is 0.2 or more and four times
    the next one.

    Images have few neighbours, which keep curved clusters apart. From 3,000 on a random third of them is clustered alone:
    where it agrees with all on less than nine of ten, more neighbours are tried, and the more stable clusters taken.

    With ``landmarks`` the above is done with m rows alone, drawn uniformly without replacement (by ``random_state``), since
    their graph is then a sample of that of all rows. The other rows are new rows: read, assigned and forgotten a few thousand
    at a time, so that what is held beside the input, labels and embedding grows with m and not with n. Time is O(m² p) for
    the landmarks and O(n m p) for the others, in place of O(n² p).

    New rows are regressed on the training rows with the same ε, those that are training rows on the others; their largest
    coefficients extend the coordinates to them (Nyström), and the nearest k-means centre is their cluster. ``predict`` of
    the training rows may differ from ``labels_`` where clusters meet, since W also holds what others keep of a row.

    {options}

    Attributes:
        labels_: int64 [n], clusters of the training rows.
        n_clusters_: K, given or found.
        cluster_candidates_: with ``n_clusters=None`` the five (k, gap) with the largest gaps, largest first; else empty.
        landmarks_: int64 [m], ascending, the numbers of the rows that are landmarks; None where all are.
        affinity_matrix_: W, a SciPy CSR array [n, n], with landmarks theirs, [m, m]; a row that repeats an earlier one has no
            entries.
        embedding_: [n, q], the coordinates that k-means clustered; q is m − 1, or m where W has several components, or the
            number of columns of smoothed rows.
        eigenvalues_: [m], λ of D^(-1/2) W D^(-1/2), descending from 1; 1 − λ is the normalised Laplacian's.
        cluster_centers_: [K, q], the k-means centres.
        inertia_: the sum of squared distances to them, of the landmarks where there are some.
        n_iter_: iterations of the k-means run kept.
        history_: one dict a stage ("number of clusters" where it is looked for, "rows", "coefficients", "affinity",
            "eigenvectors", "k-means", of many images "stability", and with landmarks "other rows"): stage, epoch (1),
            seconds; the first adds candidates and eigenvalues, "affinity" n_joined (rows of small components), "eigenvectors"
            the eigenvalues and the time t, "k-means" loss (the inertia), smoothed (whether they are those of smoothed rows)
            and cluster_sizes, "stability" the agreement by numbers of neighbours and the number taken, "other rows"
            cluster_sizes of all rows.
        resolved_params_: every option with its value.
        features_: the fitted :class:`desc_ext.features.Scattering2D`, or None.
        n_features_in_: columns of the training data, a row an image.
    """

    method = "self-expressive"

    n_clusters: int | None = option(  # type: ignore[assignment]
        "number of clusters, K; None finds it in the spectrum", default=8, at_least=1, kw_only=False
    )
    features: Literal["auto", "scattering"] | None = option(  # type: ignore[assignment]
        '"auto": "scattering" where the data are images of 16×16 pixels or more, else None, the rows as they are; '
        '"scattering": the wavelet scattering features of images (desc_ext.features.Scattering2D, J = 3, L = 8). The fitted '
        "transformer is features_",
        default="auto",
    )
    device: str | torch.device = option(
        '"auto" (CUDA where there is one), or a torch device, for the coefficients and eigen_solver="chebyshev"',
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
    expression: Literal["ridge", "omp", "elastic-net", "low-rank"] = option(
        'C: "ridge", the closed form above; "omp", orthogonal matching pursuit with n_neighbors coefficients (SSC-OMP); '
        '"elastic-net" (EnSC); or "low-rank", the closed form of low-rank representation (LRR) with the threshold ε. New '
        "rows are expressed by ridge regression in all cases",
        default="ridge",
    )
    ridge: float | None = option(
        "ε, in units of the mean ‖z_i‖²; None takes that which leaves 7 K effective dimensions Σ_j λ_j/(λ_j + ε), λ_j the "
        'eigenvalues of ZᵀZ, but a quarter of them at most; for "low-rank" 1',
        default=None,
        above=0,
    )
    n_neighbors: int | None = option(
        "coefficients kept of each row, n − 1 at most; None takes 5 where clusters have fewer than 100 rows on average; else "
        "n/(25 K), at least 10 and at most 40, and of images 10, unless the clusters are more stable with the others",
        default=None,
        at_least=1,
    )
    landmarks: int | None = option(
        "m < n_samples: cluster m rows alone, and assign the others to their clusters, as predict does, a few thousand at a "
        "time; n_samples or more: all rows. None takes all of 200,000 rows and fewer, of more rows 20,000, or 200 K where "
        "that is more",
        default=None,
        at_least=2,
    )
    n_components: int | None = option("eigenvectors, m; None takes 2 K", default=None, at_least=1)
    diffusion_ratio: float = option(
        "(λ_{K+1}/λ_2)^t, which says how long the walk is: near 1 the eigenvectors count alike, near 0 the slowest alone",
        default=0.65,
        above=0,
        below=1,
    )
    smoothing: bool | None = option(
        "whether rows that the graph has smoothed may take the place of the diffusion coordinates: they do where k-means of "
        "them, begun at the clusters, lowers the normalised cut of the graph. None: but for images",
        default=None,
        earlier=False,
    )
    eigen_solver: Literal["arpack", "lobpcg", "chebyshev"] | None = option(
        'how the eigenvectors are found: "arpack" (Lanczos) and "lobpcg" are SciPy\'s; "chebyshev", subspace iteration with '
        'Chebyshev filters, uses all threads, or the device. None: "arpack" below 100,000 rows, else "chebyshev"',
        default=None,
        earlier="arpack",
    )
    n_init: int | None = option(
        "k-means runs; the one with the smallest inertia is kept. None takes 500,000/n, at least 10 and at most 300",
        default=None,
        at_least=1,
    )

    def _complete_options(self) -> None:
        fewest = self.n_clusters or _FEWEST_FOR_NUMBER
        if self.landmarks is not None and self.landmarks < fewest:
            raise ValueError(
                f"SelfExpressiveClustering: landmarks must be at least {fewest} for n_clusters={self.n_clusters}, got "
                f"{self.landmarks}; take more landmarks, or None"
            )

    # ------------------------------------------------------------------ fit
    @torch.no_grad()
    def _fit(self, X: Any, options: Self, recorder: Recorder) -> None:
        seed, unknown = self._draw_seed(), options.n_clusters is None
        X, shape = checked_training_rows(self, X, options)
        landmarks = chosen_landmarks(len(X), options.landmarks, options.n_clusters, seed)
        options.landmarks, self.landmarks_ = None if landmarks is None else len(landmarks), landmarks
        compares = shape is not None and options._compares(len(X) if landmarks is None else len(landmarks))
        further = [_STABILITY] * compares + [_OTHERS] * (landmarks is not None)
        recorder.begin(dict.fromkeys((_STAGES[0], *[_NUMBER] * unknown, *_STAGES[1:], *further), 1))
        with _stage("rows", recorder):
            rows = featured_training_rows(self, X, shape, options)
            if landmarks is None and not isinstance(rows, np.ndarray):
                require_memory(self, rows.shape, np.dtype(np.float64), "take landmarks=20000")
                rows = rows[:]
            z, distinct = self._read(rows, options)
            spectrum = None
            if options.ridge is None and options.expression != "low-rank":
                spectrum = gram_eigenvalues(distinct.take(z)) / mean_square(z)
        self.cluster_candidates_ = []
        if unknown:
            with _stage(_NUMBER, recorder) as record:
                choose = partial(options._expression, len(distinct), spectrum=spectrum)
                number = number_of_clusters(z, distinct, choose, seed, record)
            options.n_clusters, self.cluster_candidates_ = number.best, list(number.candidates)
            _warn_of_uncertain(number)
        assert options.n_clusters is not None
        chosen = options._expression(len(distinct), options.n_clusters, spectrum=spectrum)
        stage = partial(_stage, recorder=recorder)
        found = cluster_by_self_expression(z, distinct, options.n_clusters, chosen, seed, stage)
        if options._compares(len(distinct)):
            with _stage(_STABILITY, recorder) as record:
                found, chosen = stable_clusters(z, found, options.n_clusters, chosen, seed, record)
        self._keep(z, found, chosen, options)
        if landmarks is not None:
            with _stage(_OTHERS, recorder) as record:
                self._assign_others(rows, landmarks)
                record["cluster_sizes"] = np.bincount(self.labels_, minlength=self.n_clusters_).tolist()

    def _compares(self, n: int) -> bool:
        """Whether what is more stable decides on the number of neighbours of n distinct rows."""
        free = self.n_neighbors is None and self.expression == "ridge" and self._of_images
        return free and has_other_neighbors(n, self.n_clusters or _FEWEST_FOR_NUMBER)

    def _read(self, X: np.ndarray | FeatureRows, options: Self) -> tuple[Tensor, DistinctRows]:
        """Rows of Z, those of the landmarks where there are some, and which of them differ."""
        options._adapt_options(*X.shape)
        self._set_options(options)
        offset, scale = scaling_statistics(cast(np.ndarray, X), options.scaling)
        self._offset, self._scale = torch.from_numpy(offset), torch.from_numpy(scale)
        chosen = X[:] if self.landmarks_ is None else X[self.landmarks_]
        z = torch.cat([self._shaped(chunk) for chunk in self._rows(chosen).chunks()])
        require_finite_norms(z)
        distinct = distinct_rows(z)
        fewest = options.n_clusters or _FEWEST_FOR_NUMBER
        if len(distinct) < fewest:
            keep = ", or keep the lengths of rows with unit_rows=False" if options.unit_rows else ""
            wanted = (
                "ask for fewer clusters" if options.n_clusters else f"name n_clusters, or give {fewest} rows"
            )
            rows = f"X (n_features={self.n_features_in_}) has {len(distinct)} distinct rows"
            if self.landmarks_ is not None:
                rows += f" among its {len(z)} landmarks"
                wanted = f"take more landmarks, {wanted}"
            raise ValueError(
                f"SelfExpressiveClustering: {rows} after scaling={options.scaling!r} and unit_rows={options.unit_rows}, but "
                f"n_clusters={options.n_clusters}; {wanted}{keep}"
            )
        return z, distinct

    def _expression(self, n: int, n_clusters: int, spectrum: np.ndarray | None) -> ExpressionOptions:
        """The resolved options for n rows of K clusters; ``spectrum`` as for :func:`expression_options`."""
        return expression_options(
            n,
            n_clusters,
            spectrum,
            images=self._of_images,
            ridge=self.ridge,
            n_neighbors=self.n_neighbors,
            n_components=self.n_components,
            ratio=self.diffusion_ratio,
            n_init=self.n_init,
            eigen_solver=self.eigen_solver,
            expression=self.expression,
            smoothing=self.smoothing,
        )

    def _keep(
        self, z: Tensor, found: SelfExpressiveClusters, chosen: ExpressionOptions, options: Self
    ) -> None:
        """Sets the attributes, and what extends the coordinates to new rows."""
        dtype, distinct, coordinates = options.dtype, found.distinct, found.coordinates
        options.ridge, options.n_neighbors = float(chosen.ridge), chosen.n_neighbors
        options.smoothing, options.n_components = chosen.smoothing, len(found.diffusion.eigenvalues)
        options.n_init, options.eigen_solver = (
            restarts_of(options.n_init, len(distinct)),
            cast(Any, chosen.eigen_solver),
        )
        self._set_options(options)
        self.n_clusters_ = len(found.kmeans.cluster_centers_)
        self.labels_, self.affinity_matrix_ = found.labels, distinct.spread(found.affinity)
        self.inertia_, self.n_iter_ = float(found.kmeans.inertia_), int(found.kmeans.n_iter_)
        self.eigenvalues_ = found.diffusion.eigenvalues
        self.cluster_centers_ = found.kmeans.cluster_centers_.astype(dtype)
        self._extension = extension_of(found, z, chosen, getattr(torch, dtype))
        self.embedding_ = coordinates.embedding[distinct.number].astype(dtype)

    def _assign_others(self, X: np.ndarray | FeatureRows, landmarks: np.ndarray) -> None:
        """Labels and embedding of all rows, from those of the landmarks, which are theirs so far."""
        n, of_landmarks = len(X), (self.labels_, self.embedding_)
        embedding = np.empty((n, self._n_features_out), dtype=self.embedding_.dtype)
        labels, other = np.empty(n, dtype=np.int64), np.ones(n, dtype=bool)
        other[landmarks] = False
        labels[landmarks], embedding[landmarks] = of_landmarks
        for start in range(0, n, BLOCK_ROWS):
            numbers = start + np.flatnonzero(other[start : start + BLOCK_ROWS])
            if len(numbers):
                embedding[numbers] = part = self._embedding_of(X[numbers])
                labels[numbers] = self._nearest(part)
                _require_finite(numbers, part)
        self.labels_, self.embedding_ = labels, embedding

    def _rows(self, X: np.ndarray) -> Rows:
        return Rows(X, self._offset, self._scale, resolve_device(self.device), torch.float64)

    def _shaped(self, scaled: Tensor) -> Tensor:
        """Rows of Z from scaled rows in float64."""
        if self._options.unit_rows:
            scaled = unit_rows(scaled)
        return scaled.to(getattr(torch, self._options.dtype))

    # ------------------------------------------------------------------ new rows
    def transform(self, X: Any) -> np.ndarray:
        """Embedding [n_samples, q] of ``X``: the diffusion coordinates extended to it, at unit length."""
        check_is_fitted(self)
        rows = unread_input_rows(self, X)
        embedding = np.empty((len(rows), self._n_features_out), dtype=self.embedding_.dtype)
        for start in range(0, len(rows), BLOCK_ROWS):
            embedding[start : start + BLOCK_ROWS] = self._embedding_of(rows[start : start + BLOCK_ROWS])
        return embedding

    def predict(self, X: Any) -> np.ndarray:
        """Cluster of every row of ``X`` (int64 [n_samples]): the nearest centre to its embedding."""
        return self._sure_labels(X)[0]

    def _sure_labels(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """The cluster of new rows (int64 [n]), and how sure it is [n], as :meth:`confidence` of training rows."""
        check_is_fitted(self)
        rows = unread_input_rows(self, X)
        labels = np.empty(len(rows), np.int64)
        confidence = np.empty(len(rows), self.embedding_.dtype)
        for start in range(0, len(rows), BLOCK_ROWS):
            place = slice(start, start + BLOCK_ROWS)
            embedding = self._embedding_of(rows[place])
            labels[place] = self._nearest(embedding)
            confidence[place] = self._certainty(embedding, labels[place])
        return labels, confidence

    @torch.no_grad()
    def _embedding_of(self, X: np.ndarray) -> np.ndarray:
        """Embedding [n, q] of rows [n, p], features where there are some."""
        return (
            self._rows(X).map(lambda scaled: self._extension.coordinates(self._shaped(scaled))).cpu().numpy()
        )

    def _nearest(self, embedding: np.ndarray) -> np.ndarray:
        """The nearest centre, int64 [n], of every row of an ``embedding`` [n, q]."""
        n_rows = max(_DIFFERENCES // self.cluster_centers_.size, 1)
        blocks = (embedding[start : start + n_rows] for start in range(0, len(embedding), n_rows))
        return np.concatenate(
            [np.square(block[:, None] - self.cluster_centers_).sum(2).argmin(1) for block in blocks]
        )

    # ------------------------------------------------------------------ looks at the result
    @torch.no_grad()
    def dense_affinity(self, rows: Any) -> np.ndarray:
        """(|C_ij|/c_i + |C_ji|/c_j)/2 [m, m] between the training rows with the numbers ``rows`` [m], of all coefficients.

        c_i is the largest |C_ij| of row i.

        Raises:
            ValueError: one of them is no landmark.
        """
        check_is_fitted(self)
        z, number = self._extension.z, self._extension.number
        rows = torch.as_tensor(self._places(np.asarray(rows))).to(z.device)
        rows = rows if number is None else number[rows]
        parts = []
        for part in rows.split(_DENSE_ROWS):
            size = self._extension.coefficients(z[part]).double().abs()  # up to a factor for each row
            size.scatter_(1, part[:, None], 0.0)
            parts.append(row_normalised(size)[:, rows])
        affinity = torch.cat(parts)
        return ((affinity + affinity.T) / 2).fill_diagonal_(0).cpu().numpy()

    def _places(self, rows: np.ndarray) -> np.ndarray:
        """Where among the landmarks the training rows with the numbers ``rows`` [m] are."""
        if self.landmarks_ is None:
            return rows
        others = rows[~np.isin(rows, self.landmarks_)]
        if len(others):
            raise ValueError(
                f"SelfExpressiveClustering: dense_affinity is of landmarks, but row {others[0]} is none; take rows of "
                "landmarks_, or fit with landmarks=n_samples"
            )
        return np.searchsorted(self.landmarks_, rows)

    def confidence(self) -> np.ndarray:
        """How sure each training row's cluster is [n], larger is more: minus its distance to the k-means centre."""
        check_is_fitted(self)
        return self._certainty(self.embedding_, self.labels_)

    def _certainty(self, embedding: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return -np.linalg.norm(embedding - self.cluster_centers_[labels], axis=1)

    @property
    def _n_features_out(self) -> int:
        return self.embedding_.shape[1]

    # ------------------------------------------------------------------ saving and loading
    def _saved_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The training rows are part of it."""
        tensors = {name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS}
        own = self._extension
        tensors |= {"z": own.z, "inverse": own.inverse, "extension": own.added}
        tensors |= {"offset": self._offset, "scale": self._scale}
        if own.number is not None:
            tensors["number"] = own.number
        if self.landmarks_ is not None:
            tensors["landmarks"] = torch.from_numpy(self.landmarks_)
        for part in ("data", "indices", "indptr"):
            tensors[f"affinity.{part}"] = torch.from_numpy(getattr(self.affinity_matrix_, part))
        candidates = [list(pair) for pair in self.cluster_candidates_]
        return tensors, {"inertia": self.inertia_, "cluster_candidates": candidates}

    def _saved_shapes(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Sequence[int]]:
        self.inertia_, self.n_clusters_ = config["inertia"], self._options.n_clusters
        self.cluster_candidates_ = [(k, gap) for k, gap in config.get("cluster_candidates", ())]
        k, m, p = self._options.n_clusters, self._options.n_components, input_width(self)
        n, n_edges = (len(tensors.get(name, ())) for name in ("labels_", "affinity.data"))
        landmarks = {"landmarks": [self._options.landmarks]} if self._options.landmarks is not None else {}
        n_own = self._options.landmarks if landmarks else n
        repeats = {"number": [n_own]} if "number" in tensors else {}
        d = len(tensors.get("z", ())) if repeats else n_own
        r, q = min(d, p), tensors["embedding_"].shape[-1] if "embedding_" in tensors else m
        shapes = {"labels_": [n], "embedding_": [n, q], "cluster_centers_": [k, q], "eigenvalues_": [m]}
        shapes |= {"z": [d, p], "inverse": [r, r], "extension": [d, q], "offset": [p], "scale": [p]}
        affinity = {"affinity.data": [n_edges], "affinity.indices": [n_edges], "affinity.indptr": [n_own + 1]}
        return {**shapes, **affinity, **repeats, **landmarks}

    def _restore(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        for name in _ARRAYS:
            setattr(self, name, tensors[name].numpy())
        device, n = resolve_device(self.device), len(self.labels_)
        z, inverse, added = (tensors[name].to(device) for name in ("z", "inverse", "extension"))
        number = tensors["number"].to(device) if "number" in tensors else None
        if number is not None and not bool((number >= 0).logical_and(number < len(z)).all()):
            raise ValueError("the tensor number holds none of a row of z")
        self._extension = Extension(z, inverse, added, self._options.n_neighbors, number)
        self._offset, self._scale = tensors["offset"].to(device), tensors["scale"].to(device)
        self.landmarks_ = tensors["landmarks"].numpy() if "landmarks" in tensors else None
        if self.landmarks_ is not None:
            ascending = np.diff(self.landmarks_, prepend=-1, append=n) > 0
            if not ascending.all():
                raise ValueError(f"the tensor landmarks holds no ascending numbers of {n} rows")
            n = len(self.landmarks_)
        parts = [tensors[f"affinity.{part}"].numpy() for part in ("data", "indices", "indptr")]
        self.affinity_matrix_ = sparse.csr_array(tuple(parts), shape=(n, n))


def _warn_of_uncertain(number: ClusterNumber) -> None:
    if not number.certain:
        warn_user(f"SelfExpressiveClustering: {number.described}. Look at the spectrum, or give n_clusters")


def _require_finite(numbers: np.ndarray, embedding: np.ndarray) -> None:
    """Raises ValueError where a row is so large that it has no embedding; ``numbers`` [n] are the rows' own."""
    bad = numbers[~np.isfinite(embedding).all(1)]
    if len(bad):
        raise ValueError(
            f"Input X has rows too large for {embedding.dtype}, the first at row {bad[0]}; scale X, or use "
            "unit_rows=True or dtype='float64'"
        )


@contextmanager
def _stage(name: str, recorder: Recorder) -> Iterator[dict[str, Any]]:
    """Times a stage and records what it reports."""
    recorder.enter(name)
    started, record = time.perf_counter(), {"stage": name, "epoch": 1, "seconds": 0.0}
    yield record
    record["seconds"] = time.perf_counter() - started
    recorder.record(record)
