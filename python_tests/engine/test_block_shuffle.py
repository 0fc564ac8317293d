"""Random mini-batches of rows on disk: all rows once, in an order of the seed, few reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.subspaces import planted
from sklearn.metrics import adjusted_rand_score

from desc_ext.data import stored_rows
from desc_ext.engine import block_shuffle, inputs
from desc_ext.engine.block_shuffle import BlockShuffle
from desc_ext.engine.rows import scaled_rows
from desc_ext.models import DEC, load_model

N, M, BLOCK, WINDOW = 1003, 4, 20, 3  # the last block has 3 rows


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Blocks of 20 rows, windows of three blocks."""
    monkeypatch.setattr(block_shuffle, "_WINDOW_BYTES", WINDOW * BLOCK * M * 4)
    np.save(tmp_path / "x.npy", np.arange(N * M, dtype=np.float32).reshape(N, M))
    rows = stored_rows(tmp_path / "x.npy")
    rows.block_bytes = BLOCK * M * 4
    return rows


def shuffle(stored, seed=0):
    return BlockShuffle(stored, torch.Generator().manual_seed(seed))


def test_all_rows_come_once_in_windows_of_whole_blocks(stored):
    order = shuffle(stored).order.numpy()
    np.testing.assert_array_equal(np.sort(order), np.arange(N))
    np.testing.assert_array_equal(order, shuffle(stored).order)
    assert (order != shuffle(stored, 1).order.numpy()).mean() > 0.9
    blocks, start, seen = order // BLOCK, 0, []
    sizes = np.bincount(np.arange(N) // BLOCK)
    while start < N:  # windows: as many rows as the blocks of their first rows have
        first = list(dict.fromkeys(blocks[start:].tolist()))[: min(WINDOW, len(sizes) - len(seen))]
        stop = start + sizes[first].sum()
        assert set(blocks[start:stop]) == set(first)
        assert (np.diff(blocks[start:stop]) != 0).sum() > len(first)  # shuffled across its blocks
        seen += first
        start = stop
    assert sorted(seen) == list(range(len(sizes)))
    assert np.abs(np.corrcoef(seen, np.arange(len(seen)))[0, 1]) < 0.4


@pytest.mark.parametrize("size", [7, 50, 1003])
def test_mini_batches_are_those_rows_and_each_row_is_read_once(stored, size, monkeypatch):
    read, real = [], type(stored).__getitem__
    monkeypatch.setattr(
        type(stored), "__getitem__", lambda self, index: read.append(len(index)) or real(self, index)
    )
    shuffled = shuffle(stored)
    batches = shuffled.order.split(size)
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    for batch in batches:
        np.testing.assert_array_equal(
            shuffled.take(batch.numpy()), np.arange(N * M, dtype=np.float32).reshape(N, M)[batch]
        )
    assert sum(read) == N
    assert len(read) == (1 if size == N else 17)


def test_rows_that_are_no_mini_batch(stored):
    """Such as those that an estimator looks at between mini-batches."""
    shuffled = shuffle(stored)
    index = np.array([1002, 0, 500, 501, 77, 1001])
    np.testing.assert_array_equal(shuffled.take(index)[:, 0], index * M)


def test_rows_in_memory_are_shuffled_as_ever(stored, tmp_path):
    place = ("none", torch.device("cpu"), torch.float32)
    for X, wanted in (
        (np.asarray(stored), torch.randperm(N, generator=torch.Generator().manual_seed(3))),
        (stored, shuffle(stored, 3).order),
    ):
        rows = scaled_rows(X, *place)
        batches = rows.shuffled(torch.Generator().manual_seed(3), 100)
        assert torch.cat(list(batches)).equal(wanted)
        assert torch.cat([rows.take(batch.numpy()) for batch in batches])[:, 0].equal(wanted.float() * M)


@pytest.mark.bits
def test_a_network_learns_from_rows_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "READ_WHOLE", 0)
    monkeypatch.setattr(block_shuffle, "_WINDOW_BYTES", WINDOW * BLOCK * M * 4)
    X, y, _ = planted(600, noise=0.02)
    X = (X + 8 * np.eye(4, X.shape[1])[y]).astype(np.float32)
    np.save(tmp_path / "x.npy", X)
    stored = stored_rows(tmp_path / "x.npy")
    stored.block_bytes = BLOCK * M * 4
    options = {
        "hidden_sizes": (16,),
        "latent_dim": 4,
        "pretrain_epochs": 30,
        "max_rounds": 3,
        "random_state": 0,
    }

    def fit():
        return DEC(4, preset="paper", **options).fit(stored)

    found, again = fit(), fit()
    np.testing.assert_array_equal(found.embedding_, again.embedding_)
    np.testing.assert_array_equal(found.predict(stored), found.labels_)
    np.testing.assert_array_equal(found.transform(X), found.embedding_)
    assert adjusted_rand_score(y, found.labels_) > 0.9
    found.save(tmp_path / "model")
    np.testing.assert_array_equal(load_model(tmp_path / "model").predict(stored), found.labels_)


def test_small_blocks_mix_rows_that_lie_class_by_class(tmp_path):
    """Windows, of which mini-batches come, have the ten classes in about equal shares."""
    n, m = 60_000, 784
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (n, m))  # of which no byte is written
    rows, shares = stored_rows(tmp_path / "x.npy"), []
    for block_bytes in (2**16, rows.block_bytes):
        rows.block_bytes = block_bytes
        classes = shuffle(rows).order.numpy() // (n // 10)
        windows = classes[: 5 * 10_000].reshape(5, -1)
        shares.append(np.array([np.bincount(window, minlength=10) for window in windows]) / 10_000)
    assert np.abs(shares[0] - 0.1).max() < 0.035
    assert np.abs(shares[1] - 0.1).max() > 0.08
