"""LRSC: representations for subspace clustering that are learned from external data, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from desc_ext import ops
from desc_ext.algorithms.distillation import distillation_loss, median_squared_distance
from desc_ext.algorithms.meta_learning import TaskLoss, meta_gradient
from desc_ext.engine.external import External, external_rows
from desc_ext.engine.optimizers import adam
from desc_ext.engine.options import Option, estimator, option
from desc_ext.engine.rows import Rows
from desc_ext.engine.stages import BatchLosses, Losses, Stage
from desc_ext.messages import warn_user
from desc_ext.models.dsc_net import PAPER, ROBUST, ExpressionState, SelfExpressiveEmbedding
from desc_ext.nn import Teacher, set_dtype

__all__ = ["LRSC"]

_ADDED: dict[str, Any] = {
    "image_network": "strided",
    "hidden_sizes": (),
    "task_level": True,
    "model_level": True,
    "self_supervision": True,
    "teacher": "classifier",
    "teacher_sizes": (500, 500, 500),
    "teacher_channels": (8, 16, 32, 64),
    "teacher_epochs": 20,
    "teacher_learning_rate": 1e-3,
    "meta_epochs": 10,
    "meta_tasks": 4,
    "meta_learning_rate": 1e-3,
    "episode_classes": None,
    "episode_size": 400,
    "inner_steps": 1,
    "inner_learning_rate": 1e-2,
    "distillation": "energy",
    "distillation_weight": 0.001,
    "contrast_weight": 0.1,
    "temperature": 0.07,
}
_PAPER = PAPER | _ADDED | {"inner_learning_rate": 1e-4}
_ROBUST = ROBUST | _ADDED | {"image_network": None, "distillation": "ratio", "contrast_weight": 0.01}
_TEACHER, _META = "teacher", "meta"
# A stage of one update an epoch would write its checkpoint after each of them.
_UPDATES_PER_EPOCH = 10
# Distances of the seeds of halves, teachers and bandwidths from that of the network.
_HALVES_STREAM, _TEACHER_STREAM, _BANDWIDTH_STREAM = 3, 4, 5


@dataclass
class TransferState(ExpressionState["LRSC"]):
    """The state of a fit with external data."""

    external: External | None = None
    knowledge: tuple[Tensor, float] | None = (
        None  # teacher features of the rows to cluster, and their bandwidth
    )
    external_knowledge: tuple[Tensor, list[float]] | None = None  # of the external rows, with one a half


@estimator
class LRSC(SelfExpressiveEmbedding[TransferState]):
    """Learning representations for subspace clustering (Li et al., AAAI 2021), LRSC-L2 and LRSC-L1.

    DSC-Net (:class:`desc_ext.models.DSCNet`: an autoencoder, a coefficient matrix C, spectral clustering of
    ½(|C| + |C|ᵀ)) with three additions, each of which has a switch. The first two learn from external data: other rows of
    the same kind, with classes if possible.

    - ``task_level``: the autoencoder starts from a meta-learner (Algorithm 1). Episodes are small clustering tasks drawn
      from the external data and split into halves; θ_i is the meta-learner θ after a gradient step on the loss of the
      training half (eq. 6), and θ follows the gradient of the test half's loss at θ_i (first-order MAML, Adam). C is the
      closed form of each half.
    - ``model_level``: a teacher too deep for the clustering itself is trained on the external data, and its features t
      say which rows belong together: ½ Σ W_ij ‖ẑ_i − ẑ_j‖² with W_ij = exp(−‖t_i − t_j‖²/t) (eqs. 4 and 5), on unit codes
      (or the loss only shrinks them) and divided by the number of pairs; t is the median of ‖t_i − t_j‖². The external
      data are halved and each half has a teacher, which extracts the features of the other half; the first extracts those
      of the rows to cluster. An episode is drawn from one half, since features of two teachers have no common distances.
    - ``self_supervision``: −log softmax_j cos(z_i, g_j)/σ at j = i, the mean over rows, G = C Z (eq. 8).

    Without external data the first two are off, and with all three off this is DSC-Net. The paper names neither its
    weights nor its numbers of steps; those below come from comparisons on external data alone
    (benchmarks/papers/lrsc_defaults.py), on texts by three seeds, on images by fewer. The distillation hurt images there
    at every weight that was tried, 0.01 and more, so its default is small.

    Take it where external data are at hand that are like the rows to cluster, and compare with DSC-Net: with the defaults
    the three additions gave nothing clear over it on Fashion-MNIST, BBC news or the external data themselves, at three to
    six times the time (benchmarks/papers/lrsc.py has the numbers).

    λ1 and λ2 of the paper are ``fidelity_weight`` and ``coefficient_weight``; λ3 and λ4, of the episodes, are the same.

    {options}

    Attributes:
        labels_, coefficients_, affinity_matrix_, embedding_, initial_labels_, n_iter_: as for
            :class:`desc_ext.models.DSCNet`.
        history_: as for DSCNet; the stages are "teacher", "meta", "pretrain" and "expression": in "teacher" the teachers'
            loss (classification or reconstruction), in "meta" the terms of the test halves; terms besides those of DSC-Net
            are distillation and contrast.
        resolved_params_, features_, n_features_in_: as for :class:`desc_ext.models.DESC`.
    """

    _state_type = TransferState
    _usual_image_network = "strided"
    method = "lrsc"
    presets: ClassVar = {"paper": _PAPER, "robust": _ROBUST}

    external: Any = option(
        "(X, y) or X alone, rows or images as those that are clustered (images of another size are resized to theirs), or "
        "None. Not saved with the model",
        default=None,
        of_run=True,
    )
    task_level: Option[bool] = option("start from the meta-learner", default=None)
    model_level: Option[bool] = option(
        "distillation, in the episodes and of the rows to cluster", default=None
    )
    self_supervision: Option[bool] = option("eq. 8", default=None)
    teacher: Option[Literal["classifier", "autoencoder"]] = option(
        '"classifier" of the external classes, or "autoencoder", which needs none', default=None
    )
    teacher_sizes: Option[tuple[int, ...]] = option(
        "for rows: the teacher's layers before the last",
        default=None,
        at_least=1,
        where=lambda sizes: len(sizes) == 3,
        wanted="three integers >= 1",
    )
    teacher_channels: Option[tuple[int, ...]] = option(
        "for images: widths of the four groups of its 17 convolutions",
        default=None,
        at_least=1,
        where=lambda widths: len(widths) == 4 and list(widths) == sorted(widths),
        wanted="four integers >= 1 that do not decrease",
    )
    teacher_epochs: Option[int] = option(
        "passes over the external data, mini-batches of batch_size rows", default=None, at_least=0
    )
    teacher_learning_rate: Option[float] = option("of Adam, for the teachers", default=None, above=0)
    meta_epochs: Option[int] = option("of 10 updates of the meta-learner each", default=None, at_least=0)
    meta_tasks: Option[int] = option("episodes in an update", default=None, at_least=1)
    meta_learning_rate: Option[float] = option("of Adam, for the meta-learner", default=None, above=0)
    episode_classes: Option[int | None] = option(
        "classes in an episode, at most; None: K", default=None, at_least=1
    )
    episode_size: Option[int] = option("rows of an episode, both halves together", default=None, at_least=4)
    inner_steps: Option[int] = option("gradient steps on the training half", default=None, at_least=1)
    inner_learning_rate: Option[float] = option("their length", default=None, above=0)
    distillation: Option[Literal["energy", "ratio"]] = option(
        'eq. 4 over the number of pairs ("energy"), or over what it would be for W = 1 ("ratio"): the first is least where '
        "all codes are one",
        default=None,
    )
    distillation_weight: Option[float] = option("μ, and η in the episodes", default=None, at_least=0)
    contrast_weight: Option[float] = option("γ", default=None, at_least=0)
    temperature: Option[float] = option("σ", default=None, above=0)

    # ------------------------------------------------------------------ what a fit needs
    def _complete_options(self) -> None:
        super()._complete_options()
        if self.external is None:
            self.task_level = self.model_level = False
        if self.task_level:
            self._require_ridge()

    def _begin(self, X: Any, options: LRSC) -> TransferState:
        self._check_external()
        state = super()._begin(X, options)
        if not (options.task_level or options.model_level):
            return state
        needs_labels = options.model_level and options.teacher == "classifier"
        shape, width = options.image_shape, state.rows.n_features
        array, labels, identity = external_rows(self, options.external, shape, width, needs_labels)
        state.further_data["external"] = identity
        device, dtype, seed = state.rows.device, state.rows.dtype, state.seed + _HALVES_STREAM
        state.external = External.split(array, labels, options.scaling, device, dtype, seed)
        if options.model_level:
            n_classes = state.external.n_classes if options.teacher == "classifier" else 0
            generator = torch.Generator().manual_seed(state.seed + _TEACHER_STREAM)
            teachers = nn.ModuleList(
                Teacher(width, shape, options.teacher_sizes, options.teacher_channels, n_classes, generator)
                for _ in range(2)
            )
            set_dtype(teachers, options.dtype)
            state.network.teachers = teachers.to(device)
        return state

    def _check_external(self) -> None:
        """Warns of the parts that are off without external data; ValueError where one of them was asked for."""
        parts = [name for name in ("task_level", "model_level") if getattr(self, name) is not False]
        if self.external is not None or not parts:
            return
        asked = [name for name in parts if getattr(self, name)]
        if asked:
            raise ValueError(
                f"LRSC: {asked[0]}=True needs external data, external=(X, y) or X alone; got None (leave {asked[0]} out to "
                "do without)"
            )
        warn_user(
            f"LRSC: there are no external data, so {' and '.join(parts)}, which learn from them, are off, and what is left "
            "is DSC-Net with self_supervision; pass external=(X, y) or X alone, or say so with "
            + ", ".join(f"{part}=False" for part in parts)
        )

    def stages(self, state: TransferState) -> list[Stage]:
        options, stages = state.options, []
        if options.model_level:
            stages.append(self._teacher_stage(state))
        if options.task_level:
            stages.append(self._meta_stage(state))
        return [*stages, *super().stages(state)]

    # ------------------------------------------------------------------ external data: teachers, then meta-learner
    def _teacher_stage(self, state: TransferState) -> Stage:
        options, teachers = state.options, state.network.teachers
        return Stage(
            _TEACHER,
            options.teacher_epochs,
            lambda: adam(teachers.parameters(), options.teacher_learning_rate),
            lambda: self._external_batches(state),
            lambda index, _: self._teacher_terms(state, index),
        )

    def _external_batches(self, state: TransferState) -> Sequence[Tensor]:
        batches: list[Tensor] = []
        for half in _external(state).halves:
            order = torch.randperm(len(half), generator=state.order)
            batches += half[order].split(state.options.batch_size)
        return batches

    def _teacher_terms(self, state: TransferState, index: Tensor) -> BatchLosses:
        external = _external(state)
        teacher: Any = state.network.teachers[int(external.half_of[index[0]])]
        x = external.rows.take(index.numpy())
        if state.options.teacher == "autoencoder":
            return {"reconstruction": (1.0, teacher.loss(x, None))}, {}
        assert external.labels is not None
        return {"classification": (1.0, teacher.loss(x, external.labels[index].to(x.device)))}, {}

    @torch.no_grad()
    def _extract_knowledge(self, state: TransferState) -> None:
        """Features of the rows to cluster by the first teacher, and of each external half by the other half's."""
        if not state.options.model_level or state.knowledge is not None:
            return
        first, second = state.network.teachers
        features, seed = state.rows.map(first.features), state.seed + _BANDWIDTH_STREAM  # type: ignore[arg-type]
        state.knowledge = features, median_squared_distance(features, seed)
        if not state.options.task_level:
            return
        external = _external(state)
        rows = external.rows
        features = torch.empty(len(rows), features.shape[1], device=rows.device, dtype=rows.dtype)
        bandwidths = []
        for half, teacher in zip(external.halves, (second, first), strict=True):
            part = Rows(rows.X[half.numpy()], rows.offset, rows.scale, rows.device, rows.dtype)
            found = part.map(teacher.features)  # type: ignore[arg-type]
            features[half.to(rows.device)] = found
            bandwidths.append(median_squared_distance(found, seed))
        state.external_knowledge = features, bandwidths

    def _meta_stage(self, state: TransferState) -> Stage:
        parameters, options = list(state.network.autoencoder.parameters()), state.options
        return Stage(
            _META,
            options.meta_epochs,
            lambda: adam(parameters, options.meta_learning_rate),
            list,
            lambda index, _: ({}, {}),
            train_epoch=lambda *_: self._train_meta_learner(state),
            before=lambda: self._extract_knowledge(state),
        )

    def _train_meta_learner(self, state: TransferState) -> dict[str, float]:
        options, sums = state.options, dict[str, Tensor]()
        assert state.optimizer is not None
        for _ in range(_UPDATES_PER_EPOCH):
            tasks = [self._task(state) for _ in range(options.meta_tasks)]
            autoencoder, rate = state.network.autoencoder, options.inner_learning_rate
            for name, value in meta_gradient(autoencoder, tasks, options.inner_steps, rate).items():
                share = value / _UPDATES_PER_EPOCH
                sums[name] = sums[name] + share if name in sums else share
            state.optimizer.step()
        return {name: float(value) for name, value in sums.items()}

    def _task(self, state: TransferState) -> tuple[TaskLoss, TaskLoss]:
        """The losses of an episode (eq. 6): of its training and of its test split, functions of the autoencoder."""
        options, external = state.options, _external(state)
        n_classes = options.episode_classes or options.n_clusters
        half, train, test = external.draw_episode(n_classes, options.episode_size, state.order)

        def loss(index: Tensor) -> Callable[[Any], Losses]:
            x = external.rows.take(index.numpy())

            def terms(autoencoder: Any) -> Losses:
                found, z, _ = self._expression_terms(options, autoencoder, x, None)
                if state.external_knowledge is not None:
                    features, bandwidths = state.external_knowledge
                    knowledge = features[index.to(z.device)], bandwidths[half]
                    found["distillation"] = self._distilled(options, z, *knowledge)
                return found

            return terms

        return loss(train), loss(test)

    # ------------------------------------------------------------------ the rows to cluster (Algorithm 2)
    def _pretraining_stage(self, state: TransferState) -> Stage:
        stage = self._pretraining(
            state,
            state.options.reconstruction,
            lambda z: self._first_clusters(state, z),
            weight=0.5,
            further=lambda index, z: self._distillation(state, index, z),
        )
        return replace(stage, before=lambda: self._extract_knowledge(state))

    def _expression_stage(self, state: TransferState) -> Stage:
        return replace(super()._expression_stage(state), before=lambda: self._extract_knowledge(state))

    def _end_expression(self, state: TransferState) -> None:
        super()._end_expression(state)
        if state.options.model_level:
            del state.network.teachers

    def _further_terms(self, state: TransferState, index: Tensor, z: Tensor, expressed: Tensor) -> Losses:
        losses = self._distillation(state, index, z)
        if state.options.self_supervision:
            loss = ops.info_nce(z, expressed, state.options.temperature)
            losses["contrast"] = (state.options.contrast_weight, loss)
        return losses

    def _distillation(self, state: TransferState, index: Tensor, z: Tensor) -> Losses:
        if state.knowledge is None:
            return {}
        features, bandwidth = state.knowledge
        return {"distillation": self._distilled(state.options, z, features[index], bandwidth)}

    def _distilled(
        self, options: LRSC, z: Tensor, features: Tensor, bandwidth: float
    ) -> tuple[float, Tensor]:
        return options.distillation_weight, distillation_loss(z, features, bandwidth, options.distillation)


def _external(state: TransferState) -> External:
    assert state.external is not None
    return state.external
