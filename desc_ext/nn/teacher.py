"""The teacher of LRSC: a network too deep for the clustering itself, whose features say which rows are alike."""

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

__all__ = ["ConvDecoder", "DeepConvEncoder", "Teacher"]


class DeepConvEncoder(nn.Module):
    """Features of images by 17 convolutions of kernel 3: one, and eight pre-activation residual blocks of two.

    The blocks come in four groups of two; each group but the first halves the map, ⌈h/2⌉. A block's shortcut is the
    identity (every second pixel, new channels zero), and its second convolution starts at zero: so deep a network
    trains without normalisation layers, and what a row gives does not depend on the rows beside it.

    Args:
        image_shape: (C, H, W) of the flat rows.
        channels: of the four groups, not decreasing.
        generator: draws the parameters.

    Attributes:
        latent_dim: length of a row of features, the last of ``channels``.
    """

    def __init__(
        self, image_shape: Sequence[int], channels: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        if len(channels) != 4 or sorted(channels) != list(channels):
            raise ValueError(f"channels must be four numbers that do not decrease; got {list(channels)}")
        self.image_shape, self.latent_dim = tuple(image_shape), channels[-1]
        layers: list[nn.Module] = [convolution(image_shape[0], channels[0], 3, 1, generator)]
        width, sizes = channels[0], map_sizes(image_shape[1:], [1, 2, 2, 2])
        for group, n_out in enumerate(channels):
            for stride in (2 if group else 1, 1):
                layers.append(_IdentityBlock(width, n_out, strides_along(stride, sizes[group]), generator))
                width = n_out
        self.layers = channels_last(Layers(*layers))

    def forward(self, x: Tensor) -> Tensor:
        """Features [n, latent_dim] of flat images ``x`` [n, C·H·W]: the mean of the last map."""
        images = x.reshape(-1, *self.image_shape).contiguous(memory_format=torch.channels_last)
        return self.layers(images).relu().mean((2, 3))


class _IdentityBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: tuple[int, int], generator: torch.Generator) -> None:
        super().__init__()
        self.first = convolution(n_in, n_out, 3, stride, generator)
        self.second = convolution(n_out, n_out, 3, 1, generator)
        with torch.no_grad():
            self.first.weight.mul_(math.sqrt(6))  # from torch's default to the variance 2/fan of He et al.
            self.second.weight.zero_()
            nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]
        self.stride, self.added = stride, n_out - n_in

    def forward(self, x: Tensor) -> Tensor:
        shortcut = nn.functional.pad(
            x[:, :, :: self.stride[0], :: self.stride[1]], (0, 0, 0, 0, 0, self.added)
        )
        return shortcut + self.second(self.first(x.relu()).relu())


class ConvDecoder(nn.Module):
    """Flat images [n, C·H·W] of rows [n, p]: a linear layer to a map, then transposed convolutions that double it.

    Args:
        image_shape: (C, H, W).
        channels: of the maps, from the largest to the smallest; as many convolutions of kernel 3, ReLU between.
        latent_dim: p.
        generator: draws the parameters.
    """

    def __init__(
        self, image_shape: Sequence[int], channels: Sequence[int], latent_dim: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        widths, sizes = [image_shape[0], *channels], map_sizes(image_shape[1:], [2] * len(channels))
        self.map_shape = (widths[-1], *sizes[-1])
        self.from_code = linear_layer(latent_dim, math.prod(self.map_shape), generator)
        layers: list[nn.Module] = []
        for i in reversed(range(len(channels))):
            layers += [nn.ReLU(), transposed_convolution(widths[i + 1], widths[i], 3, 2, sizes[i], generator)]
        self.layers = channels_last(Layers(*layers))

    def forward(self, z: Tensor) -> Tensor:
        maps = self.from_code(z).reshape(-1, *self.map_shape)
        return self.layers(maps.contiguous(memory_format=torch.channels_last)).flatten(1)


class Teacher(nn.Module):
    """17 convolutions and one linear layer for images, four linear layers for rows; ReLU.

    The input of the last layer are the features. It is trained as a classifier (cross-entropy), or, where
    ``n_classes`` is 0, as the encoder of an autoencoder.

    Args:
        n_features: columns of the rows.
        image_shape: (C, H, W) of rows that are images, or None.
        sizes: for rows: of the three layers before the last one.
        channels: for images: of the four groups of convolutions.
        n_classes: of the classifier.
        generator: draws the parameters.

    Attributes:
        latent_dim: length of a row of features.
    """

    def __init__(
        self,
        n_features: int,
        image_shape: Sequence[int] | None,
        sizes: Sequence[int],
        channels: Sequence[int],
        n_classes: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if image_shape is None:
            self.latent_dim = sizes[-1]
            self.encoder: nn.Module = Layers(
                multilayer_perceptron([n_features, *sizes], generator), nn.ReLU()
            )
        else:
            self.encoder = DeepConvEncoder(image_shape, channels, generator)
            self.latent_dim = channels[-1]
        if n_classes:
            self.output: nn.Module = linear_layer(self.latent_dim, n_classes, generator)
        elif image_shape is None:
            self.output = multilayer_perceptron([*sizes[::-1], n_features], generator)
        else:
            self.output = ConvDecoder(image_shape, channels[:3], self.latent_dim, generator)

    def features(self, x: Tensor) -> Tensor:
        """Features [n, latent_dim] of the rows ``x`` [n, n_features]."""
        return self.encoder(x)

    def loss(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Mean cross-entropy of the classes ``labels`` [n]; without them the mean squared error of ``x``."""
        output = self.output(self.encoder(x))
        if labels is None:
            return (x - output).square().mean()
        return nn.functional.cross_entropy(output, labels)
