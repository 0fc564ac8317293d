"""What the methods with a refinement share: where it begins, augmented images, and the anchor that keeps the start."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from desc_ext.algorithms.first_clusters import FirstClusters, by_kmeans
from desc_ext.engine.anchor import (
    anchor_loss,
    anchor_targets,
    cosine,
    evaluate_average,
    frequency_of,
    share_of_start,
    update_average,
)
from desc_ext.engine.chunks import map_blocks, map_chunks
from desc_ext.engine.deep import DeepClusterer
from desc_ext.engine.options import LABELS, Option, estimator, option
from desc_ext.engine.processes import BatchShare, processes
from desc_ext.engine.stages import Losses, Stage
from desc_ext.engine.starts import check_labels, first_clusters_of_rows, labels_digest
from desc_ext.engine.state import Evaluation, FitState
from desc_ext.engine.stored_starts import by_kmeans_of_stored
from desc_ext.engine.stored_values import StoredValues, Values
from desc_ext.nn import affine_images, random_affine

__all__ = ["ANCHORED", "REFINE", "UNANCHORED", "RefinedClusterer", "usual_pretraining"]

S = TypeVar("S", bound=FitState)
REFINE = "refine"  # the name of the stage that is anchored
_SUBSPACE_DIM = 8  # of k-subspaces, where a method has no dimension of its own
# The values of the shared options in presets that are a paper's text, which has none of them.
UNANCHORED: dict[str, Any] = {
    "init": "k-means",
    "augment": "none",
    "corruption": 0.0,
    "anchor_weight": 0.0,
    "anchor_share": 0.5,
    "certain_share": 0.6,
    "warmup_epochs": 0,
    "average_decay": 0.99,
    "schedule": "constant",
}

# The values that measurements justify (benchmarks/papers/results/refinement.md).
ANCHORED: dict[str, Any] = UNANCHORED | {
    "init": "self-expressive",
    "augment": "auto",
    "anchor_weight": 1.0,
    # 0.5 ended .006 higher on digits, but fell from .984 to .983 on 10,000 images of MNIST, where this rose to .986
    "anchor_share": 0.9,
    "warmup_epochs": None,
    "schedule": "cosine",
}
# Where the number of epochs is None: as many as show so many rows, and bounds. Passes count, not steps alone: with 12 in
# place of 30 on 10,000 images of MNIST, DCEC ended below its start. Those of 70,000 take a quarter of an hour on one thread.
_PRETRAINING, _REFINEMENT = (400_000, 3, 20), (1_200_000, 8, 30)
_WARMUP_SHARE = 6  # of the epochs of refinement: one in so many
# Zeros in rows do what turning does for images, where codes have room for it. From NMI .702 on the 512 columns of 20
# Newsgroups-b DESC rose to .708, .724, .737 with .3, .6, .8, and fell to .593 with .9; from .687 on its first 256 to .702 and
# .729 with .5 and .75; from .902 on the 64 pixels of digits to .917 with .3, and fell with .6. NCSC rose to .717 on the first
# with .6; IDEC, of 10 values a code, fell to .686 with .5.
_LEFT_COLUMNS, _LEAST_CORRUPTION, _MOST_CORRUPTION = 64, 0.3, 0.75


@estimator
class RefinedClusterer(DeepClusterer[S]):
    """Base class of the methods that find first clusters, and refine network and clusters from there.

    A method defines ``_take_start``, makes its first clusters by ``_find_start``, passes its refinement through
    ``_anchored``, reads mini-batches by ``_batch`` and adds ``_anchor_terms`` to its losses. The option that says how many
    epochs of refinement there are is ``max_epochs``, or what ``_length`` names.
    """

    _length: ClassVar[str] = "max_epochs"

    init: Option[Literal["self-expressive", "k-subspaces", "k-means", "labels"] | np.ndarray] = option(
        'first clusters: "self-expressive" (SelfExpressiveClustering) or "k-subspaces", on scattering features of images of '
        '16 pixels a side and more, else on the rows; "k-means" on the codes; or an array of labels [n_samples], integers '
        'from 0 to K − 1, which is saved as the word "labels"',
        default=None,
        earlier=UNANCHORED["init"],
    )
    augment: Option[Literal["auto", "none", "affine", "affine-flip"]] = option(
        'of images in training: "affine" (rotation ±12°, shift ±10%, scale ±12%), "affine-flip" (and mirror images), "none"; '
        '"auto": "affine" for images, "none" for rows. Targets are those of the images as they are',
        default=None,
        earlier=UNANCHORED["augment"],
    )
    corruption: Option[float | None] = option(  # type: ignore[assignment]
        "share of the input's entries that are set to zero in training; None: 0 of images, of rows what leaves 64 columns, "
        "0.3 to 0.75",
        default=None,
        at_least=0,
        below=1,
    )
    anchor_weight: Option[float] = option(
        "of the cross-entropy with targets that keep the start; 0: no anchor, no average of the network",
        default=None,
        earlier=UNANCHORED["anchor_weight"],
        at_least=0,
    )
    anchor_share: Option[float] = option(
        "share of the first clusters in these targets, which falls to half of it; the rest are sharpened assignments",
        default=None,
        earlier=UNANCHORED["anchor_share"],
        at_least=0,
        at_most=1,
    )
    certain_share: Option[float] = option(
        "share of the rows of each cluster, the most certain ones, that the anchor teaches in the warm-up",
        default=None,
        earlier=UNANCHORED["certain_share"],
        above=0,
        at_most=1,
    )
    pretrain_epochs: Option[int | None] = option(  # type: ignore[assignment]
        "epochs of reconstruction only; None: as many as show 400,000 rows, 3 to 20", default=None, at_least=0
    )
    warmup_epochs: Option[int | None] = option(
        "epochs of refinement that aim at the first clusters alone; None: a sixth of all",
        default=None,
        earlier=UNANCHORED["warmup_epochs"],
        at_least=0,
    )
    average_decay: Option[float] = option(
        "with an anchor: share that the average of the network keeps at a step; the average gives targets and results",
        default=None,
        earlier=UNANCHORED["average_decay"],
        at_least=0,
        below=1,
    )
    schedule: Option[Literal["constant", "cosine"]] = option(
        'of the learning rate in refinement: "constant", or "cosine", falling towards 0',
        default=None,
        earlier=UNANCHORED["schedule"],
    )

    # ------------------------------------------------------------------ what a method adds
    def _take_start(self, state: S, z: Any, start: FirstClusters) -> None:
        """Sets the method's own parameters by the codes ``z`` [n, p] of all rows and their first clusters, if it can."""

    def _membership(self, network: Any, z: Tensor) -> Tensor:
        """The soft assignment [n, K] of codes that the anchor trains, differentiable."""
        return self._assign(network, z)

    @property
    def _start_dim(self) -> int:
        """Dimensions of the subspaces of ``init="k-subspaces"``, of the resolved options."""
        return _SUBSPACE_DIM

    # ------------------------------------------------------------------ options
    def _complete_options(self) -> None:
        super()._complete_options()
        if isinstance(self.init, str) and self.init == LABELS:
            raise ValueError(
                f"{type(self).__name__}: init={LABELS!r} stands for an array that a saved model was given and that is not "
                "saved with it; pass the array of labels [n_samples], or the name of a method"
            )

    def _adapt_options(self, n_samples: int, n_features: int) -> None:
        super()._adapt_options(n_samples, n_features)
        if isinstance(self.init, np.ndarray):
            self.init = check_labels(type(self).__name__, self.init, n_samples, self.n_clusters)
        images = self.image_shape is not None
        if self.augment == "auto":
            self.augment = "affine" if images else "none"
        elif self.augment != "none" and not images:
            raise ValueError(
                f"{type(self).__name__}: augment={self.augment!r} is for images, but X has rows; use augment='none', or "
                "set image_shape=(H, W) or (C, H, W) and leave out features"
            )
        if self.corruption is None:
            left = min(_LEFT_COLUMNS / n_features, 1.0)
            self.corruption = 0.0 if images else min(max(1 - left, _LEAST_CORRUPTION), _MOST_CORRUPTION)
        self._set_epochs(n_samples)

    def _set_epochs(self, n_samples: int) -> None:
        """Numbers of epochs that are left to the number of rows."""
        if self.pretrain_epochs is None:
            self.pretrain_epochs = usual_pretraining(n_samples)
        if self._refinement_epochs is None:
            setattr(self, self._length, _epochs(n_samples, *_REFINEMENT))
        if self.warmup_epochs is None:
            self.warmup_epochs = self._refinement_epochs // _WARMUP_SHARE

    def _begin(self, X: Any, options: Self) -> S:
        state = super()._begin(X, options)
        if isinstance(options.init, np.ndarray):
            state.further_data = state.further_data | {"init_digest": labels_digest(options.init)}
        return state

    # ------------------------------------------------------------------ the start
    @torch.no_grad()
    def _find_start(self, state: S, z: Any) -> Tensor:
        """First clusters [n] by ``init``, given all codes ``z`` [n, p]; sets the method's parameters by them."""
        start = processes().from_first(lambda: self._first_clusters(state, z).to("cpu")).to(z.device)
        if state.options.anchor_weight:
            state.certainty = start.certainty
        self._take_start(state, z, start)
        return start.labels

    def _first_clusters(self, state: S, z: Any) -> FirstClusters:
        """First clusters by ``init``, given all codes ``z`` [n, p]; a method with further values of ``init`` adds them."""
        options, start = state.options, None
        if isinstance(options.init, np.ndarray) or options.init != "k-means":
            start = first_clusters_of_rows(state, options._start_dim)
        if start is not None:
            return start
        find = by_kmeans_of_stored if isinstance(z, StoredValues) else by_kmeans
        return find(z, options.n_clusters, options.n_init, state.seed)

    # ------------------------------------------------------------------ mini-batches
    def _batch(self, state: S, index: Tensor, share: BatchShare) -> tuple[Tensor, Tensor]:
        """As in the base class; the decoder has to give back the image before augmentation.

        A code need not say how an image was turned, only what it shows.
        """
        options, own = state.options, index[share.own].numpy()
        x = given = state.rows.take(own)
        if options.augment != "none":
            shape, flip = options.image_shape, options.augment == "affine-flip"
            maps = random_affine(len(index), shape[1:], state.noise, flip, torch.float64)[share.own]
            given = state.rows.take(
                own, lambda rows: affine_images(rows.reshape(-1, *shape), maps).flatten(1)
            )
        return self._corrupted(state, given, share), x

    # ------------------------------------------------------------------ the anchor
    def _anchored(self, state: S, stage: Stage) -> Stage:
        """The refinement ``stage`` with the average of the network, and the schedule of the learning rate."""
        options = state.options
        stage = replace(stage, rate=cosine if options.schedule == "cosine" else None)
        if not options.anchor_weight:
            return stage

        def before() -> None:
            if stage.before is not None:
                stage.before()
            if state.average is None:
                state.average = deepcopy(state.network)

        def after() -> None:
            state.network, state.average = state.average, None
            if stage.after is not None:
                stage.after()

        return replace(
            stage,
            before=before,
            after_step=lambda: update_average(state, options.average_decay),
            after=after,
            warmup_epochs=options.warmup_epochs,
        )

    @torch.no_grad()
    def _evaluate(self, state: S) -> Evaluation:
        with evaluate_average(state):
            evaluation = super()._evaluate(state)
            if state.average is not None:
                evaluation.anchor = self._anchor(state, evaluation.z)
        return evaluation

    def _anchor(self, state: S, z: Values) -> Values:
        """Targets [n, K] of the epoch that comes, from the codes ``z`` [n, p] of the average."""
        options = state.options
        assert state.certainty is not None
        if state.epoch < options.warmup_epochs:
            certain = state.certainty > 1 - options.certain_share
            # assignments have no say in the warm-up
            nothing = torch.zeros(1, options.n_clusters, dtype=z.dtype, device=z.device)
            return map_chunks(
                lambda part, labels, kept: anchor_targets(labels, nothing, 1.0, kept),
                z,
                state.first_labels,
                certain,
            )

        def membership(part: Tensor) -> Tensor:
            return self._membership(state.network, part)

        frequency = frequency_of(map_blocks(membership, z))
        epochs = options._refinement_epochs
        share = share_of_start(options.anchor_share, state.epoch, options.warmup_epochs, epochs)
        return map_chunks(
            lambda part, labels: anchor_targets(labels, membership(part), share, frequency=frequency),
            z,
            state.first_labels,
        )

    @property
    def _refinement_epochs(self) -> Any:
        """Epochs of refinement, at most, of the resolved options."""
        return getattr(self, self._length)

    def _anchor_terms(self, state: S, z: Tensor, index: Tensor, evaluation: Evaluation | None) -> Losses:
        """The anchor's loss on the codes ``z`` of the rows ``index`` of a mini-batch; none without an anchor."""
        if evaluation is None or evaluation.anchor is None:
            return {}
        loss = anchor_loss(self._membership(state.network, z), evaluation.anchor[index])
        return {"anchor": (state.options.anchor_weight, loss)}


def usual_pretraining(n_samples: int) -> int:
    """Epochs of pretraining where ``pretrain_epochs`` is None."""
    return _epochs(n_samples, *_PRETRAINING)


def _epochs(n_samples: int, rows: int, least: int, most: int) -> int:
    return min(max(round(rows / n_samples), least), most)
