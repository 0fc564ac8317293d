"""Which matrix products torch computes, and whether they are such that a row's bits do not depend on its place."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from desc_ext.fixed_shapes import TILE_ROWS


class Products(TorchDispatchMode):
    """Within it the products of matrices on this thread are noted: rows, terms and columns of each."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, int, int]] = []
        self._faults: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        if name in ("mm", "addmm"):
            left, right = arguments[-2:]
            self._note(name, *left.shape, right.shape[1], left, right)
        elif name in ("bmm", "baddbmm", "mv", "addmv"):
            self._faults.append(f"{name} {[list(tensor.shape) for tensor in arguments]}")
        elif name == "convolution" and arguments[0].dtype == torch.float64 and len(arguments[0]) > 1:
            self._faults.append(
                f"convolution of {len(arguments[0])} images, which torch's own products compute"
            )
        return function(*arguments, **(options or {}))

    def _note(self, name: str, m: int, k: int, n: int, *tensors: torch.Tensor) -> None:
        self.shapes.append((m, k, n))
        if m % TILE_ROWS or k % 16 or n % 16 or any(tensor.data_ptr() % 64 for tensor in tensors):
            self._faults.append(f"{name} [{m}, {k}] [{k}, {n}]")

    def left_over(self) -> list[str]:
        """The products of other than whole tiles, or of unaligned matrices, one a line."""
        return self._faults
