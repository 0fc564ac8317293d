"""The tensor cores of the emulator: their arithmetic against one of whole numbers and fractions, their fragments against
the tables of the PTX document."""

from __future__ import annotations

import random
import struct
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest
from emulator_builds import EMULATOR, build, needs_compiler

pytestmark = needs_compiler

FRACTION_BITS = {"f16": 10, "bf16": 7}


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    return build(
        EMULATOR / "tests" / "tensor_core.cpp", tmp_path_factory.mktemp("tensor_core") / "tensor_core"
    )


def run(program: Path, arguments: list[str], words: list[int]) -> list[list[int]]:
    text = " ".join(f"{word:x}" for word in words)
    done = subprocess.run([str(program), *arguments], input=text, capture_output=True, text=True, check=True)
    return [[int(word, 16) for word in line.split()] for line in done.stdout.splitlines()]


# ---------------------------------------------------------------- arithmetic
def decoded(bits: int, exponent_bits: int, fraction_bits: int) -> tuple[Fraction, int]:
    """Value and exponent; subnormals have the exponent of the smallest normal number."""
    sign = -1 if bits >> (exponent_bits + fraction_bits) else 1
    power = bits >> fraction_bits & ((1 << exponent_bits) - 1)
    fraction = Fraction(bits & ((1 << fraction_bits) - 1), 1 << fraction_bits)
    exponent = max(power, 1) - (1 << (exponent_bits - 1)) + 1
    return sign * (fraction + (power > 0)) * Fraction(2) ** exponent, exponent


def cut(value: Fraction, unit: Fraction) -> Fraction:
    """Towards zero, to a multiple of the unit."""
    whole = abs(value) // unit * unit
    return whole if value >= 0 else -whole


def float32_below(value: Fraction) -> int:
    """The bits of the float32 next to it towards zero."""
    if value == 0:
        return 0
    exponent = max(len(bin(abs(value).numerator)) - len(bin(abs(value).denominator)), -126)
    while abs(value) < Fraction(2) ** exponent and exponent > -126:
        exponent -= 1
    kept = cut(value, Fraction(2) ** (exponent - 23))
    return struct.unpack("<I", struct.pack("<f", float(kept)))[0]


def fused(terms: list[tuple[Fraction, int]], bits: int) -> int:
    """Every term cut to `bits` binary places of the largest exponent, added exactly, cut to float32."""
    terms = [(value, exponent) for value, exponent in terms if value]
    if not terms:
        return 0
    unit = Fraction(2) ** (max(exponent for _, exponent in terms) - bits)
    return float32_below(sum((cut(value, unit) for value, _ in terms), Fraction(0)))


def expected(row: list[int], column: list[int], addend: int, kind: str, bits: int) -> int:
    fraction_bits = FRACTION_BITS[kind]
    a, b = ([decoded(x, 15 - fraction_bits, fraction_bits) for x in side] for side in (row, column))
    products = [(x * y, e + f) for (x, e), (y, f) in zip(a, b, strict=True)]
    for part in [products] if bits == 25 else [products[:8], products[8:]]:
        addend = fused([decoded(addend, 8, 23), *part], bits)
    return addend


def registers(a, b, c) -> list[int]:
    """What the lanes hold of a [16][16], b [16][8], c [16][8], from the PTX document's tables for mma.m16n8k16:
    groupID = lane >> 2, threadID_in_group = lane % 4;
    a_i: row = groupID for i in 0, 1, 4, 5, else groupID + 8; col = threadID_in_group · 2 + (i & 1), + 8 for i >= 4;
    b_i: row = threadID_in_group · 2 + (i & 1), + 8 for i >= 2; col = groupID;
    c_i: row = groupID for i < 2, else groupID + 8; col = threadID_in_group · 2 + (i & 1)."""
    words = []
    for lane in range(32):
        group, thread = lane >> 2, lane % 4
        of_a = [a[group + 8 * (i not in (0, 1, 4, 5))][thread * 2 + (i & 1) + 8 * (i >= 4)] for i in range(8)]
        of_b = [b[thread * 2 + (i & 1) + 8 * (i >= 2)][group] for i in range(4)]
        words += [low | high << 16 for low, high in zip(of_a[::2], of_a[1::2], strict=True)]
        words += [low | high << 16 for low, high in zip(of_b[::2], of_b[1::2], strict=True)]
        words += [c[group + 8 * (i >= 2)][thread * 2 + (i & 1)] for i in range(4)]
    return words


def matrix_of(lines: list[list[int]]) -> list[list[int]]:
    matrix = [[-1] * 8 for _ in range(16)]
    for lane, line in enumerate(lines):
        for i, word in enumerate(line):
            matrix[(lane >> 2) + 8 * (i >= 2)][lane % 4 * 2 + (i & 1)] = word
    return matrix


def random_numbers(rng: random.Random, kind: str, narrow: bool):
    """Draws bits: over all exponents, or of nearly equal size, where sums carry and cancel; some are zero."""
    fraction_bits = FRACTION_BITS[kind]
    bias = (1 << (14 - fraction_bits)) - 1

    def draw() -> int:
        if rng.random() < 0.1:
            return 0
        power = bias + rng.randint(-1, 1) if narrow else rng.randint(0, 2 * bias)
        if kind == "bf16" and not narrow:
            power = bias + rng.randint(-40, 40)
        return rng.getrandbits(1) << 15 | power << fraction_bits | rng.getrandbits(fraction_bits)

    return draw


