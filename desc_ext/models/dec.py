"""DEC, IDEC and DCEC: deep embedded clustering, with reconstruction, and with convolutions."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from desc_ext.engine.optimizers import adam, sgd
from desc_ext.engine.options import Option, estimator, option
from desc_ext.engine.refined import ANCHORED, UNANCHORED
from desc_ext.engine.stages import BatchLosses
from desc_ext.engine.state import Evaluation, FitState
from desc_ext.engine.student_t import StudentTClusterer, StudentTNetwork, require_a_loss

__all__ = ["DCEC", "DEC", "IDEC"]

_DEC: dict[str, Any] = {
    "scaling": "global",
    "image_network": "dense",
    "channels": (32, 64, 128),
    "kernels": (5, 5, 3),
    "hidden_sizes": (500, 500, 2000),
    "latent_dim": 10,
    "reconstruction_weight": 0.0,
    "clustering_weight": 1.0,
    "n_init": 20,
    "update_interval": 140,
    "pretrain_epochs": 200,
    "max_rounds": 143,  # 20,000 mini-batches in all
    "batch_size": 256,
    "pretrain_learning_rate": 1e-3,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "tol": 1e-3,
    **UNANCHORED,
}
_IDEC: dict[str, Any] = _DEC | {
    "reconstruction_weight": 1.0,
    "clustering_weight": 0.1,
    "optimizer": "adam",
    "learning_rate": 1e-3,
}
_DCEC: dict[str, Any] = _IDEC | {"scaling": "minmax", "image_network": "conv"}
_ROBUST: dict[str, Any] = ANCHORED | {
    "image_network": "conv",
    "hidden_sizes": (500, 500, 1000),
    "update_interval": None,
    "pretrain_epochs": None,
    "max_rounds": None,
    "batch_size": 128,
    "optimizer": "adam",
    "learning_rate": 3e-3,
    "clustering_weight": 0.1,
    "tol": 0.0,
}
_MOMENTUM = 0.9

State = FitState["DEC", StudentTNetwork]


@estimator
class DEC(StudentTClusterer[State]):
    """Deep embedded clustering (Xie et al., ICML 2016).

    After an autoencoder's pretraining and k-means on its codes z [n, p], encoder and centroids μ_k minimise
    KL(P ‖ Q): q_ik ∝ 1 / (1 + ‖z_i − μ_k‖²) is the Student-t assignment, p_ik ∝ q_ik² / Σ_i q_ik the target over the
    whole data set, constant until the next ``update_interval`` mini-batches are through. A row's cluster is arg max q.
    The decoder is not updated in refinement. The settings of "paper" are those of the authors' code and of its widely used
    Keras version; the original layer-wise pretraining with dropout is replaced, as there, by training the whole
    autoencoder. "robust" begins at the clusters of the closed form, sees augmented images through convolutions, and keeps
    its start by an anchor (:class:`~desc_ext.engine.refined.RefinedClusterer`): the loss above alone sharpens whatever it
    is given. Without an image shape, or with features, data are rows.

    {options}

    Attributes:
        labels_: int64 [n], clusters of the training rows at the end of the last round.
        embedding_: [n, p], their codes; above 1 GiB of rows on disk a memory map of a file, set at the end of the fit.
        cluster_centers_: μ [K, p].
        initial_labels_: int64 [n], the clusters of ``init``.
        n_iter_: rounds run.
        history_: one dict an epoch of pretraining or round: stage ("pretrain" or "refine"), epoch, seconds, loss and its
            terms before their weights (reconstruction, clustering, anchor), mean_max_assignment and mean_max_target (means
            over the rows of the largest q and p), label_change, cluster_sizes.
        resolved_params_, features_, n_features_in_: as for :class:`desc_ext.models.DESC`.
    """

    method = "dec"
    presets: ClassVar = {"paper": _DEC, "robust": _DEC | _ROBUST}

    latent_dim: Option[int] = option("length of a code, p", default=None, at_least=1)
    clustering_weight: Option[float] = option(
        "of KL(P ‖ Q), a mean over rows; 0: not computed", default=None, at_least=0
    )
    optimizer: Option[Literal["sgd", "adam"]] = option(
        'of the refinement: "sgd", with momentum 0.9, or "adam"', default=None
    )

    def _complete_options(self) -> None:
        super()._complete_options()
        require_a_loss(self, ["clustering_weight", "reconstruction_weight", "anchor_weight"])

    @property
    def _latent_dim(self) -> int:
        return self.latent_dim

    def _refinement_optimizer(self, state: State) -> torch.optim.Optimizer:
        parameters, rate = state.network.parameters(), state.options.learning_rate
        return (
            sgd(parameters, rate, _MOMENTUM) if state.options.optimizer == "sgd" else adam(parameters, rate)
        )

    def _refinement_terms(
        self, state: State, z: Tensor, index: Tensor, evaluation: Evaluation
    ) -> BatchLosses:
        assert evaluation.target is not None
        if not state.options.clustering_weight:
            return {}, {}
        q = state.network.assign(z)
        log_q = q.clamp_min(torch.finfo(q.dtype).tiny).log()
        divergence = nn.functional.kl_div(log_q, evaluation.target[index], reduction="none").sum(1).mean()
        return {"clustering": (state.options.clustering_weight, divergence)}, {}


@estimator
class IDEC(DEC):
    """Improved deep embedded clustering (Guo et al., IJCAI 2017): DEC that keeps reconstructing its rows.

    Refinement minimises the mean squared error of the reconstruction plus 0.1 KL(P ‖ Q), with Adam; network, schedule,
    attributes and what "robust" adds are those of :class:`DEC`.

    {options}
    """

    method = "idec"
    presets: ClassVar = {"paper": _IDEC, "robust": _IDEC | _ROBUST | {"reconstruction_weight": 0.1}}


@estimator
class DCEC(DEC):
    """Deep clustering with convolutional autoencoders (Guo et al., ICONIP 2017): IDEC for images.

    Three convolutions of stride 2, 32-64-128 channels, kernels 5-5-3, one linear layer to ten values, and their mirror
    image; loss and schedule are IDEC's, attributes those of :class:`DEC`. Rows that are no images use the fully connected
    autoencoder.

    {options}
    """

    method = "dcec"
    presets: ClassVar = {"paper": _DCEC, "robust": IDEC.presets["robust"]}
