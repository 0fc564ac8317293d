"""Readers on bytes that no one would write: a whole data set or a DataError, at once, and in little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from helpers.reading import read, samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SAMPLES = samples()
bounded = settings(
    max_examples=60,
    deadline=3000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Beside ten times the file: what the libraries take for their buffers, of which pyarrow's blocks are the largest.
SPARE_BYTES = 1 << 26


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """``content`` with some bytes changed, put in, taken out, doubled, or its end cut off."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        change = draw(st.sampled_from(["set", "insert", "delete", "double", "cut", "set", "set"]))
        if change == "set" and found:
            found[at] = draw(st.integers(0, 255))
        elif change == "insert":
            found[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif change == "delete":
            del found[at : at + draw(st.integers(1, 16))]
        elif change == "double":
            found[at:at] = found[at : at + draw(st.integers(1, 64))]
        else:
            del found[at:]
    return bytes(found)


def read_in_bounds(folder, name, content):
    tracemalloc.start()
    arrow = pa.total_allocated_bytes()
    try:
        found = read(folder, name, content)
        peak = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - arrow
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(content) + SPARE_BYTES
    return found


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples_themselves_are_read(tmp_path, name):
    found = read_in_bounds(tmp_path, name, SAMPLES[name])
    assert found is not None
    assert len(found.X) == (1 if name.startswith("image") else 8)


@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_files(tmp_path, name):
    @bounded
    @given(damaged(SAMPLES[name]))
    def check(content):
        read_in_bounds(tmp_path, name, content)

    check()


@bounded
@given(st.text(alphabet='0123456789.,;\t"\n\r -+eEnaif#|\0é', max_size=300))
@pytest.mark.parametrize("name", ["t.csv", "t.txt", "text.csv"])
def test_any_text_as_a_table(tmp_path, name, content):
    read_in_bounds(tmp_path, name, content.encode())


@bounded
@given(st.binary(max_size=400))
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.npy", "t.mat", "t.parquet", "image.png"])
def test_any_bytes(tmp_path, name, content):
    read_in_bounds(tmp_path, name, content)


def test_a_header_that_promises_more_than_the_file_holds(tmp_path):
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 1000), }"
    content = np.lib.format.magic(1, 0) + len(header).to_bytes(2, "little") + header.encode()
    assert read_in_bounds(tmp_path, "t.npy", content) is None
