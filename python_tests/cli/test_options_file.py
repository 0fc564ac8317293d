"""Options of a fit from a file: config.json of a result gives that result again, and what is not of its form is refused."""

from __future__ import annotations

import json
import os
import sys
import threading

import numpy as np
import pytest
import typer
from helpers.commands import run

from desc_ext.cli.options_file import as_defaults, read_options_file, with_settings

NO_PICTURES = ("--no-pictures", "--no-report")


def test_config_of_a_result_gives_it_again(tmp_path):
    asked = [
        "--model",
        "k-subspaces",
        "--clusters",
        4,
        "--seed",
        5,
        "--set",
        "subspace_dim=2",
        "--set",
        "n_init=2",
    ]
    assert run("fit", "digits", *asked, "--out", tmp_path / "one", *NO_PICTURES)[0] == 0
    config = tmp_path / "one" / "config.json"
    code, output = run("fit", "digits", "--options", config, "--out", tmp_path / "two", *NO_PICTURES)[:2]
    assert code == 0, output
    labels = [np.load(tmp_path / name / "labels.npy") for name in ("one", "two")]
    np.testing.assert_array_equal(*labels)
    assert json.loads((tmp_path / "two" / "config.json").read_text()) == json.loads(config.read_text())


def test_the_command_line_goes_first(tmp_path):
    file = tmp_path / "o.json"
    options = {"n_clusters": 4, "random_state": 5, "subspace_dim": 2, "n_init": 2}
    file.write_text(json.dumps({"model": "k-subspaces", "options": options}))
    changed = ["--clusters", 3, "--set", "subspace_dim=1"]
    assert run("fit", "digits", "--options", file, *changed, "--out", tmp_path / "r", *NO_PICTURES)[0] == 0
    assert json.loads((tmp_path / "r" / "config.json").read_text())["options"] == options | {
        "n_clusters": 3,
        "subspace_dim": 1,
    }


def test_values_are_written_as_set_takes_them(tmp_path):
    file = tmp_path / "o.json"
    options = {
        "n_clusters": None,
        "hidden_sizes": [500, 20],
        "channels": [],
        "tol": 1e-3,
        "x": None,
        "y": True,
    }
    file.write_text(json.dumps({"options": options}))
    expected = {"hidden_sizes": "500,20", "channels": "()", "tol": "0.001", "x": "none", "y": "True"}
    assert read_options_file(file) == ({"clusters": "auto"}, expected)
    context = typer.Context(typer.core.TyperCommand("fit"))
    assert with_settings(context, ["a=1"]) == ["a=1"]
    as_defaults(context, file)
    assert context.default_map == {"clusters": "auto"}
    settings = with_settings(context, ["tol=2", " x =3"])
    assert settings[-2:] == ["tol=2", " x =3"]
    assert [text for text in settings if text.startswith(("tol", "x"))] == ["tol=2"]


def test_the_file_may_be_a_pipe(tmp_path):
    pipe, options = tmp_path / "pipe", {"n_clusters": 3, "subspace_dim": 1, "n_init": 1}
    os.mkfifo(pipe)
    content = json.dumps({"model": "k-subspaces", "options": options})
    writer = threading.Thread(target=pipe.write_text, args=[content], daemon=True)
    writer.start()
    code, _, errors = run("fit", "digits", "--options", pipe, "--out", tmp_path / "r", *NO_PICTURES)
    assert (code, errors) == (0, "")
    found = json.loads((tmp_path / "r" / "config.json").read_text())
    assert (found["model"], found["options"]) == ("k-subspaces", options | {"random_state": 0})


@pytest.mark.skipif(sys.version_info < (3, 11), reason="reads no TOML")
def test_toml(tmp_path):
    file = tmp_path / "o.toml"
    file.write_text('model = "desc"\n[options]\nrandom_state = 2\npreset = "paper"\nhidden_sizes = [8, 9]\n')
    flags = {"model": "desc", "seed": "2", "preset": "paper"}
    assert read_options_file(file) == (flags, {"hidden_sizes": "8,9"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1", "o.json: Expecting"),
        ("[1]", "wanted model and options, got a list"),
        ('{"modle": "desc"}', "unknown key 'modle'"),
        ('{"model": 3}', "wanted model, a name"),
        ('{"options": [3]}', "options, names with values"),
        ('{"model": "desk", "options": {"n_clusters": 3}}', "desk"),
        ('{"options": {"n_clusters": 3, "nothing": 1}}', "no option 'nothing'"),
    ],
)
def test_what_is_not_of_the_form_is_refused(content, message, tmp_path):
    (tmp_path / "o.json").write_text(content)
    code, _, errors = run("fit", "digits", "--options", tmp_path / "o.json", "--out", tmp_path / "r")
    assert code == 2
    assert message in errors
    assert not (tmp_path / "r").exists()
