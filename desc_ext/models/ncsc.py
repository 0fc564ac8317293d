"""NCSC: neural collaborative subspace clustering."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from desc_ext import ops
from desc_ext.algorithms.first_clusters import FirstClusters, given_clusters
from desc_ext.algorithms.ncsc_initialization import first_labels
from desc_ext.algorithms.ncsc_losses import (
    collaborative_terms,
    dense_affinity,
    nearly_equal,
    separation_limit,
)
from desc_ext.algorithms.self_expression import closed_form_expression
from desc_ext.engine.anchor import anchor_loss
from desc_ext.engine.chunks import map_in_memory
from desc_ext.engine.deep import EncodedBatch
from desc_ext.engine.image_or_row import ImageOrRowClusterer
from desc_ext.engine.networks import ClusteringNetwork
from desc_ext.engine.optimizers import adam
from desc_ext.engine.options import Option, estimator, option
from desc_ext.engine.processes import BatchShare
from desc_ext.engine.refined import REFINE, RefinedClusterer, usual_pretraining
from desc_ext.engine.stages import BatchLosses, Losses, Stage, train_on_batches
from desc_ext.engine.state import Evaluation, FitState
from desc_ext.engine.stored_values import Values
from desc_ext.messages import warn_user
from desc_ext.models.ncsc_presets import PAPER, ROBUST
from desc_ext.nn import ClassifierHead, SelfExpressiveLayer
from desc_ext.norms import unit_rows

__all__ = ["NCSC"]

_EXPRESSION, _START, _CLASSIFIER, _JOINT = "expression", "start", "classifier", REFINE
_COLLAPSED_SHARE = 0.9
# The code space must hold the subspaces of all clusters: the paper's guess of the dimensions of one (section 4).
_DIMENSIONS_PER_CLUSTER = 9
_PARTITION_STREAM = 3  # distance of the seed of the partition from that of the network
_SMALLEST_LOSS = 1e-3  # a collapsed classifier has loss 0


class CollaborativeNetwork(ClusteringNetwork):
    """Autoencoder and classifier head; while it is trained, also the learned coefficients, if they are learned."""

    expression: nn.ModuleList | None

    def __init__(
        self,
        n_features: int,
        autoencoder: Any,
        head_sizes: tuple[int, ...],
        n_clusters: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__(n_features, autoencoder)
        self.head = ClassifierHead(autoencoder.code_shape, head_sizes, n_clusters, generator)
        self.expression = None  # a layer for each part of a fixed partition of the rows

    def classify(self, z: Tensor) -> Tensor:
        """Probabilities [n, K] of codes, rows summing to 1."""
        # entries of unit codes are about 1/√p: too small for layers that start at torch's usual scale
        return self.head(z * z.shape[1] ** 0.5 if self.autoencoder.unit_codes else z)


@dataclass
class CollaborativeState(FitState["NCSC", CollaborativeNetwork]):
    """The state of a fit of NCSC."""

    parts: list[Tensor] = field(default_factory=list)  # the fixed partition, where coefficients are learned
    codes: Values | None = None  # of all rows, while the encoder is not updated
    separation_limit: float | None = (
        None  # the value of A_s below which separation_share of the pairs lie, in this epoch
    )
    n_pairs: Tensor | None = None  # positive, negative and separated pairs of this epoch


@estimator
class NCSC(ImageOrRowClusterer[CollaborativeState], RefinedClusterer[CollaborativeState]):
    """Neural collaborative subspace clustering (Zhang et al., ICML 2019): no spectral clustering, any number of rows.

    An autoencoder maps rows or images to codes z; a classifier on the codes gives ν_i, its softmax output at length 1.
    Two affinities of a mini-batch teach each other: the classifier's A_c = ν νᵀ (eq. 1), and A_s (eq. 4), which is
    (|C| + |C|ᵀ)/2 with each row divided by its largest off-diagonal value, C the coefficients that express every code
    by the others. After pretraining come three stages:

    1. "expression": autoencoder and C minimise ‖C‖²_F + (λ1/2)‖Z − CZ‖²_F + ½‖X − X̂‖²_F, X̂ decoded from CZ (eq. 9);
    2. "classifier": the classifier minimises Ω = L_pos + α L_neg (eqs. 5 to 7, with the sign that makes them
       losses): L_pos = −mean A_s log A_c over pairs with A_s > u, L_neg = −mean (1 − A_c) log(1 − A_s) over pairs with
       A_c < l. (The paper's values of u and l are exchanged in its text.)
    3. "refine": everything minimises eq. 9 + λ_cl Ω (eq. 8), and with an anchor its loss in units of eq. 9's at the end of
       stage 1.

    A row's cluster is arg max ν (eq. 10). C is by default the exact minimiser of ‖C‖² + (λ1/2)‖Z − CZ‖² for each
    mini-batch, C_ij = y_i·y_j / (1 − ‖y_i‖²), of which only y [batch, p] is ever stored; ``self_expression="learned"``
    trains a matrix for each part of a fixed partition of the rows instead, by Adam from 1e-4 (its gradient and
    moments take three times its memory).

    A constant classifier makes both losses zero, and the paper's text has nothing against that: expect the preset
    "paper" to collapse into one cluster. A collapse (more than 90% of the rows in one cluster) is warned of and is in
    the history. "robust" adds to Ω two terms that prevent it: −mean log(1 − A_c) over the pairs whose A_s is among the
    smallest, and log K − entropy(mean ν²), zero for clusters of equal weight. In the place of stage 2 its classifier is
    taught, by cross-entropy, the first clusters (stage "start"; with an anchor, those of the certain rows), and stage 3
    sees augmented images, trains the autoencoder as fast as the classifier, and keeps that start by the anchor
    (:class:`~desc_ext.engine.refined.RefinedClusterer`).

    λ1 is in units of 1/‖z‖². The paper does not say how long its codes are: "paper" leaves them as the autoencoder
    makes them (then the ridge 2/λ1 is next to nothing), "robust" divides each by its norm, so that λ1 means the same
    for all data.

    Without an image shape, or with features, data are rows.

    {options}

    Attributes:
        labels_: int64 [n], clusters of the training rows at the end of the last epoch.
        embedding_: [n, p], their codes; above 1 GiB of rows on disk a memory map of a file, set at the end of the fit.
        initial_labels_: int64 [n], the clusters that ``init`` finds; "random": those of the classifier as it was drawn.
        n_iter_: epochs of stage 3.
        history_: one dict an epoch: stage ("pretrain", "expression", "start", "classifier", "refine"), epoch, seconds,
            loss and its terms, means over rows or pairs before their weights: reconstruction ‖x − x̂‖², coefficients
            ‖C‖², fidelity ½‖Z − CZ‖², start, positive, negative, separation, balance, anchor; n_positive, n_negative,
            n_separated (pairs); with clusters also mean_max_assignment, collapsed, label_change, cluster_sizes.
        resolved_params_, features_, n_features_in_: as for :class:`desc_ext.models.DESC`.
    """

    _state_type = CollaborativeState
    method = "ncsc"
    _stores_codes = True
    presets: ClassVar = {"paper": PAPER, "robust": ROBUST}

    latent_dim: Option[int | None] = option(
        "for rows: length of a code, p; None: 9·K. An image's code is the last map", default=None, at_least=1
    )
    head_sizes: Option[tuple[int, ...]] = option(
        "classifier: channels of its convolutions of kernel 2 (for rows, sizes of its layers) before the one to K classes",
        default=None,
        at_least=1,
    )
    self_expression: Option[Literal["closed-form", "learned"]] = option(
        'C: "closed-form", the exact minimiser, or "learned"', default=None
    )
    fidelity_weight: Option[float] = option("λ1", default=None, above=0)
    first_upper: Option[float] = option("u in the first epoch with Ω", default=None, at_least=0, at_most=1)
    upper: Option[float] = option("u in the others", default=None, at_least=0, at_most=1)
    lower: Option[float] = option("l", default=None, at_least=0, at_most=1)
    soft_indicator: Option[bool] = option(
        "gradients also reach A_s in L_pos and 1 − A_c in L_neg", default=None
    )
    negative_weight: Option[float] = option("α", default=None, at_least=0)
    collaborative_weight: Option[float] = option(
        "λ_cl in units of (eq. 9) / Ω at the end of stages 1 and 2, so that 1 makes the two losses equal; the loss of a "
        "stage without epochs counts as 1",
        default=None,
        at_least=0,
    )
    separation_weight: Option[float] = option("of the separation term in Ω", default=None, at_least=0)
    separation_share: Option[float] = option(
        "share of pairs it takes, those with the smallest A_s", default=None, at_least=0, at_most=1
    )
    balance_weight: Option[float] = option("of the balance term in Ω", default=None, at_least=0)
    init: Option[
        Literal["self-expressive", "k-subspaces", "k-means", "random", "best", "labels"] | np.ndarray
    ] = option(  # type: ignore[assignment]
        'what the classifier is taught before stage 2: clusters by "self-expressive" (SelfExpressiveClustering) or '
        '"k-subspaces", on scattering features of images of 16 pixels a side and more, else on the rows; by "k-means" on '
        'the codes; "best": on the codes, by k-means or the closed form of λ1, whichever has the smaller Ω; "random": '
        'nothing; or an array of labels [n_samples], integers from 0 to K − 1, which is saved as the word "labels"',
        default=None,
    )
    expression_epochs: Option[int | None] = option(
        "stage 1; None: as many as show 100,000 rows, 1 to 5", default=None, at_least=0
    )
    start_epochs: Option[int | None] = option(
        "cross-entropy with the first clusters, with an anchor of the certain rows alone; None: as many as show "
        "200,000 rows, 2 to 10",
        default=None,
        at_least=0,
    )
    classifier_epochs: Option[int] = option("stage 2", default=None, at_least=0)
    max_epochs: Option[int | None] = option(
        "stage 3, at most; None: as many as show 1,200,000 rows, 8 to 30", default=None, at_least=0
    )
    pretrain_batch_size: Option[int] = option(
        "rows of a mini-batch in pretraining and stage start", default=None, at_least=1
    )
    batch_size: Option[int] = option(
        "rows of a mini-batch in the three stages, at most", default=None, at_least=1
    )
    min_batches: Option[int] = option(
        "mini-batches in an epoch of the three stages, at least: few rows are gone through more than once",
        default=None,
        at_least=1,
    )
    pretrain_learning_rate: Option[float] = option(
        "of Adam in pretraining and stage start", default=None, above=0
    )
    autoencoder_learning_rate: Option[float] = option(
        "of Adam for the autoencoder, in stages 1 and 3", default=None, above=0
    )
    learning_rate: Option[float] = option("of Adam, for classifier and learned C", default=None, above=0)
    tol: Option[float] = option(
        "a stage with clusters stops when a smaller share of labels changes in an epoch; 0: never",
        default=None,
        at_least=0,
        at_most=1,
    )

    # ------------------------------------------------------------------ what a fit needs
    def _set_epochs(self, n_samples: int) -> None:
        super()._set_epochs(n_samples)
        # not of pretrain_epochs: a classifier that no epoch teaches has lost the first clusters
        pretraining = usual_pretraining(n_samples)
        if self.expression_epochs is None:
            self.expression_epochs = -(-pretraining // 4)
        if self.start_epochs is None:
            self.start_epochs = -(-pretraining // 2)

    def _default_latent_dim(self, n_features: int) -> int:
        return _DIMENSIONS_PER_CLUSTER * self.n_clusters

    def _build(self, n_features: int, n_samples: int, generator: torch.Generator) -> CollaborativeNetwork:
        autoencoder = self._autoencoder(n_features, generator)
        return CollaborativeNetwork(n_features, autoencoder, self.head_sizes, self.n_clusters, generator)

    def _begin(self, X: Any, options: NCSC) -> CollaborativeState:
        state = super()._begin(X, options)
        if options.self_expression == "learned":
            generator = torch.Generator().manual_seed(state.seed + _PARTITION_STREAM)
            shuffled = torch.randperm(len(state.rows), generator=generator)
            state.parts = nearly_equal(shuffled, options.batch_size)
            layers = nn.ModuleList(SelfExpressiveLayer(len(part)) for part in state.parts)
            state.network.expression = layers.to(state.rows.device, state.rows.dtype)
        return state

    # ------------------------------------------------------------------ stages
    def stages(self, state: CollaborativeState) -> list[Stage]:
        pretraining = self._pretraining(state, "sum", lambda z: self._evaluate_codes(state, z).labels)
        return [
            replace(pretraining, batches=lambda: self._pretraining_batches(state)),
            self._expression_stage(state),
            *self._classifier_stages(state),
            self._joint_stage(state),
        ]

    def _expression_stage(self, state: CollaborativeState) -> Stage:
        options, layers = state.options, _parameters(state.network.expression)
        return Stage(
            _EXPRESSION,
            options.expression_epochs or 0,
            lambda: adam([self._slow_group(state), {"params": layers}], options.learning_rate),
            lambda: self._batches(state),
            lambda index, _: self._expression_terms(state, index),
            after=lambda: self._find_first_clusters(state),
        )

    def _classifier_stages(self, state: CollaborativeState) -> list[Stage]:
        """Those of the classifier alone: taught the first clusters, then by the affinity."""
        options, head = state.options, _parameters(state.network.head)
        start = Stage(
            _START,
            0 if isinstance(options.init, str) and options.init == "random" else options.start_epochs or 0,
            lambda: adam(head, options.pretrain_learning_rate),
            lambda: self._pretraining_batches(state),
            lambda index, _: self._start_terms(state, index),
            has_clusters=True,
            tol=options.tol,
            before=lambda: self._keep_codes(state),
        )
        classifier = replace(
            start,
            name=_CLASSIFIER,
            epochs=options.classifier_epochs,
            optimizer=lambda: adam(head, options.learning_rate),
            batches=lambda: self._batches(state),
            terms=lambda index, _: self._classifier_terms(state, index),
            train_epoch=lambda stage, evaluation: self._train_on_pairs(state, stage, evaluation),
        )
        return [start, classifier]

    def _joint_stage(self, state: CollaborativeState) -> Stage:
        options, network = state.options, state.network
        fast = [*_parameters(network.expression), *_parameters(network.head)]
        refinement = Stage(
            _JOINT,
            options._refinement_epochs,
            lambda: adam([self._slow_group(state), {"params": fast}], options.learning_rate),
            lambda: self._batches(state),
            lambda index, evaluation: self._joint_terms(state, index, evaluation),
            has_clusters=True,
            tol=options.tol,
            train_epoch=lambda stage, evaluation: self._train_on_pairs(state, stage, evaluation),
            before=lambda: self._forget_codes(state),
            after=lambda: self._end_training(state),
        )
        return self._anchored(state, refinement)

    def _slow_group(self, state: CollaborativeState) -> dict[str, Any]:
        rate = state.options.autoencoder_learning_rate
        return {"params": _parameters(state.network.autoencoder), "lr": rate}

    def _pretraining_batches(self, state: CollaborativeState) -> list[Tensor]:
        return list(state.rows.shuffled(state.order, state.options.pretrain_batch_size))

    def _batches(self, state: CollaborativeState) -> list[Tensor]:
        batches: list[Tensor] = []
        while len(batches) < state.options.min_batches:
            if state.parts:
                order = torch.randperm(len(state.parts), generator=state.order)
                batches += [state.parts[number] for number in order]
            else:
                batches += nearly_equal(state.rows.order(state.order), state.options.batch_size)
        return batches

    def _find_first_clusters(self, state: CollaborativeState) -> None:
        """Sets the clusters [n] that the classifier is taught first."""
        self._keep_codes(state)
        assert state.codes is not None
        state.initial_labels = self._find_start(state, state.codes)

    def _first_clusters(self, state: CollaborativeState, z: Any) -> FirstClusters:
        options = state.options
        if isinstance(options.init, np.ndarray) or options.init not in ("random", "best"):
            return super()._first_clusters(state, z)
        z = z[:]  # what is only of small data takes them from memory
        drawn = options.init == "random"
        labels = self._evaluate_codes(state, z).labels if drawn else first_labels(z, options, state.seed)
        return given_clusters(z, labels.cpu().numpy(), options.n_clusters)

    def _keep_codes(self, state: CollaborativeState) -> None:
        state.codes = self._encode_all(state)

    def _forget_codes(self, state: CollaborativeState) -> None:
        state.codes = None

    def _encode_all(self, state: CollaborativeState) -> Any:
        return super()._encode_all(state) if state.codes is None else state.codes

    def _end_training(self, state: CollaborativeState) -> None:
        state.network.expression = None
        if any(record.get("collapsed") for record in state.history[-1:]):
            use = "give start_epochs and max_epochs more epochs"
            if state.options.preset != "robust":
                use = "use preset='robust'"
            warn_user(
                f"{type(self).__name__} collapsed: one of {state.options.n_clusters} clusters holds more than "
                f"{_COLLAPSED_SHARE:.0%} of the rows (a constant classifier makes eqs. 6 and 7 zero); {use}, or raise "
                "separation_weight and balance_weight",
            )

    def _assign(self, network: CollaborativeNetwork, z: Tensor) -> Tensor:
        return network.classify(z)

    @torch.no_grad()
    def _evaluate_codes(self, state: CollaborativeState, z: Values) -> Evaluation:
        def of_rows(part: Tensor) -> Tensor:
            largest, label = self._assign(state.network, part).max(1)
            # numbers of clusters are exact in every dtype of codes
            return torch.stack([label.to(largest.dtype), largest], 1)

        label, proba = (column.clone() for column in map_in_memory(of_rows, z).unbind(1))
        evaluation = Evaluation(z, label.long())
        n_clusters = state.options.n_clusters
        largest = int(torch.bincount(evaluation.labels, minlength=n_clusters).max())
        evaluation.record = {
            "mean_max_assignment": float(proba.mean()),
            "collapsed": n_clusters > 1 and largest > _COLLAPSED_SHARE * len(z),
        }
        return evaluation

    # ------------------------------------------------------------------ one epoch, one mini-batch
    def _train_on_pairs(
        self, state: CollaborativeState, stage: Stage, evaluation: Evaluation | None
    ) -> dict[str, float]:
        state.n_pairs = state.separation_limit = None
        losses = train_on_batches(state, stage, evaluation)
        if state.n_pairs is not None:
            names = ("n_positive", "n_negative", "n_separated")
            losses |= dict(zip(names, state.n_pairs.tolist(), strict=True))
        return losses

    def _start_terms(self, state: CollaborativeState, index: Tensor) -> BatchLosses:
        assert state.codes is not None
        on_device = index.to(state.codes.device)
        z = state.codes[on_device]
        target = nn.functional.one_hot(state.first_labels[on_device], state.options.n_clusters).to(z.dtype)
        if state.certainty is not None:  # there is an anchor: the less certain rows wait for its targets
            certain = state.certainty[on_device] > 1 - state.options.certain_share
            target *= certain[:, None]
        return {"start": (1.0, anchor_loss(state.network.classify(z), target))}, {}

    def _classifier_terms(self, state: CollaborativeState, index: Tensor) -> BatchLosses:
        assert state.codes is not None
        return self._collaborative_terms(state, index, state.codes[index.to(state.codes.device)]), {}

    def _expression_terms(self, state: CollaborativeState, index: Tensor) -> BatchLosses:
        share = BatchShare(len(index))
        x = state.rows.take(index[share.own].numpy())
        batch = EncodedBatch.of(state.network.autoencoder, index.to(x.device), x, x, share)
        _, expressed, losses = self._express(state, index, batch.z)
        return {"reconstruction": (0.5, batch.decoding_error("sum", expressed))} | losses, {}

    def _joint_terms(
        self, state: CollaborativeState, index: Tensor, evaluation: Evaluation | None
    ) -> BatchLosses:
        batch = self._encoded(state, index)
        z = batch.z
        y, expressed, losses = self._express(state, index, z)
        # before decoding: passes over pairs do not meet the decoder's maps in memory
        scale = self._collaborative_scale(state)
        found = self._collaborative_terms(state, index, z, y)
        collaborative = {name: (scale * weight, value) for name, (weight, value) in found.items()}
        error = batch.decoding_error("sum", expressed)
        unit = self._last_losses(state).get(_EXPRESSION, 1.0)
        found = self._anchor_terms(state, z, batch.index, evaluation)
        anchor = {name: (unit * weight, value) for name, (weight, value) in found.items()}
        return {"reconstruction": (0.5, error)} | losses | collaborative | anchor, {}

    def _express(
        self, state: CollaborativeState, index: Tensor, z: Tensor
    ) -> tuple[Tensor | None, Tensor, Losses]:
        """y of the closed form (None where C is learned), C Z, and eq. 9's terms of C, each over the number of rows."""
        weight, n, y = state.options.fidelity_weight, len(z), None
        if state.parts:
            expressed, fidelity, size = self._layer(state, index)(z, "l2")
        else:
            y = ops.ridge_self_expression(z, 2 / weight)
            expressed, size = closed_form_expression(z, y)
            fidelity = (z - expressed).square().sum() / 2
        return y, expressed, {"coefficients": (1.0, size / n), "fidelity": (weight, fidelity / n)}

    def _layer(self, state: CollaborativeState, index: Tensor) -> Any:
        assert state.network.expression is not None
        number = next(i for i, part in enumerate(state.parts) if part is index)
        return state.network.expression[number]

    def _collaborative_terms(
        self, state: CollaborativeState, index: Tensor, z: Tensor, y: Tensor | None = None
    ) -> Losses:
        options = state.options
        if state.parts:
            coefficient = self._layer(state, index).coefficient
            coefficient = coefficient if state.stage == _JOINT else coefficient.detach()
            rows, row_max = (coefficient.abs() + coefficient.T.abs()) / 2, None
        else:
            rows = ops.ridge_self_expression(z, 2 / options.fidelity_weight) if y is None else y
            row_max = ops.affinity_row_max(rows)
        if state.separation_limit is None:  # once an epoch, as the device is waited for
            share = options.separation_share if options.separation_weight else 0.0
            state.separation_limit = separation_limit(rows, row_max, share)
        # the first epoch in which the two affinities meet
        first = state.epoch == 0 and state.stage == (_CLASSIFIER if options.classifier_epochs else _JOINT)
        upper = options.first_upper if first else options.upper
        nu = unit_rows(state.network.classify(z))
        losses, counts = collaborative_terms(nu, rows, row_max, upper, state.separation_limit, options)
        state.n_pairs = counts if state.n_pairs is None else state.n_pairs + counts
        return losses

    def _last_losses(self, state: CollaborativeState) -> dict[str, float]:
        """The loss in the last epoch of each stage so far."""
        return {record["stage"]: record["loss"] for record in state.history}

    def _collaborative_scale(self, state: CollaborativeState) -> float:
        """λ_cl: collaborative_weight times what makes the two losses, as their own stages left them, equal."""
        last = self._last_losses(state)
        ratio = last.get(_EXPRESSION, 1.0) / max(last.get(_CLASSIFIER, 1.0), _SMALLEST_LOSS)
        return state.options.collaborative_weight * ratio

    # ------------------------------------------------------------------ affinities
    def dense_affinity(self, rows: Any) -> np.ndarray:
        """A_s of eq. 4 [m, m] between the training rows with the numbers ``rows`` [m], taken as one mini-batch.

        From the closed form of their codes; each row is divided by its largest other value, and the diagonal is 1.

        Raises:
            ValueError: the model does not hold the codes: those of many rows on disk are not saved with it.
        """
        check_is_fitted(self)
        if self.embedding_ is None:
            raise ValueError(
                "NCSC: dense_affinity is of the codes of the training rows, which this model does not hold: they were too "
                "many, or not asked for; call it on the estimator that was fitted, with its embedding"
            )
        z = torch.from_numpy(self.embedding_[rows])
        return dense_affinity(z, self._options.fidelity_weight).numpy()


def _parameters(module: nn.Module | None) -> list[nn.Parameter]:
    return [] if module is None else list(module.parameters())
