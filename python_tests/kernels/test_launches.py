"""How many kernels every operator launches on a GPU, counted where they run on the CPU: as many as are recorded.

``DESC_EXT_HOST_CUDA_LIBRARY=build/host_cuda/libdesc_ext_host.so python python_tests/kernels/test_launches.py`` records them.
Registers and spilled ones are held to each kernel's plan by test_cuda_build.py.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import desc_ext  # noqa: F401  isort: skip  (before torch)

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers import REPOSITORY
from helpers.operators import CASES, HOST_CUDA, host_cuda, inputs, why_missing

from desc_ext import ops
from desc_ext.ops import registration

RECORD = REPOSITORY / "benchmarks" / "kernels" / "results" / "cuda_launches.csv"
SHAPE = (70, 50, 10, 5)


def count(case) -> dict[str, int]:
    """Launches of the forward pass and of forward and backward, float32."""
    emulator = host_cuda()
    tensors = inputs(SHAPE, torch.float32)

    def launches(call) -> int:
        emulator.reset_counters()
        call()
        return emulator.counters()["launches"]

    with registration.use_namespace(HOST_CUDA):
        grad = torch.ones_like(case.run(ops, tensors))
        found = {"forward": launches(lambda: case.run(ops, tensors))}
        if case.differentiable:
            found["full"] = launches(lambda: case.gradients(ops, tensors, grad))
    return found


def recorded() -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    with open(RECORD, newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["operator"], {})[row["part"]] = int(row["launches"])
    return found


@pytest.mark.skipif(why_missing("host_cuda") is not None, reason=str(why_missing("host_cuda")))
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_host_cuda_launches_are_those_recorded(case):
    assert count(case) == recorded()[case.id], (
        f"if this is meant: python {Path(__file__).name}, see its first lines"
    )


def test_every_operator_has_a_record():
    assert set(recorded()) == {case.id for case in CASES}
    assert all(number >= 1 for parts in recorded().values() for number in parts.values())


def main() -> None:
    with open(RECORD, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["operator", "part", "launches"])
        for case in CASES:
            writer.writerows([case.id, part, number] for part, number in count(case).items())


if __name__ == "__main__":
    main()
