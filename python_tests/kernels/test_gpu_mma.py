"""A GPU's mma against the emulator's, bit for bit: on these bits stands what the emulator says about accuracy."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from emulator_builds import build, needs_compiler
from helpers import REPOSITORY

NVCC = os.environ.get("CUDACXX") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
SOURCE = REPOSITORY / "python_tests" / "kernels" / "fragments.cpp"


def compile_for_gpu(program: Path, architecture: str) -> Path:
    command = [NVCC, "-std=c++20", "-x", "cu", f"-arch={architecture}", f"-I{REPOSITORY / 'csrc'}"]
    subprocess.run([*command, str(SOURCE), "-o", str(program)], check=True)
    return program


def random_half(rng: random.Random, kind: int) -> int:
    power = {0: 15 + rng.randint(-1, 1), 1: rng.randint(0, 30), 2: rng.choice([29, 18]) - rng.randint(0, 3)}[
        kind
    ]
    return 0 if rng.random() < 0.05 else rng.getrandbits(1) << 15 | power << 10 | rng.getrandbits(10)


def random_registers(rng: random.Random, products: int) -> list[int]:
    """Of one lane after the other: float16 in a and b, float32 in c. In turn of nearly equal size, of all sizes, and as the
    parts of numbers are: beside large ones such as are 2^11 smaller."""
    words = []
    for product in range(products):
        kind = product % 3
        for _ in range(32):
            words += [random_half(rng, kind) | random_half(rng, kind) << 16 for _ in range(6)]
            for _ in range(4):
                power = 127 + rng.randint(-4, 4) + (28 if kind == 2 else 0)
                words.append(
                    0 if product % 2 else rng.getrandbits(1) << 31 | power << 23 | rng.getrandbits(23)
                )
    return words


def results(program: Path, words: list[int], **environment) -> list[str]:
    text = " ".join(f"{word:x}" for word in words)
    done = subprocess.run(
        [str(program), "bits"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return done.stdout.split()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
@pytest.mark.skipif(shutil.which(NVCC) is None, reason="nvcc is not installed")
@needs_compiler
def test_gpu_adds_as_the_emulator_does(tmp_path):
    major, minor = torch.cuda.get_device_capability()
    on_gpu = compile_for_gpu(tmp_path / "gpu", f"sm_{major}{minor}")
    emulated = build(SOURCE, tmp_path / "emulated", f"-I{REPOSITORY / 'csrc'}")
    words = random_registers(random.Random(0), 3000)
    found = results(on_gpu, words)
    expected = results(emulated, words, EMULATOR_TENSOR_CORE_BITS="24" if major == 8 else "25")
    differing = [at for at, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other]
    assert not differing, f"{len(differing)} of {len(found)} sums differ, the first is {differing[0]}"
    # The test can fail: the other cards' arithmetic gives other bits.
    assert found != results(emulated, words, EMULATOR_TENSOR_CORE_BITS="25" if major == 8 else "24")
