"""Coordinates of new rows: those of the training rows by which they are expressed, weighed by their coefficients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from desc_ext.algorithms.self_expression import (
    ExpressionOptions,
    SelfExpressiveClusters,
    mean_square,
    ridge_inverse,
)
from desc_ext.fixed_shapes import row_linear
from desc_ext.norms import unit_rows

__all__ = ["Extension", "extension_of"]

# Coefficients of some rows on so many training rows are in memory together.
_COLUMNS = 2**15


@dataclass(frozen=True)
class Extension:
    """What takes rows of Z to the coordinates of a fit (Nyström).

    A row z is regressed on the d distinct training rows; the coordinates of those with its ``n_neighbors`` largest |c_j| add
    up, Σ_j |c_j| ``added``_j, to a vector that is then divided by its norm. A row that is a training row is expressed by the
    others, as it was in the fit, and held by its copies. The bits of a row's result depend on no other row.
    """

    z: Tensor  # [d, p], the distinct training rows
    inverse: Tensor  # of ridge_inverse, [p, p] or, where d < p, [d, d]
    added: Tensor  # [d, q], what each of them adds
    n_neighbors: int
    number: Tensor | None = None  # int64, which of them every training row is, where some come more than once

    def coordinates(self, z: Tensor) -> Tensor:
        """Coordinates [m, q], at unit length, of rows ``z`` [m, p]."""
        n_neighbors = min(self.n_neighbors, len(self.z) - 1)
        size, rows = self._largest(z, min(n_neighbors + 1, len(self.z)))
        # a training row is expressed by the others, as it was in the fit
        itself = (self.z[rows] == z[:, None]).all(2)
        size, order = size.masked_fill(itself, 0).topk(n_neighbors, dim=1)
        added = (size[..., None] * self.added[rows.gather(1, order)]).sum(1)
        if self.number is not None:
            # and held by its copies: with w of them by (w − 1) Σ_j |C_ij|, as hold_copies does
            own = rows.gather(1, itself.int().argmax(1, keepdim=True)).squeeze(1)
            copies = torch.bincount(self.number, minlength=len(self.z))[own] - 1
            held = torch.where(itself.any(1), copies * size.sum(1), 0)
            added += held[:, None] * self.added[own]
        return unit_rows(added)

    def coefficients(self, z: Tensor) -> Tensor:
        """Coefficients [m, d] of the ridge regression of rows ``z`` [m, p] on all training rows."""
        return torch.cat(list(self._coefficients(z)), dim=1)

    def _coefficients(self, z: Tensor) -> Iterator[Tensor]:
        """:meth:`coefficients`, those on some training rows at a time."""
        if len(self.inverse) < self.z.shape[1]:
            yield row_linear(row_linear(z, self.z), self.inverse.T)
            return
        z = row_linear(z, self.inverse.T)
        for part in self.z.split(_COLUMNS):
            yield row_linear(z, part)

    def _largest(self, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest |c_j| [m, k] of rows ``z`` [m, p], largest first, and the numbers of their training rows."""
        sizes, numbers, begin = [], [], 0
        for part in self._coefficients(z):
            size, order = part.abs_().topk(min(k, part.shape[1]), dim=1)
            sizes.append(size)
            numbers.append(order + begin)
            begin += part.shape[1]
        if len(sizes) == 1:
            return sizes[0], numbers[0]
        size, order = torch.cat(sizes, dim=1).topk(k, dim=1)
        return size, torch.cat(numbers, dim=1).gather(1, order)


def extension_of(
    found: SelfExpressiveClusters, z: Tensor, options: ExpressionOptions, dtype: torch.dtype
) -> Extension:
    """That of the clusters ``found`` in rows ``z`` [n, p] with ``options``; what is added has the ``dtype``."""
    own, distinct = found.distinct.take(z), found.distinct
    return Extension(
        own,
        ridge_inverse(own, options.ridge * mean_square(z)),
        torch.from_numpy(found.coordinates.extension).to(own.device, dtype),
        options.n_neighbors,
        torch.from_numpy(distinct.number).to(own.device) if distinct.repeated else None,
    )
