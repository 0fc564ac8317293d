"""Autoencoders of rows or of images: which one the options ask for."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal, TypeVar

import torch
from torch import nn

from desc_ext.engine.deep import DeepEmbedding
from desc_ext.engine.options import Option, estimator, option
from desc_ext.engine.state import FitState
from desc_ext.nn import Autoencoder, ConvAutoencoder, ResidualAutoencoder

__all__ = ["ImageOrRowClusterer"]

S = TypeVar("S", bound=FitState)
_CHANNELS = {"conv": (10, 20, 30), "residual": (10, 20, 30, 40), "strided": (10, 20, 30, 40)}
# Every layer of "strided" halves the map, others as long as more than this many pixels are left: 28 → 14 → 7 → 4.
_SMALLEST_MAP = 4


@estimator
class ImageOrRowClusterer(DeepEmbedding[S]):
    """Base class of the methods whose autoencoder is convolutional where rows are images, and fully connected where not."""

    image_network: Option[Literal["conv", "residual", "strided"]] = option(
        'for images: "conv" (kernels 5-3-3…), "residual" (a convolution, then pre-activation blocks, kernel 3) or "strided" '
        "(kernel 3). A layer halves the map: of the first two while it is more than 4 pixels wide, of the third always",
        default=None,
    )
    channels: Option[tuple[int, ...] | None] = option(
        "of the image network's layers; None: 10,20,30, for residual and strided 10,20,30,40",
        default=None,
        at_least=1,
        where=lambda value: value is None or len(value) > 0,
        wanted="a tuple of integers >= 1, at least one",
    )
    latent_dim: Option[int | None] = option(
        "length of a row's code, p; an image's code is the last map", default=None, at_least=1
    )
    unit_codes: Option[bool] = option("codes on the unit sphere", default=None)

    @abstractmethod
    def _default_latent_dim(self, n_features: int) -> int:
        """Length of a row's code where ``latent_dim`` is None."""

    def _adapt_options(self, n_samples: int, n_features: int) -> None:
        super()._adapt_options(n_samples, n_features)
        if self.image_shape is None:
            self.latent_dim = self.latent_dim or self._default_latent_dim(n_features)
            return
        if self.latent_dim is not None:
            raise ValueError(
                f"{type(self).__name__}: latent_dim={self.latent_dim} is for rows; the code of an image is the last map of "
                "its network: set channels instead"
            )
        self.channels = self.channels or _CHANNELS[self.image_network]
        size = self.image_shape[1:]
        for stride in _strides(self.image_network, self.image_shape, len(self.channels)):
            size = tuple(math.ceil(length / stride) for length in size)
        self.latent_dim = self.channels[-1] * math.prod(size)

    def _autoencoder(self, n_features: int, generator: torch.Generator) -> nn.Module:
        shape, channels = self.image_shape, self.channels
        if shape is None or channels is None:
            width = self.latent_dim or self._default_latent_dim(n_features)
            return Autoencoder(n_features, self.hidden_sizes, width, generator, self.unit_codes)
        strides = _strides(self.image_network, shape, len(channels))
        if self.image_network == "residual":
            return ResidualAutoencoder(shape, channels, 3, generator, strides, unit_codes=self.unit_codes)
        kernels = [3 if self.image_network == "strided" else 5, *[3] * (len(channels) - 1)]
        return ConvAutoencoder(shape, channels, kernels, generator, strides, unit_codes=self.unit_codes)


def _strides(image_network: str, shape: tuple[int, ...], n_layers: int) -> list[int]:
    if image_network == "strided":
        return [2] * n_layers
    strides: list[int] = []
    size = shape[1:]
    for _ in range(n_layers):
        strides.append(2 if min(size) > _SMALLEST_MAP else 1)
        size = tuple(math.ceil(length / strides[-1]) for length in size)
    return strides
