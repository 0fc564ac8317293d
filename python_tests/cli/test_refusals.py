"""What is refused before data are loaded: options, devices, folders, and folders that another run holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.commands import ENVIRONMENT, run, start

from desc_ext import data
from desc_ext.cli.lock import LOCK_FILE, locked

HOLD = """
import sys, time
from pathlib import Path
from desc_ext.cli.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def no_data(monkeypatch):
    def load(*arguments, **options):
        raise AssertionError("data were loaded")

    monkeypatch.setattr(data, "load_dataset", load)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "best"], "preset must be one of"),
        (["--set", "device=mps"], "device='mps' cannot be used with this torch on this machine"),
        (["--set", "device=meta"], "device='meta' cannot be used"),
        (["--set", "device=abacus"], "device must be 'auto' or a torch device"),
        (["--set", "learning_rate=-1"], "learning_rate must be a finite number > 0"),
        (["--model", "self-expressive", "--resume"], "keeps no checkpoints"),
        (["--resume"], "there is nothing to resume"),
        (["--external", "20newsgroups"], "leave out --external"),
    ],
)
def test_options_are_refused_before_data_are_loaded(tmp_path, no_data, arguments, message):
    code, _, errors = run("fit", "digits", "--clusters", 3, "--out", tmp_path / "a" / "b", *arguments)
    assert code == 2
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_folders_are_refused_before_data_are_loaded(tmp_path, no_data):
    (tmp_path / "mine.txt").write_text("mine")
    for out, message in ((tmp_path, "is not empty"), (tmp_path / "mine.txt", "is a file")):
        code, _, errors = run("fit", "digits", "--clusters", 3, "--out", out)
        assert (code, message in errors) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_device_that_runs_out_of_memory_is_one_sentence(tmp_path, monkeypatch):
    import torch

    from desc_ext.cli.run import Run

    def fail(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 TiB.")

    monkeypatch.setattr(Run, "fit", fail)
    code, _, errors = run("fit", "digits", "--clusters", 3, "--out", tmp_path / "o")
    assert code == 2
    assert "Tried to allocate 9 TiB" in errors
    assert "smaller batches" in errors


def hold(folder) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_in_a_folder_is_refused_and_touches_nothing(tmp_path, no_data):
    folder = tmp_path / "o"
    folder.mkdir()
    (folder / "labels.npy").write_bytes(b"of the first")
    first = hold(folder)
    try:
        before = {path: path.read_bytes() for path in folder.iterdir()}
        for extra in ([], ["--overwrite"], ["--resume"]):
            started = time.monotonic()
            code, _, errors = run("fit", "digits", "--clusters", 3, "--out", folder, *extra)
            assert time.monotonic() - started < 5
            assert code == 2
            assert f"{folder} is in use by process {first.pid} (since " in errors
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
    finally:
        first.kill()
        first.wait()


def test_the_lock_ends_with_its_process(tmp_path):
    folder = tmp_path / "o"
    first = hold(folder)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (folder / LOCK_FILE).exists()
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(30, 3)))
    arguments = ["--model", "k-subspaces", "--set", "n_init=1", "--no-pictures", "--no-report"]
    code, _, errors = run("fit", tmp_path / "x.npy", "--clusters", 2, "--out", folder, *arguments)
    assert code == 0, errors
    assert (folder / "labels.npy").exists()
    assert not (folder / LOCK_FILE).exists()


def test_the_lock_says_who_holds_it_and_leaves_nothing(tmp_path):
    with locked(tmp_path / "a" / "b"):
        who = json.loads((tmp_path / "a" / "b" / LOCK_FILE).read_text())
        assert who["process"] == os.getpid()
        with pytest.raises(ValueError, match="in use by process"), locked(tmp_path / "a" / "b"):
            pass
    assert list(tmp_path.iterdir()) == []


def _quick_fit(tmp_path):
    fit = [
        "fit",
        tmp_path / "x.npy",
        "--clusters",
        2,
        "--model",
        "k-subspaces",
        "--no-pictures",
        "--no-report",
    ]
    return [*fit, "--out", tmp_path / "o"]


def test_two_runs_at_once(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200, 8)))
    runs = [start(*_quick_fit(tmp_path)) for _ in range(3)]
    errors = [process.communicate(timeout=120)[1] for process in runs]
    codes = [process.returncode for process in runs]
    assert codes.count(0) == 1, errors
    refused = [text for text, code in zip(errors, codes, strict=True) if code]
    assert all("is in use by" in text or "holds results" in text for text in refused), refused
    assert "model" in {path.name for path in (tmp_path / "o").iterdir()}


def test_what_a_run_left_that_was_killed_before_its_first_checkpoint(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 5)))
    (tmp_path / "o" / "checkpoint").mkdir(parents=True)
    code, _, errors = run(*_quick_fit(tmp_path))
    assert (code, "is not empty" in errors) == (2, True)  # not what a run leaves
    (tmp_path / "o" / "checkpoint" / "run.json").write_text("{}")
    assert run(*_quick_fit(tmp_path))[0] == 0
