"""The deep teacher of LRSC: a network too deep for the clustering itself, whose features say which rows are alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from desc_ext import ops
from desc_ext.nn import ConvDecoder, DeepConvEncoder, Layers, linear_layer, multilayer_perceptron

__all__ = ["Teacher", "distillation_loss", "median_squared_distance"]

# Rows whose distances to each other stand for those of all.
_MEDIAN_ROWS = 1000


class Teacher(nn.Module):
    """17 convolutions and one linear layer for images, four linear layers for rows; ReLU.

    What comes before the last layer are the features. It is trained as a classifier (cross-entropy), or, where
    ``n_classes`` is 0, as the encoder of an autoencoder.

    Attributes:
        latent_dim: length of a row of features.
    """

    def __init__(
        self, n_features: int, options: dict[str, Any], n_classes: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        shape, sizes = options["image_shape"], list(options["teacher_sizes"])
        if shape is None:
            self.latent_dim = sizes[-1]
            self.encoder = Layers(multilayer_perceptron([n_features, *sizes], generator), nn.ReLU())
        else:
            self.encoder = DeepConvEncoder(shape, options["teacher_channels"], generator)
            self.latent_dim = self.encoder.latent_dim
        if n_classes:
            self.output: nn.Module = linear_layer(self.latent_dim, n_classes, generator)
        elif shape is None:
            self.output = multilayer_perceptron([*sizes[::-1], n_features], generator)
        else:
            self.output = ConvDecoder(shape, options["teacher_channels"][:3], self.latent_dim, generator)

    def features(self, x: Tensor) -> Tensor:
        """Features [n, latent_dim] of the rows ``x`` [n, n_features]."""
        return self.encoder(x)

    def loss(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Mean cross-entropy of the classes ``labels`` [n]; without them the mean squared error of ``x``."""
        output = self.output(self.encoder(x))
        if labels is None:
            return (x - output).square().mean()
        return nn.functional.cross_entropy(output, labels)


def median_squared_distance(features: Tensor, seed: int) -> float:
    """Median of ‖t_i − t_j‖², i ≠ j, over at most 1,000 rows of ``features`` [n, q] drawn with ``seed``."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:_MEDIAN_ROWS]
    rows = features[order.to(features.device)]
    distances = torch.pdist(rows.double().cpu()).square()
    # equal features have the distance 0: any bandwidth gives them the weight 1
    return float(distances.median()) or 1.0


def distillation_loss(z: Tensor, features: Tensor, bandwidth: float, form: str) -> Tensor:
    """½ Σ_{i≠j} W_ij ‖ẑ_i − ẑ_j‖², W_ij = exp(−‖t_i − t_j‖²/bandwidth), ẑ = z/‖z‖ (eqs. 4 and 5).

    ``form`` "energy" divides it by the number of pairs n (n − 1), "ratio" by what it would be for W = 1,
    ½ Σ_{i≠j} ‖ẑ_i − ẑ_j‖² = n² − ‖Σ_i ẑ_i‖²: then it does not fall where all codes come to lie together.
    """
    n, z = len(z), nn.functional.normalize(z, dim=1)
    energy = ops.laplacian_energy(z, features, bandwidth)
    if form == "energy":
        return energy / max(n * (n - 1), 1)
    return energy / (n * z.square().sum() - z.sum(0).square().sum()).clamp_min(torch.finfo(z.dtype).eps * n)
