"""A full disk, a disk that fails, and a kill at every single change of files: the old results are whole, or the new ones."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import ENVIRONMENT, SMALL, run

from desc_ext.cli import results

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
COMPILER = shutil.which(os.environ.get("CC", "cc"))


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    command = [COMPILER, "-shared", "-fPIC", "-O1", "-o", library, HELPERS / "faults.c", "-ldl"]
    subprocess.run(command, check=True)
    return library


@pytest.mark.skipif(sys.platform != "linux" or COMPILER is None, reason="needs Linux and a C compiler")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("what", "least"), [("results", 50), ("large results", 50), ("checkpoint", 8)])
def test_what_was_there_is_whole_or_what_is_new(faults, tmp_path, what, least):
    done = subprocess.run(
        [sys.executable, HELPERS / "faults.py", what, tmp_path], capture_output=True, text=True, timeout=280,
        env=ENVIRONMENT | {"LD_PRELOAD": str(faults)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    changes = [int(line) for line in done.stdout.split()]
    assert len(changes) == 3
    assert min(changes) >= least  # as many as there are to make


def test_a_full_disk_costs_neither_the_old_results_nor_the_fit(tmp_path, monkeypatch):
    """The fit lies in its checkpoint: --resume goes on with the writing alone."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 5)))
    out = tmp_path / "o"
    fit = ["fit", tmp_path / "x.npy", "--clusters", 2, "--epochs", 2, *SMALL, "--no-pictures", "--out", out]
    assert run(*fit)[0] == 0
    old = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    real = results.write_json

    def fail(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    again = [*fit, "--seed", 1]
    monkeypatch.setattr(results, "write_json", fail)
    code, _, errors = run(*again, "--overwrite")
    assert code == 2
    assert "No space left on device" in errors
    assert "the fit is kept, go on with --resume" in errors
    assert {path: path.read_bytes() for path in old} == old
    assert {path.name for path in out.iterdir()} - {path.name for path in old} == {
        "checkpoint",
        "input",
        "model",
    }

    monkeypatch.setattr(results, "write_json", real)
    code, _, errors = run(*again, "--resume")
    assert code == 0, errors
    assert json.loads((out / "config.json").read_text())["options"]["random_state"] == 1
    assert not (out / "checkpoint").exists()
