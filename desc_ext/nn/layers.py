"""Layers drawn from a generator, and the precision in which they multiply.

Parameters are drawn from the :class:`torch.Generator` that the caller passes, so building a network
neither reads nor changes torch's global random state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = [
    "MIXED", "Layers", "convolution", "drawn", "linear_layer", "map_sizes", "multilayer_perceptron", "parameter_dtype",
    "set_dtype", "strides_along", "transposed_convolution",
]  # fmt: skip

MIXED = "mixed_bfloat16"


class Layers(nn.Sequential):
    """Layers one after the other. Where :func:`set_dtype` made them mixed, they multiply in bfloat16.

    Parameters, what goes in and what comes out stay float32; between the layers values are bfloat16.
    """

    mixed = False

    def forward(self, x: Tensor) -> Tensor:
        """What the last layer makes of ``x``, in the dtype of ``x``."""
        if not self.mixed:
            return super().forward(x)
        with torch.autocast(x.device.type, torch.bfloat16):
            return super().forward(x).to(x.dtype)


def parameter_dtype(name: str) -> torch.dtype:
    """Of the parameters under the estimators' option ``dtype``: "float32", "float64" or "mixed_bfloat16"."""
    return torch.float32 if name == MIXED else getattr(torch, name)


def set_dtype(network: nn.Module, name: str) -> nn.Module:
    """``network`` with parameters of :func:`parameter_dtype`, and all its :class:`Layers` mixed or not."""
    for module in network.modules():
        if isinstance(module, Layers):
            module.mixed = name == MIXED
    return network.to(parameter_dtype(name))


def linear_layer(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with torch's default initialisation, drawn from ``generator``."""
    return drawn(nn.utils.skip_init(nn.Linear, n_in, n_out), generator)


def drawn(layer: nn.Module, generator: torch.Generator) -> nn.Module:
    # torch's default for all three kinds of layer; a transposed convolution's weight is [in, out, k, k], and its
    # default reads the fan from the same axis as a convolution's [out, in, k, k]
    bound = 1 / math.sqrt(layer.weight[0].numel())
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def multilayer_perceptron(sizes: Sequence[int], generator: torch.Generator) -> Layers:
    """Linear layers ``sizes[0] → sizes[1] → …`` with ReLU between them; the last one stays linear."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [linear_layer(n_in, n_out, generator), nn.ReLU()]
    return Layers(*layers[:-1])


def map_sizes(size: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width before the first layer and after each one."""
    sizes = [(size[0], size[1])]
    for stride in strides:
        sizes.append((-(-sizes[-1][0] // stride), -(-sizes[-1][1] // stride)))
    return sizes


def strides_along(stride: int, size: Sequence[int]) -> tuple[int, int]:
    """The stride along both sides of a map of ``size``: 1 along one that is a single pixel, where it means nothing.

    With another one there, torch's bfloat16 convolutions on the CPU (oneDNN) give wrong values and weight gradients.
    """
    return tuple(1 if length == 1 else stride for length in size)


def convolution(
    n_in: int, n_out: int, kernel: int, stride: int | tuple[int, int], generator: torch.Generator
) -> nn.Conv2d:
    layer = nn.utils.skip_init(nn.Conv2d, n_in, n_out, kernel, stride=stride, padding=kernel // 2)
    return drawn(layer, generator)


def transposed_convolution(
    n_in: int, n_out: int, kernel: int, stride: int, size: tuple[int, int], generator: torch.Generator
) -> nn.ConvTranspose2d:
    """A transposed convolution from a map of ⌈size / stride⌉ to one of exactly ``size``."""
    step = strides_along(stride, size)
    layer = nn.utils.skip_init(
        nn.ConvTranspose2d, n_in, n_out, kernel, stride=step, padding=kernel // 2,
        output_padding=tuple((length - 1) % s for length, s in zip(size, step, strict=True)),
    )  # fmt: skip
    return drawn(layer, generator)
