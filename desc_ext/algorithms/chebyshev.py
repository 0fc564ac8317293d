"""Leading eigenvectors of large sparse graphs by a block method: subspace iteration with Chebyshev filters."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy import linalg, sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor

from desc_ext.algorithms.kmeans import one_thread
from desc_ext.fixed_shapes import in_threads
from desc_ext.messages import warn_user

__all__ = ["block_width", "chebyshev_eigenpairs"]

# Vectors beside those wanted, whose eigenvalues keep the filter's border away from these; a row of the block is a multiple
# of what a register holds.
_SPARE_VECTORS, _TILE = 8, 16
_DEGREE, _LANCZOS_STEPS = 15, 20
# Residuals ‖N v − λ v‖ at which the iteration ends. float32 gets to 1e-5; and single eigenvectors of a dense part of the
# spectrum, which are the last to come, mean nothing.
_TOLERANCE, _MOST_ROUNDS = 1e-4, 100
_BLOCK_ROWS = 2**15  # whose products one thread computes
_SMALLEST_SHARE = 1e-12  # of a Gram matrix's largest eigenvalue, that is still a direction


def block_width(n_components: int) -> int:
    """Vectors of the block in which ``n_components`` eigenvectors are found."""
    return -(-(n_components + _SPARE_VECTORS) // _TILE) * _TILE


def chebyshev_eigenpairs(
    normalised: sparse.csr_array, start: np.ndarray, n_components: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues [m], descending, and orthonormal eigenvectors [n, m] of N = D^(-1/2) W D^(-1/2).

    A round replaces a block of vectors X by q(N) X, q the Chebyshev polynomial of degree 15 that is small between the
    smallest eigenvalue of N and that of the block and grows beyond, and then by the Ritz vectors in their span (Zhou, Saad,
    Tiago and Chelikowsky, 2006). Its products are of a sparse matrix and many vectors, in float32, which costs a third of
    as many products with one vector (a tenth after the rows are put into the order of reverse Cuthill and McKee, where
    neighbours are near each other); eigenvalues and vectors are then those of float64 in the span found. Blocks of rows are
    added up in order: the same bits for any number of threads.

    Args:
        normalised: N [n, n], symmetric, its eigenvalues from −1 to 1.
        start: [n, b], b that of :func:`block_width`, linearly independent vectors.
        n_components: m.
        device: where the products are computed.
    """
    order = reverse_cuthill_mckee(sparse.csr_matrix(normalised), symmetric_mode=True)
    graph = _Graph(normalised, order, device)
    low = _smallest_eigenvalue(normalised, start[:, -1])
    x = _orthonormal(torch.from_numpy(start.astype(np.float32)[order]).to(device))
    x, values, _ = _ritz(graph, x, n_components)
    for _ in range(_MOST_ROUNDS):
        x = _orthonormal(_filtered(graph, x, low, float(values[-1])))
        x, values, residual = _ritz(graph, x, n_components)
        if residual < _TOLERANCE:
            break
    else:
        warn_user(
            f"eigenvectors of the affinity are known to a residual of {residual:.1e} after {_MOST_ROUNDS} rounds, not to "
            f"{_TOLERANCE}",
            ConvergenceWarning,
        )
    vectors = np.empty((len(order), n_components))
    vectors[order] = x[:, :n_components].cpu().numpy()
    return _in_double(normalised, vectors)


class _Graph:
    """A symmetric sparse matrix, rows and columns in an ``order`` [n], as blocks of rows in float32 on a device."""

    def __init__(self, matrix: sparse.csr_array, order: np.ndarray, device: torch.device) -> None:
        self.blocks, place = _blocks(len(order)), np.empty_like(order)
        place[order] = np.arange(len(order), dtype=order.dtype)
        self._parts = []
        for block in self.blocks:
            rows = matrix[order[block]]
            values = rows.data.astype(np.float32)
            part = sparse.csr_array((values, place[rows.indices], rows.indptr), shape=rows.shape)
            part.sort_indices()
            self._parts.append(_sparse_tensor(part, device))

    def products(self, y: Tensor, use: Callable[[slice, Tensor], object]) -> None:
        """Calls ``use`` with every block of rows and its rows of the product with ``y`` [n, b]."""

        def one(number: int) -> None:
            use(self.blocks[number], self._parts[number] @ y)

        in_threads(one, range(len(self.blocks)), y.device)


def _blocks(n: int) -> list[slice]:
    return [slice(start, min(start + _BLOCK_ROWS, n)) for start in range(0, n, _BLOCK_ROWS)]


