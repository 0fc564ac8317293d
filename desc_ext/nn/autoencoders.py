"""Autoencoders for rows and for images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from desc_ext.nn.layers import (
    Layers,
    channels_last,
    convolution,
    linear_layer,
    map_sizes,
    multilayer_perceptron,
    strides_along,
    transposed_convolution,
)
from desc_ext.norms import unit_rows

__all__ = ["Autoencoder", "ConvAutoencoder", "ResidualAutoencoder"]


class Autoencoder(nn.Module):
    """Fully connected autoencoder ``n_features – hidden_sizes – latent_dim`` and back.

    ``unit_codes=True`` divides every code by its Euclidean norm, so ‖z_i‖ = 1 and no loss can be
    lowered by shrinking or inflating the latent space.

    Attributes:
        latent_dim: length of a code; code_shape: (latent_dim,).
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
        self.latent_dim, self.code_shape, self.unit_codes = latent_dim, (latent_dim,), unit_codes

    def encode(self, x: Tensor) -> Tensor:
        """Codes [n, latent_dim] of the rows ``x`` [n, n_features]."""
        z = self.encoder(x)
        return unit_rows(z) if self.unit_codes else z

    def decode(self, z: Tensor) -> Tensor:
        """Reconstructions [n, n_features] of the codes ``z`` [n, latent_dim]."""
        return self.decoder(z)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and reconstructions of ``x``."""
        z = self.encode(x)
        return z, self.decode(z)


class _ImageAutoencoder(nn.Module):
    """What the autoencoders for images share: flat rows in and out, a flat code.

    ``encoder`` maps images [n, C, H, W] to maps [n, *code_shape] and ``decoder`` back. With a latent dimension, one
    linear layer each way connects map and code, with a ReLU between the two linear parts.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        encoder: nn.Module,
        decoder: nn.Module,
        code_shape: tuple[int, int, int],
        latent_dim: int | None,
        unit_codes: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.encoder = channels_last(encoder)
        self.decoder = channels_last(decoder)
        self.image_shape, self.code_shape, self.unit_codes = tuple(image_shape), code_shape, unit_codes
        self.to_code = self.from_code = None
        if latent_dim is not None:
            size = math.prod(code_shape)
            self.to_code = linear_layer(size, latent_dim, generator)
            self.from_code = linear_layer(latent_dim, size, generator)
        self.latent_dim = math.prod(code_shape) if latent_dim is None else latent_dim

    def encode(self, x: Tensor) -> Tensor:
        """Codes [n, latent_dim] of flat images ``x`` [n, C·H·W]."""
        images = x.reshape(-1, *self.image_shape).contiguous(memory_format=torch.channels_last)
        z = self.encoder(images).flatten(1)
        if self.to_code is not None:
            z = self.to_code(z.relu())
        return unit_rows(z) if self.unit_codes else z

    def decode(self, z: Tensor) -> Tensor:
        """Flat reconstructions [n, C·H·W] of the codes ``z`` [n, latent_dim]."""
        if self.from_code is not None:
            z = self.from_code(z).relu()
        maps = z.reshape(-1, *self.code_shape).contiguous(memory_format=torch.channels_last)
        return self.decoder(maps).flatten(1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and reconstructions of ``x``."""
        z = self.encode(x)
        return z, self.decode(z)


class ConvAutoencoder(_ImageAutoencoder):
    """Convolutional autoencoder for images given as flat rows [n, C·H·W]; no batch normalisation.

    Convolutions with ReLU between them; a stride s turns h pixels into ⌈h/s⌉ (zero padding of kernel // 2). The
    decoder mirrors them with transposed convolutions that restore every size exactly, odd ones too.
    Code and output are linear. 28×28 pixels with strides of 2 and channels 10-20-30: 14, 7, 4 pixels, 480 values.

    Args:
        image_shape: (C, H, W).
        channels: of the encoder's layers.
        kernels: their widths, odd, one a layer.
        generator: draws the parameters.
        strides: one a layer; None: 2 everywhere.
        latent_dim: one linear layer from the last map to codes of this many values, and one back; None: the code
            is the last map, flat.
        unit_codes: as for :class:`Autoencoder`.

    Attributes:
        code_shape: (C', h, w), the last map; latent_dim: length of a code.

    Raises:
        ValueError: the three lists differ in length, or a kernel is even.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int],
        kernels: Sequence[int],
        generator: torch.Generator,
        strides: Sequence[int] | None = None,
        latent_dim: int | None = None,
        unit_codes: bool = False,
    ) -> None:
        strides = [2] * len(channels) if strides is None else list(strides)
        _check_layers(channels, kernels, strides)
        widths, sizes = [image_shape[0], *channels], map_sizes(image_shape[1:], strides)
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for i, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
            step = strides_along(stride, sizes[i])
            down += [convolution(widths[i], widths[i + 1], kernel, step, generator), nn.ReLU(inplace=True)]
        for i in reversed(range(len(strides))):
            up += [
                transposed_convolution(widths[i + 1], widths[i], kernels[i], strides[i], sizes[i], generator),
                nn.ReLU(inplace=True),
            ]
        super().__init__(
            image_shape, Layers(*down[:-1]), Layers(*up[:-1]), (widths[-1], *sizes[-1]),
            latent_dim, unit_codes, generator,
        )  # fmt: skip


class ResidualAutoencoder(_ImageAutoencoder):
    """One convolution, then pre-activation residual blocks, and their mirror image; no batch normalisation.

    Arguments and attributes as for :class:`ConvAutoencoder`, with one width ``kernel`` for all convolutions. A block
    is ReLU, convolution (with the stride), ReLU, convolution, beside a 1×1 convolution of the first ReLU's output.
    28×28 pixels with channels 10-20-30-40 and strides 2-2-2-1: 14, 7, 4, 4 pixels, 640 values.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int],
        kernel: int,
        generator: torch.Generator,
        strides: Sequence[int] | None = None,
        latent_dim: int | None = None,
        unit_codes: bool = False,
    ) -> None:
        strides = [2] * len(channels) if strides is None else list(strides)
        _check_layers(channels, [kernel] * len(channels), strides)
        widths, sizes = [image_shape[0], *channels], map_sizes(image_shape[1:], strides)
        down: list[nn.Module] = [
            convolution(widths[0], widths[1], kernel, strides_along(strides[0], sizes[0]), generator)
        ]
        up: list[nn.Module] = []
        for i in range(1, len(strides)):
            step = strides_along(strides[i], sizes[i])
            first, shortcut = (
                convolution(widths[i], widths[i + 1], width, step, generator) for width in (kernel, 1)
            )
            second = convolution(widths[i + 1], widths[i + 1], kernel, 1, generator)
            down.append(_ResidualBlock(first, shortcut, second))
        for i in reversed(range(1, len(strides))):
            wide, narrow = (
                transposed_convolution(widths[i + 1], widths[i], width, strides[i], sizes[i], generator)
                for width in (kernel, 1)
            )
            up.append(_ResidualBlock(wide, narrow, convolution(widths[i], widths[i], kernel, 1, generator)))
        up += [
            nn.ReLU(inplace=True),
            transposed_convolution(widths[1], widths[0], kernel, strides[0], sizes[0], generator),
        ]
        super().__init__(
            image_shape, Layers(*down), Layers(*up), (widths[-1], *sizes[-1]),
            latent_dim, unit_codes, generator,
        )  # fmt: skip


class _ResidualBlock(nn.Module):
    def __init__(self, first: nn.Module, shortcut: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.shortcut, self.second = first, shortcut, second

    def forward(self, x: Tensor) -> Tensor:
        active = x.relu()
        return self.shortcut(active) + self.second(self.first(active).relu())


def _check_layers(channels: Sequence[int], kernels: Sequence[int], strides: Sequence[int]) -> None:
    if not len(channels) == len(kernels) == len(strides) > 0:
        raise ValueError(
            f"channels, kernels and strides must be lists of one length >= 1; got {list(channels)}, "
            f"{list(kernels)} and {list(strides)}"
        )
    if any(kernel % 2 == 0 for kernel in kernels):
        raise ValueError(
            f"kernels must be odd, so that padding is the same on both sides; got {list(kernels)}"
        )
