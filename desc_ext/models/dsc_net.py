"""DSC-Net: deep subspace clustering networks, the coefficients of self-expression learned as a layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from desc_ext import ops
from desc_ext.algorithms.diffusion import diffusion_clusters, diffusion_coordinates, restarts_of
from desc_ext.algorithms.distinct import DistinctRows, distinct_rows
from desc_ext.algorithms.graph import hold_copies, learned_affinity
from desc_ext.algorithms.kmeans import kmeans
from desc_ext.algorithms.self_expression import (
    closed_form_coefficients,
    closed_form_expression,
    expression_options,
    gram_eigenvalues,
    mean_square,
    ridge_affinity,
)
from desc_ext.algorithms.smoothed_codes import refined_clusters
from desc_ext.algorithms.spectral import leading_eigenvectors, spectral_kmeans
from desc_ext.algorithms.svd_affinity import svd_power_affinity
from desc_ext.engine.deep import reconstruction_loss
from desc_ext.engine.image_or_row import ImageOrRowClusterer
from desc_ext.engine.networks import ClusteringNetwork
from desc_ext.engine.optimizers import adam
from desc_ext.engine.options import Option, estimator, option
from desc_ext.engine.stages import BatchLosses, Losses, Stage
from desc_ext.engine.state import Evaluation, FitState
from desc_ext.nn import SelfExpressiveLayer

__all__ = ["EXPRESSION", "PAPER", "ROBUST", "DSCNet", "ExpressionState", "SelfExpressiveEmbedding"]

PAPER: dict[str, Any] = {
    "image_network": "conv",
    "channels": None,
    "hidden_sizes": (500, 500, 1000),
    "latent_dim": None,
    "unit_codes": False,
    "penalty": "l2",
    "self_expression": "learned",
    "coefficient_init": "constant",
    "scaling": "global",
    "reconstruction": "sum",
    "fidelity_weight": 150.0,
    "coefficient_weight": 1.0,
    "coefficient_scale": "absolute",
    "kept_share": 1.0,
    "n_neighbors": 0,
    "svd_power": None,
    "spectral": "eigenvectors",
    "extra_components": 0,
    "diffusion_ratio": 0.65,
    "pretrain_epochs": 50,
    "max_steps": 60,
    "batch_size": 256,
    "expression_batch_size": 5000,
    "pretrain_learning_rate": 1e-3,
    "autoencoder_learning_rate": 1e-3,
    "learning_rate": 1e-3,
    "n_init": 20,
}
ROBUST: dict[str, Any] = PAPER | {
    "image_network": None,
    "hidden_sizes": (),
    "unit_codes": True,
    "reconstruction": "mean",
    "coefficient_init": "closed-form",
    "fidelity_weight": 1.0,
    "coefficient_scale": "dimensions",
    "autoencoder_learning_rate": 1e-4,
    "n_neighbors": None,
    "spectral": "smoothed",
}
EXPRESSION = "expression"
_MOST_ROWS = 10_000
# Neighbours kept of each row where rows are no images, below and above so many rows a cluster; texts lose by fewer.
_FEW_ROWS, _NEIGHBORS_OF_FEW, _ROW_NEIGHBORS = 500, 20, 40
# Codes of few dimensions leave no room for subspaces: the rows of all clusters would express each other.
_DIMENSIONS_PER_CLUSTER = 40
_L1_WEIGHT = 0.03

S = TypeVar("S", bound="ExpressionState[Any]")
OptionsT = TypeVar("OptionsT")


class SelfExpressiveNetwork(ClusteringNetwork):
    """Autoencoder and, where they are learned, the coefficients C [n, n] of the rows that it is fitted to."""

    teachers: nn.ModuleList

    def __init__(self, n_features: int, autoencoder: nn.Module, n_coefficients: int) -> None:
        super().__init__(n_features, autoencoder)
        self.expression = SelfExpressiveLayer(n_coefficients) if n_coefficients else None


@dataclass
class ExpressionState(FitState[OptionsT, SelfExpressiveNetwork], Generic[OptionsT]):
    """The state of a fit with self-expression."""

    inputs: Tensor | None = None  # all scaled rows, while full-batch steps need them


@estimator
class SelfExpressiveEmbedding(ImageOrRowClusterer[S]):
    """What :class:`DSCNet` and LRSC share: options, steps with self-expression, spectral clustering of the coefficients."""

    _state_type = ExpressionState
    _in_mini_batches: ClassVar[bool] = False
    _work_per_checkpoint: ClassVar[float] = 9.0  # C and its moments are 12 n² bytes
    _usual_image_network: ClassVar[Literal["conv", "strided"]] = "conv"

    features: Literal["auto", "scattering"] | None = option(  # type: ignore[assignment]
        '"auto": with preset "robust" "scattering" where the data are images of 16×16 pixels or more and neither '
        'image_network nor channels is given, else None, the rows as they are; "scattering": the wavelet scattering '
        "features of images (desc_ext.features.Scattering2D, J = 3, L = 8). The fitted transformer is features_",
        default="auto",
    )
    image_network: Option[Literal["conv", "residual", "strided"] | None] = option(  # type: ignore[assignment]
        'for images as they are: "conv" (kernels 5-3-3…), "residual" (a convolution, then pre-activation blocks, kernel 3) '
        'or "strided" (kernel 3). A layer halves the map: of the first two while it is more than 4 pixels wide, of the '
        "third always. None: that of the paper",
        default=None,
    )
    penalty: Option[Literal["l2", "l1"]] = option('‖C‖ is ‖C‖²_F ("l2") or Σ_ij |C_ij| ("l1")', default=None)
    self_expression: Option[Literal["closed-form", "learned"]] = option(
        'C: "learned", a layer, or "closed-form" (penalty "l2" only)', default=None
    )
    coefficient_init: Option[Literal["constant", "closed-form"]] = option(
        'a learned C before its first step: "constant", 1e-4 everywhere, or "closed-form", the exact minimiser for the '
        "pretrained codes",
        default=None,
    )
    reconstruction: Option[Literal["mean", "sum"]] = option(
        'squared error of a row: "sum" or "mean" over its columns', default=None
    )
    fidelity_weight: Option[float] = option("w_e", default=None, at_least=0)
    coefficient_weight: Option[float] = option(
        'w_c; "robust" with penalty "l1": 0.03', default=None, at_least=0
    )
    coefficient_scale: Option[Literal["absolute", "relative", "dimensions"]] = option(
        'the unit of w_c: "absolute", 1; "relative", the mean eigenvalue of ZᵀZ, which is ‖Z‖²/min(n, p) (penalty "l1": the '
        'mean ‖z_i‖²); "dimensions" (penalty "l2"), w_e/2 times the ridge that leaves 7 effective dimensions a cluster, as '
        "SelfExpressiveClustering's",
        default=None,
    )
    kept_share: Option[float] = option(
        "of a learned C: only the largest |C_ij| of each row that together make up this share of its Σ_j |C_ij| enter the "
        "affinity (DSC-Net's ρ)",
        default=None,
        above=0,
        at_most=1,
    )
    n_neighbors: Option[int | None] = option(
        "only so many of the largest |C_ij| of each row enter the affinity; 0: all of a learned C; None, and 0 of the closed "
        "form: of rows 20 below 500 a cluster, else 40; of images 5 below 100, else 10. Rows of small components that this "
        "makes are joined to their nearest other row",
        default=None,
        at_least=0,
    )
    svd_power: Option[tuple[int, ...] | None] = option(
        "(d, α): of a learned C the affinity max(u_i·u_j, 0)^α of the unit rows u of U S^(1/2), the truncated singular value "
        "decomposition of ½(C + Cᵀ) + I of rank K d + 1, as DSC-Net's code; None: ½(|C| + |C|ᵀ), as its paper",
        default=None,
        at_least=1,
        where=lambda value: value is None or len(value) == 2,
        wanted="a pair of integers >= 1, dimension of a subspace and power, or None",
    )
    spectral: Option[Literal["eigenvectors", "diffusion", "smoothed"]] = option(
        'what k-means clusters: "eigenvectors", the leading ones of the affinity; "diffusion", the diffusion coordinates '
        "of 2 K, as :class:`desc_ext.models.SelfExpressiveClustering`, with 500,000/n restarts at least (10 to 300); "
        '"smoothed", the codes after two steps of the random walk on the affinity, where k-means of them, begun at the '
        'clusters of "diffusion", lowers the normalised cut (texts), and else "diffusion" (images)',
        default=None,
    )
    extra_components: Option[int] = option(
        'spectral="eigenvectors": how many beside K. With K alone, two clusters are merged where a third falls into two '
        "parts more readily",
        default=None,
        at_least=0,
    )
    diffusion_ratio: Option[float] = option(
        'spectral="diffusion" and "smoothed": (λ_{K+1}/λ_2)^t, as for SelfExpressiveClustering',
        default=None,
        above=0,
        below=1,
    )
    max_steps: Option[int] = option(
        "full-batch steps; closed form: passes over the mini-batches", default=None, at_least=0
    )
    batch_size: Option[int] = option("rows of a mini-batch in pretraining", default=None, at_least=1)
    expression_batch_size: Option[int] = option(
        "closed form: rows of a mini-batch after pretraining, at most", default=None, at_least=2
    )
    autoencoder_learning_rate: Option[float] = option(
        "of Adam, for the autoencoder after pretraining", default=None, above=0
    )
    learning_rate: Option[float] = option("of Adam, for a learned C", default=None, above=0)

    @property
    def coefficients_(self) -> np.ndarray:
        """A learned C [n, n], its diagonal 0 (NumPy)."""
        self._require_fit("coefficients_")
        if self.network_.expression is None:
            raise AttributeError("coefficients_: the closed form's are never stored; see affinity_matrix_")
        return self.network_.expression.coefficient.detach().cpu().numpy()

    @property
    def affinity_matrix_(self) -> np.ndarray | sparse.csr_array:
        """½(|C| + |C|ᵀ) [n, n] of the coefficients that enter it, or with ``svd_power`` what it makes of them.

        A row whose code repeats an earlier one has none.
        """
        self._require_fit("affinity_matrix_")
        device = next(self.network_.autoencoder.parameters()).device
        z = torch.from_numpy(self.embedding_).to(device)
        distinct = distinct_rows(z)
        return distinct.spread(self._options._affinity(self.network_, z, distinct))

    def dense_affinity(self, rows: Any) -> np.ndarray:
        """:attr:`affinity_matrix_` [m, m] between the training rows with the numbers ``rows`` [m]."""
        affinity = self.affinity_matrix_
        if isinstance(affinity, np.ndarray):
            return affinity[np.ix_(rows, rows)]
        return affinity[rows][:, rows].toarray()

    # ------------------------------------------------------------------ what a fit needs
    def _complete_options(self) -> None:
        super()._complete_options()
        name, closed = type(self).__name__, self.self_expression == "closed-form"
        if closed and self.penalty == "l1":
            raise ValueError(f"{name}: penalty='l1' has no closed form; use self_expression='learned'")
        if closed or self.coefficient_init == "closed-form":
            self._require_ridge()
        if self.svd_power is not None:
            self._complete_svd_power()
        elif closed and not self.n_neighbors:
            self.n_neighbors = None

    def _complete_svd_power(self) -> None:
        name = type(self).__name__
        if self.self_expression == "closed-form":
            raise ValueError(
                f"{name}: svd_power={self.svd_power} is of a learned C, got self_expression='closed-form'; use "
                "self_expression='learned' or svd_power=None"
            )
        if self.n_neighbors:
            raise ValueError(
                f"{name}: svd_power={self.svd_power} takes whole rows of C, got n_neighbors={self.n_neighbors}; use "
                "n_neighbors=0, and kept_share for fewer coefficients"
            )
        self.n_neighbors = 0

    def _require_ridge(self) -> None:
        for option_name in ("fidelity_weight", "coefficient_weight"):
            if not getattr(self, option_name):
                raise ValueError(
                    f"{type(self).__name__}: {option_name} must be > 0 for C's closed form, got {getattr(self, option_name)}"
                )

    def _resolve_options(self) -> Any:
        options = super()._resolve_options()
        of_network = self.image_network is not None or self.channels is not None
        if options.features == "auto" and (options.preset == "paper" or of_network):
            options.features = None
        if options.penalty == "l1" and options.coefficient_scale == "dimensions":
            if self.coefficient_scale is not None:
                raise ValueError(
                    f"{type(self).__name__}: coefficient_scale='dimensions' is of a ridge, penalty 'l2', got penalty='l1'; "
                    "use coefficient_scale='relative' or leave it out"
                )
            options.coefficient_scale = "relative"
            if self.coefficient_weight is None:
                options.coefficient_weight = _L1_WEIGHT
        return options

    def _default_latent_dim(self, n_features: int) -> int:
        return min(_DIMENSIONS_PER_CLUSTER * self.n_clusters, n_features)

    def _usual_neighbors(self, n_samples: int) -> int:
        """``n_neighbors`` where it is None, of the adapted options."""
        if self._of_images:
            rule = expression_options(n_samples, self.n_clusters, None, images=True, ridge=1.0)
            return rule.n_neighbors
        return _NEIGHBORS_OF_FEW if n_samples < _FEW_ROWS * self.n_clusters else _ROW_NEIGHBORS

    def _adapt_options(self, n_samples: int, n_features: int) -> None:
        self.image_network = self.image_network or self._usual_image_network
        super()._adapt_options(n_samples, n_features)
        if self.n_neighbors is None:
            self.n_neighbors = self._usual_neighbors(n_samples)
        if self.self_expression == "learned" and n_samples > _MOST_ROWS:
            raise ValueError(
                f"{type(self).__name__}: X has {n_samples:,} rows, but coefficients [n, n] are learned for {_MOST_ROWS:,} at "
                "most; use self_expression='closed-form', whose coefficients are never stored, or fewer rows"
            )

    def _build(self, n_features: int, n_samples: int, generator: torch.Generator) -> SelfExpressiveNetwork:
        n_coefficients = n_samples if self.self_expression == "learned" else 0
        return SelfExpressiveNetwork(n_features, self._autoencoder(n_features, generator), n_coefficients)

    def stages(self, state: S) -> list[Stage]:
        return [self._pretraining_stage(state), self._expression_stage(state)]

    def _pretraining_stage(self, state: S) -> Stage:
        form = state.options.reconstruction
        return self._pretraining(state, form, lambda z: self._first_clusters(state, z))

    def _first_clusters(self, state: S, z: Tensor) -> Tensor:
        self._start_coefficients(state, z)
        return kmeans(z, state.options.n_clusters, state.options.n_init, state.seed)[0]

    @torch.no_grad()
    def _start_coefficients(self, state: S, z: Tensor) -> None:
        layer, options = state.network.expression, state.options
        if layer is not None and options.coefficient_init == "closed-form":
            closed_form_coefficients(ops.ridge_self_expression(z, options._ridge(z)), layer.coefficient.data)

    # ------------------------------------------------------------------ steps with self-expression, then clusters
    def _expression_stage(self, state: S) -> Stage:
        options, network = state.options, state.network
        slow = list(network.autoencoder.parameters())
        layer = [] if network.expression is None else list(network.expression.parameters())
        groups = [{"params": slow, "lr": options.autoencoder_learning_rate}, {"params": layer}]
        return Stage(
            EXPRESSION,
            options.max_steps,
            lambda: adam(groups, options.learning_rate),
            lambda: self._expression_batches(state),
            lambda index, _: self._terms(state, index),
            after=lambda: self._end_expression(state),
        )

    def _end_expression(self, state: S) -> None:
        """Lets go of what only training needs."""
        state.inputs = None
        state.network.zero_grad(set_to_none=True)

    def _expression_batches(self, state: S) -> Sequence[Tensor]:
        n = len(state.rows)
        if state.network.expression is not None:
            return [torch.arange(n)]
        # pieces that differ by one at most: a short last one could not express its rows
        n_pieces = math.ceil(n / state.options.expression_batch_size)
        return torch.randperm(n, generator=state.order).tensor_split(n_pieces)

    def _terms(self, state: S, index: Tensor) -> BatchLosses:
        network = state.network
        x = self._inputs(state, index)
        losses, z, expressed = self._expression_terms(
            state.options, network.autoencoder, x, network.expression
        )
        return losses | self._further_terms(state, index.to(x.device), z, expressed), {}

    def _inputs(self, state: S, index: Tensor) -> Tensor:
        if state.network.expression is None:
            return state.rows.take(index.numpy())
        if state.inputs is None:
            state.inputs = torch.cat(list(state.rows.chunks()))
        return state.inputs

    def _expression_terms(
        self, options: Any, autoencoder: Any, x: Tensor, layer: SelfExpressiveLayer | None
    ) -> tuple[Losses, Tensor, Tensor]:
        """Terms of the loss, each over the number of rows, Z and C Z; C of the ``layer``, or the closed form's."""
        n, z = len(x), autoencoder.encode(x)
        if layer is None:
            expressed, size = closed_form_expression(z, ops.ridge_self_expression(z, options._ridge(z)))
            fidelity = (z - expressed).square().sum() / 2
        else:
            expressed, fidelity, size = layer(z, options.penalty)
        error = reconstruction_loss(x, autoencoder.decode(expressed), options.reconstruction)
        losses = {
            "reconstruction": (0.5, error),
            "fidelity": (options.fidelity_weight, fidelity / n),
            "coefficients": (options._scaled_weight(z, options.penalty), size / n),
        }
        return losses, z, expressed

    def _further_terms(self, state: S, index: Tensor, z: Tensor, expressed: Tensor) -> Losses:
        """What a method that builds on this one adds to the loss."""
        return {}

    def _scaled_weight(self, z: Tensor, penalty: str) -> float:
        """w_c in the unit of ``coefficient_scale`` for the codes ``z`` [n, p]."""
        if self.coefficient_scale == "absolute":
            return self.coefficient_weight
        if self.coefficient_scale == "dimensions":
            return self.coefficient_weight * self.fidelity_weight / 2 * _default_ridge(z, self.n_clusters)
        # the mean ‖z_i‖²: of unit codes without a look at them
        square = 1.0 if self.unit_codes else float(z.detach().double().square().sum() / len(z))
        return self.coefficient_weight * square * (len(z) / min(z.shape) if penalty == "l2" else 1.0)

    def _ridge(self, z: Tensor) -> float:
        """ε of ‖C‖² + ‖Z − CZ‖²/ε, which has the minimiser of (w_e/2) ‖Z − CZ‖² + w_c ‖C‖²."""
        return 2 * self._scaled_weight(z, "l2") / self.fidelity_weight

    # ------------------------------------------------------------------ clusters
    def _evaluate_codes(self, state: S, z: Tensor) -> Evaluation:
        options, distinct = state.options, distinct_rows(z)
        labels = np.arange(len(distinct))
        if len(distinct) > options.n_clusters:
            affinity = options._affinity(state.network, z, distinct)
            codes = distinct.take(z).cpu().numpy()
            labels = options._clusters(affinity, codes, state.seed, distinct.weights)
        return Evaluation(z, torch.from_numpy(labels[distinct.number]).to(z.device))

    def _clusters(
        self, affinity: np.ndarray | sparse.csr_array, z: np.ndarray, seed: int, weights: np.ndarray | None
    ) -> np.ndarray:
        """Clusters int64 [d] of the affinity of d distinct codes ``z`` [d, p], by ``spectral``."""
        k, d = self.n_clusters, affinity.shape[0]
        if self.spectral == "eigenvectors":
            _, vectors = leading_eigenvectors(affinity, min(k + self.extra_components, d), "arpack", seed)
            return spectral_kmeans(vectors, k, self.n_init, seed, weights)[1].labels_.astype(np.int64)
        found = diffusion_coordinates(
            affinity, k, min(2 * k, d), self.diffusion_ratio, "arpack", seed, weights
        )
        # of the many local minima of k-means here, 20 restarts do not find the same one for every seed
        n_init = max(self.n_init, restarts_of(None, d))
        labels = diffusion_clusters(found.embedding, k, n_init, seed, weights).labels_.astype(np.int64)
        if self.spectral == "smoothed":
            return refined_clusters(affinity, z, labels, k, n_init, seed, weights)
        return labels

    @torch.no_grad()
    def _affinity(
        self, network: SelfExpressiveNetwork, z: Tensor, distinct: DistinctRows
    ) -> np.ndarray | sparse.csr_array:
        """The affinity [d, d] between the distinct codes among ``z`` [n, p]."""
        assert self.n_neighbors is not None  # since the rows are known
        if network.expression is not None:
            size = distinct.merged(network.expression.coefficient)
            if self.svd_power is not None:
                dimension, power = self.svd_power
                affinity = svd_power_affinity(size, self.kept_share, dimension * self.n_clusters + 1, power)
                return hold_copies(affinity, distinct.weights)
            return learned_affinity(
                size, self.kept_share, self.n_neighbors, self.n_clusters, distinct.weights
            )
        ridge, z = self._ridge(z), distinct.take(z)
        return ridge_affinity(z, ridge, self.n_neighbors, self.n_clusters, distinct.weights)


