"""Networks: fully connected autoencoders and the classifier head.

Parameters are drawn from the :class:`torch.Generator` that the caller passes, so building a network
neither reads nor moves torch's global random state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["Autoencoder", "linear_layer", "multilayer_perceptron"]


def linear_layer(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with torch's default initialisation, drawn from ``generator``."""
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out)
    bound = 1 / math.sqrt(n_in)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def multilayer_perceptron(sizes: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers ``sizes[0] → sizes[1] → …`` with ReLU between them; the last one stays linear."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [linear_layer(n_in, n_out, generator), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Autoencoder(nn.Module):
    """Fully connected autoencoder ``n_features – hidden_sizes – latent_dim`` and back.

    ``unit_codes=True`` divides every code by its Euclidean norm, so ‖z_i‖ = 1 and no loss can be
    lowered by shrinking or inflating the latent space.
    """

    def __init__(
        self,
        n_features: int,
        hidden_sizes: Sequence[int],
        latent_dim: int,
        generator: torch.Generator,
        unit_codes: bool = False,
    ) -> None:
        super().__init__()
        sizes = [n_features, *hidden_sizes, latent_dim]
        self.encoder = multilayer_perceptron(sizes, generator)
        self.decoder = multilayer_perceptron(sizes[::-1], generator)
        self.unit_codes = unit_codes

    def encode(self, x: Tensor) -> Tensor:
        """Codes [n, latent_dim] of the rows ``x`` [n, n_features]."""
        z = self.encoder(x)
        return nn.functional.normalize(z, dim=1) if self.unit_codes else z

    def decode(self, z: Tensor) -> Tensor:
        """Reconstructions [n, n_features] of the codes ``z`` [n, latent_dim]."""
        return self.decoder(z)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and reconstructions of ``x``."""
        z = self.encode(x)
        return z, self.decode(z)
