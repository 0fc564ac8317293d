"""The block-orthogonality penalty against the formula in eager torch and under torch.compile."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from desc_ext import ops, reference
from desc_ext.bench import peers


@pytest.mark.parametrize("shape", [(10, 50, 5), (100, 128, 8), (100, 512, 16), (1000, 64, 8)], ids=str)
def bench_block_orthogonality_penalty(measure, shape):
    """float32 peers; ours is summed in float64, so it does twice the work for the digits that cancel."""
    torch._dynamo.reset()
    n_subspaces, p, dim = shape
    torch.manual_seed(0)
    bases = torch.randn(n_subspaces, p, dim).requires_grad_()
    eager = reference.block_orthogonality_penalty
    functions = {
        "desc_ext": ops.block_orthogonality_penalty,
        "compiled": torch.compile(eager, dynamic=False),
        "eager": eager,
    }
    calls = {label: partial(peers.full(function), bases) for label, function in functions.items()}
    columns = n_subspaces * dim
    operations = 3 * p * columns * min(p, columns)
    measure("orthogonality", "block_orthogonality_penalty", "full", shape, operations, calls)
