"""Networks: autoencoders for rows and images, the classifier head, the self-expressive layer.

Parameters are drawn from the :class:`torch.Generator` that the caller passes, so building a network
neither reads nor moves torch's global random state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from desc_ext import ops
from desc_ext.fixed_shapes import row_linear

__all__ = [
    "MIXED", "Autoencoder", "ClassifierHead", "ConvAutoencoder", "ConvDecoder", "DeepConvEncoder", "Discriminator",
    "Layers", "ResidualAutoencoder", "SelfExpressiveLayer", "linear_layer", "multilayer_perceptron", "parameter_dtype",
    "set_dtype",
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


class _Linear(nn.Linear):
    """A linear layer that gives a row the same bits beside whatever rows, where no gradient is asked for."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x)
        return row_linear(x, self.weight, self.bias)


class _Conv2d(nn.Conv2d):
    """A convolution of which the same is true.

    oneDNN's are so by themselves. Torch's own of float64 are products that write to wherever in memory the image's map
    begins, which some BLAS routines heed: there every image is a batch of its own.
    """

    def forward(self, x: Tensor) -> Tensor:
        forward = super().forward
        if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.float64:
            return forward(x)
        return torch.cat([forward(image.clone()) for image in x.split(1)])


def linear_layer(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with torch's default initialisation, drawn from ``generator``."""
    return _drawn(nn.utils.skip_init(_Linear, n_in, n_out), generator)


def _drawn(layer: nn.Module, generator: torch.Generator) -> nn.Module:
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


class _ImageAutoencoder(nn.Module):
    """What the autoencoders for images share: flat rows in and out, a flat code.

    ``encoder`` maps images [n, C, H, W] to maps [n, *code_shape] and ``decoder`` back. With a latent dimension, one
    linear layer each way stands between map and code, and ReLU keeps the two linear parts apart.
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
        # channels last: twice as fast on the CPU for so few channels
        self.encoder = encoder.to(memory_format=torch.channels_last)
        self.decoder = decoder.to(memory_format=torch.channels_last)
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
        return nn.functional.normalize(z, dim=1) if self.unit_codes else z

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
    decoder mirrors them with transposed convolutions and meets every size of the way up exactly, odd ones too.
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
        widths, sizes = [image_shape[0], *channels], _map_sizes(image_shape[1:], strides)
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for i, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
            step = _step(stride, sizes[i])
            down += [_conv(widths[i], widths[i + 1], kernel, step, generator), nn.ReLU(inplace=True)]
        for i in reversed(range(len(strides))):
            up += [
                _transposed(widths[i + 1], widths[i], kernels[i], strides[i], sizes[i], generator),
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
        widths, sizes = [image_shape[0], *channels], _map_sizes(image_shape[1:], strides)
        down: list[nn.Module] = [_conv(widths[0], widths[1], kernel, _step(strides[0], sizes[0]), generator)]
        up: list[nn.Module] = []
        for i in range(1, len(strides)):
            step = _step(strides[i], sizes[i])
            layers = [_conv(widths[i], widths[i + 1], width, step, generator) for width in (kernel, 1)]
            down.append(_ResidualBlock(*layers, _conv(widths[i + 1], widths[i + 1], kernel, 1, generator)))
        for i in reversed(range(1, len(strides))):
            layers = [
                _transposed(widths[i + 1], widths[i], width, strides[i], sizes[i], generator)
                for width in (kernel, 1)
            ]
            up.append(_ResidualBlock(*layers, _conv(widths[i], widths[i], kernel, 1, generator)))
        up += [
            nn.ReLU(inplace=True),
            _transposed(widths[1], widths[0], kernel, strides[0], sizes[0], generator),
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


def _map_sizes(size: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width before the first layer and after each one."""
    sizes = [(size[0], size[1])]
    for stride in strides:
        sizes.append((-(-sizes[-1][0] // stride), -(-sizes[-1][1] // stride)))
    return sizes


def _step(stride: int, size: Sequence[int]) -> tuple[int, int]:
    """The stride along both sides of a map of ``size``: 1 along one that is a single pixel, where it means nothing.

    With another one there, torch's bfloat16 convolutions on the CPU (oneDNN) give wrong values and weight gradients.
    """
    return tuple(1 if length == 1 else stride for length in size)


def _conv(
    n_in: int, n_out: int, kernel: int, stride: int | tuple[int, int], generator: torch.Generator
) -> nn.Conv2d:
    layer = nn.utils.skip_init(_Conv2d, n_in, n_out, kernel, stride=stride, padding=kernel // 2)
    return _drawn(layer, generator)


def _transposed(
    n_in: int, n_out: int, kernel: int, stride: int, size: tuple[int, int], generator: torch.Generator
) -> nn.ConvTranspose2d:
    """A transposed convolution from a map of ⌈size / stride⌉ to one of exactly ``size``."""
    step = _step(stride, size)
    layer = nn.utils.skip_init(
        nn.ConvTranspose2d, n_in, n_out, kernel, stride=step, padding=kernel // 2,
        output_padding=tuple((length - 1) % s for length, s in zip(size, step, strict=True)),
    )  # fmt: skip
    return _drawn(layer, generator)


class ClassifierHead(nn.Module):
    """Class probabilities of codes: convolutions of kernel 2, then one of kernel 1 to K classes, softmax.

    Codes that are no maps, ``code_shape`` (p,), meet fully connected layers instead. ReLU between layers; no padding:
    three layers of kernel 2 turn 4×4 pixels into one. A map that is one pixel wide already is left so, and of what is
    more than one pixel at the end the mean is taken before the softmax.

    Args:
        code_shape: (p,) or (C, h, w) of one code.
        channels: of the layers before the last one.
        n_classes: K.
        generator: draws the parameters.
    """

    def __init__(
        self, code_shape: Sequence[int], channels: Sequence[int], n_classes: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.code_shape = tuple(code_shape)
        if len(code_shape) == 1:
            self.layers = multilayer_perceptron([code_shape[0], *channels, n_classes], generator)
            return
        layers: list[nn.Module] = []
        (width, *size) = code_shape
        for n_out in channels:
            kernel = tuple(min(2, length) for length in size)
            size = [length - k + 1 for length, k in zip(size, kernel, strict=True)]
            layers += [
                _drawn(nn.utils.skip_init(_Conv2d, width, n_out, kernel), generator),
                nn.ReLU(inplace=True),
            ]
            width = n_out
        layers.append(_conv(width, n_classes, 1, 1, generator))
        self.layers = Layers(*layers).to(memory_format=torch.channels_last)

    def forward(self, z: Tensor) -> Tensor:
        """Probabilities [n, K], rows summing to 1, of flat codes ``z`` [n, p]."""
        if len(self.code_shape) == 1:
            return self.layers(z).softmax(1)
        maps = z.reshape(-1, *self.code_shape).contiguous(memory_format=torch.channels_last)
        return self.layers(maps).mean((2, 3)).softmax(1)


class Discriminator(nn.Module):
    """Tells real rows from fake ones: fully connected ``n_features – sizes – 1``, ReLU between, the last layer linear."""

    def __init__(self, n_features: int, sizes: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self.layers = multilayer_perceptron([n_features, *sizes, 1], generator)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits [n] of the rows [n, n_features] being real."""
        return self.layers(rows).squeeze(1)


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
        layers: list[nn.Module] = [_conv(image_shape[0], channels[0], 3, 1, generator)]
        width, sizes = channels[0], _map_sizes(image_shape[1:], [1, 2, 2, 2])
        for group, n_out in enumerate(channels):
            for stride in (2 if group else 1, 1):
                layers.append(_IdentityBlock(width, n_out, _step(stride, sizes[group]), generator))
                width = n_out
        self.layers = Layers(*layers).to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Features [n, latent_dim] of flat images ``x`` [n, C·H·W]: the mean of the last map."""
        images = x.reshape(-1, *self.image_shape).contiguous(memory_format=torch.channels_last)
        return self.layers(images).relu().mean((2, 3))


class _IdentityBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: tuple[int, int], generator: torch.Generator) -> None:
        super().__init__()
        self.first = _conv(n_in, n_out, 3, stride, generator)
        self.second = _conv(n_out, n_out, 3, 1, generator)
        with torch.no_grad():
            self.first.weight.mul_(math.sqrt(6))  # from torch's default to the variance 2/fan of He et al.
            self.second.weight.zero_()
            self.second.bias.zero_()
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
        widths, sizes = [image_shape[0], *channels], _map_sizes(image_shape[1:], [2] * len(channels))
        self.map_shape = (widths[-1], *sizes[-1])
        self.from_code = linear_layer(latent_dim, math.prod(self.map_shape), generator)
        layers: list[nn.Module] = []
        for i in reversed(range(len(channels))):
            layers += [nn.ReLU(), _transposed(widths[i + 1], widths[i], 3, 2, sizes[i], generator)]
        self.layers = Layers(*layers).to(memory_format=torch.channels_last)

    def forward(self, z: Tensor) -> Tensor:
        maps = self.from_code(z).reshape(-1, *self.map_shape)
        return self.layers(maps.contiguous(memory_format=torch.channels_last)).flatten(1)


class SelfExpressiveLayer(nn.Module):
    """A learned coefficient matrix C [n, n] with diag C = 0: 1e-4 everywhere else before training."""

    def __init__(self, n_samples: int) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.full((n_samples, n_samples), 1e-4).fill_diagonal_(0))

    def forward(self, z: Tensor, penalty: str) -> tuple[Tensor, Tensor, Tensor]:
        """C z [n, p], ½‖Z − C Z‖²_F, and ‖C‖²_F (``penalty`` "l2") or Σ_ij |C_ij| ("l1"), in one pass over C."""
        residual, size, difference = ops.self_expression_residual(z, self.coefficient, penalty)
        return z - difference, residual, size
