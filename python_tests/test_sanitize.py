"""Every CUDA kernel under ThreadSanitizer and AddressSanitizer, on the CPU; and faults planted in copies of them, which
prove that the check can fail. `make sanitize` runs this file."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

CXX = os.environ.get("CXX", "g++")
RUNTIME = ("fiber", "thread", "warp", "memory", "launch", "settings", "sanitizer")
FLAGS = {
    "thread": ["-fsanitize=thread"],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
}
PROGRAMS = ("sanitize", "sanitize_pairs")
CSRC = Path(__file__).resolve().parents[1] / "csrc"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("DESC_EXT_SANITIZE") != "1", reason="make sanitize runs these"),
    pytest.mark.skipif(shutil.which(CXX) is None, reason=f"the C++ compiler {CXX} is not installed"),
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


RACE = "WARNING: ThreadSanitizer: data race"
FAULTS = {
    "barrier between stages": Fault(
        "thread", "student", "product.cuh", "void walk(", "__syncthreads();  // this stage", "// this stage",
        (RACE, "product_distances"),
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
        ("asynchronous copies were never waited for; the first begins here [device.h:",),
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


def compile_object(sanitizer: str, source: Path, target: Path, *flags: str) -> Path:
    command = [CXX, "-std=c++20", "-O1", "-g", "-pthread", "-Wno-unknown-pragmas", *FLAGS[sanitizer], *flags]
    subprocess.run([*command, "-c", str(source), "-o", str(target)], check=True)
    return target


class Builds:
    """Programs, compiled in the background by two compilers at a time, in the order in which tests want them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pool = ThreadPoolExecutor(2)
        self.runtime = {name: self.pool.submit(self.compile_runtime, name) for name in FLAGS}
        self.programs: dict[str, Future[Path]] = {}
        for sanitizer in FLAGS:
            for program in PROGRAMS:
                self.add(f"{sanitizer} {program}", sanitizer, CSRC / "host_cuda" / f"{program}.cpp")
        for sanitizer in FLAGS:
            self.add(f"{sanitizer} selftest", sanitizer, CSRC / "host_cuda" / "selftest.cpp")
        for name, fault in FAULTS.items():
            self.add(
                name, fault.sanitizer, plant(fault, folder / name), f'-DDESC_EXT_ONLY_CASE="{fault.case}"'
            )

    def compile_runtime(self, sanitizer: str) -> list[Path]:
        folder = self.folder / f"runtime-{sanitizer}"
        folder.mkdir()
        sources = CSRC / "host_cuda"
        return [compile_object(sanitizer, sources / f"{name}.cpp", folder / f"{name}.o") for name in RUNTIME]

    def add(self, name: str, sanitizer: str, source: Path, *flags: str) -> None:
        def build() -> Path:
            program = self.folder / name.replace(" ", "-")
            unit = compile_object(sanitizer, source, program.with_suffix(".o"), *flags)
            objects = [str(unit), *map(str, self.runtime[sanitizer].result())]
            subprocess.run([CXX, "-pthread", *FLAGS[sanitizer], *objects, "-o", str(program)], check=True)
            return program

        self.programs[name] = self.pool.submit(build)

    def run(self, name: str, *arguments: str) -> tuple[int, str]:
        options = {"TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"}
        done = subprocess.run(
            [str(self.programs[name].result()), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500, env={**os.environ, **options},
        )  # fmt: skip
        return done.returncode, done.stdout


def plant(fault: Fault, folder: Path) -> Path:
    """Copies the kernels, edits one line there, and returns the copy of the program."""
    for room in ("cuda", "host_cuda"):
        shutil.copytree(CSRC / room, folder / room)
    path = folder / "cuda" / fault.file
    before, marker, rest = path.read_text().partition(fault.after)
    assert marker, f"{fault.file} has no {fault.after!r} any more: choose another place for this fault"
    assert fault.old in rest, f"{fault.file} has no {fault.old!r} behind {fault.after!r} any more"
    path.write_text(before + marker + rest.replace(fault.old, fault.new, 1))
    return folder / "host_cuda" / f"{fault.program}.cpp"


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    builds = Builds(tmp_path_factory.mktemp("sanitize"))
    yield builds
    builds.pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("sanitizer", FLAGS)
@pytest.mark.parametrize(("program", "cases"), zip(PROGRAMS, (9, 6), strict=True))
def test_kernels_are_clean(builds, sanitizer, program, cases):
    code, text = builds.run(f"{sanitizer} {program}")
    lines = text.splitlines()
    assert len(lines) == cases, text
    assert [line for line in lines if not line.endswith(": ok")] == []
    assert code == 0


@pytest.mark.parametrize("sanitizer", FLAGS)
@pytest.mark.parametrize("case", ["all_orders", "counters", "limits", "use_after_error", "deadlock"])
def test_emulator_is_clean(builds, sanitizer, case):
    code, text = builds.run(f"{sanitizer} selftest", case)
    assert (code, text[:19]) == ((1, "host_cuda: deadlock") if case == "deadlock" else (0, "ok\n"))
    assert "Sanitizer" not in text


@pytest.mark.parametrize(
    "case", ["in_block", "across_shuffle", "between_blocks", "after_copy", "before_copy"]
)
def test_races_are_reported(builds, case):
    code, text = builds.run("thread selftest", f"race_{case}")
    assert RACE in text
    assert f"race_{case}" in text
    assert code != 0


@pytest.mark.parametrize(
    ("case", "report"),
    [
        ("shared_overrun", "ERROR: AddressSanitizer: heap-buffer-overflow"),
        ("copy_past_the_end", "ERROR: AddressSanitizer: heap-buffer-overflow"),
        ("misaligned_vector", "runtime error: reference binding to misaligned address"),
    ],
)
def test_overruns_are_reported(builds, case, report):
    code, text = builds.run("address selftest", case)
    assert report in text
    assert "selftest_kernels.h" in text
    assert code != 0


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_reported(builds, name):
    code, text = builds.run(name)
    for said in FAULTS[name].report:
        assert said in text, text[-3000:]
    assert code != 0
