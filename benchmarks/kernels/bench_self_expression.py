"""The largest coefficients, row maxima, and the residual of a learned C."""

from __future__ import annotations

from functools import partial

import pair_peers
import pytest
import torch

from desc_ext import ops
from desc_ext.bench import peers


def compare(measure, operator, part, shape, work, functions, *rows):
    calls = {label: partial(function, *rows) for label, function in functions.items()}
    measure("self_expression", operator, part, shape, work, calls)


@pytest.mark.parametrize("shape", [(5000, 90), (5000, 500), (20_000, 500)], ids=str)
def bench_coefficient_topk(measure, shape):
    n, p = shape
    torch.manual_seed(0)
    y = ops.ridge_self_expression(torch.randn(n, p), 2.0)
    functions = {
        "desc_ext": lambda y: ops.coefficient_topk(y, 5),
        "eager": pair_peers.coefficient_topk,
        "product alone": pair_peers.product_alone,
    }
    compare(measure, "coefficient_topk", "forward", shape, n * n * p, functions, y)


@pytest.mark.parametrize("shape", [(2000, 30), (5000, 90)], ids=str)
def bench_affinity_row_max(measure, shape):
    n, p = shape
    torch.manual_seed(0)
    y = ops.ridge_self_expression(torch.randn(n, p), 2.0)
    functions = {"desc_ext": ops.affinity_row_max, "eager": pair_peers.EAGER["affinity_row_max"]}
    if pair_peers.KEOPS:
        functions["keops"] = pair_peers.KEOPS["affinity_row_max"]
    compare(measure, "affinity_row_max", "forward", shape, n * n * p, functions, y)


@pytest.mark.parametrize("part", ["forward", "full"])
@pytest.mark.parametrize("shape", [(2000, 30), (5000, 90)], ids=str)
def bench_self_expression_residual(measure, shape, part):
    n, p = shape
    torch.manual_seed(0)
    rows = [torch.randn(n, p), torch.randn(n, n) / n]
    functions = {"desc_ext": pair_peers.residual(ops), "eager": pair_peers.EAGER["self_expression_residual"]}
    if part == "full":
        rows = [row.requires_grad_() for row in rows]
        functions = {label: peers.full(function) for label, function in functions.items()}
    work = 2 * n * n * p * (3 if part == "full" else 1)
    compare(measure, "self_expression_residual", part, shape, work, functions, *rows)
