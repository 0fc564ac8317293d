"""What can be measured: for each operator its shapes, arguments, cost, and the plain torch it is measured against."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from desc_ext import ops, reference
from desc_ext.bench import pairs, peers, segments

__all__ = ["PROBLEMS", "USUAL", "Problem", "check_shape", "find"]

Shape = tuple[int, ...]
LITERAL_LIMIT = 10_000_000  # elements of an n×K×p array; beyond, the formula as it is written is left out


def value_of(output: Any) -> Tensor:
    """What is compared and differentiated of an operator's result: its values, not its labels or indices."""
    return output[1] if isinstance(output, tuple) else output


@dataclass(frozen=True)
class Problem:
    """One operator as it is measured."""

    operator: str
    sizes: str
    """The shape's numbers by name, such as ``n,p,K,d``."""
    shapes: tuple[Shape, ...]
    """Measured where the user names none."""
    arguments: Callable[[Shape], tuple[Tensor, ...]]
    """Arguments in float64 on the CPU, from torch's generator."""
    ours: Callable[..., Any]
    peers: dict[str, Callable[..., Any]]
    """Plain torch by name; the first one, in float64, is what all results are compared with."""
    operations: Callable[[Shape], float]
    """Multiplications and additions that the forward result needs."""
    backward: float = 2.0
    """Operations of the backward pass, in those of the forward one; 0: there is none."""

    compared: Callable[[Any], Tensor] = value_of
    """What is compared of a result."""

    def candidates(self, shape: Shape) -> dict[str, Callable[..., Any]]:
        """Ours, then the peers that this shape leaves room for."""
        n_literal = math.prod(shape[:3]) if self.sizes == "n,p,K,d" else 0
        wanted = {
            name: f for name, f in self.peers.items() if name != "literal" or n_literal <= LITERAL_LIMIT
        }
        return {"desc_ext": self.ours, **wanted}


# Arguments


def rows_and_bases(shape: Shape) -> tuple[Tensor, ...]:
    n, p, n_subspaces, dim = shape
    bases = torch.linalg.qr(torch.randn(n_subspaces, p, dim, dtype=torch.float64))[0].contiguous()
    return torch.randn(n, p, dtype=torch.float64), bases


def weighted_rows_and_bases(shape: Shape) -> tuple[Tensor, ...]:
    return *rows_and_bases(shape), torch.rand(shape[0], shape[2], dtype=torch.float64)


def rows_and_centroids(shape: Shape) -> tuple[Tensor, ...]:
    n, p, n_clusters = shape
    z, centroids = (torch.randn(rows, p, dtype=torch.float64) for rows in (n, n_clusters))
    return z, centroids


def two_views(shape: Shape) -> tuple[Tensor, ...]:
    z = torch.randn(*shape, dtype=torch.float64)
    return z, z + 0.3 * torch.randn_like(z)


def codes(shape: Shape) -> tuple[Tensor, ...]:
    return (ops.ridge_self_expression(torch.randn(*shape, dtype=torch.float64), 2.0),)


def prediction_and_codes(shape: Shape) -> tuple[Tensor, ...]:
    prediction = torch.softmax(2 * torch.randn(shape[0], pairs.CLASSES, dtype=torch.float64), 1)
    return torch.nn.functional.normalize(prediction, dim=1), *codes(shape)


def rows_alone(shape: Shape) -> tuple[Tensor, ...]:
    return (torch.randn(*shape, dtype=torch.float64),)


def rows_and_coefficients(shape: Shape) -> tuple[Tensor, ...]:
    n = shape[0]
    return torch.randn(*shape, dtype=torch.float64), torch.randn(n, n, dtype=torch.float64) / n


def bases_alone(shape: Shape) -> tuple[Tensor, ...]:
    return (torch.randn(*shape, dtype=torch.float64) / shape[1] ** 0.5,)


# Cost


def products(shape: Shape) -> float:
    return 2 * math.prod(shape)


def of_pairs(columns: Callable[[int], float]) -> Callable[[Shape], float]:
    """One multiplication and addition a column of each unordered pair; InfoNCE's pairs are ordered."""
    return lambda shape: shape[0] ** 2 * columns(shape[1]) + 2 * math.prod(shape)


def orthogonality_cost(shape: Shape) -> float:
    n_subspaces, p, dim = shape
    return p * n_subspaces * dim * min(p, n_subspaces * dim)


# The table

LARGE, SMALL = (20_000, 128, 100, 8), (256, 50, 10, 5)
PAIRS = ((2000, 30), (256, 50))


def _projection(
    name: str, arguments: Callable[[Shape], tuple[Tensor, ...]], backward: float = 2.0
) -> Problem:
    forms: dict[str, Callable[..., Any]] = {
        "Gram": peers.GRAM[name],
        "products": peers.PRODUCTS[name],
        "literal": peers.LITERAL[name],
    }
    return Problem(name, "n,p,K,d", (LARGE, SMALL), arguments, getattr(ops, name), forms, products, backward)


def _energy(z: Tensor, bases: Tensor) -> Tensor:
    return peers.coefficients(z, bases).square().sum(-1)


