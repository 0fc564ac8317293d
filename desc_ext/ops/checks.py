"""Argument checks shared by the operators: what was got, what was wanted, how to mend it."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@functools.cache
def build_info() -> dict:
    """What the compiled library was built with and what it runs on here."""
    return json.loads(torch.ops.desc_ext.build_info())


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of arithmetic and results: float64 for float64, float32 for float32, float16 and bfloat16."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def shape_text(tensor: Tensor) -> str:
    return "[" + ", ".join(str(size) for size in tensor.shape) + "]"


def check_tensor(op: str, name: str, value: Any, wanted: str, dim: int) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{op}: {name} must be a torch.Tensor {wanted}, got {type(value).__name__}; "
            "convert it with torch.as_tensor"
        )
    if value.dim() != dim:
        raise ValueError(f"{op}: {name} must be {wanted}, got shape {shape_text(value)}")


def check_floating(op: str, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOATING:
        raise TypeError(
            f"{op}: {name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}; "
            f"convert it with {name}.float()"
        )
    kind = tensor.device.type
    if kind == "cuda" and not cuda_architectures():
        raise RuntimeError(
            f"{op}: {name} is on {tensor.device}, but this build of desc_ext has CPU kernels only; "
            f"move it with {name}.cpu()"
        )


@functools.cache
def cuda_architectures() -> tuple[str, ...]:
    return tuple(build_info()["cuda_architectures"])


def check_like(op: str, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Same device; float64 only together with float64."""
    check_floating(op, name, tensor)
    if tensor.device != other.device:
        raise ValueError(
            f"{op}: {name} is on {tensor.device} and {other_name} on {other.device}; move one to the other's device"
        )
    if compute_dtype(tensor) != compute_dtype(other):
        raise TypeError(
            f"{op}: {name} is {tensor.dtype} and {other_name} {other.dtype}; float64 is not mixed with other "
            "types, convert one of them"
        )


def check_rows(op: str, z: Any, name: str = "z") -> None:
    check_tensor(op, name, z, "[n, p]", 2)
    check_floating(op, name, z)


def check_batch(op: str, name: str, rows: Any) -> None:
    """[n, p], or [b, n, p] with a leading batch dimension."""
    if not isinstance(rows, Tensor):
        check_tensor(op, name, rows, "[n, p] or [b, n, p]", 2)
    if rows.dim() not in (2, 3):
        raise ValueError(f"{op}: {name} must be [n, p] or [b, n, p], got shape {shape_text(rows)}")
    check_floating(op, name, rows)


def check_batch_like(op: str, name: str, tensor: Any, shape: tuple, other_name: str, other: Tensor) -> None:
    """An array that goes with ``other``, of the given shape, in which -1 matches any size."""
    if not isinstance(tensor, Tensor):
        check_tensor(op, name, tensor, "of a shape that goes with " + other_name, len(shape))
    if tensor.dim() != len(shape) or any(
        want != -1 and got != want for got, want in zip(tensor.shape, shape, strict=True)
    ):
        wanted = ", ".join("any" if isinstance(size, int) and size == -1 else str(size) for size in shape)
        raise ValueError(
            f"{op}: {name} must be [{wanted}] to go with {other_name} {shape_text(other)}, got shape "
            f"{shape_text(tensor)}"
        )
    check_like(op, name, tensor, other_name, other)


def as_batch(tensor: Tensor, dim: int = 3) -> Tensor:
    """With a batch dimension of 1 where there is none."""
    return tensor if tensor.dim() == dim else tensor.unsqueeze(0)


def check_rows_and_bases(op: str, z: Any, bases: Any) -> None:
    check_rows(op, z)
    check_bases(op, bases)
    if bases.shape[1] != z.shape[1]:
        raise ValueError(
            f"{op}: bases [K, p, d] must have the p = {z.shape[1]} columns of z, got shape {shape_text(bases)}"
        )
    check_like(op, "bases", bases, "z", z)


def check_bases(op: str, bases: Any) -> None:
    check_tensor(op, "bases", bases, "[K, p, d]", 3)
    check_floating(op, "bases", bases)
    n_subspaces, width, dim = bases.shape
    if n_subspaces == 0:
        raise ValueError(f"{op}: bases holds no subspace (K = 0), got shape {shape_text(bases)}")
    if not 1 <= dim <= width:
        raise ValueError(
            f"{op}: bases [K, p, d] must have 1 <= d <= p, got d = {dim}, p = {width}; "
            "a subspace cannot have more dimensions than the space"
        )


# Sizes are put into words only where an error is raised: formatting them always would make torch.compile treat every
# number of rows as another program.


def check_matrix(op: str, name: str, tensor: Any, rows: int, columns: int, z: Tensor) -> None:
    """A [rows, columns] array that goes with z."""
    check_tensor(op, name, tensor, "a matrix", 2)
    if tensor.shape[0] != rows or tensor.shape[1] != columns:
        raise ValueError(f"{op}: {name} must be [{rows}, {columns}], got shape {shape_text(tensor)}")
    check_like(op, name, tensor, "z", z)


def check_vector(op: str, name: str, tensor: Any, size: int, like_name: str, like: Tensor) -> None:
    check_tensor(op, name, tensor, "a vector", 1)
    if tensor.shape[0] != size:
        raise ValueError(f"{op}: {name} must be [{size}], got shape {shape_text(tensor)}")
    check_like(op, name, tensor, like_name, like)


def check_constant(op: str, name: str, tensor: Tensor) -> None:
    """For arguments that take no part in the gradient: refused rather than silently dropped."""
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{op}: {name} is a constant of the formula and gets no gradient, but it requires one; "
            f"pass {name}.detach()"
        )


def check_finite(op: str, name: str, value: Any, least: float, open_end: bool) -> float:
    value = float(value)
    if not least <= value < math.inf or (open_end and value == least):
        bound = "" if least == -math.inf else f" and > {least:g}" if open_end else f" and >= {least:g}"
        raise ValueError(f"{op}: {name} must be finite{bound}, got {value}")
    return value


def check_choice(op: str, name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{op}: {name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
