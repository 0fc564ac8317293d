"""Random mini-batches of rows on disk, whose every row would else be a read of its own."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from desc_ext.stored import StoredRows

__all__ = ["BlockShuffle"]

_WINDOW_BYTES = 2**25  # shuffled together, of which three are in memory
_WINDOWS_OF_A_BATCH = 2  # at most, where one ends; rows in more of them are no mini-batch of the order


class BlockShuffle:
    """An order of stored rows, and what its next mini-batches need of them in memory.

    Blocks of consecutive rows (2 MiB, or ``X.block_bytes``) come in random order; 32 MiB of them are a window, whose rows are
    shuffled. So a mini-batch has rows of 16 places of the data, or more, and all rows come once in an epoch. The next window
    is read in a thread while mini-batches are taken from one.

    Args:
        X: rows [n, m].
        generator: of the order; the same state gives the same one.
    """

    def __init__(self, X: StoredRows, generator: torch.Generator) -> None:
        n = len(X)
        self._X, self._rows = X, max(X.block_bytes // (X.nbytes // n), 1)
        blocks = torch.randperm(-(-n // self._rows), generator=generator)
        self._windows = [
            np.sort(part.numpy()) for part in blocks.split(max(_WINDOW_BYTES // X.block_bytes, 1))
        ]
        # of each block: its window, and how many rows of the window lie before it
        self._window_of, self._before = np.empty((2, len(blocks)), np.int64)
        for number, window in enumerate(self._windows):
            self._window_of[window] = number
            self._before[window] = np.arange(len(window)) * self._rows
        orders = [torch.from_numpy(self._numbers(window)) for window in self._windows]
        orders = [order[torch.randperm(len(order), generator=generator)] for order in orders]
        self.order = torch.cat(orders)  # int64 [n]
        self._reader = ThreadPoolExecutor(1, "read-ahead")
        self._read: dict[int, Future[np.ndarray]] = {}

    def take(self, index: np.ndarray) -> np.ndarray:
        """Rows ``index`` (int64 [t]) [t, m]: of a mini-batch of this order from memory."""
        blocks, within = np.divmod(index, self._rows)
        windows = self._window_of[blocks]
        needed = np.unique(windows)
        if len(needed) > _WINDOWS_OF_A_BATCH:
            return self._X[index]
        found = np.empty((len(index), self._X.shape[1]), self._X.dtype)
        for number in needed.tolist():
            own = windows == number
            # the last block, which alone may be shorter, is the last one of its window
            found[own] = self._window(number)[self._before[blocks[own]] + within[own]]
        return found

    def _numbers(self, window: np.ndarray) -> np.ndarray:
        """Row numbers of the blocks of a window, ascending."""
        numbers = (window[:, None] * self._rows + np.arange(self._rows)).reshape(-1)
        return numbers[numbers < len(self._X)]

    def _window(self, number: int) -> np.ndarray:
        for wanted in (number, number + 1):
            if wanted < len(self._windows) and wanted not in self._read:
                numbers = self._numbers(self._windows[wanted])
                self._read[wanted] = self._reader.submit(self._X.__getitem__, numbers)
        for old in [one for one in self._read if not number - 1 <= one <= number + 1]:
            del self._read[old]
        return self._read[number].result()
