"""What an estimator trains: an autoencoder beside the scaling of its input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ClusteringNetwork"]


class ClusteringNetwork(nn.Module):
    """What an estimator trains and saves: the autoencoder, the scaling of the input and the method's own parts."""

    autoencoder: Any
    offset: Tensor
    scale: Tensor

    def __init__(self, n_features: int, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.register_buffer("offset", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(n_features, dtype=torch.float64))

    @property
    def latent_dim(self) -> int:
        """Length of a code."""
        return int(self.autoencoder.latent_dim)
