"""DESC: deep embedded subspace clustering with hard-sample mining."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from desc_ext import ops
from desc_ext.models.base import Assessment, ClusteringNetwork, DeepClusterer, Fit
from desc_ext.models.rows import map_chunks
from desc_ext.models.start import k_subspaces, kmeans, reduced_directions, subspace_bases
from desc_ext.nn import linear_layer

__all__ = ["DESC", "SubspaceNetwork", "hard_sample_weight"]

_PAPER: dict[str, Any] = {
    "scaling": "minmax",
    "hidden_sizes": (500, 500, 1000),
    "latent_dim": None,
    "subspace_dim": 5,
    "unit_codes": False,
    "corruption": 0.0,
    "reconstruction": "sum",
    "start": "kmeans",
    "n_init": 20,
    "objective": "projection",
    "smoothing": 5.0,
    "smoothing_scale": "absolute",
    "within": "unit",
    "basis_weight": 1.0,
    "clustering_weight": 0.1,
    "hard_weight": "norm",
    "confidence": 0.8,
    "head_target": "own",
    "head_weight": 0.1,
    "head_trains_encoder": False,
    "warmup_epochs": 0,
    "pretrain_epochs": 50,
    "epochs": 50,
    "batch_size": 512,
    "pretrain_learning_rate": 1e-3,
    "learning_rate": 1e-3,
    "tol": 0.0,
}

_ROBUST: dict[str, Any] = _PAPER | {
    "scaling": "global",
    "subspace_dim": 8,
    "unit_codes": True,
    "corruption": 0.5,
    "reconstruction": "mean",
    "start": "input_k_subspaces",
    "objective": "kl",
    "smoothing": 0.1,
    "smoothing_scale": "relative",
    "within": "orthonormal",
    "basis_weight": 0.001,
    "clustering_weight": 1.0,
    "head_target": "labels",
    "warmup_epochs": 10,
    "epochs": 60,
    "batch_size": 256,
    "tol": 1e-3,
}


class SubspaceNetwork(ClusteringNetwork):
    """Autoencoder, classifier head P_φ and the bases [K, p, d] of the K subspaces."""

    def __init__(self, n_features: int, options: dict[str, Any], generator: torch.Generator) -> None:
        super().__init__(n_features, options, generator)
        n_clusters, p, d = options["n_clusters"], options["latent_dim"], options["subspace_dim"]
        self.head = linear_layer(p, n_clusters, generator)
        self.bases = nn.Parameter(torch.eye(p, d).repeat(n_clusters, 1, 1))
        # mean over the training data of ‖S_kᵀ z_i‖², which a relative smoothing is measured in
        self.register_buffer("mean_energy", torch.ones(()))

    def classify(self, z: Tensor) -> Tensor:
        """Logits [n, K] of P_φ."""
        # entries of unit codes are about 1/√p: too small for a head that starts at torch's usual scale
        return self.head(z * z.shape[1] ** 0.5 if self.autoencoder.unit_codes else z)


def hard_sample_weight(p: Tensor, w: Tensor, confidence: float, form: str) -> tuple[Tensor, int]:
    """H [n] of eq. 10 and |V|, for pseudo-label probabilities ``p`` and soft assignments ``w`` (both [n, K]).

    V holds the rows where both max_k p_ik and max_k w_ik exceed ``confidence``. Outside V, H is 1; inside it
    is Norm(KL(onehot(p_i) ‖ w_i)) = Norm(−log w_{i, arg max p_i}) with Norm the min-max normalisation over
    V. ``form="norm"`` is the paper's text, "one_plus" gives 1 + Norm (hard rows gain, easy rows lose
    nothing), "off" gives 1. All-equal divergences have no harder rows and give 1.
    """
    ones = torch.ones(len(w), dtype=w.dtype, device=w.device)
    top, pseudo_label = p.max(1)
    confident = (top > confidence) & (w.max(1).values > confidence)
    n_confident = int(confident.sum())
    if form == "off" or n_confident == 0:
        return ones, n_confident
    tiny = torch.finfo(w.dtype).tiny
    divergence = -w.gather(1, pseudo_label[:, None])[:, 0].clamp_min(tiny).log()[confident]
    low, high = divergence.min(), divergence.max()
    if high > low:
        ones[confident] = (divergence - low) / (high - low) + (1.0 if form == "one_plus" else 0.0)
    return ones, n_confident


class DESC(DeepClusterer):
    """Deep embedded subspace clustering with hard-sample mining (Zou et al.).

    An autoencoder maps rows to codes z [n, p]; each of K clusters is a subspace of the code space with
    basis S_k [p, d]. After pretraining, autoencoder and bases are refined together by eq. 11,
    ℓ = ℓ_ae + λ1 ℓ_basis + λ2 ℓ_desc, and a row belongs to the subspace with the largest
    w_ik = (H_i ‖S_kᵀz_i‖² + γd) / Σ_k (…) (eqs. 6, 8); H_i re-weights hard samples (eq. 10).

    Every option below is a keyword argument; None takes the value of ``preset``. "paper" is the paper's
    text, literally (with its weaknesses: on data of ordinary scale γd outweighs every energy, so w stays
    nearly uniform and V empty). "robust" is the same method with the repairs that measurements justify.

    ======================== ============ ===================== ==============================================
    option                   paper        robust                meaning
    ======================== ============ ===================== ==============================================
    scaling                  "minmax"     "global"              input: overall range to [0, 1]; column means
                                                                and one overall deviation; "standard": column
                                                                by column; "uncentred": the overall root mean
                                                                square; "none"
    hidden_sizes             500,500,1000 500,500,1000          encoder layers (the decoder mirrors them)
    latent_dim               K·d          min(K·d, 256)         p
    subspace_dim             5            8                     d
    unit_codes               False        True                  codes on the unit sphere
    corruption               0            0.5                   share of input entries zeroed while training
    reconstruction           "sum"        "mean"                squared error summed or averaged over columns
    start                    "kmeans"     "input_k_subspaces"   first clusters: k-means on codes,
                                                                "k_subspaces" on codes, or on the input rows
    n_init                   20           20                    restarts of the start
    objective                "projection" "kl"                  ℓ_desc: eq. 5, or KL(target ‖ w) with
                                                                target_ik ∝ w_ik² / Σ_i w_ik (EDESC's)
    smoothing                5            0.1                   γ; if relative, γd in units of the mean energy
    smoothing_scale          "absolute"   "relative"            what smoothing is measured in
    within                   "unit"       "orthonormal"         inside a block, eq. 7 asks unit columns, or
                                                                S_kᵀS_k = I (side condition of eq. 5)
    basis_weight             1            0.001                 λ1
    clustering_weight        0.1          1                     λ2
    hard_weight              "norm"       "norm"                H: eq. 10, "one_plus": 1 + Norm, or "off"
    confidence               0.8          0.8                   σ, for membership in V
    head_target              "own"        "labels"              P_φ learns its confident arg max, or labels
    head_weight              0.1          0.1                   weight of the head's cross-entropy
    head_trains_encoder      False        False                 whether that loss reaches the encoder
    warmup_epochs            0            10                    refinement epochs that aim at the start's
                                                                clusters before they aim at w
    pretrain_epochs          50           50                    epochs of reconstruction only
    epochs                   50           60                    refinement epochs, at most
    batch_size               512          256                   rows of a mini-batch
    pretrain_learning_rate   1e-3         1e-3                  Adam
    learning_rate            1e-3         1e-3                  Adam
    tol                      0 (off)      1e-3                  stop when a smaller share of labels changes in
                                                                an epoch (never during the warm-up)
    ======================== ============ ===================== ==============================================

    Args:
        n_clusters: K.
        preset: "robust" or "paper".
        features: None takes the rows as they are, "scattering" the wavelet scattering features of images
            (:class:`desc_ext.features.Scattering2D`, J = 3, L = 8); the fitted transformer is ``features_``.
        feature_dim: principal components of the features, at most; None keeps all channels.
        image_shape: (H, W) or (C, H, W) of the images that flat rows hold; stacks [n, H, W] and [n, C, H, W] bring theirs.
        random_state: int, RandomState or None. The same integer on the same machine with the same number
            of threads gives the same bits.
        device: "auto" (CUDA where there is one), or a torch device.
        dtype: "float32" or "float64", of network and codes; or "mixed_bfloat16": float32, but for the network's layers,
            which multiply in bfloat16. That is faster where the processor multiplies matrices of bfloat16 (AMX, tensor
            cores), and slower where it does not.
        callbacks: list of :class:`desc_ext.training.Callback`.
        verbose: 0, or 1 for a progress bar on the terminal.
        checkpoint: folder that receives the state at the end of every epoch, or None.
        resume: continue from the checkpoint if the folder holds one. The result has the same bits as that
            of a fit that never stopped; other options, seed or data are refused.

    Attributes:
        labels_: int64 [n], clusters of the training rows at the end of the last epoch.
        embedding_: [n, p], their codes.
        bases_: [K, p, d], the subspaces.
        initial_labels_: int64 [n], the start's clusters.
        n_iter_: refinement epochs run.
        history_: one dict per epoch: stage ("pretrain" or "refine"), epoch, seconds, loss and its terms
            (reconstruction, basis, clustering, head), n_confident (|V|), mean_max_assignment,
            label_change, n_repaired (empty clusters re-seeded), cluster_sizes.
        resolved_params_: every option with its value.
        features_: the fitted :class:`desc_ext.features.Scattering2D`, or None.
        n_features_in_: columns of the training data, a row an image.
    """

    _method = "desc"
    _presets = {"paper": _PAPER, "robust": _ROBUST}  # noqa: RUF012  (read only)

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        preset: str = "robust",
        scaling: str | None = None,
        hidden_sizes: tuple[int, ...] | None = None,
        latent_dim: int | None = None,
        subspace_dim: int | None = None,
        unit_codes: bool | None = None,
        corruption: float | None = None,
        reconstruction: str | None = None,
        start: str | None = None,
        n_init: int | None = None,
        objective: str | None = None,
        smoothing: float | None = None,
        smoothing_scale: str | None = None,
        within: str | None = None,
        basis_weight: float | None = None,
        clustering_weight: float | None = None,
        hard_weight: str | None = None,
        confidence: float | None = None,
        head_target: str | None = None,
        head_weight: float | None = None,
        head_trains_encoder: bool | None = None,
        warmup_epochs: int | None = None,
        pretrain_epochs: int | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        pretrain_learning_rate: float | None = None,
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
        self.hidden_sizes = hidden_sizes
        self.latent_dim = latent_dim
        self.subspace_dim = subspace_dim
        self.unit_codes = unit_codes
        self.corruption = corruption
        self.reconstruction = reconstruction
        self.start = start
        self.n_init = n_init
        self.objective = objective
        self.smoothing = smoothing
        self.smoothing_scale = smoothing_scale
        self.within = within
        self.basis_weight = basis_weight
        self.clustering_weight = clustering_weight
        self.hard_weight = hard_weight
        self.confidence = confidence
        self.head_target = head_target
        self.head_weight = head_weight
        self.head_trains_encoder = head_trains_encoder
        self.warmup_epochs = warmup_epochs
        self.pretrain_epochs = pretrain_epochs
        self.epochs = epochs
        self.batch_size = batch_size
        self.pretrain_learning_rate = pretrain_learning_rate
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

    @property
    def bases_(self):
        """Bases [K, p, d] of the fitted subspaces (NumPy)."""
        if not hasattr(self, "network_"):
            raise AttributeError(f"this {type(self).__name__} has no bases_ before fit")
        return self.network_.bases.detach().cpu().numpy()

    def _resolve_options(self) -> dict[str, Any]:
        options = super()._resolve_options()
        if options["latent_dim"] is None:
            wanted = options["n_clusters"] * options["subspace_dim"]
            options["latent_dim"] = wanted if options["preset"] == "paper" else min(wanted, 256)
            options["latent_dim"] = max(options["latent_dim"], options["subspace_dim"])
        if options["subspace_dim"] > options["latent_dim"]:
            raise ValueError(
                f"subspace_dim={options['subspace_dim']} must be <= latent_dim={options['latent_dim']}: "
                "a subspace cannot be larger than the space of the codes"
            )
        return options

    def _build(self, n_features: int, options: dict[str, Any], generator: torch.Generator) -> SubspaceNetwork:
        return SubspaceNetwork(n_features, options, generator)

    # ------------------------------------------------------------------ start
    @torch.no_grad()
    def _initialise(self, fit: Fit, z: Tensor) -> Tensor:
        options, seed = fit.options, fit.seed % 2**31
        n_clusters, dim, n_init = options["n_clusters"], options["subspace_dim"], options["n_init"]
        start = options["start"]
        # In few columns every row fits every subspace: residuals say nothing.
        if start == "input_k_subspaces" and fit.rows.X.shape[1] < 2 * dim:
            start = "kmeans"
        if start == "kmeans":
            labels, _ = kmeans(z, n_clusters, n_init, seed)
        elif start == "k_subspaces":
            labels, _ = k_subspaces(z, n_clusters, dim, n_init, seed)
        else:
            directions = reduced_directions(fit.rows, torch.Generator().manual_seed(seed))
            labels, _ = k_subspaces(directions, n_clusters, dim, n_init, seed)
        fit.network.bases.copy_(subspace_bases(z, labels, n_clusters, dim))
        return labels

    # ------------------------------------------------------------------ assignment and targets
    def _smoothing(self, network: SubspaceNetwork) -> float:
        """γ of eq. 6; a relative one is turned so that γd is that share of the mean energy."""
        options = self.resolved_params_
        if options["smoothing_scale"] == "absolute":
            return options["smoothing"]
        return options["smoothing"] * float(network.mean_energy) / options["subspace_dim"]

    def _assign(self, network: SubspaceNetwork, z: Tensor) -> Tensor:
        return ops.subspace_soft_assignment(z, network.bases, self._smoothing(network))

    def _assess(self, fit: Fit, z: Tensor) -> Assessment:
        options, network = fit.options, fit.network
        energy = map_chunks(lambda part: ops.projection_energy(part, network.bases), z)
        network.mean_energy.fill_(max(float(energy.double().mean()), torch.finfo(z.dtype).tiny))
        smoothing = self._smoothing(network)
        w = map_chunks(lambda part: self._assign(network, part), z)
        p = map_chunks(lambda part: network.classify(part).softmax(1), z)
        weight, n_confident = hard_sample_weight(p, w, options["confidence"], options["hard_weight"])
        now = Assessment(z, w.argmax(1))
        now.record = {"n_confident": n_confident, "mean_max_assignment": float(w.max(1).values.mean())}
        if fit.epoch < options["warmup_epochs"]:
            one_hot = nn.functional.one_hot(fit.initial_labels, options["n_clusters"])
            now.target = one_hot.to(w.dtype)
        else:
            now.sample_weight = weight
            if options["objective"] == "kl":
                weighted = map_chunks(
                    lambda part, h: ops.subspace_soft_assignment(part, network.bases, smoothing, h), z, weight
                )
                # a cluster without rows has frequency 0 and would divide 0 by 0
                frequency = weighted.sum(0).clamp_min(torch.finfo(w.dtype).tiny)
                now.target = ops.target_distribution(weighted, frequency)
        return now

    # ------------------------------------------------------------------ losses
    def _refine_losses(
        self, fit: Fit, z: Tensor, index: Tensor, now: Assessment
    ) -> dict[str, tuple[float, Tensor]]:
        options, bases = fit.options, fit.network.bases
        h = None if now.sample_weight is None else now.sample_weight[index]
        target = None if now.target is None else now.target[index]
        if options["objective"] == "kl":
            w = ops.subspace_soft_assignment(z, bases, self._smoothing(fit.network), h)
            clustering = nn.functional.kl_div(_log(w), target, reduction="none").sum(1).mean()
        else:
            weight = target
            if weight is None:
                weight = ops.subspace_soft_assignment(z, bases, self._smoothing(fit.network), h)
            clustering = ops.weighted_projection_loss(z, bases, weight) / len(z)
        basis = ops.block_orthogonality_penalty(bases, options["within"])
        head = self._head_loss(fit, z, now.labels[index])
        return {
            "basis": (options["basis_weight"], basis),
            "clustering": (options["clustering_weight"], clustering),
            "head": (options["head_weight"], head),
        }

    def _head_loss(self, fit: Fit, z: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of P_φ against the labels, or against its own arg max where max P > σ."""
        options = fit.options
        logits = fit.network.classify(z if options["head_trains_encoder"] else z.detach())
        if options["head_target"] == "labels":
            return nn.functional.cross_entropy(logits, labels)
        top, own = logits.detach().softmax(1).max(1)
        losses = nn.functional.cross_entropy(logits, own, reduction="none")
        return (losses * (top > options["confidence"])).sum() / len(z)

    # ------------------------------------------------------------------ care of the clusters
    def _repair(self, fit: Fit, now: Assessment, optimizer: torch.optim.Optimizer) -> int:
        n_clusters, bases = fit.options["n_clusters"], fit.network.bases
        empty = (torch.bincount(now.labels, minlength=n_clusters) == 0).nonzero().flatten().tolist()
        if not empty:
            return 0
        residual = map_chunks(lambda part: ops.nearest_subspace(part, bases)[1], now.z)
        directions = nn.functional.normalize(now.z, dim=1)
        n_members = max(fit.options["subspace_dim"], len(now.z) // (2 * n_clusters))
        scale = bases.norm(dim=1).max()  # as long as the longest column: it competes by ‖S_kᵀ z‖
        moments = optimizer.state.get(bases, {})
        for cluster in empty:
            # the worst fitting row, with the rows most like it, spans the new subspace
            worst = residual.argmax()
            members = (directions @ directions[worst]).abs().topk(min(n_members, len(residual))).indices
            together = torch.zeros_like(members)
            bases[cluster] = scale * subspace_bases(now.z[members], together, 1, bases.shape[2])[0]
            residual[members] = -1
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in moments:
                    moments[moment][cluster] = 0
        return len(empty)

    def _refine(self, fit: Fit) -> None:
        super()._refine(fit)
        counts = [record["n_confident"] for record in fit.history if record["stage"] == "refine"]
        if counts and not any(counts) and fit.options["hard_weight"] != "off":
            warnings.warn(
                f"no row was ever confident (max P > {fit.options['confidence']} and max w > "
                f"{fit.options['confidence']}), so V stayed empty and hard samples were not re-weighted "
                "(H = 1 throughout); lower confidence or smoothing, or use preset='robust'",
                UserWarning,
                stacklevel=3,
            )


def _log(w: Tensor) -> Tensor:
    return w.clamp_min(torch.finfo(w.dtype).tiny).log()
