"""DESC: deep embedded subspace clustering with hard-sample mining."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from desc_ext import ops
from desc_ext.algorithms.first_clusters import FirstClusters, by_subspaces
from desc_ext.algorithms.k_subspaces import subspace_bases
from desc_ext.engine.chunks import map_blocks, map_chunks, map_in_memory
from desc_ext.engine.convolutional import ConvolutionalClusterer
from desc_ext.engine.networks import ClusteringNetwork
from desc_ext.engine.optimizers import adam
from desc_ext.engine.options import Option, estimator, option
from desc_ext.engine.refined import ANCHORED, REFINE, UNANCHORED
from desc_ext.engine.stages import BatchLosses, Losses, Stage
from desc_ext.engine.starts import unscaled_rows
from desc_ext.engine.state import Evaluation, FitState
from desc_ext.engine.stored_starts import bases_of_stored, by_subspaces_of_stored
from desc_ext.engine.stored_values import StoredValues, Values, row_blocks
from desc_ext.messages import warn_user
from desc_ext.nn import linear_layer
from desc_ext.norms import unit_rows

__all__ = ["DESC", "SubspaceNetwork", "hard_sample_weight", "latent_dim_of"]

_PAPER: dict[str, Any] = {
    "scaling": "minmax",
    "image_network": "dense",
    "channels": (32, 64, 128),
    "kernels": (5, 5, 3),
    "hidden_sizes": (500, 500, 1000),
    "latent_dim": None,
    "subspace_dim": 5,
    "unit_codes": False,
    "reconstruction": "sum",
    **UNANCHORED,
    "n_init": 20,
    "objective": "projection",
    "smoothing": 5.0,
    "smoothing_scale": "absolute",
    "within": "unit",
    "basis_weight": 1.0,
    "clustering_weight": 0.1,
    "hard_weight": "norm",
    "confidence_threshold": 0.8,
    "head_target": "own",
    "head_weight": 0.1,
    "head_trains_encoder": False,
    "pretrain_epochs": 50,
    "max_epochs": 50,
    "batch_size": 512,
    "pretrain_learning_rate": 1e-3,
    "learning_rate": 1e-3,
    "tol": 0.0,
}
_ROBUST: dict[str, Any] = _PAPER | {
    **ANCHORED,
    "corruption": None,
    "scaling": "global",
    "image_network": "conv",
    "subspace_dim": 8,
    "unit_codes": True,
    "reconstruction": "mean",
    "objective": "kl",
    "smoothing": 0.1,
    "smoothing_scale": "relative",
    "within": "orthonormal",
    "basis_weight": 0.001,
    "clustering_weight": 1.0,
    "head_target": "labels",
    "pretrain_epochs": None,
    "max_epochs": None,
    "batch_size": 128,
}
# Codes of "robust" are no longer than this: K·d of many clusters would only make the layers slower.
_MOST_LATENT_DIMENSIONS = 256


class SubspaceNetwork(ClusteringNetwork):
    """Autoencoder, classifier head P_φ and the bases [K, p, d] of the K subspaces."""

    mean_energy: Tensor

    def __init__(
        self, n_features: int, autoencoder: nn.Module, n_clusters: int, dim: int, generator: torch.Generator
    ) -> None:
        super().__init__(n_features, autoencoder)
        self.head = linear_layer(self.latent_dim, n_clusters, generator)
        self.bases = nn.Parameter(torch.eye(self.latent_dim, dim).repeat(n_clusters, 1, 1))
        # mean over the training data of ‖S_kᵀ z_i‖², which a relative smoothing is measured in
        self.register_buffer("mean_energy", torch.ones(()))

    def classify(self, z: Tensor) -> Tensor:
        """Logits [n, K] of P_φ."""
        # entries of unit codes are about 1/√p: too small for a head that starts at torch's usual scale
        return self.head(z * z.shape[1] ** 0.5 if self.autoencoder.unit_codes else z)


State = FitState["DESC", SubspaceNetwork]


def hard_sample_weight(p: Tensor, w: Tensor, confidence: float, form: str) -> tuple[Tensor, int]:
    """H [n] of eq. 10 and |V|, for pseudo-label probabilities ``p`` and soft assignments ``w`` (both [n, K]).

    V holds the rows where both max_k p_ik and max_k w_ik exceed ``confidence``. Outside V, H is 1; inside it
    is Norm(KL(onehot(p_i) ‖ w_i)) = Norm(−log w_{i, arg max p_i}) with Norm the min-max normalisation over
    V. ``form="norm"`` is the paper's text, "one-plus" gives 1 + Norm (hard rows gain, easy rows lose
    nothing), "off" gives 1. All-equal divergences have no harder rows and give 1.
    """
    top, pseudo_label = p.max(1)
    return _weight(top, w.max(1).values, w.gather(1, pseudo_label[:, None])[:, 0], confidence, form)


def _weight(top_p: Tensor, top_w: Tensor, w: Tensor, confidence: float, form: str) -> tuple[Tensor, int]:
    """:func:`hard_sample_weight` by max_k p_ik, max_k w_ik and w_{i, arg max p_i}, all [n]."""
    ones = torch.ones(len(w), dtype=w.dtype, device=w.device)
    confident = (top_p > confidence) & (top_w > confidence)
    n_confident = int(confident.sum())
    if form == "off" or n_confident == 0:
        return ones, n_confident
    divergence = -w.clamp_min(torch.finfo(w.dtype).tiny).log()[confident]
    low, high = divergence.min(), divergence.max()
    if high > low:
        ones[confident] = (divergence - low) / (high - low) + (1.0 if form == "one-plus" else 0.0)
    return ones, n_confident


def latent_dim_of(preset: str, n_clusters: int, subspace_dim: int) -> int:
    """Length of a code where it is not given: room for all subspaces side by side."""
    wanted = n_clusters * subspace_dim
    return wanted if preset == "paper" else max(min(wanted, _MOST_LATENT_DIMENSIONS), subspace_dim)


@estimator
class DESC(ConvolutionalClusterer[State]):
    """Deep embedded subspace clustering with hard-sample mining (Zou et al.).

    An autoencoder maps rows to codes z [n, p]; each of K clusters is a subspace of the code space with
    basis S_k [p, d]. After pretraining, autoencoder and bases are refined together by eq. 11,
    ℓ = ℓ_ae + λ1 ℓ_basis + λ2 ℓ_desc, and a row belongs to the subspace with the largest
    w_ik = (H_i ‖S_kᵀz_i‖² + γd) / Σ_k (…) (eqs. 6, 8); H_i re-weights hard samples (eq. 10).

    "paper" is the paper's text, literally (with its weaknesses: on data of ordinary scale γd outweighs every energy, so w
    stays nearly uniform and V empty). "robust" is the same method with the repairs that measurements justify: it begins at
    the clusters of the closed form, sees augmented images through convolutions, and keeps its start by an anchor
    (:class:`~desc_ext.engine.refined.RefinedClusterer`). Without an image shape, or with features, data are rows, which
    meet the fully connected autoencoder.

    {options}

    Attributes:
        labels_: int64 [n], clusters of the training rows at the end of the last epoch.
        embedding_: [n, p], their codes; above 1 GiB of rows on disk a memory map of a file, set at the end of the fit.
        bases_: [K, p, d], the subspaces.
        initial_labels_: int64 [n], the clusters that refinement began with.
        n_iter_: refinement epochs run.
        history_: one dict per epoch: stage ("pretrain" or "refine"), epoch, seconds, loss and its terms
            (reconstruction, basis, clustering, head, anchor), n_confident (|V|), mean_max_assignment,
            label_change, n_reseeded (empty clusters that were given rows), cluster_sizes.
        resolved_params_: every option with its value.
        features_: the fitted :class:`desc_ext.features.Scattering2D`, or None.
        n_features_in_: columns of the training data, a row an image.
    """

    method = "desc"
    _stores_codes = True
    presets: ClassVar = {"paper": _PAPER, "robust": _ROBUST}

    latent_dim: Option[int | None] = option(
        'length of a code, p; None: K·d, in "robust" no more than 256', default=None, at_least=1
    )
    subspace_dim: Option[int] = option("dimensions of a subspace, d", default=None, at_least=1)
    unit_codes: Option[bool] = option("codes on the unit sphere", default=None)
    reconstruction: Option[Literal["mean", "sum"]] = option(
        'squared error of a row: "sum" or "mean" over its columns', default=None
    )
    init: Option[
        Literal["self-expressive", "k-subspaces", "k-means", "latent-k-subspaces", "labels"] | np.ndarray
    ] = option(  # type: ignore[assignment]
        'first clusters: "self-expressive" (SelfExpressiveClustering) or "k-subspaces", on scattering features of images of '
        '16 pixels a side and more, else on the rows; "k-means" or "latent-k-subspaces" on the codes; or an array of labels '
        '[n_samples], integers from 0 to K − 1, which is saved as the word "labels"',
        default=None,
    )
    objective: Option[Literal["projection", "kl"]] = option(
        'ℓ_desc: "projection", eq. 5, or "kl": KL(target ‖ w) with target_ik ∝ w_ik² / Σ_i w_ik (EDESC\'s)',
        default=None,
    )
    # 0 would divide 0 by 0 where H_i = 0
    smoothing: Option[float] = option(
        "γ; if relative, γd is in units of the mean energy", default=None, above=0
    )
    smoothing_scale: Option[Literal["absolute", "relative"]] = option(
        "what smoothing is measured in", default=None
    )
    within: Option[Literal["unit", "orthonormal"]] = option(
        'what eq. 7 wants of each block: "unit" columns, or "orthonormal": S_kᵀS_k = I (side condition of eq. 5)',
        default=None,
    )
    basis_weight: Option[float] = option("λ1", default=None, at_least=0)
    clustering_weight: Option[float] = option("λ2", default=None, at_least=0)
    hard_weight: Option[Literal["off", "norm", "one-plus"]] = option(
        'H: "norm", eq. 10, "one-plus": 1 + Norm, or "off": 1', default=None
    )
    confidence_threshold: Option[float] = option(
        "σ, for membership in V", default=None, at_least=0, at_most=1
    )
    head_target: Option[Literal["own", "labels"]] = option(
        'what P_φ learns: its "own" confident arg max, or the "labels"', default=None
    )
    head_weight: Option[float] = option("of the head's cross-entropy", default=None, at_least=0)
    head_trains_encoder: Option[bool] = option("whether that loss reaches the encoder", default=None)
    max_epochs: Option[int | None] = option(
        "refinement epochs, at most; None: as many as show 1,200,000 rows, 8 to 30", default=None, at_least=0
    )
    learning_rate: Option[float] = option("of Adam in refinement", default=None, above=0)
    tol: Option[float] = option(
        "refinement stops when a smaller share of labels changes in an epoch, after the warm-up; 0: never",
        default=None,
        at_least=0,
        at_most=1,
    )

    @property
    def bases_(self) -> np.ndarray:
        """Bases [K, p, d] of the fitted subspaces (NumPy)."""
        self._require_fit("bases_")
        return self.network_.bases.detach().cpu().numpy()

    def _complete_options(self) -> None:
        super()._complete_options()
        self.latent_dim = self.latent_dim or latent_dim_of(self.preset, self.n_clusters, self.subspace_dim)
        if self.subspace_dim > self.latent_dim:
            raise ValueError(
                f"{type(self).__name__}: subspace_dim={self.subspace_dim} must be <= latent_dim={self.latent_dim}: a "
                "subspace cannot be larger than the space of the codes"
            )

    def _build(self, n_features: int, n_samples: int, generator: torch.Generator) -> SubspaceNetwork:
        width = self.latent_dim or latent_dim_of(self.preset, self.n_clusters, self.subspace_dim)
        autoencoder = self._autoencoder(n_features, width, generator, self.unit_codes)
        return SubspaceNetwork(n_features, autoencoder, self.n_clusters, self.subspace_dim, generator)

    def stages(self, state: State) -> list[Stage]:
        options = state.options
        refinement = Stage(
            REFINE,
            options._refinement_epochs,
            lambda: adam(state.network.parameters(), options.learning_rate),
            lambda: self._shuffled_batches(state),
            lambda index, evaluation: self._terms(state, index, evaluation),
            has_clusters=True,
            tol=options.tol,
            warmup_epochs=options.warmup_epochs or 0,
            after=lambda: self._warn_of_no_hard_samples(state),
        )
        return [
            self._pretraining(state, options.reconstruction, lambda z: self._find_start(state, z)),
            self._anchored(state, refinement),
        ]

    def _first_clusters(self, state: State, z: Values) -> FirstClusters:
        options = state.options
        if isinstance(options.init, str) and options.init == "latent-k-subspaces":
            wanted = (options.n_clusters, options.subspace_dim, options.n_init, state.seed)
            if isinstance(z, StoredValues):
                return by_subspaces_of_stored(
                    unscaled_rows(z.rows, state.rows), z.shape[1], *wanted, directions=False
                )
            return by_subspaces(z, *wanted)
        return super()._first_clusters(state, z)

    def _take_start(self, state: State, z: Any, start: FirstClusters) -> None:
        options = state.options
        bases = bases_of_stored if isinstance(z, StoredValues) else subspace_bases
        state.network.bases.copy_(bases(z, start.labels, options.n_clusters, options.subspace_dim))

    @property
    def _start_dim(self) -> int:
        return self.subspace_dim

    # ------------------------------------------------------------------ assignment and targets
    def _smoothing(self, network: SubspaceNetwork) -> float:
        """γ of eq. 6; a relative one is turned so that γd is that share of the mean energy."""
        options: DESC = self._options
        if options.smoothing_scale == "absolute":
            return options.smoothing
        return options.smoothing * float(network.mean_energy) / options.subspace_dim

    def _assign(self, network: SubspaceNetwork, z: Tensor) -> Tensor:
        return ops.subspace_soft_assignment(z, network.bases, self._smoothing(network))

    @torch.no_grad()
    def _evaluate_codes(self, state: State, z: Values) -> Evaluation:
        options, network = state.options, state.network
        tiny = torch.finfo(z.dtype).tiny
        energy = map_blocks(lambda part: ops.projection_energy(part, network.bases), z)
        mean_energy = sum(float(block.double().sum()) for block in energy) / (len(z) * options.n_clusters)
        network.mean_energy.fill_(max(mean_energy, tiny))

        def of_rows(part: Tensor) -> Tensor:
            w, p = self._assign(network, part), network.classify(part).softmax(1)
            (top_w, label), (top_p, pseudo_label) = w.max(1), p.max(1)
            at_pseudo_label = w.gather(1, pseudo_label[:, None])[:, 0]
            # numbers of clusters are exact in every dtype of codes
            return torch.stack([label.to(w.dtype), top_w, top_p, at_pseudo_label], 1)

        label, top_w, top_p, at_pseudo_label = (
            column.clone() for column in map_in_memory(of_rows, z).unbind(1)
        )
        weight, n_confident = _weight(
            top_p, top_w, at_pseudo_label, options.confidence_threshold, options.hard_weight
        )
        evaluation = Evaluation(z, label.long())
        evaluation.record = {"n_confident": n_confident, "mean_max_assignment": float(top_w.mean())}
        if state.epoch < (options.warmup_epochs or 0):
            evaluation.target = map_chunks(
                lambda part, labels: nn.functional.one_hot(labels, options.n_clusters).to(part.dtype),
                z,
                state.first_labels,
            )
            return evaluation
        evaluation.sample_weight = weight
        if options.objective == "kl":
            evaluation.target = self._sharpened(network, z, weight)
        return evaluation

    def _sharpened(self, network: SubspaceNetwork, z: Values, weight: Tensor) -> Values:
        """target_ik ∝ w_ik² / Σ_i w_ik [n, K], rows weighted by H [n]."""
        smoothing, tiny = self._smoothing(network), torch.finfo(z.dtype).tiny

        def weighted(part: Tensor, h: Tensor) -> Tensor:
            return ops.subspace_soft_assignment(part, network.bases, smoothing, h)

        sums = [block.sum(0).double() for block in map_blocks(weighted, z, weight)]
        # a cluster without rows has frequency 0 and would divide 0 by 0
        frequency = torch.stack(sums).sum(0).to(z.dtype).clamp_min(tiny)
        return map_chunks(lambda part, h: ops.target_distribution(weighted(part, h), frequency), z, weight)

    # ------------------------------------------------------------------ losses
    def _terms(self, state: State, index: Tensor, evaluation: Evaluation | None) -> BatchLosses:
        assert evaluation is not None
        batch = self._encoded(state, index)
        losses: Losses = {"reconstruction": (1.0, batch.decoding_error(state.options.reconstruction))}
        losses |= self._subspace_terms(state, batch.z, batch.index, evaluation)
        return losses | self._anchor_terms(state, batch.z, batch.index, evaluation), {}

    def _subspace_terms(self, state: State, z: Tensor, index: Tensor, evaluation: Evaluation) -> Losses:
        """ℓ_basis, ℓ_desc and the head's loss on the codes ``z`` of the rows ``index``."""
        options, bases = state.options, state.network.bases
        h = None if evaluation.sample_weight is None else evaluation.sample_weight[index]
        target = None if evaluation.target is None else evaluation.target[index]
        if options.objective == "kl":
            assert target is not None
            w = ops.subspace_soft_assignment(z, bases, self._smoothing(state.network), h)
            log_w = w.clamp_min(torch.finfo(w.dtype).tiny).log()
            clustering = nn.functional.kl_div(log_w, target, reduction="none").sum(1).mean()
        else:
            if target is None:
                target = ops.subspace_soft_assignment(z, bases, self._smoothing(state.network), h)
            clustering = ops.weighted_projection_loss(z, bases, target) / len(z)
        return {
            "basis": (options.basis_weight, ops.block_orthogonality_penalty(bases, options.within)),
            "clustering": (options.clustering_weight, clustering),
            "head": (options.head_weight, self._head_loss(state, z, evaluation.labels[index])),
        }

    def _head_loss(self, state: State, z: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of P_φ against the labels, or against its own arg max where max P > σ."""
        options = state.options
        logits = state.network.classify(z if options.head_trains_encoder else z.detach())
        if options.head_target == "labels":
            return nn.functional.cross_entropy(logits, labels)
        top, own = logits.detach().softmax(1).max(1)
        losses = nn.functional.cross_entropy(logits, own, reduction="none")
        return (losses * (top > options.confidence_threshold)).sum() / len(z)

    # ------------------------------------------------------------------ empty clusters, warnings
    def _reseed_empty(self, state: State, evaluation: Evaluation) -> int:
        if (
            state.average is not None
        ):  # the anchor keeps every cluster, and an average would not follow a leap
            return 0
        n_clusters, bases, z = state.options.n_clusters, state.network.bases, evaluation.z
        empty = (torch.bincount(evaluation.labels, minlength=n_clusters) == 0).nonzero().flatten().tolist()
        if not empty:
            return 0
        residual = map_in_memory(lambda part: ops.nearest_subspace(part, bases)[1], z)
        directions = unit_rows(z) if isinstance(z, Tensor) else None
        # half an even cluster: enough to find its directions, few enough to leave the other clusters their rows
        n_members = max(state.options.subspace_dim, len(z) // (2 * n_clusters))
        scale = bases.norm(dim=1).max()  # as long as the longest column: it competes by ‖S_kᵀ z‖
        moments = {} if state.optimizer is None else state.optimizer.state.get(bases, {})
        for cluster in empty:
            # the worst fitting row, with the rows most like it, spans the new subspace
            worst = residual.argmax()
            if directions is None:
                direction = unit_rows(z[worst[None]])[0]
                cosines = torch.cat([unit_rows(part) @ direction for (part,) in row_blocks(z)])
            else:
                cosines = directions @ directions[worst]
            members = cosines.abs().topk(min(n_members, len(residual))).indices
            together = torch.zeros_like(members)
            bases[cluster] = scale * subspace_bases(z[members], together, 1, bases.shape[2])[0]
            residual[members] = -1
            for moment in moments.keys() & {"exp_avg", "exp_avg_sq"}:
                moments[moment][cluster] = 0
        return len(empty)

    def _warn_of_no_hard_samples(self, state: State) -> None:
        threshold = state.options.confidence_threshold
        counts = [record["n_confident"] for record in state.history if record["stage"] == "refine"]
        robust = state.options.preset == "robust"
        # "robust" can do without; whoever sets these options wants to know
        asked = self.hard_weight is not None or self.confidence_threshold is not None
        if counts and not any(counts) and state.options.hard_weight != "off" and (asked or not robust):
            advice = "lower confidence_threshold or smoothing" + (
                "" if robust else ", or use preset='robust'"
            )
            warn_user(
                f"no row was ever confident (max P > {threshold} and max w > {threshold}), so V stayed empty and hard "
                f"samples were not re-weighted (H = 1 throughout); {advice}",
            )
