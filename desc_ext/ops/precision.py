"""Whether products of float32 may keep 10 bits of the mantissa, as tensor cores' TF32 does.

Tensor cores are not a matter of permission by themselves: where this is not allowed, they multiply float32 in two parts
of float16, as accurately as float32 itself (docs/tensor-cores.md). ``DESC_EXT_TENSOR_CORES`` is read here when
desc_ext is imported, and by the CUDA kernels at every call: set it before the start of Python.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

__all__ = ["allow_tf32"]

_VARIABLE = "DESC_EXT_TENSOR_CORES"
_asked = os.environ.get(_VARIABLE, "")
if _asked not in ("", "0", "1", "always"):
    raise ImportError(
        f"{_VARIABLE}={_asked} means nothing: set it to 1 (tensor cores where they should pay, the default), always "
        "(wherever they can) or 0 (never)"
    )
_TENSOR_CORES = _asked != "0"


def allow_tf32(z: Tensor) -> bool:
    """True where torch's own setting for products of float32 matrices (``torch.set_float32_matmul_precision``) allows
    it, and DESC_EXT_TENSOR_CORES is not 0. In a compiled graph: as it was when traced."""
    return _TENSOR_CORES and z.is_cuda and torch.backends.cuda.matmul.fp32_precision == "tf32"
