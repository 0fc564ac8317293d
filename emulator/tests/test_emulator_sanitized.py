"""The emulator under ThreadSanitizer and AddressSanitizer: it raises no false alarm, and what is wrong is reported."""

from __future__ import annotations

import os

import pytest
from emulator_builds import EMULATOR, RACE, SANITIZERS, SanitizedBuilds, needs_compiler

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("EMULATOR_SANITIZE") != "1", reason="make sanitize runs these"),
    needs_compiler,
]


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    builds = SanitizedBuilds(tmp_path_factory.mktemp("sanitize"))
    for sanitizer in SANITIZERS:
        builds.add(sanitizer, sanitizer, EMULATOR / "tests" / "selftest.cpp")
    yield builds
    builds.close()


@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize(
    "case", ["all_orders", "counters", "limits", "conversions", "use_after_error", "deadlock"]
)
def test_emulator_is_clean(builds, sanitizer, case):
    code, text = builds.run(sanitizer, case)
    assert (code, text[:18]) == ((1, "emulator: deadlock") if case == "deadlock" else (0, "ok\n"))
    assert "Sanitizer" not in text


@pytest.mark.parametrize(
    "case", ["in_block", "across_shuffle", "between_blocks", "after_copy", "before_copy"]
)
def test_races_are_reported(builds, case):
    code, text = builds.run("thread", f"race_{case}")
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
    code, text = builds.run("address", case)
    assert report in text
    assert "selftest_kernels.h" in text
    assert code != 0
