"""Folders of image files as rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from desc_ext.data.dataset import Dataset
from desc_ext.data.decoded import decoded_rows, headers_of
from desc_ext.data.folders import Member
from desc_ext.data.image_files import BadImages, in_unit_range, pixels_of
from desc_ext.data.messages import DataError, note
from desc_ext.data.preparation import Preparation, Reading
from desc_ext.stored import READ_WHOLE

__all__ = ["read_images"]


def read_images(
    path: Path, members: list[Member], reading: Reading, preparation: Preparation | None
) -> Dataset:
    """Images of a folder as float32 rows in [0, 1]: grey where all are, else red, green and blue; opacity is left out.

    Above 64 MiB they are rows on disk, as :func:`desc_ext.data.decoded.decoded_rows` says.

    Args:
        members: the files, and the classes that their folders are.
        reading: ``image_size`` (height, width), to which images of other sizes are brought; needed where sizes differ.
        preparation: of a result, whose images these shall be like in size and colour; None goes by the files.

    Raises:
        DataError: files that are no images or damaged ones, several pictures in one file, or sizes that differ.
        OSError: decoded images cannot be kept on the disk.
    """
    reading.refuse(path, "a folder of images, whose folders are the classes", "labels")
    reading.refuse(path, "a folder of images", "array", "columns", "drop", "id", "text", "header")
    headers = headers_of(path, members)
    sizes = list(zip(headers["height"].tolist(), headers["width"].tolist(), strict=True))
    n_channels = 1 if headers["grey"].all() else 3
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
    X: Any
    n_columns = height * width * n_channels
    if len(members) * n_columns * np.dtype(np.float32).itemsize > READ_WHOLE:
        X = decoded_rows(path, members, headers, (height, width), n_channels)
    else:
        X = np.empty((len(members), n_columns), np.float32)
        bad = BadImages(path, len(members))
        for row, member in zip(X, members, strict=True):
            with bad.gathering(member.file):
                row[:] = in_unit_range(pixels_of(member.file, (height, width), n_channels)).ravel()
        bad.refuse()
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
