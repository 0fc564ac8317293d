"""The passes of k-subspaces over rows that several processes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from desc_ext.algorithms.subspace_passes import SubspaceRows
from desc_ext.engine.processes import Processes, alone

__all__ = ["SharedPasses"]

T = TypeVar("T")


class SharedPasses:
    """:class:`desc_ext.algorithms.subspace_passes.SubspaceRows`, of which each process goes through its share.

    Labels and residuals of all rows come to every process; Gram matrices are summed over them.

    Args:
        rows: all rows, which are asked for rows by number only.
        own: this process's share of them.
        among: the processes, no more than rows.
    """

    def __init__(self, rows: SubspaceRows, own: SubspaceRows, among: Processes) -> None:
        self._rows, self._own, self._among = rows, own, among
        self.shape, self.device, self.dtype = rows.shape, rows.device, rows.dtype
        self._found: tuple[Tensor, Tensor] | None = (
            None  # labels of all rows, and those of the share as they came
        )

    def take(self, index: Tensor) -> Tensor:
        return self._rows.take(index)

    def nearest(self, bases: Tensor) -> tuple[Tensor, Tensor]:
        self._found = None  # its labels are no longer needed here
        with alone():
            own, residual = self._own.nearest(bases)
        labels = self._gathered(own)
        self._found = labels, own
        return labels, self._gathered(residual)

    def gram(self, labels: Tensor, n_clusters: int) -> Tensor:
        own = labels[self._among.share(len(labels))]
        if self._found is not None and labels is self._found[0]:
            own = self._found[1]  # of which the Gram matrices may be there already
        with alone():
            gram = self._own.gram(own, n_clusters).clone()
        self._among.add(gram)
        return gram

    def agreed(self, function: Callable[[], T]) -> T:
        return self._among.from_first(function)

    def _gathered(self, part: Tensor) -> Tensor:
        return self._among.concatenated(part, self.shape[0])
