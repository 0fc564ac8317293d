"""The inner loops must hold their accumulators in registers: a compiler that keeps them on the stack and stores every one in
every step makes the kernels three times slower without any other sign."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Machine:
    """How to read the code for an instruction set."""

    objects: str  # files of a build
    objdump: str
    columns: int  # of the widest register tile
    multiply_add: str
    jump: str
    store: str


def x86(isa: str, columns: int, register: str) -> Machine:
    return Machine(
        f"build/py3-*/CMakeFiles/kernels_{isa}.dir/csrc/cpu/isa/kernels.cpp.o",
        "objdump",
        columns,
        rf"vfmadd.*{register}",
        r"j\w+\s+",
        r"\sv?mov\w*\s+%[xyz]mm\d+,.*\(",
    )


MACHINES = {
    "aarch64": Machine(
        "build/aarch64/CMakeFiles/kernels_baseline.dir/csrc/cpu/isa/kernels.cpp.o",
        "aarch64-linux-gnu-objdump",
        12,
        r"\sfmla\s+v\d+\.(4s|2d)",
        r"(?:b\.\w+|cbn?z\s+\w+,)\s*",
        r"\sst\w+\s",
    ),
    "avx2": x86("avx2", 6, "ymm"),
    "avx512": x86("avx512", 12, "zmm"),
}


def functions(assembly: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    name = ""
    for line in assembly.splitlines():
        if heading := re.match(r"[0-9a-f]+ <(.+)>:$", line):
            name = heading[1]
            found[name] = []
        elif name and line.startswith(" "):
            found[name].append(line.strip())
    return found


def inner_loop(lines: list[str], machine: Machine) -> list[str]:
    """The innermost backward jump's body that multiplies and adds the most."""
    address = {line.split(":")[0]: i for i, line in enumerate(lines)}
    loops = []
    for i, line in enumerate(lines):
        jump = re.match(rf"[0-9a-f]+:\s+{machine.jump}([0-9a-f]+)", line)
        if jump and address.get(jump[1], i) < i:
            loops.append(lines[address[jump[1]] : i + 1])
    inner = [
        loop for loop in loops if not any(other is not loop and set(other) < set(loop) for other in loops)
    ]
    return max(inner, key=lambda loop: sum(bool(re.search(machine.multiply_add, line)) for line in loop))


@pytest.mark.parametrize("tile", ["panel_tile", "outer_tile"])
@pytest.mark.parametrize("isa", MACHINES)
def test_accumulators_stay_in_registers(repository, isa, tile):
    machine = MACHINES[isa]
    objects = sorted(repository.glob(machine.objects), key=lambda path: path.stat().st_mtime)
    if not objects or shutil.which(machine.objdump) is None:
        pytest.skip(f"needs {machine.objdump} and the object files of the build, under build/")
    assembly = subprocess.run(
        [machine.objdump, "-d", "-C", "--no-show-raw-insn", objects[-1]],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    chosen = {
        name: lines
        for name, lines in functions(assembly).items()
        if re.search(rf"::{tile}<(float|double), {machine.columns}(, false)?>", name)
    }
    assert len(chosen) == 2, f"{tile} of {machine.columns} columns not found: has it been renamed?"
    for name, lines in chosen.items():
        loop = inner_loop(lines, machine)
        multiply_adds = [line for line in loop if re.search(machine.multiply_add, line)]
        assert len(multiply_adds) % (2 * machine.columns) == 0, name
        assert len(multiply_adds) >= 2 * machine.columns, name
        stores = [line for line in loop if re.search(machine.store, line)]
        assert not stores, f"{name} stores in its inner loop: {stores}"
