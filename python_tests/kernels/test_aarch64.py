"""What the tests of the operators on the back end ``aarch64`` rest on: the code of that processor is what runs, and what goes
wrong in it is told. ``make test-aarch64`` builds the program and runs these tests with those of the operators."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers import aarch64
from helpers.operators import backend_parameter

from desc_ext.ops import registration

on_aarch64 = pytest.mark.parametrize("ops", [backend_parameter("aarch64")], indirect=True)

ELF_MACHINE = slice(18, 20)
EM_AARCH64 = 183


@on_aarch64
def test_the_program_is_for_aarch64(ops):
    head = Path(aarch64.PROGRAM).read_bytes()[:20]
    assert head[:4] == b"\x7fELF"
    assert int.from_bytes(head[ELF_MACHINE], "little") == EM_AARCH64
    info = json.loads(registration.kernels().build_info())
    assert info["instruction_sets"] == [info["in_use"]] == ["baseline"]  # NEON, which every aarch64 has


@on_aarch64
def test_errors_of_operators_come_back(ops):
    z, bases = torch.zeros(4, 6), torch.zeros(3, 5, 2)
    with pytest.raises(RuntimeError, match=r"bases has shape \[3, 5, 2\]; wanted \[any, 6, any\]"):
        registration.kernels().projection_energy(z, bases)
    assert ops.projection_energy(z, torch.zeros(3, 6, 2)).shape == (4, 3)


def test_a_program_that_ends_within_a_call_is_told():
    program = aarch64.Program(sys.executable, "-c", "import sys; sys.exit('broken')")
    with pytest.raises(RuntimeError, match="ended with exit code 1: broken"):
        program.call(torch.ops.desc_ext.build_info.default._schema, ())
