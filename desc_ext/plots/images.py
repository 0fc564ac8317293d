"""Images as they are drawn: one rule for the sheet of examples and for the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["drawn_image", "tones"]


def tones(X: Any, rows: Sequence[int] | np.ndarray) -> tuple[float, float]:
    """The values that are drawn black and white, of all ``rows`` of ``X`` [n, m] together.

    Black is 0, or the least value where some are negative, and white the largest: an image is not drawn as its negative, and
    a dark one stays darker than the others.
    """
    black, white = 0.0, 0.0
    for row in rows:
        values = _finite(X[row])
        black, white = min(black, float(values.min())), max(white, float(values.max()))
    return black, white


def drawn_image(row: Any, shape: tuple[int, ...], tones: tuple[float, float]) -> np.ndarray:
    """Red, green and blue [H, W, 3], uint8, of an image.

    Args:
        row: its values [m], m the product of ``shape``; what is not finite is drawn as 0.
        shape: (H, W) or (H, W, channels). Three or four channels are colours, the fourth is left out; of other numbers of
            channels the first one is drawn, in grey.
        tones: the values that are drawn black and white, of :func:`tones`.
    """
    black, white = tones
    image = _finite(row).reshape(*shape[:2], -1)
    image = image[..., :3] if image.shape[2] in (3, 4) else np.repeat(image[..., :1], 3, axis=2)
    image = (image - black) / ((white - black) or 1.0)
    return (255 * image.clip(0, 1)).round().astype(np.uint8)


def _finite(row: Any) -> np.ndarray:
    return np.nan_to_num(np.asarray(row, dtype=np.float64), posinf=0, neginf=0)
