"""The rows of a data set: checked once, scaled, and read batch by batch (rows on disk are never loaded whole)."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data
from torch import Tensor

from desc_ext.algorithms.distinct import row_hashes
from desc_ext.algorithms.k_subspaces import leading_directions
from desc_ext.engine.block_shuffle import BlockShuffle
from desc_ext.engine.chunks import CHUNK_ROWS, gathered, in_blocks, over_chunks, padded
from desc_ext.engine.processes import processes
from desc_ext.engine.stored_values import StoredValues, Values
from desc_ext.features.images import as_numpy
from desc_ext.fixed_shapes import in_order
from desc_ext.norms import unit_rows, unit_rows_of_narrow
from desc_ext.stored import StoredRows, blocks

__all__ = [
    "Input",
    "Rows",
    "Scaling",
    "check_rows",
    "check_training_rows",
    "pass_rows",
    "require_finite_norms",
    "require_norms_between",
    "rows_between",
    "scaled_rows",
    "scaling_statistics",
]  # fmt: skip

# Rows that are read together; of rows wider than 8 KiB as many as are 64 MiB.
_READ_ROWS, _READ_BYTES = 8192, 2**26
_COUNTED_ROWS = 1024  # until there are distinct rows enough, which the first block nearly always has
# Rows of a pass over wide data that gathers p×q sums; and how many more directions than wanted it keeps, how many passes
# it makes: enough for the leading directions of data whose energy falls off at all.
_PASS_ROWS, _SPARE_DIRECTIONS, _SUBSPACE_ITERATIONS = 4096, 10, 3
# Entries of a block of stored rows, of which there are about three for each thread.
_BLOCK_ENTRIES, _FEWEST_BLOCKS = 2**20, 16
# As float64 half a MiB: a temporary of it needs no new pages, and stays in the caches.
_CONVERTED_ENTRIES = 2**16
# What torch indexes on every device, and the share of a device's free memory that the whole input may take.
_RESIDENT_DTYPES = tuple(map(np.dtype, ("u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8")))
_RESIDENT_SHARE = 0.25
# Their values have squares that float64 holds.
_NARROW_DTYPES = tuple(map(np.dtype, ("?", "u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4")))


Input = np.ndarray | StoredRows  # what an estimator's rows are read from, checked


def check_rows(model: BaseEstimator, X: Any, reset: bool) -> Input:
    """``X`` as a two-dimensional numeric NumPy array (a view where possible) without NaN or infinity.

    Stored rows stay what they are; all of them are read once, block by block.

    Raises:
        ValueError, TypeError: not two-dimensional, empty, sparse, not numeric, a width other than that of
            the training data, NaN or infinity (naming rows and columns).
    """
    if isinstance(X, Tensor):
        X = as_numpy(X)
    if isinstance(X, StoredRows):
        validate_data(model, X, reset=reset, skip_check_array=True)
    else:
        X = validate_data(model, X, reset=reset, dtype="numeric", ensure_all_finite=False)
    if X.dtype.kind != "f":
        return X
    bad_rows, first = 0, None
    for start, block in zip(range(0, len(X), _read_rows(X)), blocks(X, _read_rows(X)), strict=True):
        finite = np.isfinite(block)
        if finite.all():
            continue
        rows = np.flatnonzero(~finite.all(1))
        bad_rows += len(rows)
        if first is None:
            column = int(np.flatnonzero(~finite[rows[0]])[0])
            first = (start + int(rows[0]), column, block[rows[0], column])
    if first is not None:
        raise ValueError(
            f"Input X contains NaN or infinity in {bad_rows} of {len(X)} rows, the first at row {first[0]}, "
            f"column {first[1]} ({first[2]}), both counted from 0; impute these values or drop the rows"
        )
    return X


def check_training_rows(X: Input, n_clusters: int) -> None:
    """Raises ValueError where no clustering is possible: fewer rows, or distinct rows, than clusters; one repeated row."""
    n_samples, n_features = X.shape
    if n_samples < n_clusters:
        raise ValueError(
            f"n_samples={n_samples} cannot make n_clusters={n_clusters}: give at least {n_clusters} rows, or ask for fewer "
            "clusters"
        )
    if n_samples < 2:
        raise ValueError(f"n_samples={n_samples} is too few to cluster: give at least 2 rows")
    first = X[0]
    if all(np.array_equal(block, np.broadcast_to(first, block.shape)) for block in blocks(X, _read_rows(X))):
        raise ValueError(
            f"X is constant: each of its {n_features} columns has one value in all {n_samples} rows, "
            "so there is nothing to cluster"
        )
    found = np.empty(0, dtype=np.uint64)
    for block in blocks(X, _COUNTED_ROWS):
        found = np.union1d(found, row_hashes(block))
        if len(found) >= n_clusters:
            return
    raise ValueError(
        f"X has {len(found)} distinct rows among its {n_samples}, fewer than n_clusters={n_clusters}; ask for fewer clusters"
    )


def require_finite_norms(z: Tensor) -> Tensor:
    """The squared norms [n] of rows ``z`` in float64.

    Raises:
        ValueError: one of them overflows the dtype of ``z``, or the largest of them is too small to have all its digits.
    """
    squares = z.square().sum(1).double()
    require_norms_between(squares.max() if len(squares) else squares.sum(), bool((z != 0).any()), z.dtype)
    return squares


def require_norms_between(largest: Tensor, any_entry: bool, dtype: torch.dtype) -> None:
    """Raises ValueError where the largest squared norm of rows in ``dtype`` is not finite, or too small.

    Args:
        largest: float64, NaN or infinite where one of them overflows.
        any_entry: whether an entry of the rows is not 0.
    """
    info = torch.finfo(dtype)
    fate = "overflows" if not torch.isfinite(largest) else None
    if fate is None and largest < info.tiny / info.eps and any_entry:
        fate = "underflows"
    if fate is not None:
        raise ValueError(
            f"Input X has rows whose squared norm {fate} {str(dtype).removeprefix('torch.')}; scale X, or use "
            "unit_rows=True or dtype='float64'"
        )


Scaling = Literal["global", "standard", "minmax", "uncentred", "none"]


def scaling_statistics(X: Input, scaling: Scaling) -> tuple[np.ndarray, np.ndarray]:
    """Offset and scale, both float64 [n_features], such that the network sees (x − offset) / scale.

    "global": column means and one overall standard deviation; "standard": column means and column
    standard deviations (1 for constant columns); "minmax": overall minimum and range; "uncentred": 0 and the
    root of the overall mean square, so that linear subspaces stay linear subspaces; "none": 0 and 1. Values whose squares
    underflow or overflow float64 are scaled by a power of two first.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        offset, scale = _statistics(X, scaling)
    if np.isfinite(scale).all() and (scale > 0).all():
        return offset, scale
    largest = max(np.abs(block).max() for block in blocks(X, _read_rows(X)))
    factor = 2.0 ** np.clip(np.frexp(np.float64(largest))[1], -1000, 1000)
    offset, scale = _statistics(X, scaling, factor)
    return offset * factor, np.where(scale > 0, scale, 1.0) * factor


