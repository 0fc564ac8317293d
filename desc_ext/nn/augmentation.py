"""Augmentation of images: random rotation, shift and scale, and mirror images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["AFFINE_RANGES", "affine_images", "random_affine"]

# Rotation in degrees, shift as a share of the image's side, scale as a share of its size: uniform between ± these.
AFFINE_RANGES = {"rotation": 12.0, "shift": 0.1, "scale": 0.12}


def random_affine(
    n: int, size: Sequence[int], generator: torch.Generator, flip: bool, dtype: torch.dtype
) -> Tensor:
    """``n`` affine maps [n, 2, 3] of the pixels of images of ``size`` (H, W), as :func:`affine_images` takes them.

    Args:
        generator: draws them, on the device that they are to be on.
        flip: whether half of the images are mirrored left to right.
    """
    height, width = size
    drawn = torch.rand(5, n, generator=generator, device=generator.device, dtype=dtype)
    centred = 2 * drawn - 1
    angle = centred[0] * math.radians(AFFINE_RANGES["rotation"])
    stretch = 1 / (1 + centred[1] * AFFINE_RANGES["scale"])
    cos, sin = angle.cos() * stretch, angle.sin() * stretch
    mirror = torch.where(drawn[4] < 0.5, -1.0, 1.0).to(dtype) if flip else torch.ones_like(cos)
    shift = AFFINE_RANGES["shift"] * centred[2:4]
    rows = [cos * mirror, -sin, shift[0] * width, sin * mirror, cos, shift[1] * height]
    return torch.stack(rows, 1).reshape(n, 2, 3)


def affine_images(images: Tensor, matrix: Tensor) -> Tensor:
    """Images read at affine maps of their pixels, bilinear between pixels and the edge's value outside of the image.

    The pixel at (x, y), counted from the centre of the image, takes the value at A (x, y) + b, with A the left 2×2 part of
    ``matrix`` and b its last column.

    Args:
        images: [m, C, H, W].
        matrix: [m, 2, 3], x before y, in pixels, in the dtype of ``images``.

    Returns:
        [m, C, H, W]; the same bits for any number of threads.
    """
    height, width = images.shape[2:]
    x = (torch.arange(width).to(images) - (width - 1) / 2)[None, None, :]
    y = (torch.arange(height).to(images) - (height - 1) / 2)[None, :, None]

    # element by element, not a matrix product: the same bits for any number of threads
    def read_at(axis: int, length: int) -> Tensor:
        a, b, c = (matrix[:, axis, i, None, None] for i in range(3))
        return (a * x + b * y + c) * (
            2 / length
        )  # grid_sample's units: −1 and 1 are the outer edges of the image

    grid = torch.stack([read_at(0, width), read_at(1, height)], -1)
    return nn.functional.grid_sample(images, grid, "bilinear", "border", align_corners=False)
