"""Several real processes on one machine: they end where one process ends, and what a process that dies leaves."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import together
from helpers.commands import ENVIRONMENT
from helpers.estimators import small
from torch import nn

from desc_ext.engine import inputs
from desc_ext.engine.processes import BatchShare, Processes

TESTS = Path(__file__).resolve().parents[1]


def torchrun(n: int, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=280,
        env=ENVIRONMENT | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def fit_together(n: int, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return torchrun(n, TESTS / "helpers" / "together.py", folder, *arguments)


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:no row was ever confident", "ignore:NCSC collapsed")
@pytest.mark.parametrize("n", [2, 3])
def test_several_processes_end_where_one_ends(n, tmp_path, monkeypatch):
    """301 rows in mini-batches of 64: no number of rows divides by that of the processes."""
    done = fit_together(n, tmp_path)
    assert done.returncode == 0, done.stderr
    for method in together.FITS:
        alone = together.fit(method)
        for rank in range(n):
            found = np.load(tmp_path / f"{method}-{rank}.npz")
            np.testing.assert_array_equal(found["labels"], alone["labels"], err_msg=method)
            np.testing.assert_array_equal(found["start"], alone["start"], err_msg=method)
            # sums in another order
            np.testing.assert_allclose(found["codes"], alone["codes"], rtol=0, atol=1e-8, err_msg=method)
            np.testing.assert_allclose(found["loss"], alone["loss"], rtol=1e-9, err_msg=method)
    for method in ("desc", "k-subspaces"):
        for rank in range(n):
            message = (tmp_path / f"refused-{method}-{rank}").read_text()
            assert "X is [301, 64] of float64 in process 0 and [300, 64] of float64 in process 1" in message
    monkeypatch.setattr(inputs, "READ_WHOLE", 0)
    for rows in together.SUBSPACES:
        alone = together.fit_subspaces(rows, tmp_path)
        for rank in range(n):
            found = np.load(tmp_path / f"{rows}-{rank}.npz")
            for name, value in alone.items():
                np.testing.assert_allclose(
                    found[name], value, rtol=1e-9, atol=1e-9, err_msg=f"{rows}: {name}"
                )


@pytest.mark.timeout(300)
def test_a_process_that_dies_ends_the_fit_and_leaves_a_checkpoint(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    done = fit_together(2, killed, "dies")
    assert done.returncode != 0
    assert "exitcode  : 9" in done.stderr
    assert (killed / "checkpoint" / "config.json").exists()
    shutil.copytree(killed / "checkpoint", tmp_path / "alone")
    for folder in (killed, whole):
        done = fit_together(2, folder)
        assert done.returncode == 0, done.stderr
    # the same bits as two processes of which none died, on both
    expected = np.load(whole / "desc-0.npz")
    for rank in range(2):
        found = np.load(killed / f"resumed-{rank}.npz")
        for name in ("labels", "codes", "loss"):
            np.testing.assert_array_equal(found[name], expected[name])
    # one process goes on as well
    found = together.fit("desc", checkpoint=tmp_path / "alone", resume=True)
    np.testing.assert_array_equal(found["labels"], expected["labels"])
    np.testing.assert_allclose(found["codes"], expected["codes"], rtol=0, atol=1e-8)


def test_the_shares_of_processes_are_all_items_once():
    for size in (1, 2, 3, 7):
        for n in (0, 1, size, 100, 101):
            shares = [Processes(rank, size).share(n) for rank in range(size)]
            assert np.array_equal(np.concatenate([np.arange(n)[share] for share in shares]), np.arange(n))
            lengths = [share.stop - share.start for share in shares]
            assert max(lengths) - min(lengths) <= 1
            few = Processes(size - 1, size).for_items(n)
            assert few.size == (size if n >= size else 1)


def test_one_process_changes_nothing():
    share, layer = BatchShare(5), nn.Linear(3, 2)
    z = torch.randn(5, 3)
    assert share.own == slice(0, 5)
    assert share.gathered(z) is z
    assert share.mean(z) is z
    layer(z).sum().backward()
    before = layer.weight.grad.clone()
    Processes().average_gradients(layer.parameters())
    assert torch.equal(layer.weight.grad, before)
    assert Processes().average({"loss": 2.0}) == {"loss": 2.0}
    assert Processes().from_first(lambda: 7) == 7


def test_there_must_be_a_group_and_mini_batches():
    X = np.random.default_rng(0).normal(size=(40, 6))
    with pytest.raises(
        ValueError, match=r"DESC: distributed=True needs the default group .* start the script with torchrun"
    ):
        small("desc", distributed=True).fit(X)
    with pytest.raises(ValueError, match="KSubspaces: distributed=True needs the default group"):
        small("k-subspaces", distributed=True).fit(X)
    for method, name in (("dsc-net", "DSCNet"), ("lrsc", "LRSC")):
        with pytest.raises(
            ValueError, match=f"{name}: distributed=True is for methods whose steps are mini-batches"
        ):
            small(method, distributed=True).fit(X)
