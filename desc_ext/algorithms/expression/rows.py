"""What the functions of this folder share: checks of the rows and of options, tiles of rows, the form of the results."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from desc_ext.fixed_shapes import in_threads
from desc_ext.ops.checks import check_rows, shape_text

__all__ = ["by_tiles", "check_count", "check_expressed_rows", "largest"]

# Products of a tile of rows with all rows, at most: 64 MiB of float32.
_TILE_VALUES = 2**24


def check_expressed_rows(operator: str, z: Tensor) -> None:
    """float32 or float64 rows [n, p] without NaN or infinity, two at least."""
    check_rows(operator, z)
    if z.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{operator}: z must be float32 or float64, got {z.dtype}; convert it with z.float()")
    if len(z) < 2:
        raise ValueError(
            f"{operator}: z must have 2 rows at least, of which each is expressed by others, got shape {shape_text(z)}"
        )
    if not z.isfinite().all():
        row = int((~z.isfinite()).any(1).nonzero()[0])
        raise ValueError(
            f"{operator}: z must be finite, got NaN or infinity in row {row}; remove or replace such rows"
        )


def check_count(operator: str, name: str, value: int, z: Tensor) -> int:
    """An integer between 1 and n − 1."""
    if isinstance(value, bool) or int(value) != value or not 1 <= value <= len(z) - 1:
        raise ValueError(
            f"{operator}: {name} must be an integer between 1 and n - 1 = {len(z) - 1}, got {value}"
        )
    return int(value)


def by_tiles(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], z: Tensor, most_rows: int
) -> tuple[Tensor, Tensor]:
    """(indices, values) of all rows, from ``function`` of the numbers of a tile of rows.

    The size of a tile depends on the shape of ``z`` alone and a tile is computed by one thread: the bits are the same for
    any number of threads.
    """
    size = max(1, min(most_rows, _TILE_VALUES // len(z)))
    found = in_threads(function, torch.arange(len(z), device=z.device).split(size), z.device)
    return torch.cat([indices for indices, _ in found]), torch.cat([values for _, values in found])


def largest(size: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of ``size`` [t, m] and their columns, largest first, equal ones by their column."""
    values, columns = size.topk(k, dim=1)
    # topk leaves the order of equal values open
    columns, order = columns.sort(dim=1)
    values, by_size = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, by_size)
