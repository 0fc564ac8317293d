"""The baseline: a plain autoencoder, then k-means on its codes."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from desc_ext import ops
from desc_ext.engine.chunks import map_in_memory
from desc_ext.engine.deep import DeepClusterer, first_centroids
from desc_ext.engine.networks import ClusteringNetwork
from desc_ext.engine.options import Option, estimator, option
from desc_ext.engine.stages import Stage
from desc_ext.engine.state import Evaluation, FitState
from desc_ext.engine.stored_values import Values
from desc_ext.models.desc import latent_dim_of
from desc_ext.nn import Autoencoder

__all__ = ["AutoencoderKMeans"]

_PAPER: dict[str, Any] = {
    "scaling": "minmax",
    "hidden_sizes": (500, 500, 1000),
    "latent_dim": None,
    "unit_codes": False,
    "corruption": 0.0,
    "reconstruction": "sum",
    "n_init": 20,
    "pretrain_epochs": 50,
    "batch_size": 512,
    "pretrain_learning_rate": 1e-3,
}
_ROBUST: dict[str, Any] = _PAPER | {
    "scaling": "global",
    "unit_codes": True,
    "corruption": 0.5,
    "reconstruction": "mean",
    "batch_size": 256,
}
# Of the subspaces that a code has room for: there are none here, but it is as long as DESC's.
_SUBSPACE_DIM = {"paper": 5, "robust": 8}


class CentroidNetwork(ClusteringNetwork):
    """Autoencoder and k-means centroids [K, p]."""

    centroids: Tensor

    def __init__(self, n_features: int, autoencoder: Autoencoder, n_clusters: int) -> None:
        super().__init__(n_features, autoencoder)
        self.register_buffer("centroids", torch.zeros(n_clusters, self.latent_dim))


State = FitState["AutoencoderKMeans", CentroidNetwork]


@estimator
class AutoencoderKMeans(DeepClusterer[State]):
    """Plain autoencoder, then k-means on its codes: the baseline beside which DESC is reported.

    Network and pretraining are those of :class:`desc_ext.models.DESC` with the same ``preset``; images are rows here, and in
    "robust" half of the input's entries are set to zero. There is no refinement: ``n_iter_`` is 0.
    ``predict_proba`` is the Student-t assignment (one degree of freedom) to the centroids.

    {options}

    The attributes are those of DESC; instead of ``bases_`` there is ``cluster_centers_`` [K, p].
    """

    method = "ae-kmeans"
    _stores_codes = True
    presets: ClassVar = {"paper": _PAPER, "robust": _ROBUST}

    latent_dim: Option[int | None] = option(
        "length of a code, p; None: that of DESC with the same preset", default=None, at_least=1
    )
    unit_codes: Option[bool] = option("codes on the unit sphere", default=None)
    reconstruction: Option[Literal["mean", "sum"]] = option(
        'squared error of a row: "sum" or "mean" over its columns', default=None
    )

    @property
    def cluster_centers_(self) -> np.ndarray:
        """Centroids [K, p] in the code space (NumPy)."""
        self._require_fit("cluster_centers_")
        return self.network_.centroids.cpu().numpy()

    def _complete_options(self) -> None:
        super()._complete_options()
        self.latent_dim = self.latent_dim or latent_dim_of(
            self.preset, self.n_clusters, _SUBSPACE_DIM[self.preset]
        )

    def _build(self, n_features: int, n_samples: int, generator: torch.Generator) -> CentroidNetwork:
        width: Any = self.latent_dim
        autoencoder = Autoencoder(n_features, self.hidden_sizes, width, generator, self.unit_codes)
        return CentroidNetwork(n_features, autoencoder, self.n_clusters)

    def stages(self, state: State) -> list[Stage]:
        return [self._pretraining(state, state.options.reconstruction, lambda z: first_centroids(state, z))]

    def _assign(self, network: CentroidNetwork, z: Tensor) -> Tensor:
        return ops.student_t_assignment(z, network.centroids)

    def _evaluate_codes(self, state: State, z: Values) -> Evaluation:
        return Evaluation(z, map_in_memory(lambda part: self._assign(state.network, part).argmax(1), z))
