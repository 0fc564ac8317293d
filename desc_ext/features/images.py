"""Images as rows: which arrays are stacks of images, and the shape of one."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["image_rows", "is_integer", "resized_images"]

_RESIZED_TOGETHER = 1024  # images


def image_rows(
    name: str, X: Any, image_shape: tuple[int, ...] | None
) -> tuple[Any, tuple[int, int, int] | None]:
    """Images as rows, without copying them, and the shape (C, H, W) of each.

    Args:
        name: of the caller, for the messages.
        X: a stack [n, H, W] or [n, C, H, W], or flat rows [n, C·H·W]; NumPy array, memory map or torch tensor, and
            for flat rows whatever scikit-learn takes (left unchecked but for their width).
        image_shape: (H, W) or (C, H, W), which flat rows need to be images; a stack may do without.

    Returns:
        Rows [n, C·H·W], a view of ``X`` where it is contiguous (flat rows as they came), and (C, H, W), or None for
        flat rows of which no image shape is known.

    Raises:
        ValueError: ``image_shape`` is no such shape, or ``X`` is not of that shape.
    """
    shape = _full_shape(name, image_shape)
    if isinstance(X, Tensor):
        X = _as_numpy(X)
    if not hasattr(X, "shape"):
        X = np.asarray(X)
    if len(X.shape) not in (3, 4):
        _check_flat(name, X, image_shape, shape)
        return X, shape
    found = (*(1,) * (4 - len(X.shape)), *X.shape[1:])
    if 0 in found:
        raise ValueError(f"{name}: X holds images without pixels, shape {list(X.shape)}")
    if shape is not None and shape != found:
        raise ValueError(
            f"{name}: X is a stack of images {tuple(X.shape[1:])} (shape {list(X.shape)}), but images of "
            f"{tuple(image_shape or ())} are wanted; give X [n, H, W] or [n, C, H, W] of that shape"
        )
    return X.reshape(len(X), math.prod(found)), found


def resized_images(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Images [n, H, W] or [n, C, H, W] at ``size`` (height, width): bilinear, with antialiasing; float32."""
    stack = torch.from_numpy(np.array(images, dtype=np.float32))
    maps = stack[:, None] if stack.dim() == 3 else stack
    resized = [
        torch.nn.functional.interpolate(part, tuple(size), mode="bilinear", antialias=True)
        for part in maps.split(_RESIZED_TOGETHER)
    ]
    return torch.cat(resized).reshape(*stack.shape[:-2], *size).numpy()


def _as_numpy(X: Tensor) -> np.ndarray:
    X = X.detach().cpu()
    return (X if X.dtype.itemsize > 2 or not X.is_floating_point() else X.float()).numpy()


def _full_shape(name: str, image_shape: Any) -> tuple[int, int, int] | None:
    if image_shape is None:
        return None
    sizes = tuple(image_shape) if isinstance(image_shape, (tuple, list)) else ()
    if len(sizes) not in (2, 3) or not all(is_integer(size, 1) for size in sizes):
        raise ValueError(
            f"{name}: image_shape must be (H, W) or (C, H, W), integers >= 1; got {image_shape!r}"
        )
    channels = int(sizes[0]) if len(sizes) == 3 else 1
    return channels, int(sizes[-2]), int(sizes[-1])


def _check_flat(name: str, X: Any, image_shape: Any, shape: tuple[int, int, int] | None) -> None:
    if shape is None or len(X.shape) != 2 or X.shape[1] == math.prod(shape):
        return
    raise ValueError(
        f"{name}: image_shape={tuple(image_shape)} has {math.prod(shape)} pixels, but the rows of X have "
        f"{X.shape[1]} columns; give the shape of the images that X holds, one a row"
    )


def is_integer(value: Any, low: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low
