"""The emulator that runs CUDA kernels on the CPU: selftest.cpp, compiled once and run by case."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from emulator_builds import CXX, EMULATOR, build, needs_compiler

TESTS = EMULATOR / "tests"

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def selftest(tmp_path_factory) -> Path:
    return build(TESTS / "selftest.cpp", tmp_path_factory.mktemp("emulator") / "selftest")


def run_case(program: Path, case: str) -> subprocess.CompletedProcess:
    return subprocess.run([str(program), case], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "case", ["all_orders", "order", "counters", "limits", "conversions", "use_after_error"]
)
def test_results(selftest, case):
    done = run_case(selftest, case)
    assert done.stdout == "ok\n"
    assert done.returncode == 0


@pytest.mark.slow
def test_results_with_portable_context_switches(tmp_path):
    program = build(TESTS / "selftest.cpp", tmp_path / "selftest", "-DEMULATOR_UCONTEXT")
    for case in ("all_orders", "use_after_error"):
        assert run_case(program, case).stdout == "ok\n"


# What is said, the source line that it is said of, and the thread.
MISUSE = {
    "divergent_barrier": ("divergent barrier: this thread is in __syncthreads while others wait at", 2, 3),
    "lane_outside_mask": ("__shfl_xor_sync: lane 12 calls it but is not in its mask 0x00000fff", 0, 12),
    "read_outside_mask": ("reads lane 8, which is not in its mask 0x000000ff", 1, 7),
    "ended_lane": ("__ballot_sync: mask 0xffffffff names lane 5, which has ended", 2, 6),
    "full_mask": ("names lane 16, which has ended or does not exist", 0, 32),
    "divergent_collective": ("is in __ballot_sync while others of mask 0xffffffff wait in __shfl_sync", 4, 7),
    "odd_width": ("__shfl_sync: width must be a power of two from 1 to 32, got 12", 0, 0),
    "copy_of_odd_size": ("copy_async: bytes must be 4, 8 or 16, got 12", 0, 0),
    "copy_never_waited_for": ("asynchronous copies were never waited for", 1, 0),
    "trap": ("__trap", 1, 2),
}
CASE_OF_KERNEL = {"full_mask": "lane_that_never_was"}


@pytest.mark.parametrize("kernel", MISUSE)
def test_misuse_is_named_with_its_place(selftest, kernel):
    text, line_in_kernel, thread = MISUSE[kernel]
    lines = (TESTS / "selftest_kernels.h").read_text().splitlines()
    begin = next(i for i, line in enumerate(lines) if f" {kernel}(" in line)
    done = run_case(selftest, CASE_OF_KERNEL.get(kernel, kernel))
    assert done.returncode == 1
    assert done.stdout.startswith("emulator: ")
    assert text in done.stdout
    assert f"[selftest_kernels.h:{begin + 1 + line_in_kernel}, block (0, " in done.stdout
    assert f"thread ({thread}, 0, 0)]" in done.stdout


def test_trap_names_the_block(selftest):
    assert "block (0, 1, 0), thread (2, 0, 0)" in run_case(selftest, "trap").stdout


@pytest.mark.parametrize("address", ["shared", "global"])
def test_misaligned_asynchronous_copy(selftest, address):
    done = run_case(selftest, f"misaligned_{address}")
    assert done.returncode == 1
    assert f"copy_async: the {address} address is not aligned to 16 bytes" in done.stdout


def test_deadlock_lists_who_waits_where(selftest):
    done = run_case(selftest, "deadlock")
    assert done.returncode == 1
    assert "deadlock in block (0, 0, 0)" in done.stdout
    waiting = re.findall(
        r"(\d+) threads \(the first is \((\d+), 0, 0\)\) wait in (\w+) at selftest_kernels", done.stdout
    )
    assert waiting == [("49", "0", "__syncthreads"), ("15", "32", "__shfl_sync")]


def test_unequal_masks_are_a_deadlock(selftest):
    assert (
        "32 threads (the first is (0, 0, 0)) wait in __shfl_sync"
        in run_case(selftest, "unequal_masks").stdout
    )


@pytest.mark.slow
def test_it_is_built_and_tested_alone(tmp_path):
    tools = str(Path(sys.executable).parent)
    path = os.pathsep.join([tools, os.environ.get("PATH", os.defpath)])
    cmake, ninja = shutil.which("cmake", path=tools), shutil.which("ninja", path=path)
    if cmake is None or ninja is None:
        pytest.skip("needs the cmake that make installs beside Python, and ninja")
    for command in (
        [cmake, "-S", EMULATOR, "-B", tmp_path, "-G", "Ninja", f"-DCMAKE_CXX_COMPILER={shutil.which(CXX)}"],
        [cmake, "--build", tmp_path, "--parallel", "2"],
        [str(Path(cmake).with_name("ctest")), "--test-dir", tmp_path, "--no-tests=error"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
        assert done.returncode == 0, done.stdout + done.stderr
    assert "100% tests passed" in done.stdout
