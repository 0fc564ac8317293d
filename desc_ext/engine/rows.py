"""The rows of a data set: checked once, scaled, and read batch by batch (a memory map is never copied)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data
from torch import Tensor

from desc_ext.algorithms.distinct import row_hashes
from desc_ext.algorithms.k_subspaces import leading_directions
from desc_ext.engine.processes import processes
from desc_ext.features.images import as_numpy
from desc_ext.fixed_shapes import TILE_ROWS, in_threads
from desc_ext.norms import unit_rows

__all__ = [
    "CHUNK_ROWS",
    "Rows",
    "Scaling",
    "check_rows",
    "check_training_rows",
    "map_chunks",
    "require_finite_norms",
    "scaled_rows",
    "scaling_statistics",
]  # fmt: skip

# Whole-data passes use chunks of exactly this many rows, the last one padded, each computed by one thread: with the layers
# of desc_ext.nn a row has the same bits whatever rows stand beside it, so predict agrees with labels_.
CHUNK_ROWS = 12 * TILE_ROWS
_READ_ROWS = 8192
_COUNTED_ROWS = 1024  # until there are distinct rows enough, which the first block nearly always has
# Rows of a pass over wide data that gathers p×q sums; and how many more directions than wanted it keeps, how many passes
# it makes: enough for the leading directions of data whose energy falls off at all.
_PASS_ROWS, _SPARE_DIRECTIONS, _SUBSPACE_ITERATIONS = 4096, 10, 3
# What torch indexes on every device, and the share of a device's free memory that the whole input may take.
_RESIDENT_DTYPES = tuple(map(np.dtype, ("u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8")))
_RESIDENT_SHARE = 0.25


def check_rows(model: BaseEstimator, X: Any, reset: bool) -> np.ndarray:
    """``X`` as a two-dimensional numeric NumPy array (a view where possible) without NaN or infinity.

    Raises:
        ValueError, TypeError: not two-dimensional, empty, sparse, not numeric, a width other than that of
            the training data, NaN or infinity (naming rows and columns).
    """
    if isinstance(X, Tensor):
        X = as_numpy(X)
    X = validate_data(model, X, reset=reset, dtype="numeric", ensure_all_finite=False)
    if X.dtype.kind != "f":
        return X
    bad_rows, first = 0, None
    for start in range(0, len(X), _READ_ROWS):
        finite = np.isfinite(X[start : start + _READ_ROWS])
        if finite.all():
            continue
        rows = np.flatnonzero(~finite.all(1))
        bad_rows += len(rows)
        if first is None:
            column = int(np.flatnonzero(~finite[rows[0]])[0])
            first = (start + int(rows[0]), column, X[start + rows[0], column])
    if first is not None:
        raise ValueError(
            f"Input X contains NaN or infinity in {bad_rows} of {len(X)} rows, the first at row {first[0]}, "
            f"column {first[1]} ({first[2]}); impute these values or drop the rows"
        )
    return X


def check_training_rows(X: np.ndarray, n_clusters: int) -> None:
    """Raises ValueError where no clustering is possible: fewer rows, or distinct rows, than clusters; one repeated row."""
    n_samples, n_features = X.shape
    if n_samples < max(n_clusters, 2):
        raise ValueError(
            f"n_samples={n_samples} should be >= n_clusters={n_clusters} and >= 2; pass more rows or "
            "ask for fewer clusters"
        )
    if all(
        np.array_equal(X[i : i + _READ_ROWS], np.broadcast_to(X[0], X[i : i + _READ_ROWS].shape))
        for i in range(0, n_samples, _READ_ROWS)
    ):
        raise ValueError(
            f"X is constant: each of its {n_features} columns has one value in all {n_samples} rows, "
            "so there is nothing to cluster"
        )
    found = np.empty(0, dtype=np.uint64)
    for start in range(0, n_samples, _COUNTED_ROWS):
        found = np.union1d(found, row_hashes(X[start : start + _COUNTED_ROWS]))
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
    squares, info = z.square().sum(1).double(), torch.finfo(z.dtype)
    fate = "overflows" if not torch.isfinite(squares).all() else None
    if fate is None and squares.max() < info.tiny / info.eps and bool((z != 0).any()):
        fate = "underflows"
    if fate is not None:
        raise ValueError(
            f"Input X has rows whose squared norm {fate} {str(z.dtype).removeprefix('torch.')}; scale X, or use "
            "unit_rows=True or dtype='float64'"
        )
    return squares


Scaling = Literal["global", "standard", "minmax", "uncentred", "none"]


def scaling_statistics(X: np.ndarray, scaling: Scaling) -> tuple[np.ndarray, np.ndarray]:
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
    blocks = range(0, len(X), _READ_ROWS)
    largest = max(np.abs(X[i : i + _READ_ROWS]).max() for i in blocks)
    factor = 2.0 ** np.clip(np.frexp(np.float64(largest))[1], -1000, 1000)
    offset, scale = _statistics(X, scaling, factor)
    return offset * factor, np.where(scale > 0, scale, 1.0) * factor


def _statistics(X: np.ndarray, scaling: Scaling, unit: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """:func:`scaling_statistics` of X / unit."""
    n_samples, n_features = X.shape

    def blocks() -> Iterator[np.ndarray]:
        for i in range(0, n_samples, _READ_ROWS):
            yield X[i : i + _READ_ROWS] if unit == 1 else X[i : i + _READ_ROWS] / unit

    if scaling == "none":
        return np.zeros(n_features), np.ones(n_features)
    if scaling == "uncentred":
        square = sum(np.square(block, dtype=np.float64).sum() for block in blocks()) / X.size
        return np.zeros(n_features), np.full(n_features, np.sqrt(square))
    if scaling == "minmax":
        low = float(min(block.min() for block in blocks()))
        high = float(max(block.max() for block in blocks()))
        return np.full(n_features, low), np.full(n_features, high - low)
    mean = sum(block.sum(0, dtype=np.float64) for block in blocks()) / n_samples
    variance = sum(np.square(block - mean).sum(0) for block in blocks()) / n_samples
    if scaling == "global":
        return mean, np.full(n_features, np.sqrt(variance.mean()))
    deviation = np.sqrt(variance)
    return mean, np.where(deviation <= 1e-12 * np.abs(mean), 1.0, deviation)


def _resident(X: np.ndarray, device: torch.device) -> Tensor | None:
    """``X`` in the memory of a CUDA device that has room for it: a mini-batch then waits for no copy."""
    if device.type != "cuda" or X.dtype not in _RESIDENT_DTYPES:
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return torch.tensor(X, device=device) if X.nbytes <= _RESIDENT_SHARE * free else None


def scaled_rows(X: np.ndarray, scaling: Scaling, device: torch.device, dtype: torch.dtype) -> Rows:
    """``X`` as :class:`Rows`, scaled by its own statistics."""
    offset, scale = scaling_statistics(X, scaling)
    return Rows(X, torch.from_numpy(offset), torch.from_numpy(scale), device, dtype)


class Rows:
    """Scaled rows of ``X`` [n, m] on a device; only the rows that are asked for are ever converted.

    Args:
        X: rows, checked; a memory map stays one.
        offset, scale: [m], of :func:`scaling_statistics`.
        device, dtype: of what is read.
    """

    def __init__(
        self, X: np.ndarray, offset: Tensor, scale: Tensor, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.X, self.device, self.dtype = X, device, dtype
        self.offset = offset.to(device=device, dtype=torch.float64)
        self.scale = scale.to(device=device, dtype=torch.float64)
        self._resident = _resident(X, device)

    def __len__(self) -> int:
        return len(self.X)

    @property
    def n_features(self) -> int:
        """Columns of the rows."""
        return self.X.shape[1]

    def digest(self) -> str:
        """SHA-256 of type and values of ``X``, in 16 hexadecimal digits."""
        digest = hashlib.sha256(self.X.dtype.str.encode())
        for start in range(0, len(self.X), _READ_ROWS):
            digest.update(np.ascontiguousarray(self.X[start : start + _READ_ROWS]).data)
        return digest.hexdigest()[:16]

    def _read(self, index: np.ndarray | slice) -> Tensor:
        if self._resident is None:
            return torch.from_numpy(np.array(self.X[index], dtype=np.float64)).to(self.device)
        place = torch.from_numpy(index).to(self.device) if isinstance(index, np.ndarray) else index
        return self._resident[place].double()

    def take(self, index: np.ndarray | slice, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Rows (x − offset) / scale at ``index``, where ``change`` is given of ``change(x)``, x being float64."""
        rows = self._read(index)
        if change is not None:
            rows = change(rows)
        return ((rows - self.offset) / self.scale).to(self.dtype)

    def chunks(self, directions: bool = False) -> Iterator[Tensor]:
        """All rows, or their directions, in order, at most CHUNK_ROWS at a time."""
        read = self.directions if directions else self.take
        for start in range(0, len(self.X), CHUNK_ROWS):
            yield read(slice(start, start + CHUNK_ROWS))

    def directions(self, index: np.ndarray | slice) -> Tensor:
        """Rows x / scale, not centred, divided by their norm: linear subspaces stay linear subspaces."""
        return unit_rows(self._read(index) / self.scale).to(self.dtype)

    def map(self, function: Callable[[Tensor], Tensor], directions: bool = False) -> Tensor:
        """``function`` of all rows, or of their directions, chunk by chunk."""
        read = self.directions if directions else self.take

        def chunk(part: slice) -> Tensor:
            return _padded(function, read(part))

        return _over_chunks(chunk, len(self.X), self.device)

    def reduced(
        self, n_components: int, generator: torch.Generator, directions: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The rows, or their directions, as [n, q] with q = min(m, ``n_components``), and the axes [m, q].

        Wider input is projected onto its leading (uncentred) principal directions, found by three rounds of
        subspace iteration; angles between rows and linear subspaces then stay what they were, up to the
        energy left out. Input that is not wider stays as it is, and the axes are None.
        """
        read = self.directions if directions else self.take
        blocks = [slice(start, start + _PASS_ROWS) for start in range(0, len(self), _PASS_ROWS)]
        if self.n_features <= n_components:
            return torch.cat([read(block) for block in blocks]), None
        size = (self.n_features, n_components + _SPARE_DIRECTIONS)
        basis = torch.randn(size, generator=generator, dtype=self.dtype).to(self.device)
        for _ in range(_SUBSPACE_ITERATIONS):
            image = torch.zeros_like(basis)
            for block in blocks:
                part = read(block)
                image += part.T @ (part @ basis)
            basis = torch.linalg.qr(image)[0]
        reduced = torch.cat([read(block) @ basis for block in blocks])
        turn = leading_directions((reduced.T @ reduced)[None], n_components)[0]
        return reduced @ turn, basis @ turn


def map_chunks(function: Callable[..., Tensor], *arrays: Tensor) -> Tensor:
    """``function`` of row-aligned tensors, CHUNK_ROWS rows at a time; results are concatenated."""
    return _over_chunks(
        lambda part: _padded(function, *(array[part] for array in arrays)), len(arrays[0]), arrays[0].device
    )


def _over_chunks(function: Callable[[slice], Tensor], n_rows: int, device: torch.device) -> Tensor:
    """``function`` of every chunk of ``n_rows`` rows, concatenated; processes that fit together share the chunks."""
    n_chunks = -(-n_rows // CHUNK_ROWS)
    among = processes().for_items(n_chunks)
    own = among.share(n_chunks)
    chunks = [slice(i * CHUNK_ROWS, (i + 1) * CHUNK_ROWS) for i in range(own.start, own.stop)]
    found = torch.cat(in_threads(function, chunks, device))
    if among.size == 1:
        return found
    return among.concatenated(
        found, lambda share: min(share.stop * CHUNK_ROWS, n_rows) - share.start * CHUNK_ROWS, n_chunks
    )


def _padded(function: Callable[..., Tensor], *arrays: Tensor) -> Tensor:
    missing = CHUNK_ROWS - len(arrays[0])
    if missing:
        # repeats of the first row rather than zeros: a zero row would divide by zero in some functions
        arrays = tuple(torch.cat([a, a[:1].expand(missing, *a.shape[1:])]) for a in arrays)
    result = function(*arrays)
    return result[: CHUNK_ROWS - missing]
