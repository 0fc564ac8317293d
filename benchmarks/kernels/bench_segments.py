"""segment_gram against a loop over clusters and against one batched product."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from desc_ext import ops


def loop(z, labels, n_segments):
    out = z.new_empty(n_segments, z.shape[1], z.shape[1])
    for k in range(n_segments):
        own = z[labels == k]
        torch.mm(own.T, own, out=out[k])
    return out


def sorted_loop(z, labels, n_segments):
    order = labels.argsort()
    out = z.new_empty(n_segments, z.shape[1], z.shape[1])
    for k, own in enumerate(z[order].split(labels.bincount(minlength=n_segments).tolist())):
        torch.mm(own.T, own, out=out[k])
    return out


@pytest.mark.parametrize("shape", [(70_000, 50, 10), (70_000, 500, 10), (200_000, 64, 100)], ids=str)
def bench_segment_gram(measure, shape):
    n, p, n_segments = shape
    torch.manual_seed(0)
    z, labels = torch.randn(n, p), torch.randint(n_segments, (n,))
    functions = {"desc_ext": ops.segment_gram, "loop": loop, "sorted loop": sorted_loop}
    calls = {label: partial(function, z, labels, n_segments) for label, function in functions.items()}
    measure("segments", "segment_gram", "forward", shape, n * p * p, calls)
