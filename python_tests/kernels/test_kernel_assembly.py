"""The inner loops must hold their accumulators in registers: a compiler that keeps them on the stack and stores every one in
every step makes the kernels three times slower without any other sign."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

OBJECTS = "build/*/CMakeFiles/kernels_{isa}.dir/csrc/cpu/isa/kernels.cpp.o"
TILES = {"avx2": (6, "ymm"), "avx512": (12, "zmm")}  # widest register tile, its registers


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


def inner_loop(lines: list[str]) -> list[str]:
    """The innermost backward jump's body that multiplies and adds the most."""
    address = {line.split(":")[0]: i for i, line in enumerate(lines)}
    loops = []
    for i, line in enumerate(lines):
        jump = re.match(r"[0-9a-f]+:\s+j\w+\s+([0-9a-f]+)", line)
        if jump and address.get(jump[1], i) < i:
            loops.append(lines[address[jump[1]] : i + 1])
    inner = [
        loop for loop in loops if not any(other is not loop and set(other) < set(loop) for other in loops)
    ]
    return max(inner, key=lambda loop: sum("vfmadd" in line for line in loop))


@pytest.mark.parametrize("tile", ["panel_tile", "outer_tile"])
@pytest.mark.parametrize("isa", sorted(TILES))
def test_accumulators_stay_in_registers(repository, isa, tile):
    objects = sorted(repository.glob(OBJECTS.format(isa=isa)), key=lambda path: path.stat().st_mtime)
    if not objects or shutil.which("objdump") is None:
        pytest.skip("needs objdump and the object files of the build, under build/")
    assembly = subprocess.run(
        ["objdump", "-d", "-C", "--no-show-raw-insn", objects[-1]], capture_output=True, text=True, check=True
    ).stdout
    columns, register = TILES[isa]
    chosen = {
        name: lines
        for name, lines in functions(assembly).items()
        if re.search(rf"::{tile}<(float|double), {columns}(, false)?>", name)
    }
    assert len(chosen) == 2, f"{tile} of {columns} columns not found: has it been renamed?"
    for name, lines in chosen.items():
        loop = inner_loop(lines)
        multiply_adds = [line for line in loop if "vfmadd" in line and register in line]
        assert len(multiply_adds) % (2 * columns) == 0, name
        assert len(multiply_adds) >= 2 * columns, name
        stores = [line for line in loop if re.search(r"\sv?mov\w*\s+%[xyz]mm\d+,.*\(", line)]
        assert not stores, f"{name} stores in its inner loop: {stores}"
