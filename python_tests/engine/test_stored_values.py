"""Values of all rows in a file, and what first clusters and targets make of them: against the same values in memory."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from helpers.subspaces import planted

from desc_ext import ops
from desc_ext import stored as stored_module
from desc_ext.algorithms import landmarks
from desc_ext.algorithms.first_clusters import by_subspaces, given_clusters
from desc_ext.engine import chunks, stored_values
from desc_ext.engine import rows as rows_module
from desc_ext.engine.chunks import CHUNK_ROWS, map_blocks, map_chunks, map_in_memory
from desc_ext.engine.rows import Rows
from desc_ext.engine.stored_starts import (
    bases_of_stored,
    by_kmeans_of_stored,
    by_subspaces_of_stored,
    given_to_stored,
    means_of_stored,
)
from desc_ext.engine.stored_values import StoredValues, row_blocks
from desc_ext.norms import unit_rows

N, P, K, D = 3 * CHUNK_ROWS + 100, 12, 4, 3


@pytest.fixture(autouse=True)
def in_blocks(monkeypatch):
    """Rows are several blocks, the last of them not a whole one."""
    monkeypatch.setattr(chunks, "_BLOCK_CHUNKS", 2)
    monkeypatch.setattr(rows_module, "_BLOCK_ENTRIES", CHUNK_ROWS * P)
    monkeypatch.setattr(stored_values, "_BLOCK_BYTES", 700 * P * 8)


@pytest.fixture(scope="module")
def truth():
    X, y, _ = planted(N, p=P, noise=0.05)
    return X, y


def stored(X, folder=None):
    return StoredValues(len(X), torch.from_numpy(X).split(500), folder)


def test_values_are_read_by_slice_and_by_number(truth, tmp_path):
    X, _ = truth
    z = stored(X, tmp_path)
    assert (z.shape, z.dtype, len(z)) == ((N, P), torch.float64, N)
    assert not list(tmp_path.iterdir())  # the file has no name
    for part in (slice(None), slice(3, 1000), slice(N - 5, N + 9)):
        np.testing.assert_array_equal(z[part].numpy(), X[part])
    numbers = np.random.default_rng(0).integers(N, size=200)
    np.testing.assert_array_equal(z[torch.from_numpy(numbers)].numpy(), X[numbers])
    labels = torch.arange(N)
    found = list(row_blocks(z, labels))
    assert len(found) == -(-N // 700)
    np.testing.assert_array_equal(torch.cat([part for part, _ in found]).numpy(), X)
    assert torch.cat([part for _, part in found]).equal(labels)
    assert len(list(row_blocks(torch.from_numpy(X), labels))) == 1


def test_a_function_of_values_in_a_file_is_that_of_the_tensor(truth):
    X, _ = truth
    z, weight = stored(X), torch.rand(N, dtype=torch.float64)

    def function(part, h):
        return part[:, :5] * h[:, None]

    wanted = X[:, :5] * weight.numpy()[:, None]
    found = map_chunks(function, z, weight)
    assert isinstance(found, StoredValues)
    np.testing.assert_array_equal(found[:].numpy(), wanted)
    np.testing.assert_array_equal(map_in_memory(function, z, weight).numpy(), wanted)
    blocks = [len(block) for block in map_blocks(function, z, weight)]
    assert blocks == [2 * CHUNK_ROWS, CHUNK_ROWS + 100]
    tensor = torch.from_numpy(X)
    np.testing.assert_array_equal(map_in_memory(function, tensor, weight).numpy(), wanted)
    assert [len(block) for block in map_blocks(function, tensor, weight)] == [N]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a file that is always full")
def test_a_full_disk_is_said_with_a_way_out(truth, tmp_path, monkeypatch):
    with open("/dev/full", "wb") as full:
        monkeypatch.setattr(stored_module.tempfile, "TemporaryFile", lambda dir: full)
        with pytest.raises(
            OSError, match=r"0.0 GiB of values .* written to .*: .*No space left.*; make room there"
        ):
            stored(truth[0], tmp_path)


def test_means_and_bases_of_values_in_a_file(truth):
    X, y = truth
    z, labels = stored(X), torch.from_numpy(np.where(y == 2, 1, y))  # one cluster has no rows
    means = means_of_stored(z, labels, K).numpy()
    wanted = [X[labels.numpy() == k].mean(0) if k != 2 else X.mean(0) for k in range(K)]
    np.testing.assert_allclose(means, wanted, atol=1e-12)
    bases = bases_of_stored(z, torch.from_numpy(y), K, D).numpy()
    for k in range(K):
        directions = np.linalg.svd(X[y == k])[2][:D].T
        np.testing.assert_allclose(bases[k] @ bases[k].T, directions @ directions.T, atol=1e-9)


def test_kmeans_on_landmarks_assigns_the_others(truth, monkeypatch):
    monkeypatch.setattr(landmarks, "MOST_ROWS", 1000)
    monkeypatch.setattr(landmarks, "USUAL_LANDMARKS", 900)
    X, _ = truth
    found = by_kmeans_of_stored(stored(X), K, 3, 0)
    distances = np.linalg.norm(X[:, None] - found.centres.numpy(), axis=2)
    labels = distances.argmin(1)
    np.testing.assert_array_equal(found.labels.numpy(), labels)
    ordered = np.sort(distances, axis=1)
    for k in range(K):
        own = labels == k
        margins = (ordered[:, 1] - ordered[:, 0])[own]
        ranks = margins.argsort(kind="stable").argsort(kind="stable") + 1
        np.testing.assert_allclose(found.certainty.numpy()[own], ranks / own.sum())


def rows_of(values):
    return Rows(values.rows, torch.zeros(P), torch.ones(P), torch.device("cpu"), torch.float64)


def test_given_clusters_and_k_subspaces_in_passes(truth):
    X, y = truth
    rows, directions = rows_of(stored(X)), unit_rows(torch.from_numpy(X))
    found, wanted = given_to_stored(rows, y, K), given_clusters(directions, y, K)
    np.testing.assert_array_equal(found.labels.numpy(), y)
    np.testing.assert_allclose(found.certainty.numpy(), wanted.certainty.numpy())
    found = by_subspaces_of_stored(rows, P, K, D, 3, 0, directions=True)
    wanted = by_subspaces(directions, K, D, 3, 0)
    np.testing.assert_array_equal(found.labels.numpy(), wanted.labels.numpy())
    np.testing.assert_allclose(found.certainty.numpy(), wanted.certainty.numpy())
    assert len({(a, b) for a, b in zip(found.labels.tolist(), y.tolist(), strict=True)}) == K
    bases = bases_of_stored(stored(X), found.labels, K, D).numpy()
    residual = ops.projection_residual(torch.from_numpy(X), torch.from_numpy(bases)).numpy()
    np.testing.assert_array_equal(residual.argmin(1), found.labels.numpy())
