"""Functions of all rows, chunk by chunk: a row has the same bits whatever rows stand beside it, for any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from desc_ext.engine.processes import processes
from desc_ext.engine.stored_values import StoredValues, Values
from desc_ext.fixed_shapes import TILE_ROWS, in_threads

__all__ = [
    "CHUNK_ROWS",
    "gathered",
    "in_blocks",
    "map_blocks",
    "map_chunks",
    "map_in_memory",
    "over_chunks",
    "padded",
]

# Whole-data passes use chunks of exactly this many rows, the last one padded, each computed by one thread: with the layers
# of desc_ext.nn a row has the same bits whatever rows stand beside it, so predict agrees with labels_.
CHUNK_ROWS = 12 * TILE_ROWS
_BLOCK_CHUNKS = 64  # computed together where results are put into memory or a file block by block


@overload
def map_chunks(function: Callable[..., Tensor], *arrays: Tensor) -> Tensor: ...
@overload
def map_chunks(function: Callable[..., Tensor], *arrays: Values) -> Any: ...
def map_chunks(function: Callable[..., Tensor], *arrays: Values) -> Values:
    """``function`` of row-aligned values, CHUNK_ROWS rows at a time; results are concatenated.

    Where the first values lie in a file, so do those that are returned.
    """
    n, first = len(arrays[0]), arrays[0]
    if isinstance(first, Tensor):
        return over_chunks(_chunk_of(function, arrays), slice(0, n), first.device)
    return StoredValues(n, map_blocks(function, *arrays), first.folder)


def map_in_memory(function: Callable[..., Tensor], *arrays: Values) -> Tensor:
    """:func:`map_chunks` of a function of few values a row, which stay in memory wherever ``arrays`` lie."""
    return gathered(_chunk_of(function, arrays), len(arrays[0]), arrays[0].device)


def map_blocks(function: Callable[..., Tensor], *arrays: Values) -> Iterator[Tensor]:
    """:func:`map_chunks`, some rows after the other where the first values lie in a file, else all at once.

    For sums over the rows: those of tensors then keep their bits.
    """
    chunk, n, first = _chunk_of(function, arrays), len(arrays[0]), arrays[0]
    if isinstance(first, Tensor):
        return iter([over_chunks(chunk, slice(0, n), first.device)])
    return in_blocks(chunk, n, first.device)


def _chunk_of(function: Callable[..., Tensor], arrays: Sequence[Values]) -> Callable[[slice], Tensor]:
    return lambda part: padded(function, *(array[part] for array in arrays))


def in_blocks(function: Callable[[slice], Tensor], n: int, device: torch.device) -> Iterator[Tensor]:
    """``function`` of every chunk of n rows; those of some chunks after the other."""
    for start in range(0, n, _BLOCK_CHUNKS * CHUNK_ROWS):
        yield over_chunks(function, slice(start, min(start + _BLOCK_CHUNKS * CHUNK_ROWS, n)), device)


def gathered(function: Callable[[slice], Tensor], n: int, device: torch.device) -> Tensor:
    """``function`` of every chunk of n rows, concatenated without a second copy of many."""
    blocks_found = in_blocks(function, n, device)
    first = next(blocks_found)
    if len(first) == n:
        return first
    found = first.new_empty(n, *first.shape[1:])
    found[: len(first)] = first
    start = len(first)
    for block in blocks_found:
        found[start : start + len(block)] = block
        start += len(block)
    return found


def over_chunks(function: Callable[[slice], Tensor], rows: slice, device: torch.device) -> Tensor:
    """``function`` of every chunk of ``rows``, concatenated; processes that fit together share the chunks."""
    n_chunks = -(-(rows.stop - rows.start) // CHUNK_ROWS)
    among = processes().for_items(n_chunks)
    starts = [rows.start + i * CHUNK_ROWS for i in range(n_chunks)]
    found = torch.cat(
        in_threads(
            lambda start: function(slice(start, min(start + CHUNK_ROWS, rows.stop))),
            starts[among.share(n_chunks)],
            device,
        )
    )
    if among.size == 1:
        return found

    def n_rows(share: slice) -> int:
        return min(share.stop * CHUNK_ROWS, rows.stop - rows.start) - share.start * CHUNK_ROWS

    return among.concatenated(found, n_chunks, n_rows)


def padded(function: Callable[..., Tensor], *arrays: Tensor) -> Tensor:
    missing = CHUNK_ROWS - len(arrays[0])
    if missing:
        # repeats of the first row rather than zeros: a zero row would divide by zero in some functions
        arrays = tuple(torch.cat([a, a[:1].expand(missing, *a.shape[1:])]) for a in arrays)
    result = function(*arrays)
    return result[: CHUNK_ROWS - missing]
