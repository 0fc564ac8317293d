"""Instructions of fixed small calls inside our own library, counted by callgrind: no noise of the machine moves them.

    python benchmarks/kernels/instructions.py            counts, and compares with what is recorded
    python benchmarks/kernels/instructions.py --record   records the counts as those of this version
    python benchmarks/kernels/instructions.py --plot     draws all recorded versions into docs/instructions.png

One thread, the code for AVX2, which is the widest that valgrind runs. What torch and Python do is not counted. The numbers
depend on the compiler: they are compared only with those of the same major version.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "instructions.csv"
PICTURE = Path(__file__).parents[2] / "docs" / "instructions.png"
MARKS = Path(__file__).with_name("callgrind_marks.c")
BOUND = 0.03  # of a recorded count, up or down
ISA = "avx2"
SLOWED = "projection_residual, forward"
PLANTED = f"{SLOWED}, 5% more rows"  # not recorded: the comparison must find it too slow for what SLOWED is
ENVIRONMENT = {
    "DESC_EXT_CPU": ISA, "ATEN_CPU_CAPABILITY": ISA, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0",
}  # fmt: skip


@dataclass(frozen=True)
class Count:
    version: str
    commit: str
    compiler: str
    call: str
    instructions: int


def why_not() -> str | None:
    """What this machine lacks for counting, or None."""
    for tool in ("valgrind", os.environ.get("CXX") or "g++"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if "avx2" not in Path("/proc/cpuinfo").read_text().split():
        return "the counts are those of the code for AVX2, which this processor cannot run"
    return None


def another_compiler(recorded: list[Count], compiler: str) -> str | None:
    """Why counts of a library made by ``compiler`` are not compared with the recorded ones, or None."""
    if major(recorded[0].compiler) == major(compiler):
        return None
    return (
        f"recorded with {recorded[0].compiler}, and this library was compiled by {compiler}, which translates the same "
        "source into other instructions"
    )


# Within the process that valgrind runs


def calls() -> dict[str, Callable[[], object]]:
    """Forward and backward of every family, at small shapes with tails in each direction."""
    import torch

    from desc_ext import ops

    torch.set_num_threads(1)
    torch.manual_seed(0)
    n, p, n_subspaces, dim = 400, 50, 10, 5
    z, bases = torch.randn(n, p), torch.linalg.qr(torch.randn(n_subspaces, p, dim))[0].contiguous()
    more, weight, labels = torch.randn(n + n // 20, p), torch.rand(n, n_subspaces), torch.randint(10, (n,))
    centroids, y = torch.randn(n_subspaces, p), ops.ridge_self_expression(z, 2.0)
    other = z + 0.3 * torch.randn_like(z)
    prediction = torch.nn.functional.normalize(torch.softmax(2 * torch.randn(n, 10), 1))
    coef = torch.randn(n, n) / n
    short, wide = torch.randn(100, 128), torch.linalg.qr(torch.randn(100, 128, 8))[0].contiguous()

    def collaborative(prediction, y):
        return sum(ops.collaborative_loss(prediction, y, 0.7, 0.1, 0.02)[:3])

    functions = {
        "projection_energy": (ops.projection_energy, z, bases),
        "projection_residual": (ops.projection_residual, z, bases),
        "projection_residual K=100": (ops.projection_residual, short, wide),
        "weighted_projection_loss": (ops.weighted_projection_loss, z, bases, weight),
        "subspace_soft_assignment": (lambda z, s: ops.subspace_soft_assignment(z, s, 1.0), z, bases),
        "student_t_assignment": (ops.student_t_assignment, z, centroids),
        "block_orthogonality_penalty": (ops.block_orthogonality_penalty, bases),
        "laplacian_energy": (lambda z, t: ops.laplacian_energy(z, t, 180.0), z, other),
        "info_nce": (lambda z, g: ops.info_nce(z, g, 0.07), z, other),
        "collaborative_loss": (collaborative, prediction, y),
        "squared_l12_norm": (ops.squared_l12_norm, z),
        "self_expression_residual": (lambda z, c: sum(ops.self_expression_residual(z, c)[:2]), z, coef),
    }
    found = {}
    for name, (function, *arguments) in functions.items():
        found[f"{name}, forward"] = lambda f=function, given=arguments: f(*given)
        found[f"{name}, backward"] = _backward(function, arguments)
    found |= {
        "nearest_subspace": lambda: ops.nearest_subspace(z, bases),
        "nearest_subspace K=100": lambda: ops.nearest_subspace(short, wide),
        "coefficient_topk": lambda: ops.coefficient_topk(y, 5),
        "affinity_row_max": lambda: ops.affinity_row_max(y),
        "segment_gram": lambda: ops.segment_gram(z, labels, 10),
        "target_distribution": lambda: ops.target_distribution(weight),
        PLANTED: lambda: ops.projection_residual(more, bases),
    }
    return found


def _backward(function: Callable, arguments: list) -> Callable[[], object]:
    import torch

    leaves = [argument.clone().requires_grad_() for argument in arguments]
    value = function(*leaves)
    grad = torch.rand_like(value)
    return lambda: torch.autograd.grad(value, leaves, grad, retain_graph=True)


def drive(marks: Path) -> None:
    """Every call once to warm up, and once counted."""
    library = ctypes.CDLL(str(marks))
    for name, call in calls().items():
        call()
        library.start_counting()
        call()
        library.stop_counting(name.encode())


# Around it


def count(python: str = sys.executable) -> dict[str, int]:
    """Instructions in our library of each call.

    Raises:
        RuntimeError: valgrind or the driver failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        marks = Path(folder) / "marks.so"
        compiler = os.environ.get("CXX") or "g++"
        _run([compiler, "-x", "c", "-shared", "-fPIC", "-O1", "-o", str(marks), str(MARKS)], {})
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
        _run([*command, python, __file__, "--drive", str(marks)], ENVIRONMENT)
        found = [read(path.read_text(errors="replace")) for path in Path(folder).glob("out*")]
    return {call: instructions for call, instructions in found if call}


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")


