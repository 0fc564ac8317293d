"""Folders of image files as rows."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from desc_ext.data.dataset import Dataset
from desc_ext.data.folders import Member
from desc_ext.data.messages import DataError, note
from desc_ext.data.preparation import Preparation, Reading

__all__ = ["IMAGE_SUFFIXES", "read_images"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
_GREY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # more than eight bits a pixel


def read_images(
    path: Path, members: list[Member], reading: Reading, preparation: Preparation | None
) -> Dataset:
    """Images of a folder as float32 rows in [0, 1]: grey where all are, else red, green and blue; opacity is left out.

    Args:
        members: the files, and the classes that their folders are.
        reading: ``image_size`` (height, width), to which images of other sizes are brought; needed where sizes differ.
        preparation: of a result, whose images these shall be like in size and colour; None goes by the files.

    Raises:
        DataError: a file that is no image or a damaged one, several pictures in one file, or sizes that differ.
    """
    reading.refuse(path, "a folder of images, whose folders are the classes", "labels")
    reading.refuse(path, "a folder of images", "array", "columns", "drop", "id", "text", "header")
    modes, sizes = zip(*(_mode_and_size(member.file) for member in members), strict=True)
    n_channels = 1 if all(mode in _GREY for mode in modes) else 3
    wanted = reading.image_size
    if preparation is not None and preparation.image_shape is not None:
        n_channels = 1 if len(preparation.image_shape) == 2 else preparation.image_shape[-1]
        if n_channels not in (1, 3):
            raise DataError(
                f"{path}: the result was fitted to images of {n_channels} channels, files have 1 or 3"
            )
        wanted = wanted or (preparation.image_shape[0], preparation.image_shape[1])
    found = Counter(sizes)
    if wanted is None and len(found) > 1:
        most = ", ".join(f"{h}x{w} ({n} images)" for (h, w), n in found.most_common(4))
        raise DataError(
            f"{path} holds images of {len(found)} sizes, height x width {most}{' ...' if len(found) > 4 else ''}; bring "
            f"them to one: --image-size {found.most_common(1)[0][0][0]}x{found.most_common(1)[0][0][1]}"
        )
    height, width = wanted or sizes[0]
    other = sum(n for size, n in found.items() if size != (height, width))
    if other and preparation is not None:
        note(
            f"{path}: {other} of {len(members)} images were brought to {height}x{width}, what the result was fitted to"
        )
    if preparation is not None and preparation.of_bytes is False:
        note(
            f"{path}: pixels of files are in [0, 1]; the result was fitted to an array whose numbers were left as they are"
        )
    X = np.empty((len(members), height * width * n_channels), np.float32)
    for row, member in zip(X, members, strict=True):
        row[:] = _pixels(member.file, (height, width), n_channels).ravel()
    shape = (height, width) if n_channels == 1 else (height, width, n_channels)
    classes = [member.kind for member in members if member.kind is not None]
    names, labels = np.unique(classes, return_inverse=True) if classes else ((), None)
    return Dataset(
        path.absolute().name,
        X,
        None if labels is None else labels.astype(np.int64),
        tuple(map(str, names)) or None,
        shape,
        str(path),
        ids=np.array([str(member.file.relative_to(path)) for member in members]),
        preparation=Preparation(reading, image_shape=shape, of_bytes=True),
    )


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


def _mode_and_size(file: Path) -> tuple[str, tuple[int, int]]:
    """Mode, and (height, width) as a person sees the image."""
    with _opened(file) as image:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        width, height = image.size[::-1] if turned else image.size
        mode = image.mode
        if mode == "P":  # a palette of greys is grey
            colours = np.array(image.getpalette("RGB") or [], dtype=int).reshape(-1, 3)
            mode = "L" if (colours == colours[:, :1]).all() else mode
        return mode, (height, width)


def _pixels(file: Path, size: tuple[int, int], n_channels: int) -> np.ndarray:
    """[height, width] or [height, width, 3] in [0, 1]."""
    with _opened(file) as image:
        seen = ImageOps.exif_transpose(image)
        deep = seen.mode in _DEEP
        flat = _in_unit_range(file, seen) if deep else seen.convert("L" if n_channels == 1 else "RGB")
        if flat.size != size[::-1]:
            flat = flat.resize(size[::-1], Image.Resampling.BILINEAR)
        array: np.ndarray = np.asarray(flat, dtype=np.float32)
    array = array if deep else array / 255
    return np.repeat(array[..., None], 3, axis=2) if deep and n_channels == 3 else array


def _in_unit_range(file: Path, image: Image.Image) -> Image.Image:
    """An image of sixteen bits, or of real numbers that lie in [0, 1], in Pillow's mode of real numbers."""
    values: np.ndarray = np.asarray(image, dtype=np.float32)
    if image.mode != "F":
        values = values / 65535
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise DataError(f"{file} has pixels outside of the range of 16 bits, or real ones outside of [0, 1]")
    return Image.fromarray(values)