@torch.no_grad()
def _default_ridge(z: Tensor, n_clusters: int) -> float:
    """The ridge that SelfExpressiveClustering would take for codes [n, p]; 1 where they have no length."""
    square = mean_square(z)
    if not 0 < square < math.inf:
        return 1.0
    eigenvalues = gram_eigenvalues(z) / square
    return expression_options(len(z), n_clusters, eigenvalues, images=True).ridge * square


@estimator
class DSCNet(SelfExpressiveEmbedding["ExpressionState[DSCNet]"]):
    """Deep subspace clustering networks (Ji et al., NIPS 2017), DSC-Net-L2 and DSC-Net-L1.

    After the autoencoder's pretraining, all its parameters and a coefficient matrix C [n, n], diag C = 0, minimise
    ½‖X − X̂‖²_F + (w_e/2) ‖Z − C Z‖²_F + w_c ‖C‖, X̂ decoded from C Z, by full-batch steps of Adam. The clusters are
    those of spectral clustering (symmetric normalised Laplacian) on the affinity ½(|C| + |C|ᵀ).

    A learned C is stored with its gradient and Adam's two moments: 16 n² bytes, so data are limited to 10,000 rows.
    ``self_expression="closed-form"`` takes the exact minimiser of (w_e/2) ‖Z − C Z‖² + w_c ‖C‖²_F instead, for mini-batches
    in training and for all rows at the end; it is never stored, of each row only the ``n_neighbors`` largest coefficients
    enter the affinity, and there is no limit. New rows have no coefficients: as with scikit-learn's
    ``SpectralClustering`` there is no ``predict`` (``transform`` gives their codes). Images use a convolutional
    autoencoder, rows a fully connected one.

    What w_e means depends on the length of the codes, which nothing in the loss fixes: "paper" leaves them as the
    autoencoder makes them and sums squared errors over the columns, as DSC-Net's code does; "robust" divides each code by
    its norm and takes the mean over the columns, so that the weights mean the same for all data, starts C at its exact
    minimiser, and lets only the largest coefficients of each row into the affinity. The clusters are then those of its
    diffusion coordinates; or, where these cut the graph more, of the codes that two steps of the random walk have smoothed.

    {options}

    DSC-Net's code further makes an affinity of a truncated singular value decomposition of C and of a power, other ones for
    each data set, which its paper does not say: ``svd_power``. benchmarks/papers/dsc_net.py has what it is worth.

    Attributes:
        labels_: int64 [n].
        coefficients_: C [n, n], where it is learned.
        affinity_matrix_: [n, n], symmetric, diagonal 0; a SciPy CSR array where each row keeps ``n_neighbors`` coefficients.
        embedding_: [n, p], codes of the training rows.
        initial_labels_: int64 [n], k-means clusters of the pretrained codes, for comparison.
        n_iter_: steps after pretraining, in epochs.
        history_: one dict an epoch or step: stage ("pretrain" or "expression"), epoch, seconds, loss and its terms, before
            their weights and each over the number of rows (reconstruction ‖X − X̂‖², fidelity ½‖Z − CZ‖², coefficients ‖C‖).
        resolved_params_, features_, n_features_in_: as for :class:`desc_ext.models.DESC`.
    """

    method = "dsc-net"
    presets: ClassVar = {"paper": PAPER, "robust": ROBUST}