def _sparse_tensor(matrix: sparse.csr_array, device: torch.device) -> Tensor:
    with warnings.catch_warnings():  # that torch may yet change what sparse tensors can do
        warnings.simplefilter("ignore", UserWarning)
        parts = (matrix.indptr, matrix.indices, matrix.data)
        indptr, indices, values = (torch.from_numpy(part) for part in parts)
        return torch.sparse_csr_tensor(
            indptr, indices, values, matrix.shape, check_invariants=False, device=device
        )


def _filtered(graph: _Graph, x: Tensor, low: float, cut: float) -> Tensor:
    """q(N) ``x`` for the q of degree 15 that is at most q(cut) on [``low``, ``cut``], and 1 at 1; ``x`` is overwritten."""
    centre, half = (cut + low) / 2, (cut - low) / 2
    first = half / (1 - centre)
    y = torch.empty_like(x)

    def begin(rows: slice, product: Tensor) -> None:
        y[rows] = product.sub_(x[rows], alpha=centre).mul_(first / half)

    graph.products(x, begin)
    scale = first
    for _ in range(_DEGREE - 1):
        following = 1 / (2 / first - scale)
        graph.products(y, partial(_step, x, y, centre, 2 * following / half, scale * following))
        x, y, scale = y, x, following
    return y


def _step(x: Tensor, y: Tensor, centre: float, a: float, b: float, rows: slice, product: Tensor) -> None:
    """x ← a (N − centre) y − b x on some ``rows``, whose ``product`` is N y."""
    x[rows] = product.sub_(y[rows], alpha=centre).mul_(a).sub_(x[rows], alpha=b)


def _ritz(graph: _Graph, x: Tensor, n_wanted: int) -> tuple[Tensor, Tensor, float]:
    """Ritz vectors in the span of orthonormal ``x`` [n, b], their values [b], descending; the largest residual of some."""
    y = torch.empty_like(x)
    graph.products(x, lambda rows, product: y[rows].copy_(product))
    inner = _gram(x, y)
    with one_thread():
        values, turn = torch.linalg.eigh((inner + inner.T) / 2)
    values, turn = values.flip(0), turn.flip(1)
    x, y = _turned(x, turn), _turned(y, turn)

    def squares(rows: slice) -> Tensor:
        return (y[rows] - x[rows] * values.to(x)).double().square().sum(0)

    parts = in_threads(squares, _blocks(len(x)), x.device)
    return x, values, float(sum(parts[1:], parts[0])[:n_wanted].max().sqrt())


def _orthonormal(x: Tensor) -> Tensor:
    """An orthonormal basis [n, b] of the span of ``x``, by its Gram matrix: twice, for float32 to be enough."""
    for _ in range(2):
        gram = _gram(x, x)
        length = gram.diagonal().rsqrt()
        with one_thread():
            values, turn = torch.linalg.eigh(gram * length * length[:, None])
        values = values.clamp_min(values[-1] * _SMALLEST_SHARE)
        x = _turned(x, length[:, None] * turn * values.rsqrt())
    return x


def _gram(x: Tensor, y: Tensor) -> Tensor:
    """xᵀy [b, b] in float64."""
    parts = in_threads(lambda rows: x[rows].double().T @ y[rows].double(), _blocks(len(x)), x.device)
    return sum(parts[1:], parts[0])


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    found = torch.empty_like(x)

    def one(rows: slice) -> None:
        found[rows] = x[rows] @ turn.to(x)

    in_threads(one, _blocks(len(x)), x.device)
    return found


def _smallest_eigenvalue(matrix: sparse.csr_array, vector: np.ndarray) -> float:
    """The smallest eigenvalue less the residual of its vector, by a few steps of the Lanczos iteration; −1 at least."""
    diagonal, beside, before = [], [0.0], np.zeros_like(vector)
    with threadpool_limits(limits=1):
        vector = vector / np.linalg.norm(vector)
        for _ in range(_LANCZOS_STEPS):
            following = matrix @ vector - beside[-1] * before
            diagonal.append(float(following @ vector))
            following -= diagonal[-1] * vector
            beside.append(float(np.linalg.norm(following)))
            before, vector = vector, following / max(beside[-1], np.finfo(np.float64).tiny)
        values, vectors = linalg.eigh_tridiagonal(diagonal, beside[1:-1])
    return max(-1.0, float(values[0] - beside[-1] * abs(vectors[-1, 0])))


def _in_double(matrix: sparse.csr_array, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ritz values [m], descending, and vectors [n, m] of ``matrix`` in the span of ``x`` [n, m]."""
    with threadpool_limits(limits=1):
        inner = x.T @ (matrix @ x)
        values, turn = linalg.eigh((inner + inner.T) / 2, x.T @ x)
        return values[::-1], x @ turn[:, ::-1]
