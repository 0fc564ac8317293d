"""The operators' CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer, with the operators' own tests; and faults
planted in a copy, which prove that the check can fail. `make sanitize` builds the library and runs this file."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY

from desc_ext.ops.checks import build_info

LIBRARY = os.environ.get("DESC_EXT_SANITIZED_LIBRARY", "")
SOURCE = REPOSITORY / "csrc" / "cpu" / "pairwise.cpp"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LIBRARY, reason="make sanitize runs these"),
    pytest.mark.timeout(1800),
]

# torch.compile, other processes and the kernels of other machines are not what is looked at
SKIPPED = (
    "compile",
    "opcheck",
    "instruction_set",
    "host_cuda",
    "memory",
    "registration",
    "transforms",
    "threads",
    "chosen",
    "multiply_adds",
)
TESTS = ("python_tests/ops", "python_tests/kernels/test_amx.py")
PARITY = "test_parity and cpu and not instruction_set and not host_cuda"
FAULTS = {
    "array too short": (
        "Array<T> out(n);",
        "Array<T> out(n / 2);",
        "ERROR: AddressSanitizer: heap-buffer-overflow",
    ),
    "overflowing integer": (
        "Array<T> out(n);",
        "Array<T> out(n); volatile int most = 2147483647; most = most + int(n);",
        "runtime error: signed integer overflow",
    ),
}
LOSS = """
import helpers.sanitized_library
import torch
from desc_ext import ops
ops.info_nce(torch.ones(400, 5), torch.ones(400, 5), 0.2)
"""


def run(arguments: list[str], library: str, **variables: str) -> tuple[int, str]:
    """Exit code and output of Python under the sanitizers."""

    def runtime(name: str) -> str:
        found = subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        )
        return found.stdout.strip()

    environment = {
        # the runtime comes first, and then what throws exceptions, which it looks for when it starts
        "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(REPOSITORY / "python_tests"),
        "DESC_EXT_SANITIZED_LIBRARY": library,
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment, **variables},
        cwd=REPOSITORY,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.parametrize("isa", build_info()["instruction_sets"])
def test_operators_are_clean(isa):
    """All tests with the code for this processor, those of results with that for others."""
    chosen = " and ".join(f"not {word}" for word in SKIPPED) if isa == build_info()["in_use"] else PARITY
    arguments = [
        "-m",
        "pytest",
        "-p",
        "helpers.sanitized_library",
        "-p",
        "no:cacheprovider",
        "-q",
        "-x",
        "-s",
        "-n",
        "0",
    ]
    code, text = run([*arguments, *TESTS, "-k", chosen], LIBRARY, DESC_EXT_CPU=isa)
    assert "Sanitizer" not in text, text[-3000:]
    assert "runtime error" not in text, text[-3000:]
    assert code == 0, text[-3000:]
    assert " passed" in text


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_reported(name, tmp_path):
    old, new, said = FAULTS[name]
    text = SOURCE.read_text()
    assert old in text, f"{SOURCE.name} has no {old!r} any more: choose another place for this fault"
    faulty, unit, library = tmp_path / SOURCE.name, tmp_path / "faulty.o", tmp_path / "lib_desc_ext.so"
    faulty.write_text(text.replace(old, new, 1))
    build = Path(LIBRARY).resolve().parent
    entries = json.loads((build / "compile_commands.json").read_text())
    [entry] = [entry for entry in entries if entry["file"] == str(SOURCE)]
    compile_ = shlex.split(
        entry["command"].replace(str(SOURCE), str(faulty)).replace(entry["output"], str(unit))
    )
    subprocess.run([*compile_, f"-I{SOURCE.parent}"], cwd=build, check=True)
    commands = ["ninja", "-t", "commands", "lib_desc_ext.so"]
    link = subprocess.run(
        commands, cwd=build, capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]
    link = link.replace(entry["output"], str(unit)).replace("-o lib_desc_ext.so", f"-o {library}")
    subprocess.run(link, shell=True, cwd=build, check=True)
    code, text = run(["-c", LOSS], str(library))
    assert said in text, text[-3000:]
    assert code != 0
    assert run(["-c", LOSS], LIBRARY) == (0, "")
