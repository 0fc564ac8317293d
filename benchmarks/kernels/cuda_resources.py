"""What the compiler made of every CUDA kernel: registers, shared memory, occupancy and the machine code of its main loop.

Read from the built library with cuobjdump, no GPU needed. ``make cuda`` writes the table, and the tests hold every
kernel against the budget that the comment above it plans:

    // budget: KERNEL_REGEX registers <= N, shared <= N[ bytes][, dynamic <= N[ bytes]][, narrow loads]

The expression has to match the kernel's whole name with its template arguments, as ``product_values<float, 5, 1>``, and
holds no space; of several that match, the last one counts. ``shared`` is static, ``dynamic`` what a launch may ask for on
top; ``narrow loads`` allows loads of less than 128 bits in the main loop.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

MULTIPLY_ADDS = ("FFMA", "DFMA", "HMMA")
LEAST_SHARE = 0.7  # of the main loop's instructions that multiply and add
# That are HMMA, by how many of them make one product: twice as many for 32 of depth, beside four additions of a lane.
LEAST_TENSOR_SHARE = {"1": 0.24, "2": 0.37, "3": 0.45}


# The tools


def find_tool(name: str) -> str | None:
    """cuobjdump or nvdisasm: pip's in this environment, else the toolkit's on the PATH."""
    try:
        files = importlib.metadata.files(f"nvidia-cuda-{name}") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    own = next((file for file in files if file.parts[-2:] == ("bin", name)), None)
    return str(own.locate()) if own else shutil.which(name)


def cuobjdump(library: Path, *options: str) -> str:
    tool, disassembler = find_tool("cuobjdump"), find_tool("nvdisasm")
    if tool is None or disassembler is None:
        raise FileNotFoundError(
            "cuobjdump and nvdisasm are needed: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
        )
    path = os.pathsep.join([str(Path(disassembler).parent), os.environ.get("PATH", "")])
    command = [tool, *options, str(library)]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "PATH": path}
    ).stdout


def demangle(names: Iterable[str]) -> dict[str, str]:
    """Kernel names without namespaces and parameters: ``product_values<float>``."""
    names = list(names)
    lines = subprocess.run(
        ["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return dict(zip(names, map(short_name, lines), strict=True))


def short_name(name: str) -> str:
    name = name.removeprefix("void ").replace("(anonymous namespace)::", "")
    name = re.sub(r"\(([\w:]+)\)(-?\d+)", r"\2", name)  # (bool)1, (desc_ext::cuda::Metric)0
    name = re.sub(r"\b[A-Za-z_]\w*::", "", name)
    depth, end = 0, len(name)
    for at, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            end = at
            break
    return name[:end].strip()


# What it says


@dataclass
class Kernel:
    name: str
    architecture: str
    registers: int
    stack: int  # bytes a thread: arrays that were not kept in registers, and spilled registers
    local: int
    shared: int  # bytes a block, static
    threads: int | None = None  # of __launch_bounds__
    instructions: list[Instruction] = field(default_factory=list, repr=False)

    @functools.cached_property
    def main_loop(self) -> Loop | None:
        return main_loop(self.instructions)


@dataclass(frozen=True, slots=True)
class Instruction:
    address: int
    predicate: str
    opcode: str  # with its modifiers: LDG.E.128.CONSTANT
    operands: str

    @property
    def base(self) -> str:
        return self.opcode.split(".")[0]


# The same kernel may have been compiled in several files: (number of the machine code in the library, mangled name).
Key = tuple[int, str]


def machine_code(lines: Iterable[str]) -> Iterable[tuple[int, str, str]]:
    """(number of the machine code, architecture, line) of what cuobjdump lists; PTX is left out."""
    number, architecture, listed = -1, "", False
    for line in lines:
        if line.startswith("Fatbin "):
            listed = line.startswith("Fatbin elf code")
            number += listed
        elif line.startswith("arch = "):
            architecture = line.split()[2]
        elif listed:
            yield number, architecture, line


def parse_architectures(listing: str) -> list[str]:
    return sorted(set(re.findall(r"\.(sm_\w+)\.(?:cubin|ptx)$", listing, flags=re.MULTILINE)))


def parse_resources(lines: Iterable[str]) -> dict[Key, Kernel]:
    """cuobjdump -res-usage"""
    found, name = {}, ""
    for number, architecture, line in machine_code(lines):
        if heading := re.match(r" Function (\S+):", line):
            name = heading[1]
        elif usage := re.match(r"\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, usage.groups())
            # From Hopper on, what the system keeps for itself is counted in.
            # The report counts what the system takes, unless the kernel has no barrier and no shared memory at all.
            if shared and compute_capability(architecture) >= (9, 0):
                shared -= limits(architecture).reserved
            found[number, name] = Kernel(name, architecture, registers, stack, local, shared)
    return found


def parse_threads(lines: Iterable[str]) -> dict[Key, int]:
    """cuobjdump -elf: the number of threads that __launch_bounds__ allows."""
    found, name, attribute = {}, "", ""
    for number, _, line in machine_code(lines):
        if line.startswith(".nv.info."):
            name = line.strip().removeprefix(".nv.info.")
        elif line.startswith("\tAttribute:"):
            attribute = line.split()[1]
        elif attribute == "EIATTR_MAX_THREADS" and line.startswith("\tValue:"):
            found[number, name] = math.prod(int(size, 16) for size in line.split()[1:])
    return found


def parse_code(lines: Iterable[str]) -> dict[Key, list[Instruction]]:
    """cuobjdump -sass"""
    found: dict[Key, list[Instruction]] = {}
    pattern = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+)?\s*([A-Z][\w.]*)\s*([^;]*?)\s*;")
    current: list[Instruction] = []
    for number, _, line in machine_code(lines):
        if code := pattern.match(line):
            current.append(Instruction(int(code[1], 16), code[2] or "", code[3], code[4]))
        elif heading := re.match(r"\s+Function : (\S+)", line):
            current = found.setdefault((number, heading[1]), [])
    return found


def parse_compiler(listing: str) -> str:
    version = re.search(r"Cuda compilation tools, release \S+, V(\S+)", listing)
    return f"nvcc {version[1]}" if version else "an unknown nvcc"


def read_kernels(library: Path) -> tuple[list[Kernel], str]:
    """All kernels of a library, sorted by name and architecture; and the compiler that made them."""
    kernels = parse_resources(cuobjdump(library, "-res-usage").splitlines())
    elf = cuobjdump(library, "-elf")
    threads = parse_threads(elf.splitlines())
    code = parse_code(cuobjdump(library, "-sass").splitlines())
    names = demangle({name for _, name in kernels})
    for key, kernel in kernels.items():
        kernel.name = names[key[1]]
        kernel.threads = threads.get(key)
        kernel.instructions = code[key]
    ordered = sorted(kernels.values(), key=lambda k: (k.name, compute_capability(k.architecture)))
    return ordered, parse_compiler(elf)


# The main loop


@dataclass(frozen=True)
class Loop:
    instructions: tuple[Instruction, ...]

    def count(self, *bases: str) -> int:
        return sum(instruction.base.startswith(bases) for instruction in self.instructions)

    @property
    def multiply_adds(self) -> int:
        return self.count(*MULTIPLY_ADDS)

    def share(self, *bases: str) -> float:
        return self.count(*bases) / len(self.instructions)

    @property
    def narrow_loads(self) -> list[str]:
        """Opcodes of loads from global or shared memory, or copies between them, of fewer than 128 bits."""
        loads = {i.opcode for i in self.instructions if i.base in ("LDG", "LD", "LDS", "LDGSTS")}
        return sorted(opcode for opcode in loads if "128" not in opcode.split("."))


def main_loop(instructions: list[Instruction]) -> Loop | None:
    """The innermost loop that multiplies and adds the most; None without any. On tensor cores a
    stage of the depth is no loop of its own: the stretch with all of its HMMA, from the first load of a fragment on, of
    the loop over stages; what copies and splits the next stage is not counted."""
    position = {instruction.address: at for at, instruction in enumerate(instructions)}
    spans = []
    for at, instruction in enumerate(instructions):
        target = re.search(r"0x([0-9a-f]+)$", instruction.operands) if instruction.base == "BRA" else None
        if target is None or int(target[1], 16) >= instruction.address:
            continue
        start = position[int(target[1], 16)]
        # Code moved behind the end jumps back too, and is no loop.
        if not any(other.base == "EXIT" and not other.predicate for other in instructions[start:at]):
            spans.append((start, at))
    tensor = any(instruction.base == "HMMA" for instruction in instructions)
    if tensor:
        stretches = [fragment_stretch(own_instructions(instructions, span, spans)) for span in spans]
        best = max(stretches, key=lambda stretch: stretch.count("HMMA"), default=None)
        return best if best and best.count("HMMA") else None
    inner = [
        (start, end)
        for start, end in spans
        if not any(start <= a and b <= end and (a, b) != (start, end) for a, b in spans)
    ]
    # The compiler puts pauses between the float64 instructions of a chip with few units for them.
    loops = [Loop(tuple(i for i in instructions[start : end + 1] if i.base != "NOP")) for start, end in inner]
    best = max(loops, key=lambda loop: loop.multiply_adds, default=None)
    return best if best and best.multiply_adds else None


def own_instructions(
    instructions: list[Instruction], span: tuple[int, int], spans: list[tuple[int, int]]
) -> tuple[Instruction, ...]:
    """Those of a loop that are in no other loop within it."""
    start, end = span
    inside = [(a, b) for a, b in spans if start <= a and b <= end and (a, b) != span]
    return tuple(
        instruction
        for at, instruction in enumerate(instructions[start : end + 1], start)
        if instruction.base != "NOP" and not any(a <= at <= b for a, b in inside)
    )


def fragment_stretch(instructions: tuple[Instruction, ...]) -> Loop:
    """From the first LDSM or HMMA to the last HMMA."""
    products = [at for at, i in enumerate(instructions) if i.base == "HMMA"]
    fragments = [at for at, i in enumerate(instructions) if i.base in ("LDSM", "HMMA")]
    return Loop(instructions[fragments[0] : products[-1] + 1] if products else ())


# Occupancy


@dataclass(frozen=True)
class Limits:
    """Of one multiprocessor (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability")."""

    warps: int
    blocks: int
    shared: int
    registers: int = 65536
    reserved: int = 1024  # shared memory of each block that the system takes


def compute_capability(architecture: str) -> tuple[int, int]:
    digits = re.match(r"sm_(\d+)(\d)", architecture)
    return int(digits[1]), int(digits[2])


def limits(architecture: str) -> Limits:
    capability = compute_capability(architecture)
    known = {
        (8, 0): Limits(64, 32, 164 * 1024),
        (8, 6): Limits(48, 16, 100 * 1024),
        (8, 9): Limits(48, 24, 100 * 1024),
        (9, 0): Limits(64, 32, 228 * 1024),
        (10, 0): Limits(64, 32, 228 * 1024),
        (12, 0): Limits(48, 24, 100 * 1024),
    }
    if capability not in known:
        raise ValueError(f"the limits of {architecture} are not in this table: add them")
    return known[capability]


def blocks_per_multiprocessor(architecture: str, registers: int, threads: int, shared: int) -> int:
    """How many blocks can be resident together; ``shared`` is static and dynamic, in bytes a block."""
    limit = limits(architecture)
    warps = -(-threads // 32)
    # Registers are given to warps in units of 256, from a quarter of the file for each of four schedulers.
    of_a_warp = -(-max(registers, 1) * 32 // 256) * 256
    by_registers = limit.registers // 4 // of_a_warp * 4 // warps
    of_a_block = -(-(shared + limit.reserved) // 128) * 128
    return min(limit.blocks, limit.warps // warps, by_registers, limit.shared // of_a_block)


# Budgets


@dataclass(frozen=True)
class Budget:
    pattern: str
    registers: int
    shared: int
    dynamic: int
    narrow_loads: bool
    source: str


def parse_budgets(text: str, source: str = "") -> list[Budget]:
    found = []
    for line in text.splitlines():
        if not re.match(r"\s*//\s*budget:", line):
            continue
        limit = r"<= (\d+)(?: bytes)?"
        parsed = re.search(
            rf"budget: (\S+) registers {limit}, shared {limit}(?:, dynamic {limit})?(, narrow loads)?(?=$|[ .(])",
            line,
        )
        if not parsed:
            raise ValueError(f"{source}: not understood: {line.strip()}")
        pattern, registers, shared, dynamic, narrow = parsed.groups()
        found.append(Budget(pattern, int(registers), int(shared), int(dynamic or 0), bool(narrow), source))
    return found


def read_budgets(folder: Path) -> list[Budget]:
    files = sorted([*folder.glob("*.cuh"), *folder.glob("*.cu")])
    return [budget for file in files for budget in parse_budgets(file.read_text(), file.name)]


def budget_of(kernel: Kernel, budgets: list[Budget]) -> Budget | None:
    return next((budget for budget in reversed(budgets) if re.fullmatch(budget.pattern, kernel.name)), None)


def complaints(kernel: Kernel, budgets: list[Budget]) -> list[str]:
    """Everything about a kernel that its budget, or the rules for all, do not allow."""
    found = []
    budget = budget_of(kernel, budgets)
    if budget is None:
        found.append("has no budget line")
    else:
        if kernel.registers > budget.registers:
            found.append(
                f"takes {kernel.registers} registers, planned <= {budget.registers} ({budget.source})"
            )
        if kernel.shared > budget.shared:
            found.append(f"takes {kernel.shared} bytes shared, planned <= {budget.shared} ({budget.source})")
    if kernel.threads is None:
        found.append("has no __launch_bounds__")
    elif budget and occupancy(kernel, budget)[0] == 0:
        found.append("cannot be launched with the registers, threads and shared memory it plans for")
    if kernel.stack or kernel.local:
        found.append(f"keeps {kernel.stack} bytes on the stack and {kernel.local} in local memory")
    if spills := sum(instruction.base in ("LDL", "STL") for instruction in kernel.instructions):
        inside = kernel.main_loop.count("LDL", "STL") if kernel.main_loop else 0
        found.append(
            f"reads or writes local memory {spills} times (LDL, STL), {inside} of them in its main loop"
        )
    if kernel.name.startswith("product_"):
        found += loop_complaints(kernel, bool(budget and budget.narrow_loads))
    return [f"{kernel.name} on {kernel.architecture} {complaint}" for complaint in found]


def loop_complaints(kernel: Kernel, narrow_loads: bool) -> list[str]:
    loop = kernel.main_loop
    if loop is None:
        return ["has no loop that multiplies and adds"]
    found = []
    wanted, least = ("FFMA", "DFMA"), LEAST_SHARE
    if tensor := re.match(r"product_tensor\w*<(\d)>", kernel.name):
        wanted, least = ("HMMA",), LEAST_TENSOR_SHARE[tensor[1]]
    if (
        "distances" in kernel.name
    ):  # (z − μ)²: for each multiply-add a subtraction, to keep near points' digits
        wanted = (*wanted, "FADD", "DADD")
    if loop.share(*wanted) < least:
        found.append(
            f"has {loop.share(*wanted):.0%} {' or '.join(wanted)} among the {len(loop.instructions)} instructions of "
            f"its main loop, wanted >= {least:.0%}"
        )
    if loop.narrow_loads and not narrow_loads:
        found.append(f"has loads of fewer than 128 bits in its main loop: {', '.join(loop.narrow_loads)}")
    return found


def occupancy(kernel: Kernel, budget: Budget) -> tuple[int, float]:
    """(blocks on a multiprocessor, share of its warps), with all the dynamic shared memory planned for."""
    shared = kernel.shared + budget.dynamic
    blocks = blocks_per_multiprocessor(kernel.architecture, kernel.registers, kernel.threads, shared)
    return blocks, blocks * -(-kernel.threads // 32) / limits(kernel.architecture).warps


# The table

HEADING = """# CUDA kernels: resources and machine code

Generated by `make cuda` from the compiled library ({compiler}); read from the code, nothing here was timed.

Where architectures differ, the values are those of {architectures}, in this order.
Registers are a thread's, bytes a block's; blocks and occupancy, the share of a multiprocessor's warps that can be resident,
count the dynamic shared memory that the kernel's comment plans. Main loop: the instructions of the innermost loop that
multiplies and adds the most, and the share of them that do so (FFMA, DFMA or HMMA) and that load.

| kernel | registers | planned | shared | dynamic | threads | blocks | occupancy | main loop | multiply-add | loads |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def table(kernels: list[Kernel], budgets: list[Budget], compiler: str) -> str:
    worst: dict[
        str, dict[str, Kernel]
    ] = {}  # of a kernel compiled in several files, the one with the most registers
    for kernel in sorted(kernels, key=lambda kernel: kernel.registers):
        worst.setdefault(kernel.name, {})[kernel.architecture] = kernel
    architectures = sorted({kernel.architecture for kernel in kernels}, key=compute_capability)
    lines = []
    for name in sorted(worst):
        rows = [row(worst[name][arch], budgets) for arch in architectures if arch in worst[name]]
        lines.append(f"| `{name}` | " + " | ".join(map(joined, zip(*rows, strict=True))) + " |")
    return HEADING.format(compiler=compiler, architectures=", ".join(architectures)) + "\n".join(lines) + "\n"


def joined(values: tuple[str, ...]) -> str:
    return values[0] if len(set(values)) == 1 else " · ".join(values)


def row(kernel: Kernel, budgets: list[Budget]) -> list[str]:
    budget, loop = budget_of(kernel, budgets), kernel.main_loop
    blocks, share = occupancy(kernel, budget) if budget and kernel.threads else (None, None)
    return [
        str(kernel.registers),
        str(budget.registers) if budget else "–",
        str(kernel.shared),
        str(budget.dynamic) if budget else "–",
        str(kernel.threads or "–"),
        "–" if blocks is None else str(blocks),
        "–" if share is None else f"{share:.0%}",
        str(len(loop.instructions)) if loop else "–",
        f"{loop.share(*MULTIPLY_ADDS):.0%}" if loop else "–",
        f"{loop.share('LD'):.0%}" if loop else "–",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("library", type=Path, help="lib_desc_ext.so with CUDA kernels")
    parser.add_argument("--sources", type=Path, default=Path(__file__).parents[2] / "csrc" / "cuda")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    kernels, compiler = read_kernels(options.library)
    options.out.write_text(table(kernels, read_budgets(options.sources), compiler))


if __name__ == "__main__":
    main()
