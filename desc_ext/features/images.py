"""Images as rows: which arrays are stacks of images, and the shape of one."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["as_numpy", "channels_first", "check_image_shape", "image_rows", "is_integer", "resized_images"]

_RESIZED_TOGETHER = 1024  # images
_USUAL_CHANNELS = (1, 3, 4)  # grey, colour, colour with opacity


def channels_first(
    name: str, X: Any, image_shape: tuple[int, ...] | None = None, n_channels: int | None = None
) -> np.ndarray:
    """A stack of images as [n, C, H, W]: the one rule by which estimators, files and external data are read.

    A stack [n, H, W] is grey, C = 1. Of four axes, axis 1 or axis 3 has the channels:

    - ``image_shape`` decides where it is given: [n, C, H, W] and [n, H, W, C] of that shape are taken (both alike where
      C = H = W, then channels first).
    - Otherwise channels are 1, 3 or 4 (or ``n_channels``): first where axis 1 has as many entries and axis 3 has not,
      last where axis 3 has and axis 1 has not. Where both or neither have, nothing is guessed.

    Args:
        name: of the caller, for the messages.
        X: a stack [n, H, W], [n, C, H, W] or [n, H, W, C]; NumPy array, memory map or torch tensor of any dtype.
        image_shape: (H, W) or (C, H, W), or None.
        n_channels: C where it is known and the size is not.

    Returns:
        [n, C, H, W] in the dtype of ``X`` (half types of torch as float32), a view of it.

    Raises:
        ValueError: ``X`` has not three or four axes, holds images without pixels or of another shape, or it is not clear
            which axis has the channels; or ``image_shape`` is no such shape.
    """
    shape = check_image_shape(name, image_shape)
    if isinstance(X, Tensor):
        X = as_numpy(X)
    elif not hasattr(X, "shape"):
        X = np.asarray(X)
    sizes = tuple(X.shape)
    if len(sizes) not in (3, 4):
        raise ValueError(
            f"{name}: a stack of images is [n, H, W], [n, C, H, W] or [n, H, W, C]; got shape {list(sizes)}"
        )
    if 0 in sizes[1:]:
        raise ValueError(f"{name}: X holds images without pixels, shape {list(sizes)}")
    if len(sizes) == 3:
        X = X[:, None]
    elif not _first_axis_has_channels(name, sizes, shape, n_channels):
        X = np.moveaxis(X, 3, 1)
    if shape is not None and X.shape[1:] != shape:
        raise ValueError(
            f"{name}: X is a stack of images {sizes[1:]} (shape {list(sizes)}), but images of "
            f"{tuple(image_shape or ())} are wanted; give X [n, H, W], [n, C, H, W] or [n, H, W, C] of that shape"
        )
    return X


def _first_axis_has_channels(
    name: str, sizes: tuple[int, ...], shape: tuple[int, int, int] | None, n_channels: int | None
) -> bool:
    if shape is not None:
        return sizes[1:] == shape or (*sizes[3:], *sizes[1:3]) != shape
    counts = _USUAL_CHANNELS if n_channels is None else (n_channels,)
    first, last = sizes[1] in counts, sizes[3] in counts
    if first == last:
        wanted = "1, 3 or 4" if n_channels is None else f"the wanted {n_channels}"
        raise ValueError(
            f"{name}: X is a stack of images of shape {list(sizes)}, and {'both' if first else 'none'} of its axes 1 and 3 "
            f"could be the channels, {wanted}; give [n, C, H, W] or [n, H, W, C] and image_shape=(C, H, W)"
        )
    return first


def image_rows(
    name: str, X: Any, image_shape: tuple[int, ...] | None
) -> tuple[Any, tuple[int, int, int] | None]:
    """Images as rows, without copying them, and the shape (C, H, W) of each.

    Args:
        name: of the caller, for the messages.
        X: a stack [n, H, W], [n, C, H, W] or [n, H, W, C] (which of the two, :func:`channels_first` says), or flat rows
            [n, C·H·W]; NumPy array, memory map or torch tensor, and for flat rows whatever scikit-learn takes (left
            unchecked but for their width).
        image_shape: (H, W) or (C, H, W), which flat rows need to be images; a stack may do without.

    Returns:
        Rows [n, C·H·W], channel after channel: a view of ``X`` where it has them so (flat rows as they came), a copy of
            images with channels last; and (C, H, W), or None for flat rows of which no image shape is known.

    Raises:
        ValueError: ``image_shape`` is no such shape, ``X`` is not of that shape, or its channels are not clear.
    """
    shape = check_image_shape(name, image_shape)
    if isinstance(X, Tensor):
        X = as_numpy(X)
    if not hasattr(X, "shape"):
        X = np.asarray(X)
    if len(X.shape) not in (3, 4):
        _check_flat(name, X, image_shape, shape)
        return X, shape
    stack = channels_first(name, X, image_shape)
    _, *found = stack.shape
    return stack.reshape(len(stack), math.prod(found)), (found[0], found[1], found[2])


def resized_images(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Images [n, H, W] or [n, C, H, W] at ``size`` (height, width): bilinear, with antialiasing; float32."""
    stack = torch.from_numpy(np.array(images, dtype=np.float32))
    maps = stack[:, None] if stack.dim() == 3 else stack
    resized = [
        torch.nn.functional.interpolate(part, tuple(size), mode="bilinear", antialias=True)
        for part in maps.split(_RESIZED_TOGETHER)
    ]
    return torch.cat(resized).reshape(*stack.shape[:-2], *size).numpy()


def as_numpy(X: Tensor) -> np.ndarray:
    """The tensor as an array, half types as float32, which NumPy lacks or computes slowly."""
    X = X.detach().cpu()
    return (X if X.dtype.itemsize > 2 or not X.is_floating_point() else X.float()).numpy()


def check_image_shape(name: str, image_shape: Any) -> tuple[int, int, int] | None:
    """(C, H, W) of the option ``image_shape``, (H, W) or (C, H, W) or None; ValueError where it is none of these."""
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
