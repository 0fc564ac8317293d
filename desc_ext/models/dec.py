"""DEC, IDEC and DCEC: deep embedded clustering, with reconstruction, and with convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from desc_ext.models.base import Assessment, Fit
from desc_ext.models.options import choice, integer, number
from desc_ext.models.student_t import STUDENT_T_CHECKS, StudentTClusterer, require_a_loss
from desc_ext.training import adam, without_denormals

__all__ = ["DCEC", "DEC", "IDEC"]

_DEC: dict[str, Any] = {
    "scaling": "global",
    "image_network": "dense",
    "channels": (32, 64, 128),
    "kernels": (5, 5, 3),
    "hidden_sizes": (500, 500, 2000),
    "latent_dim": 10,
    "corruption": 0.0,
    "reconstruction_weight": 0.0,
    "clustering_weight": 1.0,
    "n_init": 20,
    "update_interval": 140,
    "pretrain_epochs": 200,
    "epochs": 143,
    "batch_size": 256,
    "pretrain_learning_rate": 1e-3,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "tol": 1e-3,
}
_IDEC: dict[str, Any] = _DEC | {
    "reconstruction_weight": 1.0,
    "clustering_weight": 0.1,
    "optimizer": "adam",
    "learning_rate": 1e-3,
}
_DCEC: dict[str, Any] = _IDEC | {"scaling": "minmax", "image_network": "conv"}
_MOMENTUM = 0.9


class DEC(StudentTClusterer):
    """Deep embedded clustering (Xie et al., ICML 2016).

    After an autoencoder's pretraining and k-means on its codes z [n, p], encoder and centroids μ_k minimise
    KL(P ‖ Q): q_ik ∝ 1 / (1 + ‖z_i − μ_k‖²) is the Student-t assignment, p_ik ∝ q_ik² / Σ_i q_ik the target over the
    whole data set, constant until the next ``update_interval`` mini-batches are through. A row's cluster is arg max q.
    The decoder rests. The settings are those of the authors' code and of its widely used Keras version; the original
    layer-wise pretraining with dropout is replaced, as there, by training the whole autoencoder.

    Every option below is a keyword argument; None takes the value of the class.

    ======================== ============ ============ ============ ===========================================
    option                   DEC          IDEC         DCEC         meaning
    ======================== ============ ============ ============ ===========================================
    scaling                  "global"     "global"     "minmax"     of the input, as for :class:`DESC`
    image_network            "dense"      "dense"      "conv"       for images: fully connected, or convolutional
    channels                 32,64,128    32,64,128    32,64,128    of the convolutions, each of stride 2
    kernels                  5,5,3        5,5,3        5,5,3        their widths, odd
    hidden_sizes             500,500,2000 500,500,2000 500,500,2000 fully connected encoder (the decoder mirrors it)
    latent_dim               10           10           10           p
    corruption               0            0            0            share of input entries zeroed while training
    reconstruction_weight    0            1            1            of the mean squared error in refinement;
                                                                    0: the decoder rests
    clustering_weight        1            0.1          0.1          of KL(P ‖ Q), a mean over rows; 0: not computed
    n_init                   20           20           20           restarts of k-means
    update_interval          140          140          140          mini-batches between two targets; an epoch of
                                                                    refinement is one such round
    pretrain_epochs          200          200          200          passes over the rows, reconstruction only
    epochs                   143          143          143          rounds, at most: 20,000 mini-batches in all
    batch_size               256          256          256          rows of a mini-batch
    pretrain_learning_rate   1e-3         1e-3         1e-3         Adam
    optimizer                "sgd"        "adam"       "adam"       of the refinement: SGD has momentum 0.9
    learning_rate            0.01         1e-3         1e-3         of the refinement
    tol                      1e-3         1e-3         1e-3         stop when a smaller share of labels changes in a
                                                                    round
    ======================== ============ ============ ============ ===========================================

    Args:
        n_clusters: K.
        preset: "paper", the only one.
        features, feature_dim, image_shape, random_state, device, dtype, callbacks, verbose, checkpoint, resume: as for
            :class:`DESC`. Without an image shape, or with features, data are rows.

    Attributes:
        labels_: int64 [n], clusters of the training rows at the end of the last round.
        embedding_: [n, p], their codes.
        cluster_centers_: μ [K, p].
        initial_labels_: int64 [n], the k-means clusters.
        n_iter_: rounds run.
        history_: one dict an epoch of pretraining or round: stage ("pretrain" or "refine"), epoch, seconds, loss and its
            terms before their weights (reconstruction, clustering), mean_max_assignment and mean_max_target (means over
            the rows of the largest q and p), label_change, cluster_sizes.
        resolved_params_, features_, n_features_in_: as for :class:`DESC`.
    """

    _method = "dec"
    _presets = {"paper": _DEC}  # noqa: RUF012  (read only)
    _checks = STUDENT_T_CHECKS | {
        "latent_dim": integer(1),
        "clustering_weight": number(0),
        "optimizer": choice("sgd", "adam"),
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        preset: str = "paper",
        scaling: str | None = None,
        image_network: str | None = None,
        channels: tuple[int, ...] | None = None,
        kernels: tuple[int, ...] | None = None,
        hidden_sizes: tuple[int, ...] | None = None,
        latent_dim: int | None = None,
        corruption: float | None = None,
        reconstruction_weight: float | None = None,
        clustering_weight: float | None = None,
        n_init: int | None = None,
        update_interval: int | None = None,
        pretrain_epochs: int | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        pretrain_learning_rate: float | None = None,
        optimizer: str | None = None,
        learning_rate: float | None = None,
        tol: float | None = None,
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
        self.n_clusters = n_clusters
        self.preset = preset
        self.scaling = scaling
        self.image_network = image_network
        self.channels = channels
        self.kernels = kernels
        self.hidden_sizes = hidden_sizes
        self.latent_dim = latent_dim
        self.corruption = corruption
        self.reconstruction_weight = reconstruction_weight
        self.clustering_weight = clustering_weight
        self.n_init = n_init
        self.update_interval = update_interval
        self.pretrain_epochs = pretrain_epochs
        self.epochs = epochs
        self.batch_size = batch_size
        self.pretrain_learning_rate = pretrain_learning_rate
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.tol = tol
        self.features = features
        self.feature_dim = feature_dim
        self.image_shape = image_shape
        self.random_state = random_state
        self.device = device
        self.dtype = dtype
        self.callbacks = callbacks
        self.verbose = verbose
        self.checkpoint = checkpoint
        self.resume = resume

    def _resolve_options(self) -> dict[str, Any]:
        options = super()._resolve_options()
        require_a_loss(type(self).__name__, options, ["clustering_weight", "reconstruction_weight"])
        return options

    def _refine(self, fit: Fit) -> None:
        parameters, rate = fit.network.parameters(), fit.options["learning_rate"]
        if fit.options["optimizer"] == "sgd":
            optimizer = without_denormals(torch.optim.SGD(parameters, rate, momentum=_MOMENTUM, fused=True))
        else:
            optimizer = adam(parameters, rate)
        self._train_clusters(fit, optimizer)

    def _refine_losses(
        self, fit: Fit, z: Tensor, index: Tensor, now: Assessment
    ) -> dict[str, tuple[float, Tensor]]:
        if not fit.options["clustering_weight"]:
            return {}
        q = fit.network.assign(z)
        log_q = q.clamp_min(torch.finfo(q.dtype).tiny).log()
        divergence = nn.functional.kl_div(log_q, now.target[index], reduction="none").sum(1).mean()
        return {"clustering": (fit.options["clustering_weight"], divergence)}


class IDEC(DEC):
    """Improved deep embedded clustering (Guo et al., IJCAI 2017): DEC that keeps reconstructing its rows.

    Refinement minimises the mean squared error of the reconstruction plus 0.1 KL(P ‖ Q), with Adam; network, schedule,
    options and attributes are those of :class:`DEC`, whose table has the values.
    """

    _method = "idec"
    _presets = {"paper": _IDEC}  # noqa: RUF012  (read only)


class DCEC(DEC):
    """Deep clustering with convolutional autoencoders (Guo et al., ICONIP 2017): IDEC for images.

    Three convolutions of stride 2, 32-64-128 channels, kernels 5-5-3, one linear layer to ten values, and their mirror
    image; loss and schedule are IDEC's. Options and attributes are those of :class:`DEC`, whose table has the values.
    Rows that are no images meet the fully connected autoencoder.
    """

    _method = "dcec"
    _presets = {"paper": _DCEC}  # noqa: RUF012  (read only)