@pytest.mark.parametrize("bits", [24, 25])
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_sums_are_those_of_whole_numbers(program, kind, bits):
    rng = random.Random(0)
    cases = []
    for trial in range(12):
        draw = random_numbers(rng, kind, narrow=trial % 2 == 0)
        a = [[draw() for _ in range(16)] for _ in range(16)]
        b = [[draw() for _ in range(8)] for _ in range(16)]
        c = [[0] * 8 for _ in range(16)]
        for i in range(16 * (trial % 3 > 0)):  # a third without an addend
            for j in range(8):
                power = 127 + rng.randint(-30, 30) if trial % 2 else 127 + rng.randint(-2, 3)
                c[i][j] = rng.getrandbits(1) << 31 | power << 23 | rng.getrandbits(23)
        cases.append((a, b, c))
    lines = run(program, ["mma", kind, str(bits)], [word for case in cases for word in registers(*case)])
    for trial, (a, b, c) in enumerate(cases):
        found = matrix_of(lines[32 * trial : 32 * trial + 32])
        for i in range(16):
            for j in range(8):
                column = [row[j] for row in b]
                assert found[i][j] == expected(a[i], column, c[i][j], kind, bits), (trial, i, j)


ONE, TINY = 0x3C00, 0x0001  # 1 and 2^-24 in float16


def one_sum(program: Path, bits: int, products: dict[int, tuple[int, int]], addend: float = 0.0) -> float:
    """Element (0, 0) of a product whose factors at the places k are given."""
    a, b, c = [[0] * 16 for _ in range(16)], [[0] * 8 for _ in range(16)], [[0] * 8 for _ in range(16)]
    for k, (left, right) in products.items():
        a[0][k], b[k][0] = left, right
    c[0][0] = struct.unpack("<I", struct.pack("<f", addend))[0]
    lines = run(program, ["mma", "f16", str(bits)], registers(a, b, c))
    return struct.unpack("<f", struct.pack("<I", matrix_of(lines)[0][0]))[0]


@pytest.mark.parametrize("bits", [24, 25])
def test_sums_by_hand(program, bits):
    # 1 − 2^-24 − 2^-24: places beyond float32's are kept until the end, and then cut off towards zero.
    minus_tiny = (TINY | 0x8000, ONE)
    assert one_sum(program, bits, {0: (ONE, ONE), 1: minus_tiny, 2: minus_tiny}) == 1 - 2**-23
    assert one_sum(program, bits, {0: (ONE, ONE), 1: (TINY, ONE)}) == 1.0  # not to the nearest, nor up
    # 2^-25 is beyond 24 places of 1, and so is all that is added of its kind.
    eight = dict.fromkeys(range(1, 9), (TINY | 0x8000, 0x3800))
    assert one_sum(program, bits, {0: (ONE, ONE), **eight}) == (1.0 if bits == 24 else 1 - 2**-22)
    # With 24 places the last 8 products are added to the float32 sum of the first 8, with 25 all are added at once.
    apart = {0: (ONE, ONE), 1: (TINY, ONE), 8: (TINY, ONE)}
    assert one_sum(program, bits, apart) == (1.0 if bits == 24 else 1 + 2**-23)
    # An addend is aligned like the products: beside 2^10 the places end at 2^-14 or 2^-15.
    assert one_sum(program, bits, {0: (0x6400, ONE), 1: (0xE400, ONE)}, 2.0**-15) == (
        0.0 if bits == 24 else 2.0**-15
    )
    # The exponents decide, not the carry: 1.5 · 1.5 counts as 1.
    assert one_sum(program, bits, {0: (0x3E00, 0x3E00), 1: (0xBE00, 0x3E00)}, 2.0**-bits) == 2.0**-bits


def test_infinities_and_nan(program):
    infinite = 0x7C00
    assert one_sum(program, 24, {3: (infinite, ONE)}) == float("inf")
    assert one_sum(program, 25, {3: (infinite, 0xBC00)}) == float("-inf")
    for products in ({3: (infinite, 0)}, {3: (infinite, ONE), 9: (infinite, 0xBC00)}, {0: (0x7E00, ONE)}):
        result = one_sum(program, 25, products)
        assert result != result


# ---------------------------------------------------------------- ldmatrix
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix_gives_each_lane_what_the_ptx_document_says(program, transposed):
    """ldmatrix.x4.b16: threads 0–7 hold the row addresses of matrix 0, 8–15 of matrix 1 and so on; thread T gets of every
    matrix elements 2(T % 4) and the next of row T / 4, with .trans those of column T / 4."""
    rng = random.Random(0)
    lines = [[line * 8 + i for i in range(8)] for line in range(32)]
    line_of = rng.sample(range(32), 32)
    words = [value for line in lines for value in line] + line_of
    found = run(program, ["ldmatrix", "trans" if transposed else "plain"], words)
    for lane in range(32):
        for matrix in range(4):
            rows = [lines[line_of[matrix * 8 + row]] for row in range(8)]
            first, second = (
                rows[lane % 4 * 2 + i][lane // 4] if transposed else rows[lane // 4][lane % 4 * 2 + i]
                for i in range(2)
            )
            assert found[lane][matrix] == first | second << 16
