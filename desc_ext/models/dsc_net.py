"""DSC-Net: deep subspace clustering networks, the coefficients of self-expression learned as a layer."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from desc_ext import ops
from desc_ext.models.base import Assessment, DeepEmbedding, Fit
from desc_ext.models.collaboration import closed_form_expression
from desc_ext.models.networks import (
    NETWORK_CHECKS,
    NETWORK_DEFAULTS,
    ImageOrRowNetwork,
    complete_network_options,
)
from desc_ext.models.options import CHECKS, Check, choice, integer, number
from desc_ext.models.self_expressive import sparse_affinity
from desc_ext.models.spectral import leading_eigenvectors, learned_affinity, spectral_kmeans
from desc_ext.models.start import kmeans
from desc_ext.nn import SelfExpressiveLayer
from desc_ext.training import adam

__all__ = ["EXPRESSION", "EXPRESSION_CHECKS", "PAPER", "ROBUST", "DSCNet", "ExpressionFit"]

PAPER: dict[str, Any] = NETWORK_DEFAULTS | {
    "penalty": "l2",
    "self_expression": "learned",
    "coefficient_start": "constant",
    "scaling": "global",
    "reconstruction": "sum",
    "fidelity_weight": 150.0,
    "coefficient_weight": 1.0,
    "coefficient_scale": "absolute",
    "kept_share": 1.0,
    "k": 0,
    "extra_vectors": 0,
    "pretrain_epochs": 50,
    "epochs": 60,
    "batch_size": 256,
    "expression_batch_size": 5000,
    "pretrain_learning_rate": 1e-3,
    "autoencoder_learning_rate": 1e-3,
    "learning_rate": 1e-3,
    "n_init": 20,
}
ROBUST: dict[str, Any] = PAPER | {
    "unit_codes": True,
    "reconstruction": "mean",
    "coefficient_start": "closed_form",
    "fidelity_weight": 1.0,
    "coefficient_weight": 0.5,
    "coefficient_scale": "relative",
    "autoencoder_learning_rate": 1e-4,
    "k": 40,
    "extra_vectors": 1,
}
EXPRESSION_CHECKS: dict[str, Check] = NETWORK_CHECKS | {
    "penalty": choice("l2", "l1"),
    "self_expression": choice("learned", "closed_form"),
    "coefficient_start": choice("constant", "closed_form"),
    "fidelity_weight": number(0),
    "coefficient_weight": number(0),
    "coefficient_scale": choice("absolute", "relative"),
    "kept_share": number(0, 1, strict=True),
    "k": integer(0),
    "extra_vectors": integer(0),
    "expression_batch_size": integer(2),
    "autoencoder_learning_rate": number(0, strict=True),
    **{
        name: CHECKS[name]
        for name in (
            "scaling", "reconstruction", "pretrain_epochs", "epochs", "batch_size", "pretrain_learning_rate",
            "learning_rate", "n_init",
        )
    },
}  # fmt: skip
EXPRESSION = "expression"
_MOST_ROWS = 10_000
_CLOSED_FORM_K = 20
# Codes of few dimensions leave no room for subspaces: the rows of all clusters would express each other.
_DIMENSIONS_PER_CLUSTER = 40
_L1_WEIGHT = 0.03
_WORK_PER_CHECKPOINT = 9  # seconds of a fit for each second of writing its checkpoints


class SelfExpressiveNetwork(ImageOrRowNetwork):
    """Autoencoder and, where they are learned, the coefficients C [n, n] of the rows that it is fitted to."""

    def __init__(self, n_features: int, options: dict[str, Any], generator: torch.Generator) -> None:
        super().__init__(n_features, options, generator)
        learned = options["self_expression"] == "learned"
        self.expression = SelfExpressiveLayer(options["n_samples"]) if learned else None


@dataclass
class ExpressionFit(Fit):
    inputs: Tensor | None = None  # all scaled rows, while full-batch steps need them
    next_checkpoint: float = 0.0  # by time.perf_counter


class DSCNet(DeepEmbedding):
    """Deep subspace clustering networks (Ji et al., NIPS 2017), DSC-Net-L2 and DSC-Net-L1.

    After the autoencoder's pretraining, all its parameters and a coefficient matrix C [n, n], diag C = 0, minimise
    ½‖X − X̂‖²_F + (w_e/2) ‖Z − C Z‖²_F + w_c ‖C‖, X̂ decoded from C Z, by full-batch steps of Adam. The clusters are
    those of spectral clustering (symmetric normalised Laplacian) on the affinity ½(|C| + |C|ᵀ).

    A learned C is stored with its gradient and Adam's two moments: 16 n² bytes, so data are limited to 10,000 rows.
    ``self_expression="closed_form"`` takes the exact minimiser of (w_e/2) ‖Z − C Z‖² + w_c ‖C‖²_F instead, for mini-batches
    in training and for all rows at the end; it is never stored, of each row only the k largest coefficients enter the
    affinity, and there is no limit. New rows have no coefficients: as with scikit-learn's ``SpectralClustering`` there is
    no ``predict`` (``transform`` gives their codes). Images meet a convolutional autoencoder, rows a fully connected one.

    What w_e means depends on the length of the codes, which nothing in the loss fixes: "paper" leaves them as the
    autoencoder makes them and sums squared errors over the columns, as DSC-Net's code does; "robust" divides each code by
    its norm and takes the mean over the columns, so that the weights mean the same for all data, starts C at its exact
    minimiser, and lets only the largest coefficients of each row into the affinity.

    Every option below is a keyword argument; None takes the value of ``preset``.

    ========================= ============ ============= ============================================================
    option                    paper        robust        meaning
    ========================= ============ ============= ============================================================
    penalty                   "l2"         "l2"          ‖C‖ is ‖C‖²_F ("l2") or Σ_ij |C_ij| ("l1")
    self_expression           "learned"    "learned"     C: a layer, or "closed_form" (penalty "l2" only)
    coefficient_start         "constant"   "closed_form" a learned C before its first step: 1e-4 everywhere, or the exact
                                                         minimiser for the pretrained codes
    scaling                   "global"     "global"      of the input, as for :class:`DESC`, or "uncentred": divided by the
                                                         root of the overall mean square, means left in
    image_network             "conv"       "conv"        for images: "conv" (kernels 5-3-3…, halving the map until it is 4
                                                         pixels wide), "residual" (a convolution, then pre-activation blocks,
                                                         kernel 3) or "strided" (kernel 3, every layer halves the map)
    channels                  None         None          of its layers; None: 10-20-30, else 10-20-30-40
    hidden_sizes              500,500,1000 500,500,1000  for rows: encoder layers (the decoder mirrors them)
    latent_dim                None         None          for rows: p; None: 40·K, but not more than there are columns. An
                                                         image's code is the last map
    unit_codes                False        True          codes on the unit sphere
    reconstruction            "sum"        "mean"        squared error of a row: sum or mean over its columns
    fidelity_weight           150          1             w_e
    coefficient_weight        1            0.5           w_c; "robust" with penalty "l1": 0.03
    coefficient_scale         "absolute"   "relative"    "relative": w_c in units of the mean eigenvalue of ZᵀZ, which is
                                                         ‖Z‖²/min(n, p) (penalty "l1": of the mean ‖z_i‖²)
    kept_share                1            1             of a learned C: only the largest |C_ij| of each row that together
                                                         make up this share of its Σ_j |C_ij| enter the affinity (DSC-Net's ρ)
    k                         0            40            only the k largest |C_ij| of each row enter the affinity; 0: all
                                                         of a learned C, 20 of the closed form. Rows of small components
                                                         that this makes are joined to their nearest other row
    extra_vectors             0            1             eigenvectors of the affinity beside K: with K alone, two clusters are
                                                         merged where a third falls into two parts more readily
    pretrain_epochs           50           50            reconstruction only, mini-batches of ``batch_size`` rows
    epochs                    60           60            full-batch steps; closed form: passes over the mini-batches
    batch_size                256          256           rows of a mini-batch in pretraining
    expression_batch_size     5000         5000          closed form: rows of a mini-batch after pretraining, at most
    pretrain_learning_rate    1e-3         1e-3          Adam
    autoencoder_learning_rate 1e-3         1e-4          Adam, of the autoencoder after pretraining
    learning_rate             1e-3         1e-3          Adam, of a learned C
    n_init                    20           20            restarts of k-means on the spectral embedding
    ========================= ============ ============= ============================================================

    What DSC-Net's code further does to the affinity for single data sets (a truncated SVD and a power of it) is not part
    of the paper and not done.

    Args:
        n_clusters: K.
        preset: "robust" or "paper".
        features, feature_dim, image_shape, random_state, device, dtype, callbacks, verbose, checkpoint, resume: as for
            :class:`DESC`; the stages of callbacks and history are "pretrain" and "expression".

    Attributes:
        labels_: int64 [n].
        coefficients_: C [n, n], where it is learned.
        affinity_matrix_: [n, n], symmetric, diagonal 0; a SciPy CSR array where each row keeps k coefficients.
        embedding_: [n, p], codes of the training rows.
        initial_labels_: int64 [n], k-means clusters of the pretrained codes, for comparison.
        n_iter_: steps after pretraining, in epochs.
        history_: one dict an epoch or step: stage, epoch, seconds, loss and its terms, before their weights and each over
            the number of rows (reconstruction ‖X − X̂‖², fidelity ½‖Z − CZ‖², coefficients ‖C‖).
        resolved_params_, features_, n_features_in_: as for :class:`DESC`.
    """

    _method = "dsc-net"
    _presets = {"paper": PAPER, "robust": ROBUST}  # noqa: RUF012  (read only)
    _checks = EXPRESSION_CHECKS

    def __init__(
        self,
        n_clusters: int = 8,
        *,
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
        self.penalty = penalty
        self.self_expression = self_expression
        self.coefficient_start = coefficient_start
        self.scaling = scaling
        self.image_network = image_network
        self.channels = channels
        self.hidden_sizes = hidden_sizes
        self.latent_dim = latent_dim
        self.unit_codes = unit_codes
        self.reconstruction = reconstruction
        self.fidelity_weight = fidelity_weight
        self.coefficient_weight = coefficient_weight
        self.coefficient_scale = coefficient_scale
        self.kept_share = kept_share
        self.k = k
        self.extra_vectors = extra_vectors
        self.pretrain_epochs = pretrain_epochs
        self.epochs = epochs
        self.batch_size = batch_size
        self.expression_batch_size = expression_batch_size
        self.pretrain_learning_rate = pretrain_learning_rate
        self.autoencoder_learning_rate = autoencoder_learning_rate
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
        """A learned C [n, n], its diagonal 0 (NumPy)."""
        self._require_fit("coefficients_")
        if self.network_.expression is None:
            raise AttributeError("coefficients_: the closed form's are never stored; see affinity_matrix_")
        return self.network_.expression.coefficient.detach().cpu().numpy()

    @property
    def affinity_matrix_(self) -> np.ndarray | sparse.csr_array:
        """½(|C| + |C|ᵀ) [n, n] of the coefficients that enter it."""
        self._require_fit("affinity_matrix_")
        device = next(self.network_.autoencoder.parameters()).device
        return self._affinity(
            self.network_, torch.from_numpy(self.embedding_).to(device), self.resolved_params_
        )

    def dense_affinity(self, rows: Any) -> np.ndarray:
        """:attr:`affinity_matrix_` [m, m] between the training rows with the numbers ``rows`` [m]."""
        affinity = self.affinity_matrix_
        return (
            affinity[rows][:, rows].toarray() if sparse.issparse(affinity) else affinity[np.ix_(rows, rows)]
        )

    def _require_fit(self, name: str) -> None:
        if not hasattr(self, "network_"):
            raise AttributeError(f"this {type(self).__name__} has no {name} before fit")

    # ------------------------------------------------------------------ what a fit needs
    def _resolve_options(self) -> dict[str, Any]:
        options, name = super()._resolve_options(), type(self).__name__
        relative = options["coefficient_scale"] == "relative"
        if options["penalty"] == "l1" and relative and self.coefficient_weight is None:
            options["coefficient_weight"] = _L1_WEIGHT
        closed = options["self_expression"] == "closed_form"
        if closed and options["penalty"] == "l1":
            raise ValueError(f"{name}: penalty='l1' has no closed form; use self_expression='learned'")
        if closed or options["coefficient_start"] == "closed_form":
            self._require_ridge(options)
        if closed and not options["k"]:
            options["k"] = _CLOSED_FORM_K
        return options | {"corruption": 0.0}

    def _require_ridge(self, options: dict[str, Any]) -> None:
        for option in ("fidelity_weight", "coefficient_weight"):
            if not options[option]:
                raise ValueError(
                    f"{type(self).__name__}: {option} must be > 0 for C's closed form, got {options[option]}"
                )

    def _stages(self, options: dict[str, Any]) -> dict[str, int]:
        return {"pretrain": options["pretrain_epochs"], EXPRESSION: options["epochs"]}

    def _begin(self, X: np.ndarray, options: dict[str, Any]) -> ExpressionFit:
        name = type(self).__name__
        if options["self_expression"] == "learned" and len(X) > _MOST_ROWS:
            raise ValueError(
                f"{name}: X has {len(X):,} rows, but coefficients [n, n] are learned for {_MOST_ROWS:,} at most; use "
                "self_expression='closed_form', whose coefficients are never stored, or fewer rows"
            )
        if options["image_shape"] is None and options["latent_dim"] is None:
            options["latent_dim"] = min(_DIMENSIONS_PER_CLUSTER * options["n_clusters"], X.shape[1])
        complete_network_options(name, options)
        options["n_samples"] = len(X)
        return ExpressionFit(**vars(super()._begin(X, options)))

    def _build(self, n_features: int, options: dict[str, Any], generator: torch.Generator):
        return SelfExpressiveNetwork(n_features, options, generator)

    def _initialise(self, fit: Fit, z: Tensor) -> Tensor:
        self._start_coefficients(fit, z)
        return kmeans(z, fit.options["n_clusters"], fit.options["n_init"], fit.seed)[0]

    @torch.no_grad()
    def _start_coefficients(self, fit: Fit, z: Tensor) -> None:
        layer = fit.network.expression
        if layer is None or fit.options["coefficient_start"] == "constant":
            return
        y = ops.ridge_self_expression(z, _ridge(z, fit.options))
        scale = 1 / (1 - y.square().sum(1, keepdim=True)).clamp_min(torch.finfo(y.dtype).eps)
        torch.matmul(scale * y, y.T, out=layer.coefficient.data).fill_diagonal_(0)

    # ------------------------------------------------------------------ steps with self-expression, then clusters
    def _refine(self, fit: ExpressionFit) -> None:
        network, options = fit.network, fit.options
        slow = list(network.autoencoder.parameters())
        layer = [] if network.expression is None else list(network.expression.parameters())
        groups = [{"params": slow, "lr": options["autoencoder_learning_rate"]}, {"params": layer}]
        self._train_codes(fit, adam(groups, options["learning_rate"]))
        fit.inputs = None
        network.zero_grad(set_to_none=True)
        self._look(fit)

    def _assess(self, fit: Fit, z: Tensor) -> Assessment:
        options, seed = fit.options, fit.seed
        affinity = self._affinity(fit.network, z, options)
        n_vectors = min(options["n_clusters"] + options["extra_vectors"], len(z))
        _, vectors = leading_eigenvectors(affinity, n_vectors, "arpack", seed)
        _, clusters = spectral_kmeans(vectors, options["n_clusters"], options["n_init"], seed)
        return Assessment(z, torch.from_numpy(clusters.labels_.astype(np.int64)).to(z.device))

    @torch.no_grad()
    def _affinity(
        self, network: SelfExpressiveNetwork, z: Tensor, options: dict[str, Any]
    ) -> np.ndarray | sparse.csr_array:
        if network.expression is not None:
            return learned_affinity(
                network.expression.coefficient, options["kept_share"], options["k"], options["n_clusters"]
            )
        y = ops.ridge_self_expression(z, _ridge(z, options))
        indices, values = ops.coefficient_topk(y, min(options["k"], len(z) - 1))
        return sparse_affinity(y, indices, values, options["n_clusters"])[0]

    def _batches(self, fit: ExpressionFit) -> Iterable[Tensor]:
        if fit.stage != EXPRESSION:
            return super()._batches(fit)
        n = len(fit.rows)
        if fit.network.expression is not None:
            return [torch.arange(n)]
        # pieces that differ by one at most: a short last one could not express its rows
        n_pieces = math.ceil(n / fit.options["expression_batch_size"])
        return torch.randperm(n, generator=fit.order).tensor_split(n_pieces)

    def _terms(
        self, fit: ExpressionFit, index: Tensor, now: Assessment | None
    ) -> dict[str, tuple[float, Tensor]]:
        if fit.stage != EXPRESSION:
            return super()._terms(fit, index, now)
        x = self._inputs(fit, index)
        layer = fit.network.expression
        terms, z, expressed = self._expression_terms(fit, fit.network.autoencoder, x, layer)
        return terms | self._further_terms(fit, index.to(x.device), z, expressed)

    def _inputs(self, fit: ExpressionFit, index: Tensor) -> Tensor:
        if fit.network.expression is None:
            return fit.rows.take(index.numpy())
        if fit.inputs is None:
            fit.inputs = torch.cat(list(fit.rows.chunks()))
        return fit.inputs

    def _expression_terms(
        self, fit: Fit, autoencoder: nn.Module, x: Tensor, layer: SelfExpressiveLayer | None
    ) -> tuple[dict[str, tuple[float, Tensor]], Tensor, Tensor]:
        """Terms of the loss, each over the number of rows, Z and C Z; C of the ``layer``, or the closed form's."""
        options, n = fit.options, len(x)
        z = autoencoder.encode(x)
        if layer is None:
            expressed, size = closed_form_expression(z, ops.ridge_self_expression(z, _ridge(z, options)))
            fidelity = (z - expressed).square().sum() / 2
        else:
            expressed, fidelity, size = layer(z, options["penalty"])
        terms = {
            "reconstruction": (0.5, self._reconstruction(fit, x, autoencoder.decode(expressed))),
            "fidelity": (options["fidelity_weight"], fidelity / n),
            "coefficients": (_coefficient_weight(z, options), size / n),
        }
        return terms, z, expressed

    def _write_checkpoint(self, fit: ExpressionFit, optimizer: torch.optim.Optimizer) -> None:
        """C and its moments are 12 n² bytes: writing them takes a tenth of the time at most."""
        started = time.perf_counter()
        if started < fit.next_checkpoint:
            return
        optimizer.zero_grad(set_to_none=True)
        super()._write_checkpoint(fit, optimizer)
        ended = time.perf_counter()
        fit.next_checkpoint = ended + _WORK_PER_CHECKPOINT * (ended - started)

    def _further_terms(
        self, fit: Fit, index: Tensor, z: Tensor, expressed: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """What a method that builds on this one adds to the loss."""
        return {}


def _coefficient_weight(z: Tensor, options: dict[str, Any]) -> float:
    """w_c, which ``coefficient_scale`` may have in units of the mean eigenvalue of ZᵀZ, or of ‖z_i‖² for l1."""
    weight = options["coefficient_weight"]
    if options["coefficient_scale"] == "absolute":
        return weight
    # the mean ‖z_i‖²: of unit codes without a look at them
    square = 1.0 if options["unit_codes"] else float(z.detach().double().square().sum() / len(z))
    return weight * square * (len(z) / min(z.shape) if options["penalty"] == "l2" else 1.0)


def _ridge(z: Tensor, options: dict[str, Any]) -> float:
    """ε of ‖C‖² + ‖Z − CZ‖²/ε, which has the minimiser of (w_e/2) ‖Z − CZ‖² + w_c ‖C‖²."""
    weight = _coefficient_weight(z, options | {"penalty": "l2"})
    return 2 * weight / options["fidelity_weight"]
