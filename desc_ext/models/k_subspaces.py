"""k-subspaces: every cluster a linear subspace, every row in its nearest one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from typing_extensions import Self

from desc_ext import ops
from desc_ext.algorithms.k_subspaces import (
    KSubspacesOptions,
    leading_directions,
    nearest_in_angle,
    search,
    subspace_bases,
    typical_dimension,
)
from desc_ext.algorithms.kmeans import one_thread
from desc_ext.algorithms.subspace_passes import SubspaceRows, as_passes
from desc_ext.device import resolve_device
from desc_ext.engine.callbacks import Recorder
from desc_ext.engine.chunks import map_chunks
from desc_ext.engine.estimator import Estimator
from desc_ext.engine.inputs import input_rows, input_width, training_rows
from desc_ext.engine.large_arrays import RowWriter, require_memory, require_room
from desc_ext.engine.options import estimator, option
from desc_ext.engine.pass_checkpoint import PassCheckpoint
from desc_ext.engine.processes import Processes, alone, check_group, fitting_together, processes
from desc_ext.engine.rows import Input, Rows, require_finite_norms, scaled_rows
from desc_ext.engine.shared_passes import SharedPasses
from desc_ext.engine.streamed_rows import StreamedRows
from desc_ext.norms import unit_rows

__all__ = ["KSubspaces"]

_ARRAYS = ("bases_", "energies_", "labels_", "embedding_")
_KEPT_BY_PARTIAL_FIT = ("n_clusters", "dtype", "subspace_dim", "unit_rows", "features", "feature_dim")


class _Found:
    """Attributes of a fit. (In a class of its own: annotations of an estimator are options.)"""

    bases_: np.ndarray
    energies_: np.ndarray
    inertia_: float
    n_reseeded_: int
    _memory: tuple[Tensor, Tensor] | None
    _distances: np.ndarray | None  # to the nearest subspace [n], where the embedding is not in memory


@estimator
class KSubspaces(_Found, Estimator):
    """k-subspaces clustering (Bradley and Mangasarian, 2000; Tseng, 2000), with restarts.

    Minimises Σ_i min_k ‖x_i − S_k S_kᵀ x_i‖² over K orthonormal bases S_k [p, d], by Lloyd's alternation: every
    row goes to its nearest subspace, every subspace to the d leading eigenvectors of Σ x xᵀ over its rows. The
    restart with the smallest sum is kept. Subspaces pass through the origin; nothing is centred. The same seed gives the
    same bits for any number of torch's threads.

    Rows on disk (:func:`desc_ext.data.stored_rows`, memory maps) of more than 64 MiB are never loaded whole: restarts see
    their 10,000 rows, and every iteration of the continuation reads all of them once, block by block, with about ten bytes a
    row in memory. Of rows wider than ``n_components`` the projection is computed anew each time. ``partial_fit`` holds its
    mini-batch in memory: give it slices.

    {options}

    Attributes:
        bases_: [K, p, d], orthonormal columns, by decreasing energy.
        energies_: float64 [K, d], Σ (s_jᵀ x_i)² over the cluster's rows, column by column of its basis.
        labels_: int64 [n], clusters of the training rows (``partial_fit``: of the last mini-batch).
        embedding_: [n, K], their distances, as :meth:`transform` gives them; above 1 GiB of rows on disk a memory map of a
            temporary file, which goes with it. :meth:`save` leaves such a one out, and it is None after :meth:`load`.
        inertia_: Σ_i r_i over the same rows, r_i the squared residual to the nearest subspace.
        n_iter_: iterations of the restart kept, with those of its continuation; ``partial_fit`` adds 1 a call.
        n_reseeded_: empty clusters that were given rows, in all restarts and mini-batches.
        history_: one dict a restart (stage "restart": epoch, seconds, loss, n_iter, n_reseeded), one an iteration of
            the restart kept, or of its continuation on all rows (stage "refine": epoch, seconds, loss,
            label_change, n_reseeded, cluster_sizes), one a mini-batch (stage "partial_fit": as "refine" without
            label_change). The loss is the mean residual.
        resolved_params_: every option with its value.
        features_: the fitted :class:`desc_ext.features.Scattering2D`, or None.
        n_features_in_: columns of the training data, a row an image; p without features.
    """

    method = "k-subspaces"

    subspace_dim: int | None = option(
        "dimensions of a subspace, d; None takes as many as the rows of a cluster typically fill: from the spectra of the "
        "clusters of one k-means run, at most n/(5 K) and half of the columns "
        "(:func:`desc_ext.algorithms.k_subspaces.typical_dimension`)",
        default=None,
        at_least=1,
    )
    unit_rows: bool = option(
        "cluster x / ‖x‖, so that rows count alike and the angle alone decides; a row of zeros stays",
        default=True,
    )
    n_components: int | None = option(
        "wider rows are clustered within the span of this many leading (uncentred) principal directions, q, which bounds "
        "time and memory: [n, q] rows in memory, K eigen-decompositions of q×q an iteration. Bases and residuals are those "
        "of the full space all the same. None: no such bound",
        default=100,
        at_least=1,
    )
    init: Literal["k-subspaces++", "k-means", "self-expressive"] = option(
        'where a restart begins: "k-subspaces++" (rows drawn by their residual, each with the rows nearest to it in angle), '
        '"k-means" (the clusters of one k-means run), or "self-expressive" (one start, the clusters of the rows expressed by '
        "each other: what SelfExpressiveClustering finds)",
        default="k-subspaces++",
    )
    n_init: int = option(
        'restarts; init="self-expressive" takes 1. With more than 10,000 rows they see a random subset of as many, and the '
        "best one is continued on all rows",
        default=20,
        at_least=1,
    )
    max_iter: int = option(
        "iterations of a restart, and of the continuation on all rows, at most", default=100, at_least=1
    )
    tol: float = option(
        "an alternation ends when no larger share of the labels changes in an iteration",
        default=0.0,
        at_least=0,
        at_most=1,
    )
    decay: float = option(
        "what is left of a cluster's Gram matrix at each mini-batch of partial_fit that brings it rows; 1 forgets nothing",
        default=0.9,
        at_least=0,
        at_most=1,
    )

    checkpoint: str | os.PathLike[str] | None = option(
        "folder that receives the subspaces after every iteration of a continuation on rows on disk, or None. A fit to rows "
        "in memory is short, and keeps none",
        default=None,
        of_run=True,
    )
    resume: bool = option(
        "continue from the checkpoint if the folder holds one, by one pass over the rows. The result has the same bits as "
        "that of a fit that never stopped; other options, seed or data are refused",
        default=False,
        of_run=True,
    )
    distributed: bool = option(
        "fit together with the other processes of torch.distributed's default group, each of which is given the same X and "
        "options: every pass over all rows is shared, and the result is that of one process up to the rounding of sums. The "
        "first one looks for the start, and writes checkpoints. Of ``fit`` alone",
        default=False,
        of_run=True,
    )

    # ------------------------------------------------------------------ fit
    def _complete_options(self) -> None:
        if self.resume and self.checkpoint is None:
            raise ValueError(
                "KSubspaces: resume=True needs checkpoint, the folder to continue from; got None"
            )
        if self.distributed:
            check_group("KSubspaces")

    def _adapt_options(self, n_samples: int, n_features: int) -> None:
        super()._adapt_options(n_samples, n_features)
        width = min(n_features, self.n_components or n_features)
        if self.init == "self-expressive":
            self.n_init = 1  # k-means' seed changes little of it
        if self.subspace_dim is not None and self.subspace_dim > width:
            narrow = f"the {n_features} columns of X" if width == n_features else f"n_components={width}"
            raise ValueError(
                f"KSubspaces: subspace_dim={self.subspace_dim} must be <= {narrow}: a subspace cannot be larger than its "
                "space"
            )

    @torch.no_grad()
    def _fit(self, X: Any, options: Self, recorder: Recorder) -> None:
        with fitting_together(self.distributed) as among:
            self._fit_rows(self._begin(X, options), options, recorder, among)

    def _fit_rows(self, rows: Rows, options: Self, recorder: Recorder, among: Processes) -> None:
        among.require_same_rows("KSubspaces", rows.X)
        seed = among.from_first(self._draw_seed)  # with random_state=None each would have its own
        if rows.is_stored and self._keeps_embedding:
            require_room((len(rows), options.n_clusters), np.dtype(options.dtype), self._large_files)
        z, axes = self._reduced(rows, options, seed)
        self._choose_dim(z, options, seed)
        recorder.begin({"restart": options.n_init, "refine": options.max_iter})
        kept = begun = None
        if rows.is_stored and self.checkpoint is not None:
            kept = PassCheckpoint(self.checkpoint, self, rows, seed)
            shape = (options.n_clusters, z.shape[1], options.subspace_dim or 0)
            begun = kept.read(shape) if self.resume else None
        recorder.enter("restart" if begun is None else "refine")
        after = None if kept is None or not among.first else kept.write
        found = search(z, options._search(seed), _Timed(self, recorder), after, begun)
        bases = found.bases.double()
        self.energies_ = _energies(z.gram(found.labels, options.n_clusters), bases)
        with one_thread():
            bases = bases if axes is None else axes.double() @ bases
        self.bases_ = bases.to(rows.dtype).cpu().numpy()
        self.n_iter_, self.n_reseeded_ = found.n_iter, found.n_reseeded
        del z, found
        self._evaluate(rows, among)

    def _reduced(self, rows: Rows, options: Self, seed: int) -> tuple[SubspaceRows, Tensor | None]:
        """The rows that are clustered, and the axes that they are projected onto."""
        width = options.n_components or rows.n_features
        generator = torch.Generator().manual_seed(seed)
        among = processes().for_items(len(rows))
        own = among.share(len(rows))
        passes: SubspaceRows
        shared: SubspaceRows
        if rows.is_stored:
            with one_thread():
                axes = rows.axes(width, generator, options.unit_rows)
            streamed = StreamedRows(rows.part(own), axes, options.unit_rows)
            streamed.require_finite_norms()
            passes, shared = StreamedRows(rows, axes, options.unit_rows), streamed
        else:
            with one_thread():
                z, axes = rows.reduced(width, generator, options.unit_rows)
            require_finite_norms(z)
            passes, shared = as_passes(z), as_passes(z[own])
        return (passes if among.size == 1 else SharedPasses(passes, shared, among)), axes

    def _begin(self, X: Any, options: Self) -> Rows:
        array = training_rows(self, X, options)
        options._adapt_options(*array.shape)
        self._set_options(options)
        self._memory = None
        return self._rows(array)

    def _choose_dim(self, z: Tensor | SubspaceRows, options: Self, seed: int) -> None:
        if options.subspace_dim is None:
            dim = processes().from_first(lambda: typical_dimension(z, options.n_clusters, seed))
            options.subspace_dim = dim
            self._set_options(options)

    def _rows(self, array: Input) -> Rows:
        dtype = getattr(torch, self._options.dtype)
        return scaled_rows(array, "none", resolve_device(self.device), dtype)

    def _search(self, seed: int) -> KSubspacesOptions:
        assert self.subspace_dim is not None
        return KSubspacesOptions(
            self.n_clusters,
            self.subspace_dim,
            self.n_init,
            seed,
            self.init,
            self.max_iter,
            self.tol,
            one_thread=True,
        )

    # ------------------------------------------------------------------ mini-batches
    @torch.no_grad()
    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """One step on the mini-batch ``X`` [m, n_features]; ``y`` is ignored. Returns self.

        The first mini-batch finds the features, if any, and the subspaces as :meth:`fit` does, but in the full space,
        and needs at least n_clusters rows. Every later one adds its rows to the Gram matrices of their nearest
        subspaces, of which ``decay`` is left, and takes the leading eigenvectors anew. A cluster is empty when
        mini-batches of the weight 1, ``decay``, ``decay``², … back in time brought it less than one row; it then
        begins anew at the row that fits worst. After :meth:`fit`, its clusters count as one mini-batch.

        Keeps K·p² values beside the bases, and decomposes a p×p matrix for each cluster that gained rows: reduce
        very wide rows first (e.g. with PCA).

        Raises:
            MemoryError: ``X`` are rows on disk (a step takes all of them) and too many for the memory.
            ValueError, TypeError: as :meth:`fit`; also where n_clusters, subspace_dim, unit_rows, dtype, features or
                feature_dim are no longer those of the earlier steps.
        """
        started = time.perf_counter()
        options = self._resolve_options()
        begun = self.__sklearn_is_fitted__()
        rows = self._continue(X, options) if begun else self._begin(X, options)
        if rows.is_stored:
            instead = "give them in parts, rows.between(start, stop), or fit them"
            require_memory(self, rows.X.shape, np.dtype(options.dtype), instead)
        z = torch.cat(list(rows.chunks(options.unit_rows)))
        require_finite_norms(z)
        if begun:
            loss, sizes, n_reseeded = self._step(z, options)
        else:
            self.history_, self.n_iter_, self.n_reseeded_ = [], 0, 0
            seed = self._draw_seed()
            self._choose_dim(z, options, seed)
            found = search(z, options._search(seed))
            loss, n_reseeded = found.residual, found.n_reseeded
            gram = ops.segment_gram(z, found.labels, options.n_clusters)
            sizes = torch.bincount(found.labels, minlength=options.n_clusters)
            self.bases_, self._memory = found.bases.cpu().numpy(), (gram, sizes.double())
        assert self._memory is not None
        gram, _ = self._memory
        self.energies_ = _energies(gram, torch.from_numpy(self.bases_).to(gram).double())
        self.n_iter_ += 1
        self.n_reseeded_ += n_reseeded
        self._evaluate(rows)
        record = {"stage": "partial_fit", "epoch": self.n_iter_, "seconds": time.perf_counter() - started}
        record |= {"loss": loss, "n_reseeded": n_reseeded, "cluster_sizes": sizes.tolist()}
        self.history_.append(record)
        return self

    def _continue(self, X: Any, options: Self) -> Rows:
        array = input_rows(self, X)
        options.image_shape = self._options.image_shape
        options._adapt_options(*array.shape)
        options.subspace_dim = options.subspace_dim or self._options.subspace_dim
        for name in _KEPT_BY_PARTIAL_FIT:
            now, before = getattr(options, name), getattr(self._options, name)
            if now != before:
                raise ValueError(
                    f"KSubspaces: {name}={now!r}, but partial_fit goes on from a fit with {name}={before!r}; set it back, or "
                    "start anew with fit or a clone"
                )
        self._set_options(options)
        return self._rows(array)

    def _step(self, z: Tensor, options: Self) -> tuple[float, Tensor, int]:
        """Mean residual and cluster sizes of a mini-batch before the step, and clusters begun anew."""
        n_clusters, dim = options.n_clusters, self.bases_.shape[2]
        bases = torch.from_numpy(self.bases_).to(z)
        gram, counts = self._remembered(bases)
        labels, residual = ops.nearest_subspace(z, bases)
        loss = float(residual.cpu().double().numpy().mean())
        sizes = torch.bincount(labels, minlength=n_clusters)
        served = sizes > 0
        gram = torch.where(served[:, None, None], options.decay * gram, gram)
        gram += ops.segment_gram(z, labels, n_clusters)
        counts = options.decay * counts + sizes
        empty = (counts < 1).nonzero().flatten().tolist()
        directions = unit_rows(z) if empty else z
        with one_thread():
            bases[served] = leading_directions(gram[served], dim)
            for cluster in empty:
                members = nearest_in_angle(directions, residual.argmax()[None], dim)[0]
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
            gram, counts = self._memory
            return gram.to(bases.device), counts.to(bases.device)
        # after fit: its subspaces with their energies; what lay outside of them is forgotten
        energies = torch.from_numpy(self.energies_).to(bases)
        with one_thread():
            gram = (bases * energies[:, None, :]) @ bases.mT
        sizes = torch.from_numpy(np.bincount(self.labels_, minlength=len(bases)))
        return gram, sizes.to(bases.device, torch.float64)

    # ------------------------------------------------------------------ rows under the bases
    def _evaluate(self, rows: Rows, among: Processes | None = None) -> None:
        """Labels, distances and inertia of rows under the bases, each process those of its share."""
        among = (among or Processes()).for_items(len(rows))
        # an embedding on disk is written from its first row to its last, by the process that keeps it
        if among.from_first(lambda: rows.is_stored and self._keeps_embedding):
            among = Processes()
        with alone():
            self._evaluate_part(rows, rows.part(among.share(len(rows))), among)

    def _evaluate_part(self, rows: Rows, own: Rows, among: Processes) -> None:
        if not rows.is_stored:
            residual = among.together(self._residuals(own), len(rows))
            self.labels_, self._distances = residual.argmin(1), None
            self.inertia_ = float(residual.min(1).astype(np.float64).sum())
            self.embedding_ = np.sqrt(residual)
            return
        writer, n = self._writer(rows) if self._keeps_embedding else None, len(own)
        labels, nearest = np.empty(n, np.int64), np.empty(n, self._options.dtype)
        for place, residual in self._residual_blocks(own):
            labels[place], nearest[place] = _nearest(residual)
            if writer is not None:
                writer.append(np.sqrt(residual))
        self.labels_, nearest = among.together(labels, len(rows)), among.together(nearest, len(rows))
        self.inertia_ = float(nearest.sum(dtype=np.float64))
        self.embedding_ = None if writer is None else writer.finished()  # type: ignore[assignment]
        self._distances = np.sqrt(nearest, out=nearest)

    def _writer(self, rows: Rows) -> RowWriter:
        return RowWriter((len(rows), len(self.bases_)), self._options.dtype, self._large_files)

    @torch.no_grad()
    def _residual_blocks(self, rows: Rows) -> Iterator[tuple[slice, np.ndarray]]:
        """Which rows, and their squared residuals [.., K], block by block."""
        bases = torch.from_numpy(self.bases_).to(rows.device, rows.dtype)

        def of_block(start: int, z: Tensor) -> tuple[slice, np.ndarray]:
            residual = map_chunks(lambda part: ops.projection_residual(part, bases), z)
            return slice(start, start + len(z)), residual.cpu().numpy()

        yield from rows.stream(of_block, self._options.unit_rows)

    def _residuals(self, rows: Rows) -> np.ndarray:
        residual = np.empty((len(rows), len(self.bases_)), self._options.dtype)
        for place, part in self._residual_blocks(rows):
            residual[place] = part
        return residual

    def _new_rows(self, X: Any) -> Rows:
        check_is_fitted(self)
        return self._rows(input_rows(self, X))

    def transform(self, X: Any) -> np.ndarray:
        """Distances ‖x_i − S_k S_kᵀ x_i‖ [n_samples, K] (with ``unit_rows``, of x_i / ‖x_i‖: sines of angles).

        Of rows on disk and above 1 GiB a memory map of a temporary file, which goes with the array.
        """
        rows = self._new_rows(X)
        if not rows.is_stored:
            return np.sqrt(self._residuals(rows))
        require_room((len(rows), len(self.bases_)), np.dtype(self._options.dtype), None)
        writer = self._writer(rows)
        for _, residual in self._residual_blocks(rows):
            writer.append(np.sqrt(residual))
        return writer.finished()

    def predict(self, X: Any) -> np.ndarray:
        """Nearest subspace of every row of ``X`` (int64 [n_samples])."""
        return self._sure_labels(X)[0]

    def _sure_labels(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """The nearest subspace of new rows (int64 [n]), and how sure it is [n], as :meth:`confidence` of training rows."""
        rows = self._new_rows(X)
        labels, distances = np.empty(len(rows), np.int64), np.empty(len(rows), self._options.dtype)
        for place, residual in self._residual_blocks(rows):
            labels[place], distances[place] = _nearest(residual)
        return labels, -np.sqrt(distances, out=distances)

    def confidence(self) -> np.ndarray:
        """How sure each training row's cluster is [n], larger is more: minus its distance to the subspace."""
        check_is_fitted(self)
        return -(self.embedding_.min(axis=1) if self._distances is None else self._distances)

    def score(self, X: Any, y: Any = None) -> float:
        """Minus the sum of squared residuals of ``X`` to the nearest subspaces: larger is better."""
        rows = self._new_rows(X)
        nearest = np.empty(len(rows), self._options.dtype)
        for place, residual in self._residual_blocks(rows):
            nearest[place] = residual.min(1)
        return -float(nearest.astype(np.float64).sum())

    @property
    def _n_features_out(self) -> int:
        return len(self.bases_)

    # ------------------------------------------------------------------ saving and loading
    def _saved_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """After ``partial_fit`` its Gram matrices too, so that a loaded estimator goes on with the same bits."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        if self.embedding_ is None or isinstance(self.embedding_, np.memmap):
            del arrays["embedding_"]
            arrays |= {"distances": self._distances, "labels_": self.labels_.astype(np.int32)}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if self._memory is not None:
            tensors["gram"], tensors["counts"] = self._memory
        return tensors, {"inertia": self.inertia_, "n_reseeded": self.n_reseeded_}

    def _saved_shapes(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Sequence[int]]:
        self.inertia_, self.n_reseeded_ = config["inertia"], config["n_reseeded"]
        k, d = self._options.n_clusters, self._options.subspace_dim
        p, n = input_width(self), len(tensors.get("labels_", ()))
        shapes: dict[str, Sequence[int]] = {"bases_": [k, p, d], "energies_": [k, d], "labels_": [n]}
        shapes |= {"distances": [n]} if "distances" in tensors else {"embedding_": [n, k]}
        return shapes | ({"gram": [k, p, p], "counts": [k]} if "gram" in tensors else {})

    def _restore(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        for name in _ARRAYS:
            setattr(self, name, tensors[name].numpy() if name in tensors else None)
        self.labels_ = self.labels_.astype(np.int64, copy=False)
        self._distances = tensors["distances"].numpy() if "distances" in tensors else None
        self._memory = (tensors["gram"], tensors["counts"]) if "gram" in tensors else None


def _nearest(residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest subspace of every row (int64 [n]) and its squared residual [n], of all of them [n, K]."""
    labels = residual.argmin(1)
    return labels, np.take_along_axis(residual, labels[:, None], 1)[:, 0]


def _energies(gram: Tensor, bases: Tensor) -> np.ndarray:
    """s_jᵀ G_k s_j [K, d] of the columns of ``bases`` [K, p, d] (float64)."""
    with one_thread():
        return (bases * (gram.double() @ bases)).sum(1).cpu().numpy()


class _Timed:
    """Adds the seconds to the records of a search, and sets ``labels_`` for the callbacks."""

    def __init__(self, model: KSubspaces, recorder: Recorder) -> None:
        self.model, self.recorder = model, recorder
        self.since = time.perf_counter()

    def __call__(self, record: dict[str, Any], labels: Tensor | None) -> bool:
        now = time.perf_counter()
        record["seconds"], self.since = now - self.since, now
        if labels is not None:
            self.model.labels_ = labels.cpu().numpy()
        return self.recorder.record(record)
