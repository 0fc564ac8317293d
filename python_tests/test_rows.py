"""Rows of a data set: what a device gets of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from desc_ext.engine import rows
from desc_ext.engine.rows import Rows


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