def _read_rows(X: Input) -> int:
    return max(min(_READ_ROWS, _READ_BYTES // (X.shape[1] * X.dtype.itemsize)), 1)


def pass_rows(n_features: int) -> int:
    """Rows of a step of a pass that gathers sums: as float64 no more than 64 MiB of them, where they are wide."""
    return max(min(_PASS_ROWS, _READ_BYTES // (8 * n_features)), 1)


def rows_between(X: Input, place: slice) -> Input:
    """Consecutive rows of ``X`` [n, m], at least one: a view, or the same rows on disk."""
    if place == slice(0, len(X)):  # as it is: a map is not asked for all of its rows at once
        return X
    return X.between(place.start, place.stop) if isinstance(X, StoredRows) else X[place]


def _statistics(X: Input, scaling: Scaling, unit: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """:func:`scaling_statistics` of X / unit."""
    n_samples, n_features = X.shape

    among = processes().for_items(n_samples)
    own = rows_between(X, among.share(n_samples))

    def parts() -> Iterator[np.ndarray]:
        for block in blocks(own, _read_rows(own)):
            yield block if unit == 1 else block / unit

    if scaling == "none":
        return np.zeros(n_features), np.ones(n_features)
    if scaling == "uncentred":
        square = among.total(sum(np.square(block, dtype=np.float64).sum() for block in parts())) / X.size
        return np.zeros(n_features), np.full(n_features, np.sqrt(square))
    if scaling == "minmax":
        low = -among.largest(-float(min(block.min() for block in parts())))
        high = among.largest(float(max(block.max() for block in parts())))
        return np.full(n_features, low), np.full(n_features, high - low)
    mean = among.total(sum(block.sum(0, dtype=np.float64) for block in parts())) / n_samples
    variance = among.total(sum(np.square(block - mean).sum(0) for block in parts())) / n_samples
    if scaling == "global":
        return mean, np.full(n_features, np.sqrt(variance.mean()))
    deviation = np.sqrt(variance)
    return mean, np.where(deviation <= 1e-12 * np.abs(mean), 1.0, deviation)


def _resident(X: Input, device: torch.device) -> Tensor | None:
    """``X`` in the memory of a CUDA device that has room for it: a mini-batch then waits for no copy."""
    if isinstance(X, StoredRows) or device.type != "cuda" or X.dtype not in _RESIDENT_DTYPES:
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return torch.tensor(X, device=device) if X.nbytes <= _RESIDENT_SHARE * free else None


def scaled_rows(X: Input, scaling: Scaling, device: torch.device, dtype: torch.dtype) -> Rows:
    """``X`` as :class:`Rows`, scaled by its own statistics."""
    offset, scale = scaling_statistics(X, scaling)
    return Rows(X, torch.from_numpy(offset), torch.from_numpy(scale), device, dtype)


class Rows:
    """Scaled rows of ``X`` [n, m] on a device; only the rows that are asked for are ever converted.

    Args:
        X: rows, checked; a memory map, and stored rows, stay what they are.
        offset, scale: [m], of :func:`scaling_statistics`.
        device, dtype: of what is read.
    """

    def __init__(
        self, X: Input, offset: Tensor, scale: Tensor, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.X: Any = X
        self.device, self.dtype = device, dtype
        self.offset = offset.to(device=device, dtype=torch.float64)
        self.scale = scale.to(device=device, dtype=torch.float64)
        # then (x − 0) / 1 has the bits of x
        self._unscaled = not self.offset.any() and bool((self.scale == 1).all())
        self._resident = _resident(X, device)
        self._shuffle: BlockShuffle | None = None
        # of the files of values of rows on disk; None: the system's temporary one
        self.folder: Path | None = None

    def __len__(self) -> int:
        return len(self.X)

    @property
    def n_features(self) -> int:
        """Columns of the rows."""
        return self.X.shape[1]

    def part(self, place: slice) -> Rows:
        """The consecutive rows at ``place``, at least one."""
        part = copy.copy(self)
        part.X, part._shuffle = rows_between(self.X, place), None
        part._resident = None if self._resident is None else self._resident[place]
        return part

    def _own_part(self) -> Rows:
        """This process's share of the rows, where processes fit together."""
        return self.part(processes().for_items(len(self)).share(len(self)))

    def digest(self) -> str:
        """SHA-256 of type and values of ``X``, in 16 hexadecimal digits."""
        digest = hashlib.sha256(self.X.dtype.str.encode())
        for block in blocks(self.X, _read_rows(self.X)):
            digest.update(np.ascontiguousarray(block).data)
        return digest.hexdigest()[:16]

    @property
    def is_stored(self) -> bool:
        """Whether the rows lie on disk."""
        return isinstance(self.X, StoredRows)

    @property
    def block_rows(self) -> int:
        """Rows of a block of :meth:`stream`: whole chunks, as many as are worth a read; in memory enough for all threads."""
        n_chunks = _BLOCK_ENTRIES // (CHUNK_ROWS * self.n_features)
        if not self.is_stored:
            n_chunks = min(n_chunks, len(self) // (CHUNK_ROWS * _FEWEST_BLOCKS))
        return CHUNK_ROWS * max(n_chunks, 1)

    def shuffled(self, generator: torch.Generator, size: int) -> Sequence[Tensor]:
        """Row numbers of all rows in random order, ``size`` together; of rows on disk as :class:`BlockShuffle` says.

        Mini-batches are then taken by :meth:`take`, in this order.
        """
        return self.order(generator).split(size)

    def order(self, generator: torch.Generator) -> Tensor:
        """The numbers (int64 [n]) of :meth:`shuffled`, for who divides them into mini-batches."""
        if not self.is_stored:
            return torch.randperm(len(self), generator=generator)
        self._shuffle = BlockShuffle(self.X, generator)
        return self._shuffle.order

    def _read(self, index: np.ndarray | slice) -> Tensor:
        if self._shuffle is not None and isinstance(index, np.ndarray):
            return self._of_array(self._shuffle.take(index))
        if self._resident is None:
            return self._of_array(self.X[index])
        place = torch.from_numpy(index).to(self.device) if isinstance(index, np.ndarray) else index
        return self._resident[place].double()

    def _of_array(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array, dtype=np.float64)).to(self.device)

    def _scaled(self, rows: Tensor) -> Tensor:
        return (rows if self._unscaled else (rows - self.offset) / self.scale).to(self.dtype)

    def _directed(self, rows: Tensor) -> Tensor:
        if self._unscaled and self.X.dtype in _NARROW_DTYPES:
            return unit_rows_of_narrow(rows).to(self.dtype)
        return unit_rows(rows if self._unscaled else rows / self.scale).to(self.dtype)

    def take(self, index: np.ndarray | slice, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Rows (x − offset) / scale at ``index``, where ``change`` is given of ``change(x)``, x being float64."""
        rows = self._read(index)
        return self._scaled(rows if change is None else change(rows))

    def stream(self, function: Callable[[int, Tensor], Any], directions: bool = False) -> Iterator[Any]:
        """``function`` of the number of the first row and the rows, or directions, of each block, in order.

        On a CPU blocks are computed beside each other, each by one thread, while the next one is read: memory does not grow
        with n, and results do not depend on the number of threads.
        """
        if self._resident is not None:
            blocks_read: Iterator[Any] = (
                self._resident[i : i + self.block_rows] for i in range(0, len(self), self.block_rows)
            )
        else:
            blocks_read = blocks(self.X, self.block_rows)

        def of_block(item: tuple[int, Any]) -> Any:
            start, block = item
            return function(start, self._converted(block, directions))

        numbers = range(0, len(self), self.block_rows)
        return in_order(of_block, zip(numbers, blocks_read, strict=True), self.device)

    def _converted(self, block: np.ndarray | Tensor, directions: bool) -> Tensor:
        """Scaled rows, or directions, of a block, which on a CPU is converted within the caches."""
        convert = self._directed if directions else self._scaled
        if isinstance(block, Tensor):
            return convert(block.double())
        n_together = max(_CONVERTED_ENTRIES // self.n_features, 1)
        if self.device.type != "cpu" or len(block) <= n_together:
            return convert(self._of_array(block))
        rows = torch.empty(block.shape, dtype=self.dtype)
        for start in range(0, len(block), n_together):
            rows[start : start + n_together] = convert(self._of_array(block[start : start + n_together]))
        return rows

    def chunks(self, directions: bool = False) -> Iterator[Tensor]:
        """All rows, or their directions, in order, at most CHUNK_ROWS at a time."""
        yield from self._parts(CHUNK_ROWS, directions)

    def _parts(self, n_rows: int, directions: bool) -> Iterator[Tensor]:
        if self._resident is None:
            convert = self._directed if directions else self._scaled
            yield from (convert(self._of_array(block)) for block in blocks(self.X, n_rows))
            return
        read = self.directions if directions else self.take
        yield from (read(slice(start, start + n_rows)) for start in range(0, len(self), n_rows))

    def directions(self, index: np.ndarray | slice) -> Tensor:
        """Rows x / scale, not centred, divided by their norm: linear subspaces stay linear subspaces."""
        return self._directed(self._read(index))

    def map(self, function: Callable[[Tensor], Tensor], directions: bool = False) -> Tensor:
        """``function`` of all rows, or of their directions, chunk by chunk."""
        return gathered(self._chunk(function, directions), len(self), self.device)

    def values(self, function: Callable[[Tensor], Tensor]) -> Values:
        """``function`` of all rows, values [n, m]; of rows on disk in a file."""
        chunk = self._chunk(function, directions=False)
        if not self.is_stored:
            return over_chunks(chunk, slice(0, len(self)), self.device)
        return StoredValues(len(self), in_blocks(chunk, len(self), self.device), self.folder)

    def _chunk(self, function: Callable[[Tensor], Tensor], directions: bool) -> Callable[[slice], Tensor]:
        read = self.directions if directions else self.take
        return lambda part: padded(function, read(part))

    def reduced(
        self, n_components: int, generator: torch.Generator, directions: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The rows, or their directions, as [n, q] with q = min(m, ``n_components``), and the axes [m, q].

        Wider input is projected onto its leading (uncentred) principal directions, found by three rounds of
        subspace iteration; angles between rows and linear subspaces then stay what they were, up to the
        energy left out. Input that is not wider stays as it is, and the axes are None.
        """
        if self.n_features <= n_components:
            return torch.cat(list(self._parts(pass_rows(self.n_features), directions))), None
        basis = self._leading_span(n_components, generator, directions)
        reduced = torch.cat([part @ basis for part in self._parts(pass_rows(self.n_features), directions)])
        turn = leading_directions((reduced.T @ reduced)[None], n_components)[0]
        return reduced @ turn, basis @ turn

    def axes(self, n_components: int, generator: torch.Generator, directions: bool) -> Tensor | None:
        """The axes [m, q] of :meth:`reduced`, without rows in memory; None where the rows are not wider than q."""
        if self.n_features <= n_components:
            return None
        basis = self._leading_span(n_components, generator, directions)
        gram = basis.new_zeros(basis.shape[1], basis.shape[1], dtype=torch.float64)
        for part in self._own_part()._parts(pass_rows(self.n_features), directions):
            image = (part @ basis).double()
            gram += image.T @ image
        processes().for_items(len(self)).add(gram)
        return basis @ leading_directions(gram[None], n_components)[0].to(self.dtype)

    def _leading_span(self, n_components: int, generator: torch.Generator, directions: bool) -> Tensor:
        """Orthonormal columns [m, q + a few], about the leading (uncentred) principal directions."""
        size = (self.n_features, n_components + _SPARE_DIRECTIONS)
        basis = torch.randn(size, generator=generator, dtype=self.dtype).to(self.device)
        for _ in range(_SUBSPACE_ITERATIONS):
            image = torch.zeros_like(basis)
            for part in self._own_part()._parts(pass_rows(self.n_features), directions):
                image += part.T @ (part @ basis)
            processes().for_items(len(self)).add(image)
            basis = torch.linalg.qr(image)[0]
        return basis
