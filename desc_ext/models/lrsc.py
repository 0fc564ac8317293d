"""LRSC: representations for subspace clustering that are learned from external data, too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from desc_ext import ops
from desc_ext.models.base import Assessment, Fit
from desc_ext.models.dsc_net import EXPRESSION, EXPRESSION_CHECKS, PAPER, ROBUST, DSCNet, ExpressionFit
from desc_ext.models.episodes import draw_episode, meta_gradient
from desc_ext.models.external import External, external_rows
from desc_ext.models.options import CHECKS, FLAG, Check, choice, integer, number, optional
from desc_ext.models.rows import Rows
from desc_ext.models.teacher import Teacher, distillation_loss, median_squared_distance
from desc_ext.nn import set_dtype
from desc_ext.training import adam

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
_ROBUST = ROBUST | _ADDED | {"distillation": "ratio"}
_CHECKS: dict[str, Check] = EXPRESSION_CHECKS | {
    "task_level": FLAG,
    "model_level": FLAG,
    "self_supervision": FLAG,
    "teacher": choice("classifier", "autoencoder"),
    "teacher_sizes": (lambda v: CHECKS["hidden_sizes"][0](v) and len(v) == 3, "three integers >= 1"),
    "teacher_channels": (
        lambda v: CHECKS["hidden_sizes"][0](v) and len(v) == 4 and list(v) == sorted(v),
        "four integers >= 1 that do not decrease",
    ),
    "teacher_epochs": integer(0),
    "teacher_learning_rate": number(0, strict=True),
    "meta_epochs": integer(0),
    "meta_tasks": integer(1),
    "meta_learning_rate": number(0, strict=True),
    "episode_classes": optional(integer(1)),
    "episode_size": integer(4),
    "inner_steps": integer(1),
    "inner_learning_rate": number(0, strict=True),
    "distillation": choice("energy", "ratio"),
    "distillation_weight": number(0),
    "contrast_weight": number(0),
    "temperature": number(0, strict=True),
}
_TEACHER, _META, _PRETRAIN = "teacher", "meta", "pretrain"
_UPDATES = 10  # of the meta-learner in one epoch of its stage


@dataclass
class TransferFit(ExpressionFit):
    external: External | None = None
    half_of: Tensor | None = None  # of every external row
    knowledge: tuple[Tensor, float] | None = (
        None  # teacher features of the rows to cluster, and their bandwidth
    )
    external_knowledge: tuple[Tensor, list[float]] | None = None  # of the external rows, with one a half


class LRSC(DSCNet):
    """Learning representations for subspace clustering (Li et al., AAAI 2021), LRSC-L2 and LRSC-L1.

    DSC-Net (:class:`DSCNet`: an autoencoder, a coefficient matrix C, spectral clustering of ½(|C| + |C|ᵀ)) with three
    additions, each of which has a switch. The first two learn from external data: other rows of the same kind, with
    classes if possible.

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

    Every option below is a keyword argument, and so is every option of :class:`DSCNet` (with the same values in both
    presets but for image_network, here "strided", and hidden_sizes, here none: one linear layer); None takes the value of
    ``preset``.

    ===================== ============= ============= ============================================================
    option                paper         robust        meaning
    ===================== ============= ============= ============================================================
    task_level            True          True          start from the meta-learner
    model_level           True          True          distillation, in the episodes and of the rows to cluster
    self_supervision      True          True          eq. 8
    teacher               "classifier"  "classifier"  of the external classes, or "autoencoder", which needs none
    teacher_sizes         500,500,500   500,500,500   for rows: its layers before the last
    teacher_channels      8,16,32,64    8,16,32,64    for images: widths of the four groups of its 17 convolutions
    teacher_epochs        20            20            passes over the external data, mini-batches of ``batch_size``
    teacher_learning_rate 1e-3          1e-3          Adam
    meta_epochs           10            10            of 10 updates of the meta-learner each
    meta_tasks            4             4             episodes in an update
    meta_learning_rate    1e-3          1e-3          Adam, of the meta-learner
    episode_classes       None          None          classes in an episode, at most; None: K
    episode_size          400           400           rows of an episode, both halves together
    inner_steps           1             1             gradient steps on the training half
    inner_learning_rate   1e-4          1e-2          their length
    distillation          "energy"      "ratio"       eq. 4 over the number of pairs, or over what it would be for W = 1: the
                                                      first is least where all codes are one
    distillation_weight   0.001         0.001         μ, and η in the episodes
    contrast_weight       0.1           0.1           γ
    temperature           0.07          0.07          σ
    ===================== ============= ============= ============================================================

    λ1 and λ2 of the paper are ``fidelity_weight`` and ``coefficient_weight``; λ3 and λ4, of the episodes, are the same.

    Args:
        n_clusters: K.
        external: (X, y) or X alone, rows or images as those that are clustered (images of another size are resized to
            theirs); the name of a known data set of images; or None. Arrays are not saved with the model.
        preset, features, feature_dim, image_shape, random_state, device, dtype, callbacks, verbose, checkpoint, resume: as
            for :class:`DSCNet`; the stages are "teacher", "meta", "pretrain" and "expression".

    Attributes:
        labels_, coefficients_, affinity_matrix_, embedding_, initial_labels_, n_iter_: as for :class:`DSCNet`.
        history_: as for :class:`DSCNet`; in "teacher" the teachers' loss (classification or reconstruction), in "meta" the
            terms of the test halves; terms besides those of DSC-Net are distillation and contrast.
        resolved_params_, features_, n_features_in_: as for :class:`DESC`.
    """

    _method = "lrsc"
    _presets = {"paper": _PAPER, "robust": _ROBUST}  # noqa: RUF012  (read only)
    _checks = _CHECKS

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        external: Any = None,
        preset: str = "robust",
        penalty: str | None = None,
        self_expression: str | None = None,
        coefficient_start: str | None = None,
        scaling: str | None = None,
        image_network: str | None = None,
        channels: tuple[int, ...] | None = None,
        hidden_sizes: tuple[int, ...] | None = None,
        latent_dim: int | None = None,
        unit_codes: bool | None = None,
        reconstruction: str | None = None,
        fidelity_weight: float | None = None,
        coefficient_weight: float | None = None,
        coefficient_scale: str | None = None,
        kept_share: float | None = None,
        k: int | None = None,
        extra_vectors: int | None = None,
        pretrain_epochs: int | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        expression_batch_size: int | None = None,
        pretrain_learning_rate: float | None = None,
        autoencoder_learning_rate: float | None = None,
        learning_rate: float | None = None,
        n_init: int | None = None,
        task_level: bool | None = None,
        model_level: bool | None = None,
        self_supervision: bool | None = None,
        teacher: str | None = None,
        teacher_sizes: tuple[int, ...] | None = None,
        teacher_channels: tuple[int, ...] | None = None,
        teacher_epochs: int | None = None,
        teacher_learning_rate: float | None = None,
        meta_epochs: int | None = None,
        meta_tasks: int | None = None,
        meta_learning_rate: float | None = None,
        episode_classes: int | None = None,
        episode_size: int | None = None,
        inner_steps: int | None = None,
        inner_learning_rate: float | None = None,
        distillation: str | None = None,
        distillation_weight: float | None = None,
        contrast_weight: float | None = None,
        temperature: float | None = None,
        features: str | None = None,
        feature_dim: int | None = 500,
        image_shape: tuple[int, ...] | None = None,
        random_state: Any = None,
        device: str = "auto",
        dtype: str = "float32",
        callbacks: list | None = None,
        verbose: int = 0,
        checkpoint: str | None = None,
        resume: bool = False,
    ) -> None:
        super().__init__(
            n_clusters,
            preset=preset,
            penalty=penalty,
            self_expression=self_expression,
            coefficient_start=coefficient_start,
            scaling=scaling,
            image_network=image_network,
            channels=channels,
            hidden_sizes=hidden_sizes,
            latent_dim=latent_dim,
            unit_codes=unit_codes,
            reconstruction=reconstruction,
            fidelity_weight=fidelity_weight,
            coefficient_weight=coefficient_weight,
            coefficient_scale=coefficient_scale,
            kept_share=kept_share,
            k=k,
            extra_vectors=extra_vectors,
            pretrain_epochs=pretrain_epochs,
            epochs=epochs,
            batch_size=batch_size,
            expression_batch_size=expression_batch_size,
            pretrain_learning_rate=pretrain_learning_rate,
            autoencoder_learning_rate=autoencoder_learning_rate,
            learning_rate=learning_rate,
            n_init=n_init,
            features=features,
            feature_dim=feature_dim,
            image_shape=image_shape,
            random_state=random_state,
            device=device,
            dtype=dtype,
            callbacks=callbacks,
            verbose=verbose,
            checkpoint=checkpoint,
            resume=resume,
        )
        self.external = external
        self.task_level = task_level
        self.model_level = model_level
        self.self_supervision = self_supervision
        self.teacher = teacher
        self.teacher_sizes = teacher_sizes
        self.teacher_channels = teacher_channels
        self.teacher_epochs = teacher_epochs
        self.teacher_learning_rate = teacher_learning_rate
        self.meta_epochs = meta_epochs
        self.meta_tasks = meta_tasks
        self.meta_learning_rate = meta_learning_rate
        self.episode_classes = episode_classes
        self.episode_size = episode_size
        self.inner_steps = inner_steps
        self.inner_learning_rate = inner_learning_rate
        self.distillation = distillation
        self.distillation_weight = distillation_weight
        self.contrast_weight = contrast_weight
        self.temperature = temperature

    # ------------------------------------------------------------------ what a fit needs
    def _resolve_options(self) -> dict[str, Any]:
        options = super()._resolve_options()
        if self.external is None:
            options["task_level"] = options["model_level"] = False
        if options["task_level"]:
            self._require_ridge(options)
        return options

    def _stages(self, options: dict[str, Any]) -> dict[str, int]:
        stages = {_TEACHER: options["teacher_epochs"]} if options["model_level"] else {}
        if options["task_level"]:
            stages[_META] = options["meta_epochs"]
        return stages | super()._stages(options)

    def _begin(self, X: np.ndarray, options: dict[str, Any]) -> TransferFit:
        shape, external = options["image_shape"], None
        if options["task_level"] or options["model_level"]:
            needs_labels = options["model_level"] and options["teacher"] == "classifier"
            external, labels, options["external"] = external_rows(
                self, self.external, shape, X.shape[1], needs_labels
            )
        fit = TransferFit(**vars(super()._begin(X, options)))
        fit.stage = next(iter(self._stages(options)))
        fit.without_clusters = (_TEACHER, _META, _PRETRAIN)
        if external is None:
            return fit
        device, dtype = fit.rows.device, fit.rows.dtype
        fit.external = External.split(external, labels, options["scaling"], device, dtype, fit.seed + 3)
        fit.half_of = fit.external.half_of()
        if options["model_level"]:
            n_classes = fit.external.n_classes if options["teacher"] == "classifier" else 0
            generator = torch.Generator().manual_seed(fit.seed + 4)
            teachers = [Teacher(X.shape[1], options, n_classes, generator) for _ in range(2)]
            fit.network.teachers = set_dtype(nn.ModuleList(teachers), options["dtype"]).to(device)
        return fit

    # ------------------------------------------------------------------ external data: teachers, then meta-learner
    def _pretrain(self, fit: TransferFit) -> None:
        options, network = fit.options, fit.network
        if fit.stage == _TEACHER:
            parameters = network.teachers.parameters()
            self._train_codes(fit, adam(parameters, options["teacher_learning_rate"]))
            self._enter_next_stage(fit)
        if options["model_level"]:
            self._extract_knowledge(fit)
        if fit.stage == _META:
            parameters = network.autoencoder.parameters()
            self._train_codes(fit, adam(parameters, options["meta_learning_rate"]))
            self._enter_next_stage(fit)
        super()._pretrain(fit)

    def _refine(self, fit: TransferFit) -> None:
        super()._refine(fit)
        if fit.options["model_level"]:
            del fit.network.teachers  # only training needs them

    @torch.no_grad()
    def _extract_knowledge(self, fit: TransferFit) -> None:
        """Features of the rows to cluster by the first teacher, and of each external half by the other half's."""
        first, second = fit.network.teachers
        features, seed = fit.rows.map(first.features), fit.seed + 5
        fit.knowledge = features, median_squared_distance(features, seed)
        if not fit.options["task_level"]:
            return
        rows, halves = fit.external.rows, fit.external.halves
        features = torch.empty(len(rows), first.latent_dim, device=rows.device, dtype=rows.dtype)
        bandwidths = []
        for half, teacher in zip(halves, (second, first), strict=True):
            part = Rows(rows.X[half.numpy()], rows.offset, rows.scale, rows.device, rows.dtype)
            found = part.map(teacher.features)
            features[half.to(rows.device)] = found
            bandwidths.append(median_squared_distance(found, seed))
        fit.external_knowledge = features, bandwidths

    def _batches(self, fit: TransferFit) -> Iterable[Tensor]:
        if fit.stage != _TEACHER:
            return super()._batches(fit)
        size, batches = fit.options["batch_size"], []
        for half in fit.external.halves:
            order = torch.randperm(len(half), generator=fit.order)
            batches += half[order].split(size)
        return batches

    def _epoch(
        self, fit: TransferFit, optimizer: torch.optim.Optimizer, now: Assessment | None
    ) -> dict[str, float]:
        if fit.stage != _META:
            return super()._epoch(fit, optimizer, now)
        options, sums = fit.options, {}
        for _ in range(_UPDATES):
            tasks = [self._task(fit) for _ in range(options["meta_tasks"])]
            network, rate = fit.network.autoencoder, options["inner_learning_rate"]
            for name, value in meta_gradient(network, tasks, options["inner_steps"], rate).items():
                sums[name] = sums.get(name, 0.0) + value / _UPDATES
            optimizer.step()
        return {name: float(value) for name, value in sums.items()}

    def _task(self, fit: TransferFit):
        """The losses of an episode (eq. 6): of its training and of its test split, functions of the autoencoder."""
        options, external = fit.options, fit.external
        n_classes = options["episode_classes"] or options["n_clusters"]
        half, *splits = draw_episode(external, n_classes, options["episode_size"], fit.order)

        def loss(index: Tensor):
            x = external.rows.take(index.numpy())

            def terms(autoencoder: nn.Module) -> dict[str, tuple[float, Tensor]]:
                found, z, _ = self._expression_terms(fit, autoencoder, x, None)
                if fit.external_knowledge is not None:
                    features, bandwidths = fit.external_knowledge
                    knowledge = features[index.to(z.device)], bandwidths[half]
                    found["distillation"] = self._distilled(fit, z, *knowledge)
                return found

            return terms

        train, test = map(loss, splits)
        return train, test

    # ------------------------------------------------------------------ the rows to cluster (Algorithm 2)
    def _terms(
        self, fit: TransferFit, index: Tensor, now: Assessment | None
    ) -> dict[str, tuple[float, Tensor]]:
        if fit.stage == EXPRESSION:
            return super()._terms(fit, index, now)
        if fit.stage == _TEACHER:
            external, half = fit.external, int(fit.half_of[index[0]])
            x = external.rows.take(index.numpy())
            if fit.options["teacher"] == "autoencoder":
                return {"reconstruction": (1.0, fit.network.teachers[half].loss(x, None))}
            labels = external.labels[index].to(x.device)
            return {"classification": (1.0, fit.network.teachers[half].loss(x, labels))}
        x = fit.rows.take(index.numpy())
        z, reconstruction = fit.network.autoencoder(x)
        terms = {"reconstruction": (0.5, self._reconstruction(fit, x, reconstruction))}
        return terms | self._distillation(fit, index.to(x.device), z)

    def _further_terms(
        self, fit: TransferFit, index: Tensor, z: Tensor, expressed: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        terms = self._distillation(fit, index, z)
        if fit.options["self_supervision"]:
            loss = ops.info_nce(z, expressed, fit.options["temperature"])
            terms["contrast"] = (fit.options["contrast_weight"], loss)
        return terms

    def _distillation(self, fit: TransferFit, index: Tensor, z: Tensor) -> dict[str, tuple[float, Tensor]]:
        if fit.knowledge is None:
            return {}
        features, bandwidth = fit.knowledge
        return {"distillation": self._distilled(fit, z, features[index], bandwidth)}

    def _distilled(self, fit: Fit, z: Tensor, features: Tensor, bandwidth: float) -> tuple[float, Tensor]:
        options = fit.options
        loss = distillation_loss(z, features, bandwidth, options["distillation"])
        return options["distillation_weight"], loss
