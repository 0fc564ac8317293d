"""The passes over rows that k-subspaces makes: of rows in memory, or of rows that are read block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from desc_ext import ops

__all__ = ["InMemory", "SubspaceRows", "as_passes"]

T = TypeVar("T")


class SubspaceRows(Protocol):
    """Rows z [n, p] on a device, as far as k-subspaces sees them.

    Attributes:
        shape: (n, p).
        device, dtype: of rows and bases.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def take(self, index: Tensor) -> Tensor:
        """Rows ``index`` (int64 [t], on the CPU) [t, p]."""

    def nearest(self, bases: Tensor) -> tuple[Tensor, Tensor]:
        """:func:`desc_ext.ops.nearest_subspace` of all rows: labels [n], of an integer dtype, and squared residuals [n]."""

    def gram(self, labels: Tensor, n_clusters: int) -> Tensor:
        """:func:`desc_ext.ops.segment_gram` [n_clusters, p, p] of all rows under labels [n] as :meth:`nearest` gives them."""

    def agreed(self, function: Callable[[], T]) -> T:
        """What ``function`` returns in the first of the processes that have rows, which alone calls it."""


class InMemory:
    """:class:`SubspaceRows` of a tensor [n, p]."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.shape, self.device, self.dtype = tuple(rows.shape), rows.device, rows.dtype

    def take(self, index: Tensor) -> Tensor:
        return self.rows[index.to(self.rows.device)]

    def nearest(self, bases: Tensor) -> tuple[Tensor, Tensor]:
        return ops.nearest_subspace(self.rows, bases)

    def gram(self, labels: Tensor, n_clusters: int) -> Tensor:
        return ops.segment_gram(self.rows, labels, n_clusters)

    def agreed(self, function: Callable[[], T]) -> T:
        return function()


def as_passes(rows: Tensor | SubspaceRows) -> SubspaceRows:
    """``rows``, a tensor [n, p] as :class:`InMemory`."""
    return InMemory(rows) if isinstance(rows, Tensor) else rows
