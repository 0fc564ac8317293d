"""Losses over pairs of rows: forward, and forward with backward."""

from __future__ import annotations

from functools import partial

import pair_peers
import pytest
import torch

from desc_ext import ops
from desc_ext.bench import peers

SHAPES = [(2000, 30), (5000, 90), (5000, 500)]
OURS = {
    "collaborative_loss": pair_peers.collaborative(ops),
    "laplacian_energy": lambda z, t: ops.laplacian_energy(z, t, pair_peers.BANDWIDTH),
    "info_nce": lambda z, g: ops.info_nce(z, g, pair_peers.TEMPERATURE),
    "squared_l12_norm": ops.squared_l12_norm,
}


def arguments(operator: str, n: int, p: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    z = torch.randn(n, p)
    if operator == "collaborative_loss":
        prediction = torch.nn.functional.normalize(torch.softmax(2 * torch.randn(n, 10), 1), dim=1)
        return [prediction, ops.ridge_self_expression(z, 2.0)]
    return [z] if operator == "squared_l12_norm" else [z, z + 0.3 * torch.randn(n, p)]


def operations(operator: str, n: int, p: int) -> float:
    """Of the forward pass: one multiplication and addition a column of each unordered pair (ordered: InfoNCE)."""
    columns = {
        "collaborative_loss": p + 10,
        "laplacian_energy": 3 * p,
        "info_nce": 2 * p,
        "squared_l12_norm": 0,
    }
    return n * n * columns[operator] + 2 * n * p


@pytest.mark.parametrize("part", ["forward", "full"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("operator", OURS)
def bench_pairwise(measure, operator, shape, part):
    rows = arguments(operator, *shape)
    functions = {"desc_ext": OURS[operator], "eager": pair_peers.EAGER[operator]}
    if operator in pair_peers.KEOPS:
        functions["keops"] = pair_peers.KEOPS[operator]
    if part == "full":
        rows = [row.requires_grad_() for row in rows]
        functions = {label: peers.full(function) for label, function in functions.items()}
    calls = {label: partial(function, *rows) for label, function in functions.items()}
    times = 3 if part == "full" else 1
    measure("pairwise", operator, part, shape, times * operations(operator, *shape), calls)
