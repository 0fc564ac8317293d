"""Writes scattering_reference.npz: images and what kymatio makes of them, for test_scattering.py.

kymatio 0.3 does not import with SciPy 1.17 or newer, so it needs an environment of its own, with scikit-learn for its
photographs:

    pip install "kymatio==0.3.0" "scipy<1.17" scikit-learn pillow
    python make_scattering_reference.py

kymatio's transform is run as it is, on images padded beforehand (``S_{i}``). Its filters are single precision, with
3.1415 in place of π; the values in double precision come from the same source with those three constants replaced.
``released_{i}`` are those of the filters as they are.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
from kymatio.scattering2d import filter_bank as released
from kymatio.scattering2d.backend.numpy_backend import backend
from kymatio.scattering2d.core.scattering2d import scattering2d
from sklearn.datasets import load_digits, load_sample_images

# (J, L, height, width, images); the padded sizes are the next powers of two, at least 2^J
CASES = [
    (3, 8, 28, 28, "photograph"),
    (2, 8, 24, 13, "random"),
    (1, 4, 16, 16, "random"),
    (3, 6, 8, 8, "digits"),
    (2, 5, 16, 32, "photograph"),
    (4, 4, 12, 20, "photograph"),
]


def double_precision():
    """kymatio's filter bank with its source's single precision replaced."""
    source = inspect.getsource(released)
    for old, new in (
        ("np.complex64", "np.complex128"), ("np.float32", "np.float64"), ("2 * 3.1415 *", "2 * np.pi *"),
    ):  # fmt: skip
        assert old in source
        source = source.replace(old, new)
    module: dict = {}
    exec(compile(source, "double precision", "exec"), module)
    return module["filter_bank"]


def transform(images, J, L, filter_bank):
    filters = filter_bank(*images.shape[1:], J, L)

    def whole(maps):
        return maps  # padded before, and nothing of the result cut off

    return scattering2d(images, whole, whole, backend, J, L, filters["phi"], filters["psi"], 2, "array")


def pad(images, J):
    sides = []
    for size in images.shape[1:]:
        more = max(2**J, 2 ** int(np.ceil(np.log2(size)))) - size
        sides.append((more // 2, more - more // 2))  # as kymatio does
    return np.pad(images, ((0, 0), *sides), mode="reflect")


def pictures(kind, height, width, random):
    if kind == "random":
        return random.normal(size=(2, height, width)).astype(np.float32)
    if kind == "digits":
        return load_digits().images[:2].astype(np.float32)
    gray = [np.asarray(image, dtype=np.float32).mean(2) / 256 for image in load_sample_images().images]
    return np.stack([image[200 : 200 + 2 * height : 2, 300 : 300 + 2 * width : 2] for image in gray])


def main():
    random, arrays = np.random.default_rng(0), {"cases": np.array([case[:4] for case in CASES])}
    for i, (J, L, height, width, kind) in enumerate(CASES):
        images = pictures(kind, height, width, random)
        padded = pad(images.astype(np.float64), J)
        arrays[f"images_{i}"] = images
        arrays[f"S_{i}"] = transform(padded, J, L, double_precision())
        arrays[f"released_{i}"] = transform(padded, J, L, released.filter_bank).astype(np.float32)
    path = Path(__file__).with_name("scattering_reference.npz")
    np.savez_compressed(path, **arrays)
    print(path.name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
