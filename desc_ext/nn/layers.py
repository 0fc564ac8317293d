"""Layers drawn from a generator, and the precision in which they multiply.

Parameters are drawn from the :class:`torch.Generator` that the caller passes, so building a network
neither reads nor changes torch's global random state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from desc_ext.fixed_shapes import row_linear

__all__ = [
    "MIXED",
    "Layers",
    "RowConv2d",
    "RowLinear",
    "channels_last",
    "convolution",
    "drawn",
    "linear_layer",
    "map_sizes",
    "multilayer_perceptron",
    "parameter_dtype",
    "set_dtype",
    "strides_along",
    "transposed_convolution",
    "unset_layer",
]

MIXED = "mixed_bfloat16"
"""The value of an estimator's option ``dtype`` for layers that multiply in bfloat16."""
ModuleT = TypeVar("ModuleT", bound=nn.Module)
LayerT = TypeVar("LayerT", bound=nn.Linear | nn.Conv2d | nn.ConvTranspose2d)


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


def set_dtype(network: ModuleT, name: str) -> ModuleT:
    """``network`` with parameters of :func:`parameter_dtype`, and all its :class:`Layers` mixed or not."""
    for module in network.modules():
        if isinstance(module, Layers):
            module.mixed = name == MIXED
    return network.to(parameter_dtype(name))


def linear_layer(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with torch's default initialisation, drawn from ``generator``."""
    return drawn(unset_layer(RowLinear, n_in, n_out), generator)


def drawn(layer: LayerT, generator: torch.Generator) -> LayerT:
    """``layer`` with torch's default initialisation, drawn from ``generator``."""
    # torch's default for all three kinds of layer; a transposed convolution's weight is [in, out, k, k], and its
    # default reads the fan from the same axis as a convolution's [out, in, k, k]
    bound = 1 / math.sqrt(layer.weight[0].numel())
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


class RowLinear(nn.Linear):
    """A linear layer that gives a row the same bits beside whatever rows, where no gradient is asked for."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x)
        return row_linear(x, self.weight, self.bias)


class RowConv2d(nn.Conv2d):
    """A convolution of which the same is true.

    oneDNN's are so by themselves. Torch's own of float64 are products that write to wherever in memory the image's map
    begins, which changes the path of some BLAS routines: there every image is a batch of its own.
    """

    def forward(self, x: Tensor) -> Tensor:
        forward = super().forward
        if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.float64:
            return forward(x)
        return torch.cat([forward(image.clone()) for image in x.split(1)])


def unset_layer(kind: type[LayerT], *sizes: Any, **options: Any) -> LayerT:
    """A layer whose parameters are not drawn yet: torch's own would move its global random state."""
    layer: Any = nn.utils.skip_init(kind, *sizes, device=torch.get_default_device(), **options)
    return layer


def channels_last(module: ModuleT) -> ModuleT:
    """``module`` with its convolutions' weights in that order: twice as fast on the CPU for few channels."""
    options: dict[str, Any] = {"memory_format": torch.channels_last}
    return module.to(**options)


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
    height, width = (1 if length == 1 else stride for length in size)
    return height, width


def convolution(
    n_in: int, n_out: int, kernel: int, stride: int | tuple[int, int], generator: torch.Generator
) -> nn.Conv2d:
    """A convolution with zero padding of ``kernel // 2``."""
    return drawn(unset_layer(RowConv2d, n_in, n_out, kernel, stride=stride, padding=kernel // 2), generator)


def transposed_convolution(
    n_in: int, n_out: int, kernel: int, stride: int, size: tuple[int, int], generator: torch.Generator
) -> nn.ConvTranspose2d:
    """A transposed convolution from a map of ⌈size / stride⌉ to one of exactly ``size``."""
    step = strides_along(stride, size)
    layer = unset_layer(
        nn.ConvTranspose2d, n_in, n_out, kernel, stride=step, padding=kernel // 2,
        output_padding=tuple((length - 1) % s for length, s in zip(size, step, strict=True)),
    )  # fmt: skip
    return drawn(layer, generator)
