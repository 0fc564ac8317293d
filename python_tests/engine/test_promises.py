"""What docs/determinism.md says of all fits, and no test of a single method shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from desc_ext.engine.rows import scaling_statistics
from desc_ext.models import DESC

ROOT = Path(__file__).resolve().parents[2]


def test_every_part_of_a_fit_has_a_stream_of_its_own():
    """What one part draws, or does not, changes nothing of the others."""
    X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    with_noise, without = (
        DESC(3, hidden_sizes=(8,), corruption=share, random_state=4).begin(X) for share in (0.5, 0.0)
    )
    torch.rand(1000, generator=with_noise.noise)
    orders = [torch.randperm(60, generator=state.order) for state in (with_noise, without)]
    assert torch.equal(*orders)
    weights = [state.network.state_dict() for state in (with_noise, without)]
    assert weights[0]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    first = DESC(3, hidden_sizes=(8,), random_state=4).begin(X)
    drawn = [torch.rand(4, generator=g) for g in (first.order, first.noise, torch.Generator().manual_seed(4))]
    assert not any(torch.equal(drawn[i], drawn[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("scaling", ["global", "standard", "uncentred"])
def test_statistics_of_scaling_are_computed_in_float64(scaling):
    """Of values far from 0, whose sums float32 does not hold, the deviation is right to eight digits."""
    X = (np.random.default_rng(0).normal(size=(20_000, 3)) + 10_000).astype(np.float32)
    exact = X.astype(np.float64)
    offset = {"uncentred": np.zeros(3)}.get(scaling, exact.mean(0))
    deviation = {
        "global": np.sqrt((exact - offset).var()),
        "standard": exact.std(0),
        "uncentred": np.sqrt((exact**2).mean()),
    }[scaling]
    found_offset, found_scale = scaling_statistics(X, scaling)
    assert found_offset.dtype == found_scale.dtype == np.float64
    np.testing.assert_allclose(found_offset, offset, rtol=1e-12)
    np.testing.assert_allclose(found_scale, np.broadcast_to(deviation, 3), rtol=1e-8)


def test_no_kernel_adds_floating_point_numbers_by_atomics():
    """Their order on a GPU is another in every run. Whole numbers may be counted so: their sum has no order."""
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu*"))
    assert sources
    calls = {
        call
        for source in sources
        for line in source.read_text(encoding="utf-8").splitlines()
        for call in re.findall(
            r"\batomic\w*\(.*|\b(?:atom|red)\.(?:global|shared|add).*", line.partition("//")[0]
        )
    }
    assert calls  # or the pattern finds nothing
    assert [call for call in calls if not re.fullmatch(r"atomicAdd\(counts \+ .*, 1ull\);", call)] == []
