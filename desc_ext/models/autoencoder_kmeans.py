"""The baseline: a plain autoencoder, then k-means on its codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from desc_ext import ops
from desc_ext.models.base import Assessment, ClusteringNetwork, DeepClusterer, Fit
from desc_ext.models.desc import DESC
from desc_ext.models.rows import map_chunks
from desc_ext.models.start import kmeans

__all__ = ["AutoencoderKMeans"]

_OPTIONS = (
    "scaling",
    "hidden_sizes",
    "latent_dim",
    "unit_codes",
    "corruption",
    "reconstruction",
    "n_init",
    "pretrain_epochs",
    "batch_size",
    "pretrain_learning_rate",
)
# DESC's code space has K·d dimensions; without subspaces only their product is left to choose.
_DIMENSIONS_PER_CLUSTER = {preset: values["subspace_dim"] for preset, values in DESC._presets.items()}


class CentroidNetwork(ClusteringNetwork):
    """Autoencoder and k-means centroids [K, p]."""

    def __init__(self, n_features: int, options: dict[str, Any], generator: torch.Generator) -> None:
        super().__init__(n_features, options, generator)
        self.register_buffer("centroids", torch.zeros(options["n_clusters"], options["latent_dim"]))


class AutoencoderKMeans(DeepClusterer):
    """Plain autoencoder, then k-means on its codes: the baseline beside which DESC is reported.

    Network and pretraining are those of :class:`desc_ext.models.DESC` with the same ``preset``, options and
    ``random_state``, so both start from the same codes. There is no refinement: ``n_iter_`` is 0.
    ``predict_proba`` is the Student-t assignment (one degree of freedom) to the centroids.

    Options (None takes DESC's value of the preset): scaling, hidden_sizes, latent_dim, unit_codes,
    corruption, reconstruction, n_init (of k-means), pretrain_epochs, batch_size, pretrain_learning_rate.
    The remaining arguments and the attributes are those of DESC; instead of ``bases_`` there is
    ``cluster_centers_`` [K, p].
    """

    _method = "ae-kmeans"
    _presets = {  # noqa: RUF012  (read only)
        preset: {option: values[option] for option in _OPTIONS} for preset, values in DESC._presets.items()
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        preset: str = "robust",
        scaling: str | None = None,
        hidden_sizes: tuple[int, ...] | None = None,
        latent_dim: int | None = None,
        unit_codes: bool | None = None,
        corruption: float | None = None,
        reconstruction: str | None = None,
        n_init: int | None = None,
        pretrain_epochs: int | None = None,
        batch_size: int | None = None,
        pretrain_learning_rate: float | None = None,
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
        self.unit_codes = unit_codes
        self.corruption = corruption
        self.reconstruction = reconstruction
        self.n_init = n_init
        self.pretrain_epochs = pretrain_epochs
        self.batch_size = batch_size
        self.pretrain_learning_rate = pretrain_learning_rate
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
    def cluster_centers_(self):
        """Centroids [K, p] in the code space (NumPy)."""
        if not hasattr(self, "network_"):
            raise AttributeError("this AutoencoderKMeans has no cluster_centers_ before fit")
        return self.network_.centroids.cpu().numpy()

    def _resolve_options(self) -> dict[str, Any]:
        options = super()._resolve_options() | {"epochs": 0, "learning_rate": 1e-3, "tol": 0.0}
        if options["latent_dim"] is None:
            wanted = options["n_clusters"] * _DIMENSIONS_PER_CLUSTER[options["preset"]]
            options["latent_dim"] = wanted if options["preset"] == "paper" else min(wanted, 256)
        return options

    def _build(self, n_features: int, options: dict[str, Any], generator: torch.Generator) -> CentroidNetwork:
        return CentroidNetwork(n_features, options, generator)

    @torch.no_grad()
    def _initialise(self, fit: Fit, z: Tensor) -> Tensor:
        labels, centroids = kmeans(z, fit.options["n_clusters"], fit.options["n_init"], fit.seed)
        fit.network.centroids.copy_(centroids)
        return labels

    def _assign(self, network: CentroidNetwork, z: Tensor) -> Tensor:
        return ops.student_t_assignment(z, network.centroids)

    def _assess(self, fit: Fit, z: Tensor) -> Assessment:
        return Assessment(z, map_chunks(lambda part: self._assign(fit.network, part), z).argmax(1))
