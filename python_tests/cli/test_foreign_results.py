"""Folders of results from elsewhere: nothing is written or moved outside of them, whatever links they hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.commands import RESULTS, run

FIT = [
    "fit",
    "digits",
    "--model",
    "k-subspaces",
    "--clusters",
    "3",
    "--set",
    "n_init=1",
    "--no-pictures",
    "--no-report",
]


@pytest.fixture
def outside(tmp_path):
    """A folder and a file that no run has anything to do with."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_text("precious")
    return folder


@pytest.mark.parametrize("name", [*sorted(RESULTS), ".results-writing", ".results-ready", ".results-moving"])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_links_are_replaced_or_refused_never_followed(tmp_path, outside, name, kind):
    out = tmp_path / "out"
    out.mkdir()
    target = outside if kind == "folder" else outside / "file"
    for link in (name, f"{name}.part"):
        (out / link).symlink_to(target)
    code, _, errors = run(*FIT, "--out", out, "--overwrite")
    assert code in (0, 2), errors
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "precious"
    if code == 0:
        assert len(np.load(out / "labels.npy")) == 1797


def test_the_lock_is_not_written_through_a_link(tmp_path, outside):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".lock").symlink_to(outside / "file")
    code, _, errors = run(*FIT, "--out", out, "--overwrite")
    assert (code, ".lock" in errors) == (2, True)
    assert (outside / "file").read_text() == "precious"


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint/state"])
def test_a_checkpoint_elsewhere_is_not_written_to(tmp_path, outside, name):
    link = tmp_path / "out" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    code, _, errors = run(
        "fit", "digits", "--clusters", "3", "--epochs", "1", "--out", tmp_path / "out", "--overwrite"
    )
    assert (code, f"{link} is a link to {outside}" in errors) == (2, True)
    assert [path.name for path in outside.iterdir()] == ["file"]


@pytest.mark.parametrize("content", ["[" * 100_000, "{}", "[]", '{"model": 3}', '{"model": "../x"}', "\0"])
def test_a_config_that_says_nothing_of_use(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    code, _, errors = run("predict", tmp_path, tmp_path / "x.npy", "--out", tmp_path / "y.npy")
    assert (code, errors.startswith("error: ")) == (2, True), errors


def test_a_model_that_names_files_outside(tmp_path, outside):
    assert run(*FIT, "--out", tmp_path / "out")[0] == 0
    config = tmp_path / "out" / "model" / "config.json"
    for name in ("../../outside/file", str(outside / "file"), "..", "a\0b", ""):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"tensor_file": name}))
        code, _, errors = run("predict", tmp_path / "out", "digits", "--out", tmp_path / "y.npy")
        assert (code, "tensor_file is" in errors) == (2, True)
