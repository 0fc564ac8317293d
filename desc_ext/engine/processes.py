"""Several processes that fit one model: what each of them computes, and how the parts are put together.

Every process has all rows before it, as a file that each maps or reads for itself, and the same network, optimizer and
random streams. Of a mini-batch each encodes and decodes a part; the codes of all parts are gathered, so that a loss of all
rows of the batch means what it means in one process, and gradients are averaged. Of a pass over all rows each computes some
chunks. So N processes give the result of one, up to the order in which float numbers are added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

# Its functions keep the group that there is when they are imported, and torch.optim imports them with its first optimizer:
# destroy_process_group would then not end the threads of gloo, of which one may abort the process as it ends.
import torch.distributed.nn.functional
from torch import Tensor, nn

__all__ = ["BatchShare", "Processes", "alone", "check_group", "fitting_together", "processes"]

T = TypeVar("T")
_VALUES_TOGETHER = 2**22  # values of gradients that are added up in one message


@dataclass(frozen=True)
class Processes:
    """This process among those that fit one model; by itself outside of :func:`fitting_together`."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, reports and decides."""
        return self.rank == 0

    def for_items(self, n: int) -> Processes:
        """These processes, or where ``n`` items are fewer, this one by itself: each then has all of them."""
        return self if n >= self.size else Processes()

    def share(self, n: int) -> slice:
        """The part of ``n`` items that is this process's; the parts differ by one item at most."""
        return self._share_of(self.rank, n)

    def _share_of(self, rank: int, n: int) -> slice:
        return slice(rank * n // self.size, (rank + 1) * n // self.size)

    def concatenated(self, part: Tensor, n: int, lengths: Callable[[slice], int] | None = None) -> Tensor:
        """The parts of all processes, [Σ rows, ...], in their order; not differentiable.

        Args:
            part: of this process, for its share of ``n`` items; all parts have one dtype, and one shape but for the rows.
            lengths: rows of the part for a share; None: one an item.
        """
        shares = [self._share_of(rank, n) for rank in range(self.size)]
        rows = [share.stop - share.start if lengths is None else lengths(share) for share in shares]
        found = _sendable(part.new_empty(sum(rows), *part.shape[1:]))
        for rank, piece in enumerate(found.split(rows)):
            if rank == self.rank:
                piece.copy_(part)
            if piece.numel():
                dist.broadcast(piece, rank)
        return found.to(part.device)

    def together(self, part: np.ndarray, n: int) -> np.ndarray:
        """The rows [n, ...] of all processes from ``part``, those of this process's share of them."""
        if self.size == 1:
            return part
        return self.concatenated(torch.from_numpy(part), n).numpy()

    def total(self, part: Any) -> Any:
        """The sum over the processes of a number or array, in float64; ``part`` itself where there is but one."""
        return part if self.size == 1 else self._reduced(part, dist.ReduceOp.SUM)

    def largest(self, part: float) -> float:
        """The largest of the numbers of all processes."""
        return part if self.size == 1 else float(self._reduced(part, dist.ReduceOp.MAX))

    def _reduced(self, part: Any, operation: Any) -> np.ndarray:
        values = _sendable(torch.from_numpy(np.array(part, dtype=np.float64)))
        dist.all_reduce(values, operation)
        return values.cpu().numpy()

    def add(self, *tensors: Tensor) -> None:
        """Puts the sum over the processes in the place of every tensor."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def from_first(self, function: Callable[[], T]) -> T:
        """What ``function`` returns in the first process, which alone calls it; tensors in it lie on the CPU."""
        if self.size == 1:
            return function()
        found: list[Any] = [None]
        if self.first:
            with alone():
                found = [function()]
        dist.broadcast_object_list(found, 0)
        return found[0]

    def require_same_rows(self, name: str, X: Any) -> None:
        """Raises ValueError, in every process, where the estimator ``name`` is given rows of different shapes or dtypes."""
        found = [f"{list(X.shape)} of {X.dtype}"] * self.size
        if self.size > 1:
            dist.all_gather_object(found, found[0])
        other = next((rank for rank, rows in enumerate(found) if rows != found[0]), 0)
        if other:
            raise ValueError(
                f"{name}: distributed=True, but X is {found[0]} in process 0 and {found[other]} in process {other}; give "
                "every process the same rows, of which each computes its share"
            )

    def synchronise(self, network: nn.Module) -> None:
        """Gives the network the parameters and buffers that it has in the first process.

        They are equal but for what processors of different kinds make of the same sum.
        """
        if self.size > 1:
            with torch.no_grad():
                for tensor in (*network.parameters(), *network.buffers()):
                    dist.broadcast(tensor.data, 0)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Puts the mean over the processes in the place of every gradient; the same parameters have one everywhere."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        for together in _pieces(gradients):
            flat = torch.cat([gradient.flatten() for gradient in together])
            dist.all_reduce(flat)
            flat /= self.size
            for gradient, mean in zip(together, flat.split([g.numel() for g in together]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def average(self, values: dict[str, float]) -> dict[str, float]:
        """The means of values over the processes, which have them under the same names."""
        if self.size == 1:
            return values
        return dict(zip(values, (self.total(list(values.values())) / self.size).tolist(), strict=True))


def _sendable(tensor: Tensor) -> Tensor:
    """``tensor`` where messages can begin: NCCL sends what lies on a GPU alone."""
    return tensor.to("cuda") if dist.get_backend() == "nccl" else tensor


def _pieces(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive gradients of one dtype, a bounded number of values together."""
    together: list[Tensor] = []
    for gradient in gradients:
        full = sum(g.numel() for g in together) + gradient.numel() > _VALUES_TOGETHER
        if together and (full or gradient.dtype != together[0].dtype):
            yield together
            together = []
        together.append(gradient)
    if together:
        yield together


_CURRENT: ContextVar[Processes] = ContextVar("processes", default=Processes())  # noqa: B039 (it never changes)


def processes() -> Processes:
    """The processes that compute together here."""
    return _CURRENT.get()


@contextmanager
def _as(current: Processes) -> Iterator[None]:
    token = _CURRENT.set(current)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def alone() -> AbstractContextManager[None]:
    """In here this process computes by itself."""
    return _as(Processes())


@contextmanager
def fitting_together(distributed: bool) -> Iterator[Processes]:
    """In here :func:`processes` are those of torch.distributed's default group, where ``distributed`` is true."""
    current = Processes(dist.get_rank(), dist.get_world_size()) if distributed else Processes()
    with _as(current):
        yield current


def check_group(name: str) -> None:
    """Raises ValueError where the estimator ``name`` is to fit with other processes and there is no group of them."""
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError(
            f"{name}: distributed=True needs the default group of torch.distributed, and there is none; start the script "
            "with torchrun, and call torch.distributed.init_process_group('gloo') (CPU) or ('nccl') (GPU) before fit"
        )


class BatchShare:
    """The rows of a mini-batch that this process encodes and decodes, and how the others' come to them.

    Args:
        n_rows: of the mini-batch. Where they are fewer than the processes, each computes them all.
    """

    def __init__(self, n_rows: int) -> None:
        self._processes = processes().for_items(n_rows)
        self.n_rows = n_rows
        self.own = self._processes.share(n_rows)  # of the rows of the mini-batch

    def gathered(self, part: Tensor) -> Tensor:
        """[m, ...] of all rows of the mini-batch from ``part`` for this process's, differentiable.

        Its gradient is the sum over the processes of what reaches the rows of ``part`` in each: every process then has the
        gradient of the sum of the losses of all.
        """
        return part if self._processes.size == 1 else _Gathered.apply(part, self._processes, self.n_rows)

    def mean(self, of_own: Tensor) -> Tensor:
        """What turns a mean over this process's rows into a term whose mean over the processes is that over all rows."""
        if self._processes.size == 1:
            return of_own
        return of_own * (self._processes.size * (self.own.stop - self.own.start) / self.n_rows)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, among: Processes, n_rows: int) -> Tensor:
        ctx.among, ctx.own = among, among.share(n_rows)
        return among.concatenated(part, n_rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].contiguous().clone()
        ctx.among.add(total)
        return total[ctx.own], None, None
