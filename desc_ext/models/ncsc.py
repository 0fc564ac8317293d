"""NCSC: neural collaborative subspace clustering."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from desc_ext import ops
from desc_ext.models.base import Assessment, DeepClusterer, Fit
from desc_ext.models.collaboration import (
    CollaborativeFit,
    CollaborativeNetwork,
    apart_limit,
    closed_form_expression,
    collaborative_terms,
    dense_affinity,
    nearly_equal,
    start_labels,
)
from desc_ext.models.networks import NETWORK_CHECKS, NETWORK_DEFAULTS, complete_network_options
from desc_ext.models.options import CHECKS, FLAG, Check, choice, integer, number
from desc_ext.models.rows import map_chunks
from desc_ext.nn import SelfExpressiveLayer
from desc_ext.training import adam

__all__ = ["NCSC"]

_PAPER: dict[str, Any] = NETWORK_DEFAULTS | {
    "scaling": "minmax",
    "head_sizes": (64, 64, 64),
    "corruption": 0.0,
    "self_expression": "closed",
    "fidelity_weight": 10.0,
    "first_upper": 0.7,
    "upper": 0.9,
    "lower": 0.1,
    "soft_indicator": False,
    "negative_weight": 1.0,
    "collaborative_weight": 1.0,
    "apart_weight": 0.0,
    "apart_share": 0.2,
    "balance_weight": 0.0,
    "start": "random",
    "n_init": 20,
    "pretrain_epochs": 60,
    "expression_epochs": 10,
    "start_epochs": 0,
    "classifier_epochs": 10,
    "epochs": 30,
    "pretrain_batch_size": 5000,
    "batch_size": 5000,
    "min_batches": 1,
    "pretrain_learning_rate": 1e-3,
    "autoencoder_learning_rate": 1e-5,
    "learning_rate": 1e-3,
    "tol": 0.0,
}

_ROBUST: dict[str, Any] = _PAPER | {
    "scaling": "global",
    "unit_codes": True,
    "fidelity_weight": 0.05,
    "apart_weight": 0.03,
    "apart_share": 0.5,
    "balance_weight": 1.0,
    "start": "best",
    "pretrain_epochs": 30,
    "expression_epochs": 5,
    "start_epochs": 20,
    "classifier_epochs": 10,
    "epochs": 20,
    "pretrain_batch_size": 256,
    "batch_size": 2500,
    "min_batches": 5,
    "learning_rate": 1e-4,
}

_CHECKS: dict[str, Check] = NETWORK_CHECKS | {
    **{
        name: CHECKS[name]
        for name in (
            "scaling", "corruption", "n_init", "pretrain_epochs", "epochs", "batch_size", "pretrain_learning_rate",
            "learning_rate", "tol",
        )
    },
    "head_sizes": CHECKS["hidden_sizes"],
    "self_expression": choice("closed", "learned"),
    "fidelity_weight": number(0, strict=True),
    "first_upper": number(0, 1),
    "upper": number(0, 1),
    "lower": number(0, 1),
    "soft_indicator": FLAG,
    "negative_weight": number(0),
    "collaborative_weight": number(0),
    "apart_weight": number(0),
    "apart_share": number(0, 1),
    "balance_weight": number(0),
    "start": choice("random", "kmeans", "spectral", "best"),
    "expression_epochs": integer(0),
    "start_epochs": integer(0),
    "classifier_epochs": integer(0),
    "pretrain_batch_size": integer(1),
    "min_batches": integer(1),
    "autoencoder_learning_rate": number(0, strict=True),
}  # fmt: skip

_EXPRESSION, _START, _CLASSIFIER, _JOINT = "expression", "start", "classifier", "refine"
_COLLAPSED_SHARE = 0.9


class NCSC(DeepClusterer):
    """Neural collaborative subspace clustering (Zhang et al., ICML 2019): no spectral clustering, any number of rows.

    An autoencoder maps rows or images to codes z; a classifier on the codes gives ν_i, its softmax output at length 1.
    Two affinities of a mini-batch teach each other: the classifier's A_c = ν νᵀ (eq. 1), and A_s (eq. 4), which is
    (|C| + |C|ᵀ)/2 with each row divided by its largest off-diagonal value, C the coefficients that express every code
    by the others. After pretraining come three stages:

    1. "expression": autoencoder and C minimise ‖C‖²_F + (λ1/2)‖Z − CZ‖²_F + ½‖X − X̂‖²_F, X̂ decoded from CZ (eq. 9);
    2. "classifier": the classifier minimises Ω = L_pos + α L_neg (eqs. 5 to 7, with the sign that makes them
       losses): L_pos = −mean A_s log A_c over pairs with A_s > u, L_neg = −mean (1 − A_c) log(1 − A_s) over pairs with
       A_c < l. (The paper's values of u and l are exchanged in its text.)
    3. "refine": everything minimises eq. 9 + λ_cl Ω (eq. 8).

    A row's cluster is arg max ν (eq. 10). C is by default the exact minimiser of ‖C‖² + (λ1/2)‖Z − CZ‖² for each
    mini-batch, C_ij = y_i·y_j / (1 − ‖y_i‖²), of which only y [batch, p] is ever stored; ``self_expression="learned"``
    trains a matrix for each part of a fixed partition of the rows instead, by Adam from 1e-4 (its gradient and
    moments take three times its memory).

    A constant classifier makes both losses zero, and the paper's text has nothing against that: expect the preset
    "paper" to collapse into one cluster. A collapse (more than 90% of the rows in one cluster) is warned of and is in
    the history. "robust" adds to Ω two terms that prevent it: −mean log(1 − A_c) over the pairs whose A_s is among the
    smallest, and log K − entropy(mean ν²), zero for clusters of equal weight. And it begins stage 2 with a classifier
    that was taught, by cross-entropy, the clusters that ``start`` finds in the codes (stage "start").

    λ1 is in units of 1/‖z‖². The paper does not say how long its codes are: "paper" leaves them as the autoencoder
    makes them (then the ridge 2/λ1 is next to nothing), "robust" divides each by its norm, so that λ1 means the same
    for all data.

    Every option below is a keyword argument; None takes the value of ``preset``.

    ========================= ============ ============ =========================================================
    option                    paper        robust       meaning
    ========================= ============ ============ =========================================================
    scaling                   "minmax"     "global"     of the input, as for :class:`DESC`
    image_network             "conv"       "conv"       for images: "conv" (kernels 5-3-3…; the paper's for MNIST)
                                                        or "residual" (a convolution and pre-activation blocks,
                                                        kernel 3; for Fashion-MNIST) or "strided" (LRSC's)
    channels                  None         None         of its layers; None: 10-20-30, residual 10-20-30-40. A
                                                        layer halves maps of more than 4 pixels
    hidden_sizes              500,500,1000 500,500,1000 for rows: encoder layers (the decoder mirrors them)
    latent_dim                None         None         for rows: p; None: 9·K. An image's code is the last map
    unit_codes                False        True         codes on the unit sphere
    head_sizes                64,64,64     64,64,64     classifier: channels of its convolutions of kernel 2 (for
                                                        rows, sizes of its layers) before the one to K classes
    corruption                0            0            share of input entries zeroed in pretraining
    self_expression           "closed"     "closed"     C: exact minimiser, or "learned"
    fidelity_weight           10           0.05         λ1
    first_upper               0.7          0.7          u in the first epoch with Ω
    upper                     0.9          0.9          u in the others
    lower                     0.1          0.1          l
    soft_indicator            False        False        gradients also reach A_s in L_pos and 1 − A_c in L_neg
    negative_weight           1            1            α
    collaborative_weight      1            1            λ_cl in units of (eq. 9) / Ω at the end of stages 1 and 2, so
                                                        that 1 makes the two losses equal
    apart_weight              0            0.03         weight of the apart term in Ω
    apart_share               0.2          0.5          share of pairs it takes, those with the smallest A_s
    balance_weight            0            1            weight of the balance term in Ω
    start                     "random"     "best"       what the classifier is taught before stage 2: clusters of the
                                                        codes by "kmeans" or "spectral" (with the closed form's C,
                                                        :class:`SelfExpressiveClustering`), "best": that of smaller
                                                        Ω; "random": nothing
    n_init                    20           20           k-means runs in the start
    pretrain_epochs           60           30           reconstruction only
    expression_epochs         10           5            stage 1
    start_epochs              0            20           cross-entropy with the start's clusters
    classifier_epochs         10           10           stage 2
    epochs                    30           20           stage 3
    pretrain_batch_size       5000         256          rows of a mini-batch in pretraining and start
    batch_size                5000         2500         the same in the three stages, at most
    min_batches               1            5            mini-batches in an epoch of the three stages, at least: few
                                                        rows are gone through more than once
    pretrain_learning_rate    1e-3         1e-3         Adam, in pretraining and start
    autoencoder_learning_rate 1e-5         1e-5         Adam, in stages 1 and 3
    learning_rate             1e-3         1e-4         Adam, of classifier and learned C
    tol                       0 (off)      0 (off)      a stage with clusters stops when a smaller share of labels
                                                        changes in an epoch
    ========================= ============ ============ =========================================================

    Args:
        n_clusters: K.
        preset: "robust" or "paper".
        features, feature_dim, image_shape, random_state, device, dtype, callbacks, verbose, checkpoint, resume: as for
            :class:`DESC`. Without an image shape, or with features, data are rows.

    Attributes:
        labels_: int64 [n], clusters of the training rows at the end of the last epoch.
        embedding_: [n, p], their codes.
        initial_labels_: int64 [n], the start's clusters; "random": those of the classifier as it was drawn.
        n_iter_: epochs of stage 3.
        history_: one dict an epoch: stage ("pretrain", "expression", "start", "classifier", "refine"), epoch, seconds,
            loss and its terms, means over rows or pairs before their weights: reconstruction ‖x − x̂‖², coefficients
            ‖C‖², fidelity ½‖Z − CZ‖², start, positive, negative, apart, balance; n_positive, n_negative, n_apart
            (pairs); with clusters also mean_max_assignment, collapsed, label_change, cluster_sizes.
        resolved_params_, features_, n_features_in_: as for :class:`DESC`.
    """

    _method = "ncsc"
    _presets = {"paper": _PAPER, "robust": _ROBUST}  # noqa: RUF012  (read only)
    _checks = _CHECKS

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        preset: str = "robust",
        scaling: str | None = None,
        image_network: str | None = None,
        channels: tuple[int, ...] | None = None,
        hidden_sizes: tuple[int, ...] | None = None,
        latent_dim: int | None = None,
        unit_codes: bool | None = None,
        head_sizes: tuple[int, ...] | None = None,
        corruption: float | None = None,
        self_expression: str | None = None,
        fidelity_weight: float | None = None,
        first_upper: float | None = None,
        upper: float | None = None,
        lower: float | None = None,
        soft_indicator: bool | None = None,
        negative_weight: float | None = None,
        collaborative_weight: float | None = None,
        apart_weight: float | None = None,
        apart_share: float | None = None,
        balance_weight: float | None = None,
        start: str | None = None,
        n_init: int | None = None,
        pretrain_epochs: int | None = None,
        expression_epochs: int | None = None,
        start_epochs: int | None = None,
        classifier_epochs: int | None = None,
        epochs: int | None = None,
        pretrain_batch_size: int | None = None,
        batch_size: int | None = None,
        min_batches: int | None = None,
        pretrain_learning_rate: float | None = None,
        autoencoder_learning_rate: float | None = None,
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
        self.hidden_sizes = hidden_sizes
        self.latent_dim = latent_dim
        self.unit_codes = unit_codes
        self.head_sizes = head_sizes
        self.corruption = corruption
        self.self_expression = self_expression
        self.fidelity_weight = fidelity_weight
        self.first_upper = first_upper
        self.upper = upper
        self.lower = lower
        self.soft_indicator = soft_indicator
        self.negative_weight = negative_weight
        self.collaborative_weight = collaborative_weight
        self.apart_weight = apart_weight
        self.apart_share = apart_share
        self.balance_weight = balance_weight
        self.start = start
        self.n_init = n_init
        self.pretrain_epochs = pretrain_epochs
        self.expression_epochs = expression_epochs
        self.start_epochs = start_epochs
        self.classifier_epochs = classifier_epochs
        self.epochs = epochs
        self.pretrain_batch_size = pretrain_batch_size
        self.batch_size = batch_size
        self.min_batches = min_batches
        self.pretrain_learning_rate = pretrain_learning_rate
        self.autoencoder_learning_rate = autoencoder_learning_rate
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

    # ------------------------------------------------------------------ what a fit needs
    def _resolve_options(self) -> dict[str, Any]:
        return super()._resolve_options() | {"reconstruction": "sum"}

    def _stages(self, options: dict[str, Any]) -> dict[str, int]:
        return {
            "pretrain": options["pretrain_epochs"],
            _EXPRESSION: options["expression_epochs"],
            _START: 0 if options["start"] == "random" else options["start_epochs"],
            _CLASSIFIER: options["classifier_epochs"],
            _JOINT: options["epochs"],
        }

    def _begin(self, X: np.ndarray, options: dict[str, Any]) -> CollaborativeFit:
        complete_network_options(type(self).__name__, options)
        fit = CollaborativeFit(**vars(super()._begin(X, options)))
        if options["self_expression"] == "learned":
            shuffled = torch.randperm(len(X), generator=torch.Generator().manual_seed(fit.seed + 3))
            fit.parts = nearly_equal(shuffled, options["batch_size"])
            layers = [SelfExpressiveLayer(len(part)) for part in fit.parts]
            fit.network.expression = nn.ModuleList(layers).to(fit.rows.device, fit.rows.dtype)
        return fit

    def _build(self, n_features: int, options: dict[str, Any], generator: torch.Generator):
        return CollaborativeNetwork(n_features, options, generator)

    def _initialise(self, fit: Fit, z: Tensor) -> Tensor:
        return self._assess(fit, z).labels

    # ------------------------------------------------------------------ the three stages
    def _refine(self, fit: CollaborativeFit) -> None:
        network, options = fit.network, fit.options
        slow = {
            "params": list(network.autoencoder.parameters()),
            "lr": options["autoencoder_learning_rate"],
        }
        layers = [] if network.expression is None else list(network.expression.parameters())
        head, rate = list(network.head.parameters()), options["learning_rate"]
        if fit.stage == _EXPRESSION:
            self._train_codes(fit, adam([slow, {"params": layers}], rate))
            self._enter_next_stage(fit)
            fit.initial_labels = self._start_labels(fit)
        if fit.stage == _START:
            self._train_clusters(fit, adam(head, options["pretrain_learning_rate"]))
            self._enter_next_stage(fit)
        if fit.stage == _CLASSIFIER:
            self._train_clusters(fit, adam(head, rate))
            self._enter_next_stage(fit)
        fit.codes = None
        self._train_clusters(fit, adam([slow, {"params": [*layers, *head]}], rate))
        network.expression = None  # only training needs it
        if any(record.get("collapsed") for record in fit.history[-1:]):
            warnings.warn(
                f"{type(self).__name__} collapsed: one of {options['n_clusters']} clusters holds more than "
                f"{_COLLAPSED_SHARE:.0%} of the rows (a constant classifier makes eqs. 6 and 7 zero); use "
                "preset='robust', or raise apart_weight and balance_weight",
                UserWarning,
                stacklevel=3,
            )

    def _start_labels(self, fit: CollaborativeFit) -> Tensor:
        """The clusters [n] that the classifier is taught first."""
        z = self._encode_all(fit)
        if fit.options["start"] == "random":
            return self._assess(fit, z).labels
        return start_labels(z, fit.options, fit.seed)

    def _encode_all(self, fit: CollaborativeFit) -> Tensor:
        if fit.stage not in (_START, _CLASSIFIER):
            return super()._encode_all(fit)
        if fit.codes is None:
            fit.codes = super()._encode_all(fit)
        return fit.codes

    def _assign(self, network: CollaborativeNetwork, z: Tensor) -> Tensor:
        return network.classify(z)

    @torch.no_grad()
    def _assess(self, fit: Fit, z: Tensor) -> Assessment:
        proba = map_chunks(lambda part: self._assign(fit.network, part), z)
        now = Assessment(z, proba.argmax(1))
        n_clusters = fit.options["n_clusters"]
        largest = int(torch.bincount(now.labels, minlength=n_clusters).max())
        now.record = {
            "mean_max_assignment": float(proba.max(1).values.mean()),
            "collapsed": n_clusters > 1 and largest > _COLLAPSED_SHARE * len(z),
        }
        return now

    # ------------------------------------------------------------------ one mini-batch
    def _batches(self, fit: CollaborativeFit) -> list[Tensor]:
        if fit.stage in ("pretrain", _START):
            order = torch.randperm(len(fit.rows), generator=fit.order)
            return list(order.split(fit.options["pretrain_batch_size"]))
        batches: list[Tensor] = []
        while len(batches) < fit.options["min_batches"]:
            if fit.parts:
                order = torch.randperm(len(fit.parts), generator=fit.order)
                batches += [fit.parts[number] for number in order]
            else:
                order = torch.randperm(len(fit.rows), generator=fit.order)
                batches += nearly_equal(order, fit.options["batch_size"])
        return batches

    def _epoch(
        self, fit: CollaborativeFit, optimizer: torch.optim.Optimizer, now: Assessment | None
    ) -> dict[str, float]:
        fit.n_pairs = fit.apart = None
        losses = super()._epoch(fit, optimizer, now)
        if fit.n_pairs is not None:
            names = ("n_positive", "n_negative", "n_apart")
            losses |= dict(zip(names, fit.n_pairs.tolist(), strict=True))
        return losses

    def _terms(
        self, fit: CollaborativeFit, index: Tensor, now: Assessment | None
    ) -> dict[str, tuple[float, Tensor]]:
        if fit.stage == "pretrain":
            return super()._terms(fit, index, now)
        if fit.codes is not None:
            on_device = index.to(fit.codes.device)
            z = fit.codes[on_device]
            if fit.stage == _CLASSIFIER:
                return self._collaborative_terms(fit, index, z)
            log = fit.network.classify(z).clamp_min(torch.finfo(z.dtype).tiny).log()
            return {"start": (1.0, nn.functional.nll_loss(log, fit.initial_labels[on_device]))}
        x = fit.rows.take(index.numpy())
        z = fit.network.autoencoder.encode(x)
        y, expressed, terms = self._expression_terms(fit, index, z)
        collaborative = {}
        if fit.stage == _JOINT:  # before decoding: passes over pairs do not meet the decoder's maps in memory
            scale = self._collaborative_scale(fit)
            for name, (weight, value) in self._collaborative_terms(fit, index, z, y).items():
                collaborative[name] = (scale * weight, value)
        reconstruction = self._reconstruction(fit, x, fit.network.autoencoder.decode(expressed))
        return {"reconstruction": (0.5, reconstruction)} | terms | collaborative

    def _expression_terms(self, fit: CollaborativeFit, index: Tensor, z: Tensor):
        """y of the closed form (None where C is learned), C Z, and eq. 9's terms of C, each over the number of rows."""
        weight, n = fit.options["fidelity_weight"], len(z)
        if fit.parts:
            y, layer = None, self._layer(fit, index)
            expressed, fidelity, size = layer(z, "l2")
        else:
            y = ops.ridge_self_expression(z, 2 / weight)
            expressed, size = closed_form_expression(z, y)
            fidelity = (z - expressed).square().sum() / 2
        return y, expressed, {"coefficients": (1.0, size / n), "fidelity": (weight, fidelity / n)}

    def _layer(self, fit: CollaborativeFit, index: Tensor) -> SelfExpressiveLayer:
        number = next(i for i, part in enumerate(fit.parts) if part is index)
        return fit.network.expression[number]

    def _collaborative_terms(
        self, fit: CollaborativeFit, index: Tensor, z: Tensor, y: Tensor | None = None
    ) -> dict[str, tuple[float, Tensor]]:
        options = fit.options
        if fit.parts:
            coefficient = self._layer(fit, index).coefficient
            coefficient = coefficient if fit.stage == _JOINT else coefficient.detach()
            rows, row_max = (coefficient.abs() + coefficient.T.abs()) / 2, None
        else:
            rows = ops.ridge_self_expression(z, 2 / options["fidelity_weight"]) if y is None else y
            row_max = ops.affinity_row_max(rows)
        if fit.apart is None:  # once an epoch, as the device is waited for
            fit.apart = apart_limit(rows, row_max, options["apart_share"] if options["apart_weight"] else 0.0)
        first = fit.epoch == 0 and fit.stage == (
            _CLASSIFIER if options["classifier_epochs"] else _JOINT
        )  # of the epochs in which the two affinities meet
        upper = options["first_upper" if first else "upper"]
        nu = nn.functional.normalize(fit.network.classify(z), dim=1)
        terms, counts = collaborative_terms(nu, rows, row_max, upper, fit.apart, options)
        fit.n_pairs = counts if fit.n_pairs is None else fit.n_pairs + counts
        return terms

    def _collaborative_scale(self, fit: Fit) -> float:
        """λ_cl: collaborative_weight times what makes the two losses, as their own stages left them, equal."""
        last = {record["stage"]: record["loss"] for record in fit.history}
        ratio = 1.0
        if _EXPRESSION in last and _CLASSIFIER in last:
            ratio = last[_EXPRESSION] / max(last[_CLASSIFIER], 1e-3)  # a collapsed classifier has loss 0
        return fit.options["collaborative_weight"] * ratio

    # ------------------------------------------------------------------ affinities
    def dense_affinity(self, rows: Any) -> np.ndarray:
        """A_s of eq. 4 [m, m] between the training rows with the numbers ``rows`` [m], taken as one mini-batch.

        From the closed form of their codes; each row is divided by its largest other value, and the diagonal is 1.
        """
        check_is_fitted(self)
        z = torch.from_numpy(self.embedding_[rows])
        return dense_affinity(z, self.resolved_params_["fidelity_weight"]).numpy()
