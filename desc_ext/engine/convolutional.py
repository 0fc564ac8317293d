"""Methods with a refinement whose autoencoder of images is a plain stack of convolutions."""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
from torch import nn

from desc_ext.engine.options import Option, estimator, option
from desc_ext.engine.refined import RefinedClusterer
from desc_ext.engine.state import FitState
from desc_ext.nn import Autoencoder, ConvAutoencoder

__all__ = ["ConvolutionalClusterer"]

S = TypeVar("S", bound=FitState)


@estimator
class ConvolutionalClusterer(RefinedClusterer[S]):
    """Base class of the methods that take images by convolutions of stride 2, or as rows."""

    image_network: Option[Literal["conv", "dense"]] = option(
        'for images: "conv" (convolutional) or "dense" (fully connected)', default=None, earlier="dense"
    )
    channels: Option[tuple[int, ...]] = option(
        "of the convolutions, each of stride 2",
        default=None,
        earlier=(32, 64, 128),
        at_least=1,
        where=len,
        wanted="a tuple of integers >= 1, at least one",
    )
    kernels: Option[tuple[int, ...]] = option(
        "widths of the convolutions",
        default=None,
        earlier=(5, 5, 3),
        at_least=1,
        where=lambda widths: all(width % 2 for width in widths),
        wanted="a tuple of odd integers >= 1",
    )

    def _complete_options(self) -> None:
        super()._complete_options()
        if len(self.channels) != len(self.kernels):
            raise ValueError(
                f"{type(self).__name__}: channels and kernels must have one entry a layer each, got "
                f"{tuple(self.channels)} and {tuple(self.kernels)}"
            )

    def _autoencoder(
        self, n_features: int, latent_dim: int, generator: torch.Generator, unit_codes: bool = False
    ) -> nn.Module:
        if self.image_shape is None or self.image_network == "dense":
            return Autoencoder(n_features, self.hidden_sizes, latent_dim, generator, unit_codes)
        return ConvAutoencoder(
            self.image_shape,
            self.channels,
            self.kernels,
            generator,
            latent_dim=latent_dim,
            unit_codes=unit_codes,
        )
