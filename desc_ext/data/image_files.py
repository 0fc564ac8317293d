"""Image files: their size and colour, and their pixels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from desc_ext.data.messages import DataError

__all__ = ["IMAGE_SUFFIXES", "BadImages", "Look", "in_unit_range", "look_of", "pixels_of"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
_NAMED = 3  # of the images that cannot be used
_GREY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # more than eight bits a pixel


class Look(NamedTuple):
    """What of an image is known before its pixels: whether it is grey, of more than eight bits, height and width as seen."""

    grey: bool
    deep: bool
    height: int
    width: int


class BadImages:
    """Images of a folder that cannot be used, gathered so that one error names them all and each is mended once."""

    def __init__(self, folder: Path, n_images: int) -> None:
        self._folder, self._n_images = folder, n_images
        self._found: list[tuple[Path, DataError]] = []

    @contextmanager
    def gathering(self, file: Path) -> Iterator[None]:
        """Keeps the DataError of ``file`` in place of raising it."""
        try:
            yield
        except DataError as error:
            self._found.append((file, error))

    def __len__(self) -> int:
        return len(self._found)

    def refuse(self) -> None:
        """Raises DataError where there are some: of one what is wrong with it, of several how many, and the first ones."""
        if not self._found:
            return
        first = self._found[0][1]
        if len(self) == 1:
            raise first
        names = ", ".join(str(file.relative_to(self._folder)) for file, _ in self._found[:_NAMED])
        more = f" and {len(self) - _NAMED:,} more" if len(self) > _NAMED else ""
        raise DataError(
            f"{self._folder}: {len(self):,} of {self._n_images:,} images cannot be used: {names}{more}; mend them or take "
            f"them out. The first: {first}"
        ) from first


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """The image of a file; whatever goes wrong while it is read is a DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file)
        with image:
            frames = getattr(image, "n_frames", 1)
            if frames != 1:
                raise DataError(f"{file} holds {frames} pictures; wanted one a file")
            yield image
    except DataError:
        raise
    except Exception as error:  # whatever the bytes of a damaged or huge file lead Pillow to
        raise DataError(f"{file} cannot be read as an image: {error}") from error


def look_of(file: Path) -> Look:
    """What is known of the image in ``file``.

    Raises:
        DataError: it is no image, a damaged one, or holds several.
    """
    with _opened(file) as image:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        width, height = image.size[::-1] if turned else image.size
        mode = image.mode
        if mode == "P":  # a palette of greys is grey
            colours = np.array(image.getpalette("RGB") or [], dtype=int).reshape(-1, 3)
            mode = "L" if (colours == colours[:, :1]).all() else mode
        return Look(mode in _GREY, mode in _DEEP, height, width)


def pixels_of(file: Path, size: tuple[int, int], n_channels: int) -> np.ndarray:
    """[height, width] or [height, width, 3]: bytes, or of an image of more than eight bits float32 in [0, 1].

    Raises:
        DataError: as for :func:`look_of`; also where pixels are out of range.
    """
    with _opened(file) as image:
        seen = ImageOps.exif_transpose(image)
        deep = seen.mode in _DEEP
        flat = _of_deep(file, seen) if deep else seen.convert("L" if n_channels == 1 else "RGB")
        if flat.size != size[::-1]:
            flat = flat.resize(size[::-1], Image.Resampling.BILINEAR)
        array: np.ndarray = np.asarray(flat)
    return np.repeat(array[..., None], 3, axis=2) if deep and n_channels == 3 else array


def in_unit_range(pixels: np.ndarray) -> np.ndarray:
    """Pixels of :func:`pixels_of` as float32 in [0, 1]."""
    if pixels.dtype != np.uint8:
        return pixels
    found = pixels.astype(np.float32)
    found /= 255
    return found


def _of_deep(file: Path, image: Image.Image) -> Image.Image:
    """An image of sixteen bits, or of real numbers that lie in [0, 1], in Pillow's mode of real numbers."""
    values: np.ndarray = np.asarray(image, dtype=np.float32)
    if image.mode != "F":
        values = values / 65535
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise DataError(f"{file} has pixels outside of the range of 16 bits, or real ones outside of [0, 1]")
    return Image.fromarray(values)
