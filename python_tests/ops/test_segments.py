"""segment_gram: closed forms, segments that reach over chunks of rows, empty ones."""

from __future__ import annotations

import pytest
import torch


def rows(n: int, p: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(n, p, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize(
    "sizes",
    [
        [1],
        [5000],
        [0, 5000, 0],
        [126, 4874],
        [4000, 1, 999],
        [1] * 50,
        [700] * 7,
        [0, 0, 3],
        [129, 127, 1, 2000],
    ],
    ids=lambda sizes: f"{len(sizes)}-segments-{sum(sizes)}-rows",
)
def test_every_way_segments_lie_over_chunks(ops, sizes):
    n = sum(sizes)
    z = rows(n, 9)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(n, generator=torch.Generator().manual_seed(1))]
    grams = ops.segment_gram(z, labels, len(sizes))
    for k in range(len(sizes)):
        own = z[labels == k]
        torch.testing.assert_close(grams[k], own.T @ own, rtol=1e-11, atol=1e-11)
    assert torch.equal(grams, grams.transpose(1, 2))


def test_weights_count_rows(ops):
    """Integer weights are repetitions."""
    z, labels = rows(40, 5), torch.arange(40) % 3
    times = torch.arange(40) % 4
    repeated = ops.segment_gram(z.repeat_interleave(times, 0), labels.repeat_interleave(times), 3)
    torch.testing.assert_close(
        ops.segment_gram(z, labels, 3, times.double()), repeated, rtol=1e-12, atol=1e-12
    )


def test_leading_eigenvectors_are_the_left_singular_vectors(ops):
    z = rows(300, 12) * torch.arange(1, 13)
    labels = torch.arange(300) % 2
    eigenvectors = torch.linalg.eigh(ops.segment_gram(z, labels, 2))[1][:, :, -3:]
    for k in range(2):
        singular = torch.linalg.svd(z[labels == k].T, full_matrices=False)[0][:, :3]
        overlap = torch.linalg.svdvals(eigenvectors[k].T @ singular)
        torch.testing.assert_close(overlap, torch.ones(3, dtype=torch.float64))


def test_float32_sums_over_many_rows_stay_accurate(ops):
    n = ops.rows(200_000, emulated=20_000)
    z = rows(n, 4, torch.float32)
    gram = ops.segment_gram(z, torch.zeros(n, dtype=torch.int64), 1)[0].double()
    truth = z.double().T @ z.double()
    assert ((gram - truth).abs().max() / truth.abs().max()).item() < 1e-6
