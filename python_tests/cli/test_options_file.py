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
from PIL import Image

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


FIT = (
    "--model",
    "k-subspaces",
    "--clusters",
    2,
    "--set",
    "subspace_dim=1",
    "--set",
    "n_init=2",
    *NO_PICTURES,
)


def images_of_two_sizes(folder):
    """Vertical and horizontal bars, in files of two sizes."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(24):
        image = np.zeros((8, 8) if i % 3 else (12, 10))
        image[(slice(2, 5), slice(None))[:: 1 if i % 2 else -1]] = rng.uniform(100, 255)
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{i:02}.png")
    return folder


def table_with_more(path):
    """Two lines in the columns a, b, c; a class, a name and a column that is no feature beside them."""
    rng = np.random.default_rng(0)
    kinds = np.arange(40) % 2
    rows = rng.normal(size=(40, 1)) * np.array([[1.0, 2.0, -1.0], [-2.0, 1.0, 0.5]])[kinds]
    lines = [f"r{i};{kinds[i]};{rng.normal() * 100};{';'.join(map(str, row))}" for i, row in enumerate(rows)]
    path.write_text("\n".join(["name;kind;noise;a;b;c", *lines]) + "\n")
    return path


def texts_in_a_column(path):
    words = ("ball goal team match", "court law judge case")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words[i % 2].split(), 6)) for i in range(30)]
    path.write_text(
        "\n".join(json.dumps({"said": text, "kind": i % 2}) for i, text in enumerate(texts)) + "\n"
    )
    return path


@pytest.mark.parametrize(
    ("make", "name", "reading", "kept"),
    [
        (images_of_two_sizes, "f", ["--image-size", "6x8"], {"image_size": [6, 8]}),
        (
            table_with_more,
            "t.csv",
            ["--labels", "kind", "--columns", "a,b", "--columns", "5", "--id", "name", "--header"],
            {"labels": "kind", "columns": ["a,b", "5"], "id": "name", "header": True},
        ),
        (
            table_with_more,
            "t.csv",
            ["--labels", "kind", "--drop", "noise", "--drop", "b", "--id", "name"],
            {"labels": "kind", "drop": ["noise", "b"], "id": "name"},
        ),
        (
            texts_in_a_column,
            "x.jsonl",
            ["--text", "said", "--labels", "kind"],
            {"labels": "kind", "text": "said"},
        ),
    ],
)
def test_how_the_data_were_read_is_kept_too(tmp_path, make, name, reading, kept):
    source = make(tmp_path / name)
    code, _, errors = run("fit", source, *FIT, *reading, "--out", tmp_path / "one")
    assert code == 0, errors
    config = tmp_path / "one" / "config.json"
    assert json.loads(config.read_text())["reading"] == kept
    code, _, errors = run("fit", source, "--options", config, "--out", tmp_path / "two", *NO_PICTURES)
    assert code == 0, errors
    for file in ("labels.csv", "embedding.npy", "config.json"):
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "one" / file).read_bytes(), file


def test_reading_on_the_command_line_goes_first(tmp_path):
    file, source = tmp_path / "o.json", table_with_more(tmp_path / "t.csv")
    options = {"n_clusters": 2, "subspace_dim": 1, "n_init": 2}
    reading = {"columns": ["a", "b"], "id": "name", "labels": None}
    file.write_text(json.dumps({"model": "k-subspaces", "options": options, "reading": reading}))
    asked = ["fit", source, "--options", file, *NO_PICTURES]
    assert run(*asked, "--columns", "b,c", "--labels", "kind", "--out", tmp_path / "r")[0] == 0
    found = json.loads((tmp_path / "r" / "config.json").read_text())["reading"]
    assert found == {"columns": ["b,c"], "id": "name", "labels": "kind"}
    assert (tmp_path / "r" / "labels.csv").read_text().splitlines()[1].startswith('"r0",')


def test_reading_that_does_not_fit_the_data_is_looked_for_in_the_file(tmp_path):
    file, source = tmp_path / "o.json", table_with_more(tmp_path / "t.csv")
    file.write_text(json.dumps({"options": {"n_clusters": 2}, "reading": {"image_size": "6x8"}}))
    code, _, errors = run("fit", source, "--options", file, "--out", tmp_path / "r")
    assert (code, f"({file} says under reading: image_size;" in errors) == (2, True), errors
    errors = run("fit", source, "--clusters", 2, "--image-size", 6, "--out", tmp_path / "r")[2]
    assert "means nothing" in errors
    assert "under reading" not in errors


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
        ('{"reading": 3}', "wanted reading, names with values"),
        ('{"reading": {"colums": 3}}', "unknown key 'colums' of reading; known are labels, columns"),
        ('{"reading": {"header": "yes"}}', "reading.header must be true or false"),
        ('{"reading": {"columns": [1.5]}}', "reading.columns must be names or numbers; got [1.5]"),
        ('{"reading": {"id": ["a", "b"]}}', "reading.id must be one value"),
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
