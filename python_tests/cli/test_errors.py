"""What the command line says where something can be mended: one sentence, in its own words."""

from __future__ import annotations

import io

import numpy as np
import pytest
import typer
from helpers.commands import run

from desc_ext.cli.catalogue import in_flags
from desc_ext.cli.errors import plain_errors
from desc_ext.durable import replacing


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("DESC: random_state must be an integer", "desc: --seed must be an integer"),
        ("n_samples=1 is too few", "1 row is too few"),
        ("n_samples=3 cannot make n_clusters=8", "3 rows cannot make --clusters 8"),
        ("Look at the spectrum, or give n_clusters", "Look at the spectrum, or give --clusters N"),
        ("but n_clusters=None; name n_clusters, or", "but --clusters auto; name --clusters N, or"),
        ("use features='scattering', or features=None", "use --features scattering, or --features none"),
        ("try another random_state.", "try another --seed."),
        ("set image_shape=(H, W), or X", "give --set image_shape=(H, W), or X"),
        # words of English, files and what stands in quotes are no options
        ("the features of n_clusters.csv, in /tmp/n_clusters", "the features of n_clusters.csv, in /tmp/n_clusters"),
        ("there is no column 'n_clusters': DESC has", "there is no column 'n_clusters': DESC has"),
        ("the preset paper", "the preset paper"),
    ],
)  # fmt: skip
def test_messages_are_in_the_words_of_the_command_line(message, expected):
    assert in_flags(message) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imagenet", "--clusters", "3"], "neither a known data set"),
        (
            ["digits", "--clusters", "3", "--model", "deep"],
            "there is no model 'deep'; models are self-expressive, desc",
        ),
        (["digits", "--clusters", "0"], "desc: --clusters must be an integer >= 1, got 0"),
        (
            ["digits", "--clusters", "3", "--seed", "-3"],
            "--seed must be an integer from 0 to 2**32 - 1; got -3",
        ),
        (["digits", "--clusters", "3", "--preset", "best"], "desc: --preset must be one of"),
        (["digits", "--clusters", "3", "--labels", "kind"], "leave out --labels"),
        (["digits", "--clusters", "3", "--set", "hiden_sizes=3"], "did you mean hidden_sizes?"),
        (["digits", "--clusters", "3", "--set", "epochs"], "wants NAME=VALUE; got 'epochs'"),
        (["digits", "--clusters", "3", "--set", "learning_rate=fast"], "learning_rate=fast: wanted a number"),
        (["digits", "--clusters", "3", "--set", "hidden_sizes=5,x"], "wanted numbers such as 500,500,1000"),
        (["digits", "--clusters", "3", "--set", "init=y.npy"], "latent-k-subspaces, labels or none\n"),
        (["digits", "--clusters", "3", "--set", "n_clusters=4"], "set by --clusters"),
        (["digits", "--clusters", "3", "--epochs", "2", "--set", "max_epochs=4"], "max_epochs is set twice"),
        (["digits", "--clusters", "3", "--model", "self-expressive", "--epochs", "2"], "leave out --epochs"),
        (["digits", "--clusters", "3", "--resume"], "there is nothing to resume"),
        (["digits", "--clusters", "5000"], "1,797 rows cannot make --clusters 5000: give at least 5000 rows"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(tmp_path, arguments, message):
    code, _, errors = run("fit", *arguments, "--out", tmp_path / "out")
    assert code == 2
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert errors.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_bad_rows_are_named(tmp_path):
    X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    X[7, 2] = np.nan
    np.save(tmp_path / "x.npy", X)
    code, _, errors = run("fit", tmp_path / "x.npy", "--clusters", 2, "--out", tmp_path / "out")
    assert code == 2
    assert f"{tmp_path / 'x.npy'} contains NaN" in errors
    assert "row 7, column 2 (nan), both counted from 0" in errors


def test_files_that_may_not_be_written_are_named_without_numbers(tmp_path, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("builtins.open", refuse)
    said = io.StringIO()
    monkeypatch.setattr("sys.stderr", said)
    with pytest.raises(typer.Exit), plain_errors(), replacing(tmp_path / "c.csv"):
        pass
    monkeypatch.undo()
    expected = (
        f"error: {tmp_path / 'c.csv'}: permission denied; name another, or ask for the right to use it\n"
    )
    assert said.getvalue() == expected


def test_usage_errors_have_exit_code_2(tmp_path):
    assert run("fit", "digits", "--out", tmp_path / "o")[0] == 2
    assert run("fit", "digits", "--clusters", "many", "--out", tmp_path / "o")[0] == 2
    assert run("predict", tmp_path, "digits", "--out", "labels.txt")[0] == 2
