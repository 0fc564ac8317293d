"""ASC2D: adversarial self-supervised clustering with cluster-specificity distribution."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from desc_ext import ops
from desc_ext.engine.optimizers import adam
from desc_ext.engine.options import Option, estimator, option
from desc_ext.engine.refined import ANCHORED, UNANCHORED
from desc_ext.engine.stages import BatchLosses
from desc_ext.engine.state import Evaluation, FitState
from desc_ext.engine.student_t import StudentTClusterer, StudentTNetwork, require_a_loss
from desc_ext.nn import Discriminator, set_dtype

__all__ = ["ASC2D"]

_PAPER: dict[str, Any] = {
    "scaling": "minmax",
    "image_network": "conv",
    "channels": (32, 64, 128),
    "kernels": (5, 5, 3),
    "hidden_sizes": (500, 500, 1000),
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
    "max_rounds": 143,  # 20,000 mini-batches in all
    "batch_size": 256,
    "pretrain_learning_rate": 3e-3,
    "learning_rate": 3e-3,
    "discriminator_learning_rate": 1e-3,
    "tol": 1e-3,
    **UNANCHORED,
}

_ROBUST: dict[str, Any] = {
    **_PAPER,
    **ANCHORED,
    "scaling": "global",
    "reconstruction": "mean",
    "row_losses": "mean",
    "reconstruction_weight": 0.1,
    "adversarial_weight": 0.0,
    "update_interval": None,
    "pretrain_epochs": None,
    "max_rounds": None,
    "batch_size": 128,
    "pretrain_learning_rate": 1e-3,
    "learning_rate": 3e-3,
    "tol": 0.0,
}
_WEIGHTS = [name for name in _PAPER if name.endswith("_weight")]
_DISCRIMINATOR_STREAM = 3  # distance of its seed from that of the network


class AdversarialNetwork(StudentTNetwork):
    """Autoencoder and centroids; while it is trained, also the discriminator."""

    discriminator: Discriminator | None

    def __init__(self, n_features: int, autoencoder: nn.Module, n_clusters: int) -> None:
        super().__init__(n_features, autoencoder, n_clusters)
        self.discriminator = None


State = FitState["ASC2D", AdversarialNetwork]


@estimator
class ASC2D(StudentTClusterer[State]):
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
    takes means instead of sums and smaller steps, begins at the clusters of the closed form and keeps them by an anchor
    (:class:`~desc_ext.engine.refined.RefinedClusterer`). It has no discriminator (λ1 = 0): D2 is sharper than D1 by its
    very definition, so a discriminator soon tells all rows apart, and what deceives it then outweighs the reconstruction
    and every other loss (with it, an earlier preset ended lower on MNIST-test: benchmarks/papers/results/asc2d.md).

    Every weight may be 0: then its term is not computed (without λ1 there is no discriminator), which gives the paper's
    Tables 5 and 6. Without an image shape, or with features, data are rows.

    {options}

    Attributes:
        labels_: int64 [n], clusters of the training rows at the end of the last round.
        embedding_: [n, K], their codes; above 1 GiB of rows on disk a memory map of a file, set at the end of the fit.
        cluster_centers_: μ [K, K].
        frequencies_: f [K] of the last round.
        initial_labels_: int64 [n], the clusters of ``init``.
        n_iter_: rounds run.
        history_: one dict an epoch of pretraining or round: stage ("pretrain" or "refine"), epoch, seconds, loss and its
            terms, means over rows before their weights (reconstruction, adversarial, consistency, self_supervision,
            specificity), discriminator (its cross-entropy) and discriminator_accuracy (share of the rows of D1 and D2 that
            it tells apart), both before it is updated; mean_max_assignment and mean_max_target (means over the rows of the
            largest D1 and D2), label_change, cluster_sizes.
        resolved_params_, features_, n_features_in_: as for :class:`desc_ext.models.DESC`.
    """

    method = "asc2d"
    presets: ClassVar = {"paper": _PAPER, "robust": _ROBUST}

    reconstruction: Option[Literal["mean", "sum"]] = option(
        'L_AE: squared error, a mean over rows (eq. 2), over columns their "sum" or "mean"', default=None
    )
    row_losses: Option[Literal["mean", "sum"]] = option(
        'the four other losses: "sum" over the rows of a mini-batch (eqs. 5 to 8), or "mean"', default=None
    )
    adversarial_weight: Option[float] = option("λ1", default=None, at_least=0)
    consistency_weight: Option[float] = option("of ‖D1 − D2‖²_F", default=None, at_least=0)
    self_supervision_weight: Option[float] = option("λ2", default=None, at_least=0)
    specificity_weight: Option[float] = option("λ3", default=None, at_least=0)
    discriminator_sizes: Option[tuple[int, ...]] = option(
        "layers of the discriminator before the last one", default=None, at_least=1
    )
    discriminator_steps: Option[int] = option(
        "its updates for each one of the autoencoder", default=None, at_least=1
    )
    discriminator_learning_rate: Option[float] = option("of its Adam", default=None, above=0)

    @property
    def frequencies_(self) -> np.ndarray:
        """f [K], the column sums of D1 over the training rows (NumPy)."""
        self._require_fit("frequencies_")
        return self.network_.frequency.cpu().numpy()

    # ------------------------------------------------------------------ what a fit needs
    def _complete_options(self) -> None:
        super()._complete_options()
        require_a_loss(self, _WEIGHTS)

    @property
    def _latent_dim(self) -> int:
        return self.n_clusters

    @property
    def _reconstruction(self) -> str:
        return self.reconstruction

    def _build(self, n_features: int, n_samples: int, generator: torch.Generator) -> AdversarialNetwork:
        return AdversarialNetwork(
            n_features, self._autoencoder(n_features, self._latent_dim, generator), self.n_clusters
        )

    def _begin(self, X: Any, options: ASC2D) -> State:
        state = super()._begin(X, options)
        if options.adversarial_weight:
            # a generator of its own: with or without a discriminator, the autoencoder starts from the same bits
            generator = torch.Generator().manual_seed(state.seed + _DISCRIMINATOR_STREAM)
            discriminator = Discriminator(options.n_clusters, options.discriminator_sizes, generator)
            set_dtype(discriminator, options.dtype)
            state.network.discriminator = discriminator.to(state.rows.device)
        return state

    def _refinement_optimizer(self, state: State) -> torch.optim.Optimizer:
        """One for both sides: they never have gradients together."""
        options, network = state.options, state.network
        opponent = [] if network.discriminator is None else list(network.discriminator.parameters())
        own = [*network.autoencoder.parameters(), network.centroids]
        groups = [{"params": own}, {"params": opponent, "lr": options.discriminator_learning_rate}]
        return adam(groups, options.learning_rate)

    def _end_refinement(self, state: State) -> None:
        state.network.discriminator = None

    def _assign(self, network: AdversarialNetwork, z: Tensor) -> Tensor:
        return network.sharpen(network.assign(z))

    # ------------------------------------------------------------------ losses
    def _refinement_terms(
        self, state: State, z: Tensor, index: Tensor, evaluation: Evaluation
    ) -> BatchLosses:
        assert evaluation.target is not None
        target, assignment = evaluation.target[index], state.network.assign(z)
        losses = {
            "consistency": lambda: (assignment - target).square().sum(1).mean(),
            "self_supervision": lambda: (z - target).square().sum(1).mean(),
            "specificity": lambda: ops.squared_l12_norm(z) / len(z),
            "adversarial": lambda: self._deception(state, assignment),
        }
        weights = {name: getattr(state.options, f"{name}_weight") for name in losses}
        metrics = {}
        if weights["adversarial"]:
            metrics = self._train_discriminator(state, assignment.detach(), target)
        n_rows = len(z) if state.options.row_losses == "sum" else 1
        return {
            name: (weights[name] * n_rows, loss()) for name, loss in losses.items() if weights[name]
        }, metrics

    def _train_discriminator(self, state: State, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Updates the discriminator; its loss and accuracy before."""
        discriminator, optimizer = state.network.discriminator, state.optimizer
        assert discriminator is not None
        assert optimizer is not None
        discriminator.requires_grad_(True)
        rows = torch.cat([real, fake])
        truth = torch.zeros(len(rows), dtype=rows.dtype, device=rows.device)
        truth[: len(real)] = 1
        before: dict[str, Tensor] = {}
        for _ in range(state.options.discriminator_steps):
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

    def _deception(self, state: State, assignment: Tensor) -> Tensor:
        """−mean log D(d1), log D being the logarithm of the logistic function."""
        assert state.network.discriminator is not None
        return nn.functional.softplus(-state.network.discriminator(assignment)).mean()
