"""Products and passes over rows that give a row the same bits at every position and beside whatever rows.

A matrix product of one fixed shape does not do so yet: measured with MKL's code for AVX2, for a baseline processor and for
AMD's, bits depended on where in the block a row stood (with few columns, odd widths, or in the last rows; with more
threads, in other rows too). The likely reasons are the rows and columns that whole tiles leave over, which other routines
compute, and rows that begin at unaligned addresses. So :func:`row_linear` leaves nothing over and aligns what it
multiplies: then no difference was found. And it counts on one thread: several would cut the rows where their number says,
:func:`in_threads` and :func:`in_order` compute blocks of rows beside each other instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["TILE_ROWS", "in_order", "in_threads", "row_linear"]

# Multiples of what tiles usually measure: 4, 6, 8, 12, 16, 24 or 48 rows, 4, 8 or 16 columns.
# python_tests/engine/test_rows.py tries whether that is enough for the BLAS at hand.
TILE_ROWS, _TILE = 48, 16
_ALIGNMENT = 64  # bytes


def row_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weightᵀ + bias [m, n] of ``x`` [m, k], ``weight`` [n, k] and ``bias`` [n], without gradients.

    On a CPU, and one thread, the bits of a row depend on it, on ``weight`` and ``bias`` and on m alone.
    """
    if x.device.type != "cpu":
        return functional.linear(x, weight, bias)
    m, n = len(x), len(weight)
    x, weight = _whole_tiles(x, TILE_ROWS), _whole_tiles(weight, _TILE)
    if bias is not None:
        bias = functional.pad(bias, (0, -n % _TILE))
    product = functional.linear(x, weight, bias)
    return product if product.shape == (m, n) else product[:m, :n].contiguous()


def _whole_tiles(matrix: Tensor, rows: int) -> Tensor:
    """``matrix``, or a copy with zeros up to whole tiles, contiguous and aligned."""
    height, width = matrix.shape
    if height % rows or width % _TILE:
        return functional.pad(matrix.contiguous(), (0, -width % _TILE, 0, -height % rows))
    matrix = matrix.contiguous()
    return matrix.clone() if matrix.data_ptr() % _ALIGNMENT else matrix


def in_threads(function: Callable, items: Iterable, device: torch.device) -> list:
    """``function`` of each item, in order: on a CPU as many at a time as torch has threads, each computed by one.

    So no result depends on the number of threads.
    """
    items, n_threads = list(items), torch.get_num_threads()
    if device.type != "cpu" or n_threads == 1:
        return [function(item) for item in items]
    with_gradients = torch.is_grad_enabled()  # which every thread has for itself

    def start() -> None:
        torch.set_num_threads(1)
        torch.set_grad_enabled(with_gradients)

    try:
        if len(items) == 1:
            torch.set_num_threads(1)
            return [function(items[0])]
        with ThreadPoolExecutor(min(n_threads, max(len(items), 1)), initializer=start) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(n_threads)  # what threads begun later take over


def in_order(function: Callable, items: Iterable, device: torch.device) -> Iterator:
    """As :func:`in_threads`, one result after the other: no more items and results are in memory than threads, and 1.

    ``items`` are asked for in the thread that takes the results, as they are needed.
    """
    n_threads = torch.get_num_threads()
    if device.type != "cpu" or n_threads == 1:
        yield from map(function, items)
        return
    with_gradients = torch.is_grad_enabled()

    def start() -> None:
        torch.set_num_threads(1)
        torch.set_grad_enabled(with_gradients)

    try:
        with ThreadPoolExecutor(n_threads, initializer=start) as pool:
            waiting: deque[Future] = deque()
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(n_threads)
