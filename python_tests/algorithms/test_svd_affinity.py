"""The affinity of a truncated singular value decomposition, against the formula with NumPy's own decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from desc_ext.algorithms.graph import keep_share
from desc_ext.algorithms.svd_affinity import svd_power_affinity


def random_coefficients(n=30, seed=0):
    c = np.random.default_rng(seed).normal(size=(n, n))
    np.fill_diagonal(c, 0)
    return c


def kept(c, share):
    """Row by row: the largest until their sum reaches the share."""
    result = np.zeros_like(c)
    for i, row in enumerate(np.abs(c)):
        total = 0.0
        for j in np.argsort(-row):
            result[i, j] = c[i, j]
            total += row[j]
            if total >= share * row.sum():
                break
    return result


@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("rank", [7, 100])
def test_affinity_follows_the_formula(share, rank):
    c = random_coefficients()
    symmetric = kept(c, share)
    symmetric = (symmetric + symmetric.T) / 2 + np.eye(30)
    u, s, _ = np.linalg.svd(symmetric)
    rank_kept = min(rank, 29)
    rows = u[:, :rank_kept] * np.sqrt(s[:rank_kept])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = np.maximum(rows @ rows.T, 0) ** 3
    np.fill_diagonal(expected, 0)
    found = svd_power_affinity(torch.from_numpy(c), share, rank, 3)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_array_equal(found, found.T)


def test_rows_of_different_blocks_are_unlinked():
    block = np.ones((10, 10)) / 9
    np.fill_diagonal(block, 0)
    c = np.kron(np.eye(3), block)
    found = svd_power_affinity(torch.from_numpy(c), 1.0, 3, 2)
    same = np.kron(np.eye(3), np.ones((10, 10))) - np.eye(30)
    np.testing.assert_allclose(found, same, atol=1e-9)


def test_keep_share_keeps_signs_and_the_largest():
    c = random_coefficients()
    np.testing.assert_array_equal(keep_share(torch.from_numpy(c), 0.5).numpy(), kept(c, 0.5))
    np.testing.assert_array_equal(keep_share(torch.from_numpy(c), 1.0).numpy(), c)