def read(text: str, library: str = "lib_desc_ext.so") -> tuple[str, int]:
    """The call that a callgrind file is of (empty: none was named), and the instructions inside the library itself: not
    those of what it calls, nor of what is called by nobody of it."""
    found = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
    names: dict[str, str] = {}  # callgrind writes a name once, and its number from then on
    own, total, of_callee = False, 0, False
    for line in text.splitlines():
        if line.startswith(("ob=", "cob=")):
            number, _, name = line.partition("=")[2].partition(" ")
            names.setdefault(number, name)
            if line.startswith("ob="):
                own = Path(names[number]).name == library
        elif line.startswith("calls="):
            of_callee = True
        elif re.match(r"[+\-*\d]", line):
            if own and not of_callee:
                total += int(line.split()[1])
            of_callee = False
    return (found[1].strip() if found else ""), total


# Recorded counts


def stored(path: Path = RESULTS) -> list[Count]:
    with open(path, newline="") as file:
        return [Count(**{**row, "instructions": int(row["instructions"])}) for row in csv.DictReader(file)]


def latest(rows: list[Count]) -> list[Count]:
    """The rows of the version that was recorded last."""
    return [row for row in rows if row.version == rows[-1].version]


def major(compiler: str) -> str:
    """Name and major version: "g++ 12.2.0" is "g++ 12"."""
    return compiler.partition(".")[0]


def complaints(counted: dict[str, int], recorded: Iterable[Count], bound: float = BOUND) -> list[str]:
    """What is further from its record than the bound, and what is in one of the two only."""
    known = {row.call: row.instructions for row in recorded}
    found = [f"{call}: is counted and not recorded" for call in counted if call not in (*known, PLANTED)]
    for call, before in known.items():
        if call not in counted:
            found.append(f"{call}: is recorded and was not counted")
        elif abs(counted[call] - before) > bound * before:
            change = counted[call] / before - 1
            found.append(f"{call}: {counted[call]:,} instructions, recorded {before:,}: {change:+.1%}")
    return found


def compiler_in_use() -> str:
    import torch

    import desc_ext

    assert desc_ext.library_path
    return json.loads(torch.ops.desc_ext.build_info())["compiler"]


def record(counted: dict[str, int], version: str, commit: str, compiler: str, path: Path = RESULTS) -> None:
    """Writes counts as those of a version, in place of earlier ones of the same version."""
    rows = [row for row in stored(path) if row.version != version] if path.exists() else []
    rows += [
        Count(version, commit, compiler, call, n) for call, n in sorted(counted.items()) if call != PLANTED
    ]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Count)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def commit_here() -> str:
    """The commit that is checked out, with a + where the kernels have been changed since."""
    git = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run(
        [*git, "rev-parse", "--short=9", "HEAD"], capture_output=True, text=True, check=True
    )
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "../../csrc"]).returncode
    return head.stdout.strip() + "+" * bool(changed)


def plot(rows: list[Count], path: Path = PICTURE) -> None:
    """Millions of instructions of every call, a bar a version."""
    from desc_ext.plots.style import COLORS, INK, new_figure, save_figure, tidy

    versions = list(dict.fromkeys(row.version for row in rows))
    names = list(dict.fromkeys(row.call for row in rows))
    figure = new_figure(9, 1.2 + 0.24 * len(names))
    axes = figure.subplots()
    height = 0.8 / len(versions)
    for i, version in enumerate(versions):
        own = {row.call: row.instructions / 1e6 for row in rows if row.version == version}
        at = [y + (i - (len(versions) - 1) / 2) * height for y, name in enumerate(names) if name in own]
        axes.barh(
            at, [own[name] for name in names if name in own], height, label=version, color=COLORS[i % 10]
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_xlabel("million instructions in lib_desc_ext.so, one call", color=INK)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    tidy(axes, "x")
    axes.tick_params(axis="y", labelsize=8)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--plot", action="store_true", help=f"draw {PICTURE.name} from what is recorded")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(options.drive)
        return
    if options.plot:
        plot(stored())
        return
    if reason := why_not():
        sys.exit(f"cannot count: {reason}")
    from desc_ext import __version__

    counted = count()
    if options.record:
        record(counted, __version__, commit_here(), compiler_in_use())
        plot(stored())
        return
    recorded = latest(stored())
    if reason := another_compiler(recorded, compiler_in_use()):
        sys.exit(f"cannot compare: {reason}")
    before = {row.call: row.instructions for row in recorded}
    for call, instructions in counted.items():
        print(f"{instructions:>12,} {before.get(call, 0):>12,}  {call}")
    sys.exit("\n".join(complaints(counted, recorded)) or 0)


if __name__ == "__main__":
    main()
