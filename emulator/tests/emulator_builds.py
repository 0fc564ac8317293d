"""Compiles programs together with the emulator, for tests: plainly, or under sanitizers and in the background."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

CXX = os.environ.get("CXX", "g++")
EMULATOR = Path(__file__).resolve().parents[1]
SOURCES = sorted((EMULATOR / "src").glob("*.cpp"))
FLAGS = ["-std=c++20", "-O1", "-pthread", "-Wno-unknown-pragmas", f"-I{EMULATOR / 'include'}"]
SANITIZERS = {
    "thread": ["-fsanitize=thread"],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
}
RACE = "WARNING: ThreadSanitizer: data race"

needs_compiler = pytest.mark.skipif(
    shutil.which(CXX) is None, reason=f"the C++ compiler {CXX} is not installed"
)


def build(source: Path, program: Path, *flags: str) -> Path:
    """The program of one source file and the emulator."""
    files = [str(path) for path in (source, *SOURCES)]
    subprocess.run([CXX, *FLAGS, *flags, *files, "-o", str(program)], check=True)
    return program


class SanitizedBuilds:
    """Programs under sanitizers, compiled in the background by two compilers at a time, in the order in which they are
    added: the order in which tests want them."""

    def __init__(self, folder: Path, sanitizers: Sequence[str] = tuple(SANITIZERS)) -> None:
        self.folder = folder
        self.pool = ThreadPoolExecutor(2)
        self.emulator = {name: self.pool.submit(self._compile_emulator, name) for name in sanitizers}
        self.programs: dict[str, Future[Path]] = {}

    def add(self, name: str, sanitizer: str, source: Path, *flags: str) -> None:
        def build() -> Path:
            program = self.folder / name.replace(" ", "-")
            unit = self._compile(sanitizer, source, program.with_suffix(".o"), *flags)
            objects = [str(unit), *map(str, self.emulator[sanitizer].result())]
            subprocess.run(
                [CXX, "-pthread", *SANITIZERS[sanitizer], *objects, "-o", str(program)], check=True
            )
            return program

        self.programs[name] = self.pool.submit(build)

    def run(self, name: str, *arguments: str) -> tuple[int, str]:
        """Exit code and output of a program."""
        options = {"TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"}
        done = subprocess.run(
            [str(self.programs[name].result()), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500, env={**os.environ, **options},
        )  # fmt: skip
        return done.returncode, done.stdout

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)

    def _compile_emulator(self, sanitizer: str) -> list[Path]:
        folder = self.folder / f"emulator-{sanitizer}"
        folder.mkdir()
        return [self._compile(sanitizer, path, folder / f"{path.stem}.o") for path in SOURCES]

    def _compile(self, sanitizer: str, source: Path, target: Path, *flags: str) -> Path:
        command = [CXX, *FLAGS, "-g", *SANITIZERS[sanitizer], *flags]
        subprocess.run([*command, "-c", str(source), "-o", str(target)], check=True)
        return target
