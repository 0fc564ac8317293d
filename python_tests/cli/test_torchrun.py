"""desc-ext under torchrun: one folder of results, and a run that goes on by itself after a process was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import ENVIRONMENT, SMALL, run
from sklearn.datasets import load_digits

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def worker(launcher: int, rank: int) -> int | None:
    """The process that ``launcher`` has started with this rank."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if f"PPid:\t{launcher}\n" in status.read_text():
                environment = (status.parent / "environ").read_bytes().split(b"\0")
                if f"RANK={rank}".encode() in environment:
                    return int(status.parent.name)
        except OSError:  # it has ended
            continue
    return None


@pytest.mark.timeout(300)
def test_a_killed_process_is_started_again_and_the_result_is_that_of_one_process(tmp_path):
    np.save(tmp_path / "x.npy", load_digits().data[:300])
    options = [
        "--clusters",
        3,
        "--epochs",
        25,
        "--set",
        "dtype=float64",
        *SMALL,
        "--no-pictures",
        "--no-report",
    ]
    command = ["fit", tmp_path / "x.npy", *options, "--out"]
    several = [*TORCHRUN, "--max-restarts", "1", "-m", "desc_ext", *command, tmp_path / "two"]
    with subprocess.Popen(
        list(map(str, several)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as launcher:
        checkpoint = tmp_path / "two" / "checkpoint" / "state" / "config.json"
        while not checkpoint.exists() and launcher.poll() is None:
            time.sleep(0.01)
        os.kill(worker(launcher.pid, 1), signal.SIGKILL)
        output, errors = launcher.communicate(timeout=250)
    assert launcher.returncode == 0, errors
    assert output.count("results: ") == 1
    assert output.count("desc on x: ") == 2  # once more after the restart
    assert run(*command, tmp_path / "one")[0] == 0
    one, two = (np.load(tmp_path / name / "embedding.npy") for name in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(*(np.load(tmp_path / name / "labels.npy") for name in ("one", "two")))
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert "distributed" not in config["parameters"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("rows", "model", "message", "speakers"),
    [
        (60, "self-expressive", "self-expressive is fitted by one process; start it without torchrun", {""}),
        (2, "desc", "2 rows cannot make --clusters 3", {"", "process 1: "}),
    ],
)
def test_an_error_is_said_once_or_with_its_process(rows, model, message, speakers, tmp_path):
    np.save(tmp_path / "x.npy", load_digits().data[:rows])
    command = ["fit", tmp_path / "x.npy", "--model", model, "--clusters", 3, "--out", tmp_path / "r"]
    words = list(map(str, [*TORCHRUN, "-m", "desc_ext", *command]))
    done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode != 0
    # whoever fails first may be the only one that torchrun lets speak
    said = [line.partition("error: ")[0] for line in done.stderr.splitlines() if message in line]
    assert said
    assert set(said) <= speakers
    assert len(set(said)) == len(said)
