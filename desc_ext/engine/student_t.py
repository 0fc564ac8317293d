"""What the methods with Student-t assignments share (DEC, IDEC, DCEC, ASC2D): network, first clusters, targets, rounds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from desc_ext import ops
from desc_ext.algorithms.first_clusters import FirstClusters, cluster_means
from desc_ext.engine.chunks import map_blocks, map_chunks, map_in_memory
from desc_ext.engine.convolutional import ConvolutionalClusterer
from desc_ext.engine.networks import ClusteringNetwork
from desc_ext.engine.optimizers import adam
from desc_ext.engine.options import Option, estimator, option
from desc_ext.engine.refined import REFINE
from desc_ext.engine.stages import BatchLosses, Losses, Stage
from desc_ext.engine.state import Evaluation, FitState
from desc_ext.engine.stored_starts import means_of_stored
from desc_ext.engine.stored_values import StoredValues, Values

__all__ = ["StudentTClusterer", "StudentTNetwork", "require_a_loss"]

S = TypeVar("S", bound=FitState)
_FEWEST_BATCHES = 40  # of a round without update_interval


class StudentTNetwork(ClusteringNetwork):
    """Autoencoder, centroids μ [K, p] and frequencies f [K]: the column sums of the assignments of all rows."""

    frequency: Tensor

    def __init__(self, n_features: int, autoencoder: nn.Module, n_clusters: int) -> None:
        super().__init__(n_features, autoencoder)
        self.centroids = nn.Parameter(torch.zeros(n_clusters, self.latent_dim))
        self.register_buffer("frequency", torch.ones(n_clusters))

    def assign(self, z: Tensor) -> Tensor:
        """Student-t assignments [n, K] of codes to the centroids, one degree of freedom."""
        return ops.student_t_assignment(z, self.centroids)

    def sharpen(self, assignment: Tensor) -> Tensor:
        """The target [n, K] of assignments: their squares over the frequencies, each row summing to 1."""
        return ops.target_distribution(assignment, self.frequency)


@estimator
class StudentTClusterer(ConvolutionalClusterer[S]):
    """Pretraining, k-means on the codes, then refinement in rounds: the base class of DEC and its kin.

    An epoch of refinement is a round of ``update_interval`` mini-batches, however many passes over the rows that is.
    After it all rows are assigned anew, which gives the next round's target, and the fit stops when a smaller share of
    labels than ``tol`` has changed: the schedule of DEC's code. There mini-batches go on through the rows in their order;
    here every round begins a new shuffle, so that nothing but the networks has to go from one round to the next.

    A method defines ``_latent_dim`` and ``_refinement_terms``, and may replace ``_refinement_optimizer`` and
    ``_reconstruction``.
    """

    reconstruction_weight: Option[float] = option(
        "of the reconstruction error in refinement", default=None, at_least=0
    )
    update_interval: Option[int | None] = option(
        "mini-batches between two targets; an epoch of refinement is one such round. None: one pass over the rows, of few "
        "rows as many as give 40 mini-batches",
        default=None,
        at_least=1,
    )
    max_rounds: Option[int | None] = option(
        "rounds of refinement, at most; None: as many as would show 1,200,000 rows in whole passes, 8 to 30",
        default=None,
        at_least=0,
    )
    learning_rate: Option[float] = option("of the refinement", default=None, above=0)
    tol: Option[float] = option(
        "refinement stops when a smaller share of labels changes in a round",
        default=None,
        at_least=0,
        at_most=1,
    )

    _length = "max_rounds"
    _stores_codes = True

    @property
    def cluster_centers_(self) -> np.ndarray:
        """Centroids μ [K, p] in the code space (NumPy)."""
        self._require_fit("cluster_centers_")
        return self.network_.centroids.detach().cpu().numpy()

    @property
    @abstractmethod
    def _latent_dim(self) -> int:
        """Length of a code, of the resolved options."""

    @property
    def _reconstruction(self) -> str:
        """Whether squared errors are summed or averaged over the columns, of the resolved options."""
        return "mean"

    def _build(self, n_features: int, n_samples: int, generator: torch.Generator) -> StudentTNetwork:
        autoencoder = self._autoencoder(n_features, self._latent_dim, generator)
        return StudentTNetwork(n_features, autoencoder, self.n_clusters)

    # ------------------------------------------------------------------ stages
    def stages(self, state: S) -> list[Stage]:
        options = state.options
        refinement = Stage(
            REFINE,
            options._refinement_epochs,
            lambda: self._refinement_optimizer(state),
            lambda: self._batches_of_round(state),
            lambda index, evaluation: self._terms(state, index, evaluation),
            has_clusters=True,
            tol=options.tol,
            after=lambda: self._end_refinement(state),
        )
        return [
            self._pretraining(state, options._reconstruction, lambda z: self._find_start(state, z)),
            self._anchored(state, refinement),
        ]

    def _take_start(self, state: S, z: Any, start: FirstClusters) -> None:
        means = start.centres
        if means is None:
            of_clusters = means_of_stored if isinstance(z, StoredValues) else cluster_means
            means = of_clusters(z, start.labels, state.options.n_clusters)
        state.network.centroids.copy_(means)

    def _membership(self, network: Any, z: Tensor) -> Tensor:
        """q² over its row sum: q is so flat that certain rows would go on outweighing the others in the anchor's loss."""
        squared = network.assign(z).square()
        return squared / squared.sum(1, keepdim=True)

    def _refinement_optimizer(self, state: S) -> torch.optim.Optimizer:
        return adam(state.network.parameters(), state.options.learning_rate)

    def _end_refinement(self, state: S) -> None:
        """Lets go of what only training needs."""

    def _assign(self, network: Any, z: Tensor) -> Tensor:
        return network.assign(z)

    def _evaluate_codes(self, state: S, z: Values) -> Evaluation:
        network = state.network
        sums = [part.sum(0, dtype=torch.float64) for part in map_blocks(network.assign, z)]
        network.frequency.copy_(torch.stack(sums).sum(0))

        def of_rows(part: Tensor) -> Tensor:
            assignment = network.assign(part)
            labels = self._assign(network, part).argmax(1).to(part.dtype)
            return torch.stack(
                [labels, assignment.max(1).values, network.sharpen(assignment).max(1).values], 1
            )

        # numbers of clusters are exact in every dtype of codes
        labels, largest, largest_target = (column.clone() for column in map_in_memory(of_rows, z).unbind(1))
        target = map_chunks(lambda part: network.sharpen(network.assign(part)), z)
        record = {
            "mean_max_assignment": float(largest.mean()),
            "mean_max_target": float(largest_target.mean()),
        }
        return Evaluation(z, labels.long(), target, record=record)

    def _batches_of_round(self, state: S) -> list[Tensor]:
        interval = state.options.update_interval
        batches: list[Tensor] = []
        while len(batches) < (interval or _FEWEST_BATCHES):
            batches += self._shuffled_batches(state)
        return batches[:interval]

    def _terms(self, state: S, index: Tensor, evaluation: Evaluation | None) -> BatchLosses:
        options = state.options
        assert evaluation is not None
        batch, losses = self._encoded(state, index), Losses()
        if options.reconstruction_weight:
            error = batch.decoding_error(options._reconstruction)
            losses["reconstruction"] = (options.reconstruction_weight, error)
        further, metrics = self._refinement_terms(state, batch.z, batch.index, evaluation)
        return losses | further | self._anchor_terms(state, batch.z, batch.index, evaluation), metrics

    @abstractmethod
    def _refinement_terms(self, state: S, z: Tensor, index: Tensor, evaluation: Evaluation) -> BatchLosses:
        """The method's losses on the codes ``z`` of the rows ``index`` of a mini-batch."""


def require_a_loss(options: Any, weights: Sequence[str]) -> None:
    """Raises ValueError where all of the named weights are 0, so that nothing would be trained."""
    if not any(getattr(options, weight) for weight in weights):
        raise ValueError(
            f"{type(options).__name__}: at least one of {', '.join(weights)} must be > 0, got 0 for all"
        )
