"""What a fit computes of rows on disk, values [n, m] of all rows: in a file too, read block by block and by number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from desc_ext.stored import written_rows

__all__ = ["StoredValues", "Values", "row_blocks"]

_BLOCK_BYTES = 2**24  # of a tensor of :func:`row_blocks`


class StoredValues:
    """Values [n, m] in a file without a name: it goes with this object, even if Python is killed.

    As much of a tensor as what goes through all rows needs: shape, dtype and device, slices, rows by number. They are read,
    not mapped: pages of a map would count as memory.

    Args:
        n: rows.
        parts: tensors [.., m] of one dtype and device, which are the values one after the other.
        folder: where the file lies; None: the system's folder for temporary files (``TMPDIR``).

    Attributes:
        rows: the same as :class:`StoredRows`.

    Raises:
        OSError: the disk is full.
    """

    def __init__(self, n: int, parts: Iterable[Tensor], folder: Path | None = None) -> None:
        self.folder = folder

        def arrays() -> Iterator[np.ndarray]:
            for part in parts:
                self.dtype, self.device, self.shape = part.dtype, part.device, (n, part.shape[1])
                yield part.cpu().numpy()

        self.rows = written_rows(n, arrays(), folder)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """Rows [.., m] of a slice, or of int64 numbers [t] in any order."""
        found = self.rows[index if isinstance(index, slice) else index.cpu().numpy()]
        return torch.from_numpy(np.ascontiguousarray(found)).to(self.device)

    def numpy_blocks(self) -> Iterator[np.ndarray]:
        """All rows in order, some at a time."""
        return (block.cpu().numpy() for (block,) in row_blocks(self))


Values = Tensor | StoredValues  # [n, m], of all rows


def row_blocks(values: Values, *others: Values) -> Iterator[tuple[Tensor, ...]]:
    """Row-aligned values some rows at a time: all of them where ``values`` is a tensor, so that sums keep their bits."""
    if isinstance(values, Tensor):
        yield values, *(other[:] for other in others)
        return
    n_rows = max(_BLOCK_BYTES // (values.shape[1] * values.dtype.itemsize), 1)
    for start in range(0, len(values), n_rows):
        part = slice(start, start + n_rows)
        yield values[part], *(other[part] for other in others)
