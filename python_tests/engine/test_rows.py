"""Rows of a data set: what a device gets of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.products import Products

from desc_ext.engine import rows
from desc_ext.engine.rows import Rows
from desc_ext.engine.streamed_rows import StreamedRows
from desc_ext.fixed_shapes import in_threads, row_linear
from desc_ext.stored import blocks as original


@pytest.mark.bits
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32", "float64"])
def test_rows_on_a_device_are_those_of_the_array(dtype, monkeypatch):
    """Where the device holds the whole input, the same rows come out, bit for bit."""
    X = np.random.default_rng(0).uniform(0, 255, size=(50, 7)).astype(dtype)
    X.flags.writeable = False  # as a memory map that is only read
    place = (torch.arange(7), torch.arange(1, 8), torch.device("cpu"), torch.float32)
    host = Rows(X, *place)
    assert host._resident is None
    monkeypatch.setattr(rows, "_resident", lambda X, device: torch.tensor(X, device=device))
    device = Rows(X, *place)
    monkeypatch.setattr(device, "X", None)
    index = np.array([9, 3, 3, 49])
    expected = (X[index].astype(np.float64) - np.arange(7)) / np.arange(1, 8)
    torch.testing.assert_close(device.take(index), torch.from_numpy(expected).float(), rtol=0, atol=0)
    for of in (index, slice(40, 60)):
        assert torch.equal(device.take(of), host.take(of))
        assert torch.equal(device.directions(of), host.directions(of))


def test_a_device_gets_all_rows_only_where_it_has_room(monkeypatch):
    X = np.zeros((10, 8), dtype=np.float32)
    device = torch.device("cuda")
    monkeypatch.setattr(torch, "tensor", lambda X, device: "resident")
    for free, expected in ((4 * X.nbytes, "resident"), (4 * X.nbytes - 1, None)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**12))
        assert rows._resident(X, device) == expected
        assert rows._resident(X, torch.device("cpu")) is None
        assert rows._resident(X.astype(">f4"), device) is None


def test_wide_rows_are_read_a_few_at_a_time(monkeypatch):
    """Rows of many pixels: statistics, digest, checks and what is taken never need many of them at once."""
    X = np.random.default_rng(0).normal(2, 3, size=(90, 40))
    n_read = []
    monkeypatch.setattr(rows, "_READ_BYTES", 7 * X[0].nbytes)
    monkeypatch.setattr(rows, "blocks", lambda X, n: (n_read.append(n), original(X, n))[1])
    offset, scale = rows.scaling_statistics(X, "standard")
    np.testing.assert_allclose(offset, X.mean(0))
    np.testing.assert_allclose(scale, X.std(0))
    place = (torch.from_numpy(offset), torch.from_numpy(scale), torch.device("cpu"), torch.float64)
    read = Rows(X, *place)
    read.digest()
    rows.check_training_rows(X, 3)
    axes = read.axes(5, torch.Generator().manual_seed(0), directions=False)
    assert set(n_read) == {7, rows._COUNTED_ROWS}
    scaled = torch.from_numpy((X - X.mean(0)) / X.std(0))
    streamed = StreamedRows(read, axes, directions=False)
    monkeypatch.setattr(read, "take", lambda index: (n_read.append(-len(index)), Rows.take(read, index))[1])
    index = torch.arange(0, 90, 2)
    torch.testing.assert_close(streamed.take(index), scaled[index] @ axes)
    assert min(n_read) == -7


@pytest.mark.bits
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("k", "n"), [(217, 10), (217, 1), (24, 3), (7, 5), (64, 24), (64, 32), (100, 7), (500, 217)]
)
def test_a_product_gives_a_row_the_same_bits_wherever_it_stands(k, n, dtype):
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(m, k, generator=generator).to(dtype) for m in (100, n))
    bias = torch.randn(n, generator=generator).to(dtype)
    order = torch.randperm(100, generator=generator)
    # as from a file, at an address of no use
    unaligned = torch.cat([weight.new_zeros(1), weight.flatten()])[1:].view_as(weight)

    def product(item):
        rows, weight = item
        return row_linear(rows, weight, bias)

    found, moved, from_file = in_threads(
        product, [(x, weight), (x[order], weight), (x, unaligned)], torch.device("cpu")
    )
    expected = x.double() @ weight.double().T + bias
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(moved, found[order])
    assert torch.equal(from_file, found)
    assert found.shape == (100, n)
    with Products() as products:
        row_linear(x, unaligned, bias)
    assert products.left_over() == []


@pytest.mark.bits
def test_blocks_are_computed_by_one_thread_each():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for n_items in (0, 1, 5):
            with torch.no_grad():
                found = in_threads(
                    lambda i: (i, torch.get_num_threads(), torch.is_grad_enabled()),
                    range(n_items),
                    torch.device("cpu"),
                )
            assert found == [(i, 1, False) for i in range(n_items)]
            assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError):
            in_threads(lambda i: 1 / i, [1, 0], torch.device("cpu"))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
