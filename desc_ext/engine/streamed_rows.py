"""Rows on disk as k-subspaces goes through them: reduced anew in every pass, a few bytes a row in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from desc_ext import ops
from desc_ext.engine.rows import Rows, pass_rows, require_norms_between

__all__ = ["StreamedRows", "smallest_integers"]

T = TypeVar("T")


def smallest_integers(n: int) -> torch.dtype:
    """The smallest integer dtype that holds 0 to n − 1."""
    kinds = (torch.uint8, torch.int16, torch.int32)
    return next((kind for kind in kinds if n - 1 <= torch.iinfo(kind).max), torch.int64)


class StreamedRows:
    """:class:`desc_ext.algorithms.subspace_passes.SubspaceRows` of stored rows, scaled, and reduced to q columns.

    A pass is one reading of the rows. Gram matrices are added up in float64, block after block; those of the labels that a
    pass found come of the same pass. Labels are of the smallest dtype that holds them.

    Args:
        rows: what is read.
        axes: [m, q] that they are projected onto (:meth:`Rows.axes`), or None.
        directions: whether rows are divided by their norms.
    """

    def __init__(self, rows: Rows, axes: Tensor | None, directions: bool) -> None:
        self._rows, self._axes, self._directions = rows, axes, directions
        self.device, self.dtype = rows.device, rows.dtype
        self.shape = (len(rows), rows.n_features if axes is None else axes.shape[1])
        self._gram: tuple[Tensor, Tensor] | None = None  # of which labels, and what

    def take(self, index: Tensor) -> Tensor:
        rows = self._rows.directions if self._directions else self._rows.take
        # of wide rows a few: only their reduced ones are many
        parts = index.split(pass_rows(self._rows.n_features))
        return torch.cat([self._reduced(rows(part.numpy())) for part in parts])

    def nearest(self, bases: Tensor) -> tuple[Tensor, Tensor]:
        n, n_clusters = self.shape[0], len(bases)
        self._gram = None  # its labels are no longer needed here
        labels = torch.empty(n, dtype=smallest_integers(n_clusters))
        residual = torch.empty(n, dtype=self.dtype)
        gram = self._no_gram(n_clusters)

        def of_block(start: int, z: Tensor) -> tuple[int, Tensor, Tensor, Tensor]:
            nearest, value = ops.nearest_subspace(z, bases)
            return start, nearest, value, ops.segment_gram(z, nearest, n_clusters)

        for start, nearest, value, part in self._pass(of_block):
            labels[start : start + len(nearest)] = nearest
            residual[start : start + len(nearest)] = value
            gram += part
        self._gram = (labels, gram)
        return labels, residual

    def gram(self, labels: Tensor, n_clusters: int) -> Tensor:
        if self._gram is not None and labels is self._gram[0]:
            return self._gram[1]
        gram = self._no_gram(n_clusters)

        def of_block(start: int, z: Tensor) -> Tensor:
            return ops.segment_gram(z, labels[start : start + len(z)].to(z.device).long(), n_clusters)

        for part in self._pass(of_block):
            gram += part
        return gram

    def agreed(self, function: Callable[[], T]) -> T:
        return function()

    def require_finite_norms(self) -> None:
        """As :func:`desc_ext.engine.rows.require_finite_norms`; directions need no pass for it."""
        if self._directions:
            return
        found = list(self._pass(lambda _, z: (z.square().sum(1).double().max(), bool((z != 0).any()))))
        largest = torch.stack([value for value, _ in found]).max()
        require_norms_between(largest, any(entry for _, entry in found), self.dtype)

    def _pass(self, of_block: Callable[[int, Tensor], Any]) -> Iterator[Any]:
        return self._rows.stream(lambda start, z: of_block(start, self._reduced(z)), self._directions)

    def _reduced(self, z: Tensor) -> Tensor:
        return z if self._axes is None else z @ self._axes

    def _no_gram(self, n_clusters: int) -> Tensor:
        p = self.shape[1]
        return torch.zeros(n_clusters, p, p, dtype=torch.float64, device=self.device)
