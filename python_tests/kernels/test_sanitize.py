"""Every CUDA kernel under ThreadSanitizer and AddressSanitizer, on the CPU; and faults planted in copies of them, which
prove that the check can fail. `make sanitize` runs this file."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from emulator_builds import RACE, SANITIZERS, SanitizedBuilds, needs_compiler
from helpers import REPOSITORY

PROGRAMS = ("sanitize", "sanitize_pairs")
CSRC = REPOSITORY / "csrc"
KERNEL_TESTS = REPOSITORY / "python_tests" / "kernels"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("DESC_EXT_SANITIZE") != "1", reason="make sanitize runs these"),
    needs_compiler,
    pytest.mark.timeout(
        1800
    ),  # each waits for its build, which takes minutes, on a busy machine more than ten
]


@dataclass
class Fault:
    sanitizer: str
    case: str  # of the program
    file: str
    after: str  # the edit is made behind the first occurrence of this
    old: str
    new: str
    report: tuple[str, ...]  # all of these are said
    program: str = "sanitize"


FAULTS = {
    "barrier between stages": Fault(
        "thread", "student", "product.cuh", "void walk(", "__syncthreads();  // this stage", "// this stage",
        (RACE, "product_distances"),
    ),
    "barrier between stages on tensor cores": Fault(
        "thread", "tensor_values", "tensor.cuh", "void walk_tensor(", "__syncthreads();  // this stage", "// this stage",
        (RACE, "product_tensor_values"),
    ),
    "one column beyond the panels of tensor cores": Fault(
        "address", "tensor_values", "tensor.cuh", "void fill_tensor_columns(",
        "i * step < plan.slots", "i * step <= plan.slots",
        ("ERROR: AddressSanitizer: heap-buffer-overflow", "product_tensor_values"),
    ),
    "barrier between the splits of moments": Fault(
        "thread", "tensor_gradient", "tensor_moments.cuh", "split_moment_rows(shared);", "__syncthreads();", "",
        (RACE, "product_tensor_moments"),
    ),
    "barrier before a sum over warps": Fault(
        "thread", "target", "assignment.cuh", "shared[line][lane] = sum;", "__syncthreads();", "",
        (RACE, "column_partials"),
    ),
    "barrier of a warp": Fault(
        "thread", "segment_gram", "segments.cuh", "place_labels(LabelSort",
        "__syncwarp();  // all have read", "// all have read",
        (RACE, "place_labels"),
    ),
    "off by one in a tail": Fault(
        "address", "target", "assignment.cuh", "target_rows(", "if (row >= n) return;", "if (row > n) return;",
        ("ERROR: AddressSanitizer: heap-buffer-overflow", "target_rows"),
    ),
    "shuffle mask without a lane": Fault(
        "address", "target", "device.h", "T warp_sum(T value)", "_xor_sync(kAllLanes,", "_xor_sync(kAllLanes >> 1,",
        ("__shfl_xor_sync: lane 31 calls it but is not in its mask 0x7fffffff [device.h:",),
    ),
    "wait for asynchronous copies": Fault(
        "address", "segment_gram", "moments.cuh", "void accumulate(", "wait_copies<0>();", "",
        ("asynchronous copies were never waited for; the first begins here [platform.h:",),
    ),
    "barrier before entries move": Fault(
        "thread", "largest", "self_expression.cuh", "void insert(", "__syncwarp();  // all have read", "// all have read",
        (RACE, "select_largest"), "sanitize_pairs",
    ),
    "barrier before the largest changes": Fault(
        "thread", "info_nce", "pairwise.cuh", "info_nce_sums(", "__syncwarp();  // all have read", "// all have read",
        (RACE, "info_nce_sums"), "sanitize_pairs",
    ),
    "one row beyond a block of pairs": Fault(
        "address", "laplacian", "pairwise.cuh", "laplacian_weights(", "local >= job.block.rows", "local > job.block.rows",
        ("ERROR: AddressSanitizer: heap-buffer-overflow", "laplacian_weights"), "sanitize_pairs",
    ),
}  # fmt: skip


def plant(fault: Fault, folder: Path) -> Path:
    """Copies the kernels, edits one line there, and returns the copy's folder."""
    shutil.copytree(CSRC / "cuda", folder / "cuda")
    path = folder / "cuda" / fault.file
    before, marker, rest = path.read_text().partition(fault.after)
    assert marker, f"{fault.file} has no {fault.after!r} any more: choose another place for this fault"
    assert fault.old in rest, f"{fault.file} has no {fault.old!r} behind {fault.after!r} any more"
    path.write_text(before + marker + rest.replace(fault.old, fault.new, 1))
    return folder


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sanitize")
    builds = SanitizedBuilds(folder)
    for sanitizer in SANITIZERS:
        for program in PROGRAMS:
            builds.add(f"{sanitizer} {program}", sanitizer, KERNEL_TESTS / f"{program}.cpp", f"-I{CSRC}")
    for name, fault in FAULTS.items():
        kernels = plant(fault, folder / name)
        only = f'-DDESC_EXT_ONLY_CASE="{fault.case}"'
        builds.add(name, fault.sanitizer, KERNEL_TESTS / f"{fault.program}.cpp", f"-I{kernels}", only)
    yield builds
    builds.close()


@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize(("program", "cases"), list(zip(PROGRAMS, (10, 6), strict=True)))
def test_kernels_are_clean(builds, sanitizer, program, cases):
    code, text = builds.run(f"{sanitizer} {program}")
    lines = text.splitlines()
    assert len(lines) == cases, text
    assert [line for line in lines if not line.endswith(": ok")] == []
    assert code == 0


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_reported(builds, name):
    code, text = builds.run(name)
    for said in FAULTS[name].report:
        assert said in text, text[-3000:]
    assert code != 0
