"""ASC2D: adversarial self-supervised clustering with cluster-specificity distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from desc_ext import ops
from desc_ext.models.base import Assessment, Fit
from desc_ext.models.options import CHECKS, choice, integer, number
from desc_ext.models.student_t import STUDENT_T_CHECKS, StudentTClusterer, StudentTNetwork, require_a_loss
from desc_ext.nn import Discriminator, set_dtype
from desc_ext.training import adam

__all__ = ["ASC2D"]

_PAPER: dict[str, Any] = {
    "scaling": "minmax",
    "image_network": "conv",
    "channels": (32, 64, 128),
    "kernels": (5, 5, 3),
    "hidden_sizes": (500, 500, 1000),
    "corruption": 0.0,
    "reconstruction": "sum",
    "row_losses": "sum",
    "reconstruction_weight": 1.0,
    "adversarial_weight": 0.5,
    "consistency_weight": 1.0,
    "self_supervision_weight": 1e-4,
    "specificity_weight": 1e-5,
    "discriminator_sizes": (2000, 2000),
    "discriminator_steps": 3,
    "n_init": 20,
    "update_interval": 140,
    "pretrain_epochs": 200,
    "epochs": 143,
    "batch_size": 256,
    "pretrain_learning_rate": 3e-3,
    "learning_rate": 3e-3,
    "discriminator_learning_rate": 1e-3,
    "tol": 1e-3,
}

_ROBUST: dict[str, Any] = _PAPER | {
    "scaling": "global",
    "adversarial_weight": 0.005,
    "pretrain_learning_rate": 1e-3,
    "learning_rate": 3e-4,
}

_WEIGHTS = [name for name in _PAPER if name.endswith("_weight")]


class AdversarialNetwork(StudentTNetwork):
    """Autoencoder and centroids; while it is trained, also the discriminator."""

    def __init__(self, n_features: int, options: dict[str, Any], generator: torch.Generator) -> None:
        super().__init__(n_features, options, generator)
        self.discriminator: Discriminator | None = None


@dataclass
class AdversarialFit(Fit):
    optimizer: torch.optim.Optimizer | None = None  # one for both sides: they never have gradients together


class ASC2D(StudentTClusterer):
    """Adversarial self-supervised clustering with cluster-specificity distribution (Xia et al., Neurocomputing 2021).

    An autoencoder maps images (convolutions 5-5-3, stride 2, one linear layer) or rows to codes z of K values. D1 is the
    Student-t assignment of the codes to centroids μ (eq. 3), D2 its target over the whole data set,
    d2_ij ∝ d1_ij² / f_j with f_j = Σ_i d1_ij (eq. 4), constant until the next ``update_interval`` mini-batches are
    through. After pretraining and k-means, autoencoder and centroids minimise eq. 1,

    L = L_AE + λ1 L_adv + ‖D1 − D2‖²_F + λ2 ‖Z − D2‖²_F + λ3 Σ_i ‖z_i‖₁²,

    where a discriminator, K-2000-2000-1, learns to tell D2 (real) from D1 (fake), three updates for each of the others,
    and L_adv = −Σ_i log D(d1_i) is what deceives it (eq. 8, in the form that does not saturate; the paper's softmax on
    one unit would be a constant, so D is the logistic function of a logit). A row's cluster is arg max D2; that of a new
    row takes the frequencies f of the last epoch.

    "paper" is the text, literally: the four losses of the clusters are sums over the mini-batch, L_AE is the mean over its
    rows of squared errors summed over columns, and both sides learn in large steps. With these, the pretraining of rows in
    a small range can end with one code for all of them, and the refinement in one cluster. "robust" scales the input,
    takes smaller steps and a hundredth of λ1: D2 is sharper than D1 by its very definition, so the discriminator soon tells
    all rows apart, and what deceives it then outweighs the reconstruction and every other loss.

    Every weight may be 0: then its term is not computed (without λ1 there is no discriminator), which gives the paper's
    Tables 5 and 6.

    Every option below is a keyword argument; None takes the value of ``preset``.

    =========================== ============ ============ =======================================================
    option                      paper        robust       meaning
    =========================== ============ ============ =======================================================
    scaling                     "minmax"     "global"     of the input, as for :class:`DESC`
    image_network               "conv"       "conv"       for images: convolutional, or "dense": fully connected
    channels                    32,64,128    32,64,128    of the convolutions, each of stride 2
    kernels                     5,5,3        5,5,3        their widths, odd
    hidden_sizes                500,500,1000 500,500,1000 fully connected encoder (the decoder mirrors it)
    corruption                  0            0            share of input entries zeroed while training
    reconstruction              "sum"        "sum"        L_AE: squared error, a mean over rows (eq. 2), summed or
                                                          averaged over columns
    row_losses                  "sum"        "sum"        the four other losses: sums over the rows of a mini-batch
                                                          (eqs. 5 to 8) or means
    reconstruction_weight       1            1            of L_AE in refinement
    adversarial_weight          0.5          0.005        λ1
    consistency_weight          1            1            of ‖D1 − D2‖²_F
    self_supervision_weight     1e-4         1e-4         λ2
    specificity_weight          1e-5         1e-5         λ3
    discriminator_sizes         2000,2000    2000,2000    its layers before the last one
    discriminator_steps         3            3            its updates for each one of the autoencoder
    n_init                      20           20           restarts of k-means
    update_interval             140          140          mini-batches between two targets; an epoch of refinement
                                                          is one such round
    pretrain_epochs             200          200          passes over the rows, reconstruction only
    epochs                      143          143          rounds, at most: 20,000 mini-batches in all
    batch_size                  256          256          rows of a mini-batch
    pretrain_learning_rate      3e-3         1e-3         Adam
    learning_rate               3e-3         3e-4         Adam, of autoencoder and centroids
    discriminator_learning_rate 1e-3         1e-3         Adam
    tol                         1e-3         1e-3         stop when a smaller share of labels changes in a round
    =========================== ============ ============ =======================================================

    Args:
        n_clusters: K, also the number of values of a code.
        preset: "robust" or "paper".
        features, feature_dim, image_shape, random_state, device, dtype, callbacks, verbose, checkpoint, resume: as for
            :class:`DESC`. Without an image shape, or with features, data are rows.

    Attributes:
        labels_: int64 [n], clusters of the training rows at the end of the last round.
        embedding_: [n, K], their codes.
        cluster_centers_: μ [K, K].
        frequencies_: f [K] of the last round.
        initial_labels_: int64 [n], the k-means clusters.
        n_iter_: rounds run.
        history_: one dict an epoch of pretraining or round: stage ("pretrain" or "refine"), epoch, seconds, loss and its
            terms, means over rows before their weights (reconstruction, adversarial, consistency, self_supervision,
            specificity), discriminator (its cross-entropy) and discriminator_accuracy (share of the rows of D1 and D2 that
            it tells apart), both before it is updated; mean_max_assignment and mean_max_target (means over the rows of the
            largest D1 and D2), label_change, cluster_sizes.
        resolved_params_, features_, n_features_in_: as for :class:`DESC`.
    """

    _method = "asc2d"
    _presets = {"paper": _PAPER, "robust": _ROBUST}  # noqa: RUF012  (read only)
    _checks = STUDENT_T_CHECKS | {
        "reconstruction": CHECKS["reconstruction"],
        "row_losses": choice("sum", "mean"),
        **{weight: number(0) for weight in _WEIGHTS},
        "discriminator_sizes": CHECKS["hidden_sizes"],
        "discriminator_steps": integer(1),
        "discriminator_learning_rate": number(0, strict=True),
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        preset: str = "robust",
        scaling: str | None = None,
        image_network: str | None = None,
        channels: tuple[int, ...] | None = None,
        kernels: tuple[int, ...] | None = None,
        hidden_sizes: tuple[int, ...] | None = None,
        corruption: float | None = None,
        reconstruction: str | None = None,
        row_losses: str | None = None,
        reconstruction_weight: float | None = None,
        adversarial_weight: float | None = None,
        consistency_weight: float | None = None,
        self_supervision_weight: float | None = None,
        specificity_weight: float | None = None,
        discriminator_sizes: tuple[int, ...] | None = None,
        discriminator_steps: int | None = None,
        n_init: int | None = None,
        update_interval: int | None = None,
        pretrain_epochs: int | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        pretrain_learning_rate: float | None = None,
        learning_rate: float | None = None,
        discriminator_learning_rate: float | None = None,
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
        self.corruption = corruption
        self.reconstruction = reconstruction
        self.row_losses = row_losses
        self.reconstruction_weight = reconstruction_weight
        self.adversarial_weight = adversarial_weight
        self.consistency_weight = consistency_weight
        self.self_supervision_weight = self_supervision_weight
        self.specificity_weight = specificity_weight
        self.discriminator_sizes = discriminator_sizes
        self.discriminator_steps = discriminator_steps
        self.n_init = n_init
        self.update_interval = update_interval
        self.pretrain_epochs = pretrain_epochs
        self.epochs = epochs
        self.batch_size = batch_size
        self.pretrain_learning_rate = pretrain_learning_rate
        self.learning_rate = learning_rate
        self.discriminator_learning_rate = discriminator_learning_rate
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

    @property
    def frequencies_(self) -> np.ndarray:
        """f [K], the column sums of D1 over the training rows (NumPy)."""
        if not hasattr(self, "network_"):
            raise AttributeError(f"this {type(self).__name__} has no frequencies_ before fit")
        return self.network_.frequency.cpu().numpy()

    # ------------------------------------------------------------------ what a fit needs
    def _resolve_options(self) -> dict[str, Any]:
        options = super()._resolve_options()
        require_a_loss(type(self).__name__, options, _WEIGHTS)
        return options | {"latent_dim": options["n_clusters"]}

    def _begin(self, X: np.ndarray, options: dict[str, Any]) -> AdversarialFit:
        fit = AdversarialFit(**vars(super()._begin(X, options)))
        if options["adversarial_weight"]:
            # a generator of its own: with or without a discriminator, the autoencoder starts from the same bits
            generator = torch.Generator().manual_seed(fit.seed + 3)
            discriminator = Discriminator(options["n_clusters"], options["discriminator_sizes"], generator)
            fit.network.discriminator = set_dtype(discriminator, options["dtype"]).to(fit.rows.device)
        return fit

    def _build(self, n_features: int, options: dict[str, Any], generator: torch.Generator):
        return AdversarialNetwork(n_features, options, generator)

    def _refine(self, fit: AdversarialFit) -> None:
        options, network = fit.options, fit.network
        opponent = [] if network.discriminator is None else list(network.discriminator.parameters())
        own = [*network.autoencoder.parameters(), network.centroids]
        groups = [{"params": own}, {"params": opponent, "lr": options["discriminator_learning_rate"]}]
        fit.optimizer = adam(groups, options["learning_rate"])
        self._train_clusters(fit, fit.optimizer)
        network.discriminator = None  # only training needs it

    def _assign(self, network: AdversarialNetwork, z: Tensor) -> Tensor:
        return network.sharpen(network.assign(z))

    # ------------------------------------------------------------------ losses
    def _refine_losses(
        self, fit: AdversarialFit, z: Tensor, index: Tensor, now: Assessment
    ) -> dict[str, tuple[float, Tensor]]:
        target, assignment = now.target[index], fit.network.assign(z)
        losses = {
            "consistency": lambda: (assignment - target).square().sum(1).mean(),
            "self_supervision": lambda: (z - target).square().sum(1).mean(),
            "specificity": lambda: ops.squared_l12_norm(z) / len(z),
            "adversarial": lambda: self._deception(fit, assignment),
        }
        weights = {name: fit.options[f"{name}_weight"] for name in losses}
        tried = self._train_discriminator(fit, assignment.detach(), target) if weights["adversarial"] else {}
        n_rows = len(z) if fit.options["row_losses"] == "sum" else 1
        terms = {name: (weights[name] * n_rows, loss()) for name, loss in losses.items() if weights[name]}
        return terms | {name: (0.0, value) for name, value in tried.items()}  # of the history only

    def _train_discriminator(self, fit: AdversarialFit, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Updates the discriminator; its loss and accuracy before."""
        discriminator, optimizer = fit.network.discriminator, fit.optimizer
        discriminator.requires_grad_(True)
        rows = torch.cat([real, fake])
        truth = torch.zeros(len(rows), dtype=rows.dtype, device=rows.device)
        truth[: len(real)] = 1
        before = {}
        for _ in range(fit.options["discriminator_steps"]):
            logits = discriminator(rows)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, truth)
            if not before:
                right = (logits > 0) == (truth > 0)
                before = {
                    "discriminator": loss.detach(),
                    "discriminator_accuracy": right.to(rows.dtype).mean(),
                }
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        discriminator.requires_grad_(False)  # what follows trains the others
        return before

    def _deception(self, fit: AdversarialFit, assignment: Tensor) -> Tensor:
        """−mean log D(d1), log D being the logarithm of the logistic function."""
        return nn.functional.softplus(-fit.network.discriminator(assignment)).mean()
