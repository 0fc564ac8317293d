from __future__ import annotations

import _peak
import harness
import pytest
import torch


@pytest.fixture(scope="session")
def report():
    torch.set_num_threads(harness.THREADS)
    return harness.Report(_peak.fma_peak(harness.THREADS), _peak.copy_bandwidth(harness.THREADS))


@pytest.fixture
def measure(report, benchmark):
    """Measures candidates in turn; ours also goes into pytest-benchmark's own table and JSON."""

    def run(family, operator, part, shape, operations, candidates):
        medians = report.measure(family, operator, part, shape, operations, candidates)
        ours = medians.pop("desc_ext")
        benchmark.group = f"{operator}, {part}"
        benchmark.extra_info.update(shape=str(shape), best_peer_ratio=min(medians.values()) / ours)
        benchmark.pedantic(candidates["desc_ext"], rounds=harness.ROUNDS, warmup_rounds=1)

    return run
