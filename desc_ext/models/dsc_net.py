"""DSC-Net: deep subspace clustering networks, the coefficients of self-expression learned as a layer."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from desc_ext import ops
from desc_ext.models.base import Assessment, DeepEmbedding, Fit
from desc_ext.models.networks import NETWORK_CHECKS, ImageOrRowNetwork, complete_network_options
from desc_ext.models.options import CHECKS, Check, check_options, choice, number, require_checkpoint
from desc_ext.models.spectral import leading_eigenvectors, spectral_kmeans
from desc_ext.models.start import kmeans
from desc_ext.nn import SelfExpressiveLayer

__all__ = ["DSCNet"]

_CHECKS: dict[str, Check] = {
    "penalty": choice("l2", "l1"),
    "scaling": CHECKS["scaling"],
    **NETWORK_CHECKS,
    "fidelity_weight": number(0),
    "coefficient_weight": number(0),
    "kept_share": number(0, 1, strict=True),
    **{
        name: CHECKS[name]
        for name in (
            "pretrain_epochs", "epochs", "batch_size", "pretrain_learning_rate", "learning_rate", "n_init",
        )
    },
}  # fmt: skip
_EXPRESSION = "expression"
_MOST_ROWS = 10_000


class SelfExpressiveNetwork(ImageOrRowNetwork):
    """Autoencoder and the coefficients C [n, n] of the rows that it is fitted to."""

    def __init__(self, n_features: int, options: dict[str, Any], generator: torch.Generator) -> None:
        super().__init__(n_features, options, generator)
        self.expression = SelfExpressiveLayer(options["n_samples"])


class DSCNet(DeepEmbedding):
    """Deep subspace clustering networks (Ji et al., NIPS 2017), DSC-Net-L2 and DSC-Net-L1.

    After the autoencoder's pretraining, all its parameters and a coefficient matrix C [n, n], diag C = 0, minimise
    ½‖X − X̂‖²_F + (w_e/2) ‖Z − C Z‖²_F + w_c ‖C‖, X̂ decoded from C Z, by full-batch steps of Adam. The clusters are
    those of spectral clustering (symmetric normalised Laplacian) on the affinity ½(|C| + |C|ᵀ).

    C is stored with its gradient and Adam's two moments: 16 n² bytes, so data are limited to 10,000 rows. New rows have
    no coefficients: as with scikit-learn's ``SpectralClustering`` there is no ``predict`` (``transform`` gives their
    codes). Images meet a convolutional autoencoder, rows a fully connected one.

    Args:
        n_clusters: K.
        penalty: ‖C‖ is ‖C‖²_F ("l2") or Σ_ij |C_ij| ("l1").
        scaling: "global", "standard", "minmax" or "none", as for :class:`DESC`.
        image_network: "conv" (kernels 5-3-3…, halving the map until it is 4 pixels wide) or "residual" (a convolution,
            then pre-activation blocks, kernel 3).
        channels: of the image network's layers; None: 10-20-30, residual 10-20-30-40.
        hidden_sizes: for rows, encoder layers (the decoder mirrors them).
        latent_dim: for rows, p; None: 9·K. An image's code is the last map.
        unit_codes: codes on the unit sphere.
        fidelity_weight: w_e. coefficient_weight: w_c.
        kept_share: only the largest |C_ij| of each row that together make up this share of its Σ_j |C_ij| enter the
            affinity (DSC-Net's ρ); 1: all. What DSC-Net's code further does to the affinity for single data sets
            (a truncated SVD and a power of it) is not part of the paper and not done.
        pretrain_epochs, batch_size, pretrain_learning_rate: reconstruction only, Adam, mini-batches.
        epochs, learning_rate: full-batch steps, Adam.
        n_init: restarts of k-means on the spectral embedding.
        features, feature_dim, image_shape, random_state, device, dtype, callbacks, verbose, checkpoint, resume: as for
            :class:`DESC`; the stages of callbacks and history are "pretrain" and "expression".

    Attributes:
        labels_: int64 [n].
        coefficients_: C [n, n]. affinity_matrix_: [n, n], symmetric, diagonal 0.
        embedding_: [n, p], codes of the training rows.
        initial_labels_: int64 [n], k-means clusters of the pretrained codes, for comparison.
        n_iter_: full-batch steps.
        history_: one dict an epoch or step: stage, epoch, seconds, loss and its terms (reconstruction ‖X − X̂‖²,
            fidelity ½‖Z − CZ‖², coefficients ‖C‖; before their weights).
        resolved_params_, features_, n_features_in_: as for :class:`DESC`.
    """

    _method = "dsc-net"
    _presets: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        penalty: str = "l2",
        scaling: str = "global",
        image_network: str = "conv",
        channels: tuple[int, ...] | None = None,
        hidden_sizes: tuple[int, ...] = (500, 500, 1000),
        latent_dim: int | None = None,
        unit_codes: bool = False,
        fidelity_weight: float = 100.0,
        coefficient_weight: float = 1.0,
        kept_share: float = 1.0,
        pretrain_epochs: int = 50,
        epochs: int = 60,
        batch_size: int = 256,
        pretrain_learning_rate: float = 1e-3,
        learning_rate: float = 1e-3,
        n_init: int = 20,
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
        self.penalty = penalty
        self.scaling = scaling
        self.image_network = image_network
        self.channels = channels
        self.hidden_sizes = hidden_sizes
        self.latent_dim = latent_dim
        self.unit_codes = unit_codes
        self.fidelity_weight = fidelity_weight
        self.coefficient_weight = coefficient_weight
        self.kept_share = kept_share
        self.pretrain_epochs = pretrain_epochs
        self.epochs = epochs
        self.batch_size = batch_size
        self.pretrain_learning_rate = pretrain_learning_rate
        self.learning_rate = learning_rate
        self.n_init = n_init
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
    def coefficients_(self) -> np.ndarray:
        """C [n, n], its diagonal 0 (NumPy)."""
        self._require_fit("coefficients_")
        return self.network_.expression.coefficient.detach().cpu().numpy()

    @property
    def affinity_matrix_(self) -> np.ndarray:
        """½(|C| + |C|ᵀ) [n, n] of the coefficients that ``kept_share`` keeps (NumPy)."""
        self._require_fit("affinity_matrix_")
        return _affinity(self.network_.expression.coefficient, self.resolved_params_["kept_share"])

    def dense_affinity(self, rows: Any) -> np.ndarray:
        """:attr:`affinity_matrix_` [m, m] between the training rows with the numbers ``rows`` [m]."""
        return self.affinity_matrix_[np.ix_(rows, rows)]

    def _require_fit(self, name: str) -> None:
        if not hasattr(self, "network_"):
            raise AttributeError(f"this {type(self).__name__} has no {name} before fit")

    # ------------------------------------------------------------------ what a fit needs
    def _resolve_options(self) -> dict[str, Any]:
        options = check_options(self, _CHECKS)
        require_checkpoint(self)
        return options | {"corruption": 0.0, "reconstruction": "sum"}

    def _stages(self, options: dict[str, Any]) -> dict[str, int]:
        return {"pretrain": options["pretrain_epochs"], _EXPRESSION: options["epochs"]}

    def _begin(self, X: np.ndarray, options: dict[str, Any]) -> Fit:
        name = type(self).__name__
        if len(X) > _MOST_ROWS:
            raise ValueError(
                f"{name}: X has {len(X):,} rows, but coefficients [n, n] are learned for {_MOST_ROWS:,} at most; use "
                "SelfExpressiveClustering, whose coefficients are never stored, or fewer rows"
            )
        complete_network_options(name, options)
        options["n_samples"] = len(X)
        return super()._begin(X, options)

    def _build(self, n_features: int, options: dict[str, Any], generator: torch.Generator):
        return SelfExpressiveNetwork(n_features, options, generator)

    def _initialise(self, fit: Fit, z: Tensor) -> Tensor:
        return kmeans(z, fit.options["n_clusters"], fit.options["n_init"], fit.seed)[0]

    # ------------------------------------------------------------------ full-batch steps, then clusters
    def _refine(self, fit: Fit) -> None:
        network = fit.network
        self._train_codes(fit, torch.optim.Adam(network.parameters(), fit.options["learning_rate"]))
        self._look(fit)

    def _assess(self, fit: Fit, z: Tensor) -> Assessment:
        options, seed = fit.options, fit.seed
        affinity = sparse.csr_array(_affinity(fit.network.expression.coefficient, options["kept_share"]))
        _, vectors = leading_eigenvectors(affinity, options["n_clusters"], "arpack", seed)
        _, clusters = spectral_kmeans(vectors, options["n_clusters"], options["n_init"], seed)
        return Assessment(z, torch.from_numpy(clusters.labels_.astype(np.int64)).to(z.device))

    def _batches(self, fit: Fit):
        if fit.stage == "pretrain":
            return super()._batches(fit)
        return [torch.arange(len(fit.rows))]

    def _terms(self, fit: Fit, index: Tensor, now: Assessment | None) -> dict[str, tuple[float, Tensor]]:
        if fit.stage == "pretrain":
            return super()._terms(fit, index, now)
        options, network = fit.options, fit.network
        x = fit.rows.take(index.numpy())
        z = network.autoencoder.encode(x)
        fidelity, size = ops.self_expression_residual(z, network.expression.coefficient, options["penalty"])
        back = network.autoencoder.decode(network.expression(z))
        return {
            "reconstruction": (0.5, (x - back).square().sum()),
            "fidelity": (options["fidelity_weight"], fidelity),
            "coefficients": (options["coefficient_weight"], size),
        }


@torch.no_grad()
def _affinity(coefficient: Tensor, kept_share: float) -> np.ndarray:
    size = coefficient.abs()
    if kept_share < 1:
        ordered, order = size.sort(dim=1, descending=True, stable=True)
        total = ordered.sum(1, keepdim=True)
        # those whose larger ones do not yet make up the share, so the largest at least
        ordered[ordered.cumsum(1) - ordered >= kept_share * total] = 0
        size = torch.zeros_like(size).scatter_(1, order, ordered)
    return ((size + size.T) / 2).cpu().numpy()
