"""Rows without their repeats: what expresses rows by each other would see nothing but the copies of a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

__all__ = ["DistinctRows", "distinct_rows", "row_hashes"]

_HASH_SEED = 0
_WORD_BYTES = 8
_WORDS = 2**16  # hashed together: few enough for the caches
_HALF, _ODD = np.uint64(32), np.uint64(0x9E3779B97F4A7C15)
_BLOCK_ROWS = 8192


@dataclass(frozen=True)
class DistinctRows:
    """Which of n rows differ: d of them, in the order in which they first come."""

    first: np.ndarray  # int64 [d], ascending: where each distinct row comes first
    number: np.ndarray  # int64 [n], which distinct row every row is
    counts: np.ndarray  # int64 [d]

    def __len__(self) -> int:
        return len(self.first)

    @property
    def repeated(self) -> bool:
        """Whether a row comes twice."""
        return len(self.first) < len(self.number)

    @property
    def weights(self) -> np.ndarray | None:
        """How often each distinct row comes, float64 [d]; None where all come once."""
        return self.counts.astype(np.float64) if self.repeated else None

    def take(self, rows: Tensor) -> Tensor:
        """The distinct rows [d, p] of ``rows`` [n, p]."""
        return rows[self.first] if self.repeated else rows

    def merged(self, coefficient: Tensor) -> Tensor:
        """|C| [d, d] of the coefficients [n, n]: of each row the sum over the copies of another, the mean over its own."""
        if not self.repeated:
            return coefficient
        number, d = torch.from_numpy(self.number).to(coefficient.device), len(self)
        columns = coefficient.new_zeros(len(number), d).index_add_(1, number, coefficient.abs())
        rows = coefficient.new_zeros(d, d).index_add_(0, number, columns)
        rows /= torch.from_numpy(self.counts).to(rows)[:, None]
        return rows.fill_diagonal_(0)

    def spread(self, affinity: np.ndarray | sparse.csr_array) -> np.ndarray | sparse.csr_array:
        """An affinity [n, n] of that between the distinct rows [d, d]: each stands where it first comes, copies have none."""
        if not self.repeated:
            return affinity
        n = len(self.number)
        if isinstance(affinity, np.ndarray):
            spread = np.zeros((n, n), affinity.dtype)
            spread[np.ix_(self.first, self.first)] = affinity
            return spread
        entries = affinity.tocoo()
        places = (self.first[entries.row].astype(np.int32), self.first[entries.col].astype(np.int32))
        return sparse.csr_array((entries.data, places), shape=(n, n))


def distinct_rows(rows: Tensor) -> DistinctRows:
    """Which of the rows [n, p] (float32 or float64) are equal in all entries; 0 and −0 are equal."""
    array = np.ascontiguousarray(rows.detach().cpu().numpy())
    n = len(array)
    key = row_hashes(array)
    ordered = np.sort(key)
    if (ordered[1:] != ordered[:-1]).all():  # the usual case, without the order
        return DistinctRows(np.arange(n), np.arange(n), np.ones(n, dtype=np.int64))
    _, first, number, counts = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    if len(first) < n and not _equal(array, first[number]):
        # two different rows have one hash: compare the rows themselves
        _, first, number, counts = np.unique(
            array + 0.0, axis=0, return_index=True, return_inverse=True, return_counts=True
        )
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return DistinctRows(first[order], rank[number.ravel()], counts[order])


def row_hashes(array: np.ndarray) -> np.ndarray:
    """uint64 [n] of rows [n, p] of numbers, equal for equal rows: a sum of their words, each times a random odd number."""
    if array.itemsize > _WORD_BYTES:  # long doubles have bytes without a meaning
        array = array.astype(np.float64)
    n, size = len(array), array.itemsize * array.shape[1]
    n_words = -(-size // _WORD_BYTES)
    factors = np.random.default_rng(_HASH_SEED).integers(2**63, size=n_words, dtype=np.uint64) * 2 + 1
    found = np.zeros(n, dtype=np.uint64)
    n_together = max(_WORDS // max(n_words, 1), 1)
    for start in range(0, n, n_together):
        block = array[start : start + n_together]
        padded = np.zeros((len(block), n_words * _WORD_BYTES), dtype=np.uint8)
        padded[:, :size] = np.ascontiguousarray(block + block.dtype.type(0)).view(
            np.uint8
        )  # + 0 turns −0 into 0
        words = padded.view(np.uint64)
        # The low bits of a product know only the low bits of its factors, which are 0 in round numbers: mix them.
        words ^= words >> _HALF
        words *= _ODD
        words ^= words >> _HALF
        words *= factors
        found[start : start + len(block)] = words.sum(1, dtype=np.uint64)
    return found


def _equal(array: np.ndarray, index: np.ndarray) -> bool:
    """Whether every row equals that with the number ``index`` [n]."""
    blocks = (slice(start, start + _BLOCK_ROWS) for start in range(0, len(array), _BLOCK_ROWS))
    return all(np.array_equal(array[block], array[index[block]]) for block in blocks)
