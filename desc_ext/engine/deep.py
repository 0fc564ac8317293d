"""What the methods that train a network share: options, the state of a fit, evaluation of all rows, saving."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from typing_extensions import Self

from desc_ext.algorithms.kmeans import kmeans
from desc_ext.device import resolve_device
from desc_ext.engine.callbacks import Recorder
from desc_ext.engine.checkpoint import Checkpoint
from desc_ext.engine.chunks import map_chunks, map_in_memory
from desc_ext.engine.estimator import Estimator
from desc_ext.engine.inputs import input_rows, input_width, training_rows
from desc_ext.engine.large_arrays import RowWriter, require_memory, require_room
from desc_ext.engine.networks import ClusteringNetwork
from desc_ext.engine.optimizers import adam
from desc_ext.engine.options import Option, estimator, option
from desc_ext.engine.processes import BatchShare, check_group, fitting_together, processes
from desc_ext.engine.rows import Rows, Scaling, scaled_rows
from desc_ext.engine.stages import BatchLosses, Losses, Stage, run_stages
from desc_ext.engine.state import Evaluation, FitState
from desc_ext.engine.stored_starts import by_kmeans_of_stored
from desc_ext.engine.stored_values import StoredValues, Values
from desc_ext.nn import parameter_dtype, set_dtype
from desc_ext.stored import StoredRows

__all__ = ["DeepClusterer", "DeepEmbedding", "EncodedBatch", "first_centroids", "reconstruction_loss"]

S = TypeVar("S", bound=FitState)
# What a seed is used for: each generator of a fit has a stream of its own, at this distance from the seed of the network.
_ORDER_STREAM, _NOISE_STREAM = 1, 2
_ARRAYS = ("labels_", "initial_labels_", "embedding_")


class _Trained:
    """Attributes of a fitted network. (In a class of its own: annotations of an estimator are options.)"""

    network_: Any
    initial_labels_: np.ndarray
    _confidence: np.ndarray | None = None  # where the codes are not in memory


@estimator
class DeepEmbedding(_Trained, Estimator, Generic[S]):
    """Base class of the methods that train a network in stages.

    A method defines ``method``, ``presets`` and the functions ``_build``, ``stages`` and ``_evaluate_codes``; with
    ``_assign`` it is a :class:`DeepClusterer`. What its fit has to remember beside the network goes into a class derived
    from :class:`~desc_ext.engine.state.FitState`, named as ``_state_type``.
    """

    _state_type: ClassVar[type[FitState]] = FitState
    _in_mini_batches: ClassVar[bool] = True
    # Whether the method takes codes of all rows that lie in a file (StoredValues), as those of rows on disk then do.
    _stores_codes: ClassVar[bool] = False
    _work_per_checkpoint: ClassVar[float] = 0.0  # seconds of a fit for each second of writing checkpoints

    preset: Literal["paper", "robust"] = option(
        '"paper" takes the values of the paper, "robust" those that measurements justify', default="robust"
    )
    dtype: Literal["float32", "float64", "mixed_bfloat16"] = option(  # type: ignore[assignment]
        'of network and codes: "float32", "float64", or "mixed_bfloat16": float32, but for the layers of the networks, which '
        "multiply in bfloat16. That is faster where the processor multiplies matrices of bfloat16 (AMX, tensor cores), and "
        "slower where it does not",
        default="float32",
    )
    checkpoint: str | os.PathLike[str] | None = option(
        "folder that receives the state at the end of every epoch, or None", default=None, of_run=True
    )
    resume: bool = option(
        "continue from the checkpoint if the folder holds one. The result has the same bits as that of a fit that never "
        "stopped; other options, seed or data are refused",
        default=False,
        of_run=True,
    )
    distributed: bool = option(
        "fit together with the other processes of torch.distributed's default group, each of which is given the same X and "
        "options: they share every mini-batch and every pass over the rows, and end with the same result, which is that of "
        "one process up to the rounding of sums. The first one writes checkpoints",
        default=False,
        of_run=True,
    )
    scaling: Option[Scaling] = option(
        'of the input: "global": column means and one overall deviation; "standard": column by column; "minmax": overall '
        'range to [0, 1]; "uncentred": the overall root mean square; "none"',
        default=None,
    )
    hidden_sizes: Option[tuple[int, ...]] = option(
        "layers of a fully connected encoder (the decoder mirrors them)", default=None, at_least=1
    )
    n_init: Option[int] = option(
        "restarts of the method that finds the first clusters", default=None, at_least=1
    )
    pretrain_epochs: Option[int] = option("epochs of reconstruction only", default=None, at_least=0)
    batch_size: Option[int] = option("rows of a mini-batch", default=None, at_least=1)
    pretrain_learning_rate: Option[float] = option("of Adam in pretraining", default=None, above=0)

    # ------------------------------------------------------------------ what a method adds
    @abstractmethod
    def _build(self, n_features: int, n_samples: int, generator: torch.Generator) -> ClusteringNetwork:
        """The untrained network on the CPU in float32; ``self`` are the resolved options."""

    @abstractmethod
    def stages(self, state: S) -> list[Stage]:
        """The stages of a fit, one of them "pretrain"; at its end ``state.initial_labels`` must be set."""

    @abstractmethod
    def _evaluate_codes(self, state: S, z: Tensor) -> Evaluation:
        """Labels, targets and weights of all rows for the codes ``z`` of the current network."""

    def _reseed_empty(self, state: S, evaluation: Evaluation) -> int:
        """Gives rows to clusters that have none; returns to how many. Only where a method can lose clusters."""
        return 0

    def _complete_options(self) -> None:
        if self.resume and self.checkpoint is None:
            raise ValueError(
                f"{type(self).__name__}: resume=True needs checkpoint, the folder to continue from; got None"
            )
        if self.distributed:
            if not self._in_mini_batches:
                raise ValueError(
                    f"{type(self).__name__}: distributed=True is for methods whose steps are mini-batches, and every step of "
                    "this one takes all rows; leave it out"
                )
            check_group(type(self).__name__)

    # ------------------------------------------------------------------ fit
    def begin(self, X: Any) -> S:
        """The state of a fit to ``X`` before its first epoch: rows, untrained network, random streams.

        ``fit`` trains it in its stages; tests and new methods look at it. Errors as for :meth:`fit`.
        """
        return self._begin(X, self._resolve_options())

    def _begin(self, X: Any, options: Self) -> S:
        device, dtype = resolve_device(self.device), parameter_dtype(options.dtype)
        array = training_rows(self, X, options)
        processes().require_same_rows(type(self).__name__, array)
        options._adapt_options(*array.shape)
        self._set_options(options)
        if isinstance(array, StoredRows) and not self._in_mini_batches:
            instead = "take fewer rows, or a method that trains in mini-batches"
            require_memory(self, array.shape, np.dtype(str(dtype)[6:]), instead)
        rows = scaled_rows(array, options.scaling, device, dtype)
        rows.folder = self._large_files
        seed = processes().from_first(self._draw_seed)  # with random_state=None each would have its own
        network = options._build(rows.n_features, len(rows), torch.Generator().manual_seed(seed))
        set_dtype(network, options.dtype)
        network.offset, network.scale = rows.offset, rows.scale  # float64, whatever the dtype of the network
        state: Any = self._state_type(
            options=options,
            rows=rows,
            network=network.to(device),
            seed=seed,
            order=torch.Generator().manual_seed(seed + _ORDER_STREAM),
            noise=torch.Generator(device).manual_seed(seed + _NOISE_STREAM),
        )
        return state

    def _fit(self, X: Any, options: Self, recorder: Recorder) -> None:
        with fitting_together(self.distributed):
            self._train(X, options, recorder)

    def _train(self, X: Any, options: Self, recorder: Recorder) -> None:
        state = self._begin(X, options)
        state.history = recorder.history
        if state.rows.is_stored and self._stores_codes:
            # in the fit, and as its result
            width = state.network.latent_dim * (2 if self._keeps_embedding else 1)
            require_room((len(state.rows), width), np.dtype(str(state.rows.dtype)[6:]), self._large_files)
        stages = self.stages(state)
        checkpoint = Checkpoint(self.checkpoint, self.method, self._work_per_checkpoint)
        if self.resume and checkpoint.exists():
            checkpoint.read(state, [stage.name for stage in stages])
        before = torch.backends.cudnn.deterministic
        torch.backends.cudnn.deterministic = True  # the fastest convolutions of a GPU add in any order
        try:
            recorder.begin({stage.name: stage.epochs for stage in stages})
            codes = run_stages(self, state, stages, recorder, checkpoint).z
        finally:
            torch.backends.cudnn.deterministic = before
        self.network_ = state.network
        if isinstance(codes, StoredValues):
            self._finish_embedding(codes)
        self.initial_labels_ = state.first_labels.cpu().numpy()
        self.n_iter_ = 0 if state.stage == "pretrain" else state.epoch

    def _pretraining(
        self,
        state: S,
        reconstruction: str,
        initialise: Callable[[Any], Tensor],
        weight: float = 1.0,
        further: Callable[[Tensor, Tensor], Losses] = lambda index, z: {},
    ) -> Stage:
        """The stage of an autoencoder alone.

        Args:
            reconstruction: "sum" or "mean" over columns, for :func:`reconstruction_loss`.
            initialise: is called at the end with all codes [n, p] (:data:`Values`), and returns the first clusters [n].
            weight: of the reconstruction.
            further: more losses of the rows with the numbers [m] and their codes [m, p].
        """
        options, parameters = state.options, list(state.network.autoencoder.parameters())

        def terms(index: Tensor, evaluation: Evaluation | None) -> BatchLosses:
            batch = self._encoded(state, index)
            losses: Losses = {"reconstruction": (weight, batch.decoding_error(reconstruction))}
            return losses | further(batch.index, batch.z), {}

        def after() -> None:
            state.initial_labels = initialise(self._encode_all(state)).clone()

        return Stage(
            "pretrain",
            options.pretrain_epochs,
            lambda: adam(parameters, options.pretrain_learning_rate),
            lambda: self._shuffled_batches(state),
            terms,
            after=after,
        )

    def _shuffled_batches(self, state: S) -> Sequence[Tensor]:
        """Row numbers of all rows in random order, ``batch_size`` together."""
        return state.rows.shuffled(state.order, state.options.batch_size)

    def _encoded(self, state: S, index: Tensor) -> EncodedBatch:
        """The mini-batch of the rows with the numbers ``index`` under the autoencoder."""
        share = BatchShare(len(index))
        given, x = self._batch(state, index, share)
        return EncodedBatch.of(state.network.autoencoder, index.to(x.device), given, x, share)

    def _batch(self, state: S, index: Tensor, share: BatchShare) -> tuple[Tensor, Tensor]:
        """What the encoder is given for this process's rows of ``index``, and what the decoder has to give back.

        Noise is drawn for all rows of ``index``: it is the same however they are shared.
        """
        x = state.rows.take(index[share.own].numpy())
        return self._corrupted(state, x, share), x

    def _corrupted(self, state: S, x: Tensor, share: BatchShare) -> Tensor:
        """What the encoder is given for the rows ``x`` in training."""
        return x

    @torch.no_grad()
    def _encode_all(self, state: S) -> Any:
        """Codes [n, p] of all rows, :data:`Values`; a tensor where the method or the rows need nothing else."""
        encode = state.network.autoencoder.encode
        return state.rows.values(encode) if self._stores_codes else state.rows.map(encode)

    @torch.no_grad()
    def _evaluate(self, state: S) -> Evaluation:
        evaluation = self._evaluate_codes(state, self._encode_all(state))
        self.labels_ = evaluation.labels.cpu().numpy()
        if isinstance(evaluation.z, Tensor):
            self.embedding_, self._confidence = evaluation.z.cpu().numpy(), None
        else:  # it comes at the end of the fit
            self.embedding_ = None  # type: ignore[assignment]
        return evaluation

    def _finish_embedding(self, codes: StoredValues) -> None:
        """Sets ``embedding_``, if it is wanted, and what else is asked of all codes, which are then let go of."""
        if self._keeps_embedding:
            self.embedding_ = _array(codes.shape, codes.numpy_blocks(), codes.folder)

    # ------------------------------------------------------------------ the fitted network
    @torch.no_grad()
    def transform(self, X: Any) -> np.ndarray:
        """Codes [n_samples, p] of ``X`` in the estimator's dtype; above 1 GiB of rows on disk a memory map of a file."""
        rows = self._new_rows(X)
        if not rows.is_stored:
            return self._mapped(rows, lambda z: z).cpu().numpy()
        codes = rows.values(self.network_.autoencoder.encode)
        assert isinstance(codes, StoredValues)
        return _array(codes.shape, codes.numpy_blocks(), None)

    def _new_rows(self, X: Any) -> Rows:
        """The rows of new data, scaled as those of the fit were."""
        check_is_fitted(self)
        array = input_rows(self, X)
        network = self.network_
        parameter = next(network.parameters())
        return Rows(array, network.offset, network.scale, parameter.device, parameter.dtype)

    @torch.no_grad()
    def _mapped(self, rows: Rows, function: Callable[[Tensor], Tensor]) -> Tensor:
        """``function`` of the codes of all rows, which are not all in memory."""
        return rows.map(lambda x: function(self.network_.autoencoder.encode(x)))

    def confidence(self) -> np.ndarray:
        """How sure each training row's cluster is [n], larger is more: minus its code's distance to their mean."""
        check_is_fitted(self)
        clusters, number = np.unique(self.labels_, return_inverse=True)
        means = np.stack([self.embedding_[number == k].mean(0) for k in range(len(clusters))])
        return -np.linalg.norm(self.embedding_ - means[number], axis=1)

    @property
    def _n_features_out(self) -> int:
        return int(self.network_.latent_dim)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    # ------------------------------------------------------------------ saving and loading
    def _saved_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"network.{name}": value for name, value in self.network_.state_dict().items()}
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        if self._confidence is not None and (
            self.embedding_ is None or isinstance(self.embedding_, np.memmap)
        ):
            del arrays["embedding_"]
            arrays["confidence"] = self._confidence
        return tensors | {name: torch.from_numpy(array) for name, array in arrays.items()}, {}

    def _saved_shapes(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Sequence[int]]:
        n_samples = len(tensors.get("labels_", ()))
        # Sizes alone: those that a config.json from elsewhere claims may fit no memory.
        with torch.device("meta"):
            network = self._unset_network(n_samples)
        shapes: dict[str, Sequence[int]] = {
            f"network.{name}": tensor.shape for name, tensor in network.state_dict().items()
        }
        shapes |= {"labels_": [n_samples], "initial_labels_": [n_samples]}
        if "confidence" in tensors:
            return shapes | {"confidence": [n_samples]}
        return shapes | {"embedding_": [n_samples, network.latent_dim]}

    def _unset_network(self, n_samples: int) -> Any:
        return self._options._build(input_width(self), n_samples, torch.Generator().manual_seed(0))

    def _restore(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        network = set_dtype(self._unset_network(len(tensors["labels_"])), self._options.dtype)
        network.offset, network.scale = network.offset.double(), network.scale.double()
        network.load_state_dict({name: tensors[f"network.{name}"] for name in network.state_dict()})
        self.network_ = network.to(resolve_device(self.device))
        for name in _ARRAYS:
            setattr(self, name, tensors[name].numpy() if name in tensors else None)
        self._confidence = tensors["confidence"].numpy() if "confidence" in tensors else None


@estimator
class DeepClusterer(DeepEmbedding[S]):
    """Base class of the methods that assign new rows to their clusters."""

    corruption: Option[float] = option(
        "share of the input's entries that are set to zero in training", default=None, at_least=0, below=1
    )

    @abstractmethod
    def _assign(self, network: Any, z: Tensor) -> Tensor:
        """Soft assignment [n, K] of codes."""

    def _corrupted(self, state: S, x: Tensor, share: BatchShare) -> Tensor:
        if not state.options.corruption:
            return x
        size = (share.n_rows, *x.shape[1:])
        kept = torch.rand(size, generator=state.noise, device=x.device) >= state.options.corruption
        return x * kept[share.own]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Soft assignments [n_samples, n_clusters] of ``X``; rows sum to 1."""
        return self._mapped(self._new_rows(X), lambda z: self._assign(self.network_, z)).cpu().numpy()

    def confidence(self) -> np.ndarray:
        """How sure each training row's cluster is [n], larger is more: its largest soft assignment."""
        check_is_fitted(self)
        if self._confidence is not None:
            return self._confidence
        parameter = next(self.network_.parameters())
        codes = torch.as_tensor(self.embedding_, device=parameter.device, dtype=parameter.dtype)
        with torch.no_grad():
            return map_chunks(self._confidence_of_codes, codes).cpu().numpy()

    @torch.no_grad()
    def _finish_embedding(self, codes: StoredValues) -> None:
        self._confidence = map_in_memory(self._confidence_of_codes, codes).cpu().numpy()
        super()._finish_embedding(codes)

    def _confidence_of_codes(self, z: Tensor) -> Tensor:
        return self._assign(self.network_, z).max(1).values

    def predict(self, X: Any) -> np.ndarray:
        """Cluster of every row of ``X`` (int64 [n_samples]): the arg max of ``predict_proba``."""
        rows = self._new_rows(X)
        return self._mapped(rows, lambda z: self._assign(self.network_, z).argmax(1)).cpu().numpy()


@dataclass(frozen=True)
class EncodedBatch:
    """A mini-batch under the autoencoder."""

    index: Tensor  # int64 [m], numbers of its rows
    z: Tensor  # [m, p], codes of all its rows, whichever process encoded them
    x: Tensor  # what the decoder has to give back, of this process's rows
    own_z: Tensor  # codes of these
    share: BatchShare
    autoencoder: Any

    @classmethod
    def of(cls, autoencoder: Any, index: Tensor, given: Tensor, x: Tensor, share: BatchShare) -> EncodedBatch:
        """The batch whose rows in this process are ``x``, of which the encoder is given ``given``."""
        z = autoencoder.encode(given)
        return cls(index, share.gathered(z), x, z, share, autoencoder)

    def decoding_error(self, form: str, codes: Tensor | None = None) -> Tensor:
        """:func:`reconstruction_loss` of ``codes`` [m, p] (None: those of the batch), decoded."""
        own = self.own_z if codes is None else codes[self.share.own]
        return self.share.mean(reconstruction_loss(self.x, self.autoencoder.decode(own), form))


def reconstruction_loss(x: Tensor, decoded: Tensor, form: str) -> Tensor:
    """Mean over rows of the squared error of ``decoded``, over columns its sum (``form`` "sum") or mean."""
    squared = (x - decoded).square()
    return squared.sum(1).mean() if form == "sum" else squared.mean()


@torch.no_grad()
def first_centroids(state: Any, z: Values) -> Tensor:
    """Sets the centroids [K, p] of the network to those of k-means on the codes ``z``; returns its labels [n]."""
    options = state.options
    if isinstance(z, StoredValues):
        start = by_kmeans_of_stored(z, options.n_clusters, options.n_init, state.seed)
        labels, centroids = start.labels, start.centres
    else:
        labels, centroids = kmeans(z, options.n_clusters, options.n_init, state.seed)
    state.network.centroids.copy_(centroids)
    return labels


def _array(shape: tuple[int, int], blocks: Iterable[np.ndarray], folder: Path | None) -> np.ndarray:
    """Blocks of rows as one array, above 1 GiB a memory map of a file in ``folder``."""
    writer: RowWriter | None = None
    for block in blocks:
        if writer is None:
            require_room(shape, block.dtype, folder)
            writer = RowWriter(shape, block.dtype, folder)
        writer.append(block)
    assert writer is not None
    return writer.finished()