def _of_rows(
    name: str,
    ours: Callable[..., Any],
    cost: Callable[[Shape], float],
    arguments: Any = two_views,
    backward: float = 2.0,
) -> Problem:
    return Problem(name, "n,p", PAIRS, arguments, ours, {"eager": pairs.EAGER[name]}, cost, backward)


PROBLEMS: dict[str, Problem] = {
    problem.operator: problem
    for problem in (
        _projection("projection_residual", rows_and_bases),
        _projection("nearest_subspace", rows_and_bases, 0),  # a tie that rounding decides has another gradient
        _projection("weighted_projection_loss", weighted_rows_and_bases),
        Problem(
            "projection_energy", "n,p,K,d", (LARGE, SMALL), rows_and_bases, ops.projection_energy,
            {"eager": _energy, "literal": reference.projection_energy}, products,
        ),
        Problem(
            "subspace_soft_assignment", "n,p,K,d", (LARGE, SMALL), rows_and_bases,
            lambda z, bases: ops.subspace_soft_assignment(z, bases, 1.0),
            {"eager": peers.soft_assignment, "literal": lambda z, s: reference.subspace_soft_assignment(z, s, 1.0)},
            products,
        ),
        Problem(
            "student_t_assignment", "n,p,K", ((20_000, 64, 100), (256, 10, 10)), rows_and_centroids,
            ops.student_t_assignment, {"eager": peers.student_t}, lambda shape: 3 * math.prod(shape), 4 / 3,
        ),
        Problem(
            "block_orthogonality_penalty", "K,p,d", ((100, 128, 8), (10, 50, 5)), bases_alone,
            ops.block_orthogonality_penalty, {"eager": reference.block_orthogonality_penalty}, orthogonality_cost,
        ),
        Problem(
            "coefficient_topk", "n,p", PAIRS, codes, lambda y: ops.coefficient_topk(y, 5),
            {"eager": pairs.coefficient_topk}, of_pairs(lambda p: p), 0,
            lambda output: output[1].abs(),  # rounding may decide which of two equal sizes comes first
        ),
        _of_rows("affinity_row_max", ops.affinity_row_max, of_pairs(lambda p: p), codes, 0),
        _of_rows(
            "self_expression_residual", pairs.residual(ops), lambda shape: 2 * shape[0] ** 2 * shape[1],
            rows_and_coefficients,
        ),
        _of_rows(
            "laplacian_energy", lambda z, t: ops.laplacian_energy(z, t, pairs.BANDWIDTH), of_pairs(lambda p: 3 * p)
        ),
        _of_rows("info_nce", lambda z, g: ops.info_nce(z, g, pairs.TEMPERATURE), of_pairs(lambda p: 2 * p)),
        _of_rows(
            "collaborative_loss", pairs.collaborative(ops), of_pairs(lambda p: p + pairs.CLASSES), prediction_and_codes, 0
        ),  # rounding moves pairs over a threshold, which has another gradient
        _of_rows("squared_l12_norm", ops.squared_l12_norm, of_pairs(lambda p: 0), rows_alone),
        Problem(
            "segment_gram", "n,p", ((20_000, 64), SMALL[:2]), rows_alone, segments.gram(ops),
            {"loop": segments.loop, "sorted loop": segments.sorted_loop}, lambda shape: shape[0] * shape[1] ** 2,
        ),
    )
}  # fmt: skip
"""All that ``desc-ext bench`` takes, by the operator's name."""

USUAL = (
    ("nearest_subspace", LARGE), ("weighted_projection_loss", SMALL), ("subspace_soft_assignment", LARGE),
    ("info_nce", PAIRS[0]),
)  # fmt: skip
"""Measured where the user names no operator: one of each kind, few enough for torch.compile to take about a minute."""


def find(operator: str) -> Problem:
    """The problem of an operator.

    Raises:
        ValueError: there is none of that name; the message lists those that are.
    """
    if operator not in PROBLEMS:
        raise ValueError(f"there is no operator '{operator}' to measure; operators are {', '.join(PROBLEMS)}")
    return PROBLEMS[operator]


def check_shape(problem: Problem, sizes: Sequence[int], said: str) -> Shape:
    """``sizes`` as the shape of a problem; ``said`` is how the user wrote them.

    Raises:
        ValueError: it has not as many numbers as the operator's shape, or they do not go together.
    """
    names = problem.sizes.split(",")
    example = ",".join(map(str, problem.shapes[0]))
    wanted = f"the shape of {problem.operator} is {problem.sizes}, such as --shape {example}"
    if len(sizes) != len(names):
        number = f"{len(sizes)} number{'s' * (len(sizes) != 1)}"
        raise ValueError(f"--shape {said} has {number}, wanted {len(names)}: {wanted}")
    if min(sizes) < 1:
        raise ValueError(f"--shape {said}: every number must be at least 1: {wanted}")
    of = dict(zip(names, sizes, strict=True))
    if of.get("d", 1) > of["p"]:
        raise ValueError(
            f"--shape {said}: a subspace has at most p = {of['p']} dimensions, got d = {of['d']}: {wanted}"
        )
    if problem.operator == "coefficient_topk" and of["n"] < 6:
        raise ValueError(
            f"--shape {said}: 5 coefficients of a row are looked for, so n must be at least 6: {wanted}"
        )
    return tuple(sizes)
