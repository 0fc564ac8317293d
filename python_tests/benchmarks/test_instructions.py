"""Instructions of fixed small calls are those that are recorded: benchmarks/kernels/instructions.py, whose parts are tested
on files written by hand. Where valgrind is missing the counting is skipped, unless DESC_EXT_REQUIRE_VALGRIND=1."""

from __future__ import annotations

import os
import shutil
import sys

import pytest
from helpers import REPOSITORY
from matplotlib.image import imread

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "kernels"))
import instructions
from instructions import Count

# Two objects and a callee between them. Of ours: 10 + 4 in one function, 20 + 1 in another, 2 after a call; not the 5,000 and
# 300 that calls cost inside of callees, nor the 7 and 1,000 of other objects.
CALLGRIND = """# callgrind format
version: 1
creator: callgrind-3.19.0
pid: 42
cmd:  python instructions.py --drive marks.so
part: 3

desc: I1 cache:
desc: Timerange: Basic block 0 - 100
desc: Trigger: Client Request: info_nce, forward

positions: line
events: Ir
summary: 1044

ob=(1) /usr/lib/libc.so.6
fl=(1) memcpy.c
fn=(1) memcpy
12 7

ob=(2) /somewhere/desc_ext/lib_desc_ext.so
fl=(2) pairwise.cpp
fn=(2) info_nce
20 10
+3 4
cob=(1)
cfi=(1)
cfn=(1)
calls=2 12
* 5000
-1 2

fn=(3) tile'2
fi=(3) vector
30 20
fe=(2)
31 1
cfn=(2)
calls=1 20
31 300

ob=(3) /other/lib_desc_ext.so.orig
fl=(4) other.cpp
fn=(4) other
1 1000

totals: 1044
"""


def test_reads_the_instructions_of_one_object():
    assert instructions.read(CALLGRIND) == ("info_nce, forward", 10 + 4 + 2 + 20 + 1)
    assert instructions.read(CALLGRIND, "libc.so.6") == ("info_nce, forward", 7)
    assert instructions.read("events: Ir\nfn=(1) f\n1 5\n") == ("", 0)


def rows(**counts: int) -> list[Count]:
    return [Count("1.0", "abc", "g++ 12.2.0", call, n) for call, n in counts.items()]


@pytest.mark.parametrize(
    ("counted", "found"),
    [
        ({"a": 1000, "b": 500}, []),
        ({"a": 1030, "b": 486}, []),
        ({"a": 1031, "b": 500}, ["a: 1,031 instructions, recorded 1,000: +3.1%"]),
        ({"a": 1050, "b": 525}, ["a: 1,050 instructions, recorded 1,000: +5.0%", "b: 525 instructions, recorded 500: +5.0%"]),
        ({"a": 1000, "b": 480}, ["b: 480 instructions, recorded 500: -4.0%"]),
        ({"a": 1000}, ["b: is recorded and was not counted"]),
        ({"a": 1000, "b": 500, "c": 1}, ["c: is counted and not recorded"]),
        ({"a": 1000, "b": 500, instructions.PLANTED: 1}, []),
    ],
)  # fmt: skip
def test_more_than_three_percent_up_or_down_is_reported(counted, found):
    assert instructions.complaints(counted, rows(a=1000, b=500)) == found


def test_another_major_version_of_the_compiler_is_not_compared():
    assert instructions.another_compiler(rows(a=1), "g++ 12.9.1") is None
    reason = instructions.another_compiler(rows(a=1), "g++ 13.1.0")
    assert "recorded with g++ 12.2.0, and this library was compiled by g++ 13.1.0" in reason
    assert instructions.another_compiler(rows(a=1), "clang 12.2.0") is not None


def test_a_version_is_recorded_once_and_earlier_ones_are_kept(tmp_path):
    path = tmp_path / "counts.csv"
    instructions.record({"a": 100, instructions.PLANTED: 7}, "1.0", "aaa", "g++ 12.2.0", path)
    instructions.record({"a": 90, "b, forward": 5}, "1.1", "bbb", "g++ 12.2.0", path)
    instructions.record({"a": 80, "b, forward": 5}, "1.1", "ccc", "g++ 12.2.0", path)
    history = instructions.stored(path)
    assert [(row.version, row.commit, row.call, row.instructions) for row in history] == [
        ("1.0", "aaa", "a", 100), ("1.1", "ccc", "a", 80), ("1.1", "ccc", "b, forward", 5),
    ]  # fmt: skip
    assert instructions.latest(history) == history[1:]
    instructions.plot(history, tmp_path / "counts.png")
    assert imread(tmp_path / "counts.png")[..., :3].std() > 0.02


def test_every_operator_is_among_the_recorded_calls():
    from desc_ext import ops

    recorded = {row.call.split(",")[0].split(" ")[0] for row in instructions.latest(instructions.stored())}
    # what is no kernel of its own, but a few lines of torch
    assert set(ops.__all__) - recorded == {"CollaborativeLoss", "dense_coefficients", "ridge_self_expression"}


@pytest.mark.slow
def test_instructions_are_those_recorded():
    if shutil.which("valgrind") is None and os.environ.get("DESC_EXT_REQUIRE_VALGRIND") == "1":
        pytest.fail("DESC_EXT_REQUIRE_VALGRIND=1, but valgrind is not installed")
    recorded = instructions.latest(instructions.stored())
    reason = instructions.why_not() or instructions.another_compiler(recorded, instructions.compiler_in_use())
    if reason:
        pytest.skip(reason)
    counted = instructions.count()
    again = "if this is meant: python benchmarks/kernels/instructions.py --record"
    assert not (found := instructions.complaints(counted, recorded)), "\n".join([*found, again])
    # The check can fail: 5% more work of one call is found.
    slowed = {**counted, instructions.SLOWED: counted[instructions.PLANTED]}
    (found,) = instructions.complaints(slowed, recorded)
    assert found.startswith(f"{instructions.SLOWED}: ")
