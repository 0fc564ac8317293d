"""Augmentation of images against SciPy's affine maps, and its random maps against their ranges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from desc_ext.nn.augmentation import AFFINE_RANGES, affine_images, random_affine


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(9, 9), (12, 7)])
def test_an_affine_map_is_scipys(size):
    """SciPy counts pixels from a corner, y before x, and reads at matrix @ (y, x) + offset."""
    images = np.random.default_rng(0).random((2, 3, *size))
    angle, scale, shift = np.deg2rad(20.0), 1.1, np.array([0.7, -1.3])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    matrix = torch.from_numpy(np.c_[turn, shift]).repeat(2, 1, 1)
    found = affine_images(torch.from_numpy(images), matrix).numpy()
    centre = (np.array(size) - 1) / 2
    by_rows = turn[::-1, ::-1]
    offset = centre - by_rows @ centre + shift[::-1]
    for i in range(2):
        for channel in range(3):
            expected = ndimage.affine_transform(images[i, channel], by_rows, offset, order=1, mode="nearest")
            np.testing.assert_allclose(found[i, channel], expected, atol=1e-10)


def test_the_identity_changes_nothing_and_a_mirror_turns_rows_around():
    images = torch.from_numpy(np.random.default_rng(0).random((4, 2, 6, 5)))
    identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]], dtype=torch.float64).repeat(4, 1, 1)
    torch.testing.assert_close(affine_images(images, identity), images)
    identity[:, 0, 0] = -1
    torch.testing.assert_close(affine_images(images, identity), images.flip(3))


@pytest.mark.parametrize("flip", [False, True])
def test_random_maps_are_within_their_ranges(flip):
    n, size = 4000, (20, 30)
    matrix = random_affine(n, size, generator(), flip, torch.float64).numpy()
    determinant = np.linalg.det(matrix[:, :, :2])
    assert ((determinant < 0).mean() == pytest.approx(0.5, abs=0.05)) if flip else (determinant > 0).all()
    scale = 1 / np.sqrt(np.abs(determinant))
    angle = np.rad2deg(np.arctan2(-matrix[:, 0, 1], matrix[:, 1, 1]))
    shifts = matrix[:, :, 2] / np.array(size[::-1])
    for value, middle, width in [
        (scale, 1, AFFINE_RANGES["scale"]),
        (angle, 0, AFFINE_RANGES["rotation"]),
        (shifts[:, 0], 0, AFFINE_RANGES["shift"]),
        (shifts[:, 1], 0, AFFINE_RANGES["shift"]),
    ]:
        deviation = (value - middle) / width
        assert 0.99 < deviation.max() <= 1 + 1e-9
        assert -1 - 1e-9 <= deviation.min() < -0.99
        assert abs(deviation.mean()) < 0.05
        assert deviation.std() == pytest.approx(1 / np.sqrt(3), rel=0.05)


@pytest.mark.bits
def test_the_same_bits_for_any_number_of_threads():
    images = torch.rand(300, 3, 13, 17, generator=generator(1))
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            maps = random_affine(300, (13, 17), generator(2), True, torch.float32)
            found.append(affine_images(images, maps))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], images)
    others = random_affine(300, (13, 17), generator(3), True, torch.float32)
    assert not torch.equal(found[0], affine_images(images, others))
