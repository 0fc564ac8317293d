"""Heads on the codes: classifier, discriminator, and the self-expressive layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from desc_ext import ops
from desc_ext.nn.layers import (
    Layers,
    RowConv2d,
    channels_last,
    convolution,
    drawn,
    multilayer_perceptron,
    unset_layer,
)

__all__ = ["ClassifierHead", "Discriminator", "SelfExpressiveLayer"]


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
                drawn(unset_layer(RowConv2d, width, n_out, kernel), generator),
                nn.ReLU(inplace=True),
            ]
            width = n_out
        layers.append(convolution(width, n_classes, 1, 1, generator))
        self.layers = channels_last(Layers(*layers))

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


class SelfExpressiveLayer(nn.Module):
    """A learned coefficient matrix C [n, n] with diag C = 0: 1e-4 everywhere else before training."""

    def __init__(self, n_samples: int) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.full((n_samples, n_samples), 1e-4).fill_diagonal_(0))

    def forward(self, z: Tensor, penalty: Literal["l1", "l2"]) -> tuple[Tensor, Tensor, Tensor]:
        """C z [n, p], ½‖Z − C Z‖²_F, and ‖C‖²_F (``penalty`` "l2") or Σ_ij |C_ij| ("l1"), in one pass over C."""
        residual, size, difference = ops.self_expression_residual(z, self.coefficient, penalty)
        return z - difference, residual, size
