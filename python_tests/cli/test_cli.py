"""The command line from end to end, on small runs of the real methods."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.browser import Page
from helpers.commands import ENVIRONMENT, RESULTS, SMALL, run, start
from matplotlib.image import imread
from sklearn.datasets import load_digits

import desc_ext
from desc_ext.cli.run import Run
from desc_ext.cli.settings import parse_setting
from desc_ext.metrics import clustering_scores
from desc_ext.models import DESC, KSubspaces, SelfExpressiveClustering


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A finished small run on the digits, with baselines, as a user would start it."""
    folder = tmp_path_factory.mktemp("fit") / "out"
    process = start("fit", "digits", "--clusters", 10, "--epochs", 3, "--baselines", "--out", folder, *SMALL)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return folder, output, errors


@pytest.fixture
def table(tmp_path):
    """A .csv of three well separated groups with a column of classes; returns path, rows and classes."""
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], 40)
    X = (10 * np.eye(3, 6)[classes] + rng.normal(size=(120, 6))).astype(np.float32)
    path = tmp_path / "groups.csv"
    write_table(path, X, classes)
    return path, X, classes


def write_table(path, X, classes) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"x{i}" for i in range(X.shape[1])), "kind"])
        writer.writerows([*row, f"class {c}"] for row, c in zip(X.tolist(), classes, strict=True))


# fit


def test_fit_writes_every_result(digits_run):
    folder, output, _ = digits_run
    assert {path.name for path in folder.iterdir()} == RESULTS | {"examples.png", "classes.png"}
    digits = load_digits()
    labels, embedding = np.load(folder / "labels.npy"), np.load(folder / "embedding.npy")
    assert labels.shape == (1797,)
    assert set(labels.tolist()) <= set(range(10))
    assert len(embedding) == 1797

    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {"desc", "k-means", "ae-kmeans"}
    scores = clustering_scores(digits.target, labels)
    assert {key: metrics["desc"][key] for key in scores} == pytest.approx(scores)
    assert 0.6 < metrics["k-means"]["acc"] < 0.85  # k-means on the digits, one start
    for method, values in metrics.items():
        assert f"{values['acc']:.3f}" in next(line for line in output.splitlines() if f" {method} " in line)

    config = json.loads((folder / "config.json").read_text())
    assert config["options"]["max_epochs"] == 3
    assert config["parameters"]["hidden_sizes"] == [32]
    assert config["parameters"]["subspace_dim"] == DESC.presets["robust"]["subspace_dim"]
    assert config["data"] == {"name": "digits", "source": "scikit-learn", "shape": [1797, 64]}

    with open(folder / "history.csv", newline="") as file:
        history = list(csv.DictReader(file))
    assert [(row["stage"], row["epoch"]) for row in history] == [
        ("pretrain", "1"), ("pretrain", "2"), ("refine", "1"), ("refine", "2"), ("refine", "3"),
    ]  # fmt: skip
    assert [int(size) for size in history[-1]["cluster_sizes"].split()] == np.bincount(
        labels, minlength=10
    ).tolist()
    assert float(history[-1]["acc"]) == pytest.approx(scores["acc"])


def test_saved_model_and_pictures_can_be_read(digits_run):
    folder, _, _ = digits_run
    X = load_digits().data.astype(np.float32) / 16
    model = DESC.load(folder / "model")
    np.testing.assert_array_equal(model.predict(X), np.load(folder / "labels.npy"))
    np.testing.assert_array_equal(model.transform(X), np.load(folder / "embedding.npy"))
    for name in ("embedding.png", "curves.png", "cluster_sizes.png", "examples.png"):
        picture = imread(folder / name)
        assert min(picture.shape[:2]) > 300
        assert picture[..., :3].std() > 0.02  # something is drawn


def test_progress_in_lines_without_a_terminal(digits_run):
    _, output, errors = digits_run
    lines = [line for line in errors.splitlines() if not line.startswith("warning: ")]
    assert any(re.fullmatch(r"DESC: pretrain 1 of \d+, loss \S+, \S+ s", line) for line in lines)
    assert all(re.match(r"(DESC|AutoencoderKMeans): (pretrain|refine) ", line) for line in lines)
    assert "\x1b" not in output
    assert "\r" not in output


def test_known_classes_reach_the_metrics_and_nothing_else(tmp_path, table):
    path, X, classes = table
    write_table(tmp_path / "shuffled.csv", X, np.random.default_rng(1).permutation(classes))
    arguments = ["--clusters", 3, "--epochs", 2, "--labels", "kind", *SMALL]
    for data, out in ((path, "a"), (tmp_path / "shuffled.csv", "b")):
        code, _, errors = run("fit", data, "--out", tmp_path / out, *arguments)
        assert code == 0, errors
    a, b = tmp_path / "a", tmp_path / "b"
    np.testing.assert_array_equal(np.load(a / "labels.npy"), np.load(b / "labels.npy"))
    np.testing.assert_array_equal(np.load(a / "embedding.npy"), np.load(b / "embedding.npy"))
    acc = [json.loads((folder / "metrics.json").read_text())["desc"]["acc"] for folder in (a, b)]
    assert acc[0] > acc[1]
    assert not (a / "examples.png").exists()


def test_without_known_classes_there_are_only_seconds(tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", X)
    code, output, _ = run(
        "fit", tmp_path / "x.npy", "--clusters", 2, "--epochs", 1, "--out", tmp_path / "o", *SMALL
    )
    assert code == 0
    assert set(json.loads((tmp_path / "o" / "metrics.json").read_text())["desc"]) == {"seconds"}
    assert "ACC" not in output


# images


def test_scattering_features_of_a_known_data_set(tmp_path):
    folder = tmp_path / "out"
    arguments = [
        "--model",
        "self-expressive",
        "--features",
        "scattering",
        "--set",
        "feature_dim=60",
        "--out",
        folder,
    ]
    code, _, errors = run("fit", "digits", "--clusters", 10, *arguments)
    assert code == 0, errors
    assert {path.name for path in folder.iterdir()} == RESULTS - {"curves.png"} | {
        "affinity.png",
        "classes.png",
        "examples.png",
        "spectrum.png",
    }
    labels = np.load(folder / "labels.npy")
    expected = SelfExpressiveClustering(10, features="scattering", feature_dim=60, random_state=0)
    np.testing.assert_array_equal(expected.fit(load_digits().images / 16).labels_, labels)
    parameters = json.loads((folder / "config.json").read_text())["parameters"]
    assert (parameters["features"], parameters["feature_dim"]) == ("scattering", 60)
    assert imread(folder / "affinity.png").std() > 0.05
    # new images, as a stack and as rows
    np.save(tmp_path / "stack.npy", load_digits().images[:50] / 16)
    np.save(tmp_path / "rows.npy", load_digits().data[:50] / 16)
    for name in ("stack", "rows"):
        code, _, errors = run(
            "predict", folder, tmp_path / f"{name}.npy", "--out", tmp_path / f"{name}-l.npy"
        )
        assert code == 0, errors
    found = np.load(tmp_path / "stack-l.npy")
    np.testing.assert_array_equal(found, np.load(tmp_path / "rows-l.npy"))
    assert (found == labels[:50]).mean() > 0.9


def test_scattering_features_of_colour_images_and_of_rows(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (40, 8, 9, 3), dtype=np.uint8)
    np.save(tmp_path / "colour.npy", colour)
    np.save(tmp_path / "rows.npy", colour[..., 0].reshape(40, -1))
    arguments = ["--model", "k-subspaces", "--features", "scattering", "--set", "n_init=1", "--clusters", 2]
    code, _, errors = run("fit", tmp_path / "colour.npy", *arguments, "--out", tmp_path / "a")
    assert code == 0, errors
    expected = KSubspaces(2, features="scattering", n_init=1, random_state=0)
    expected.fit(colour.transpose(0, 3, 1, 2) / np.float32(255))
    np.testing.assert_array_equal(np.load(tmp_path / "a" / "labels.npy"), expected.labels_)
    code, _, errors = run("fit", tmp_path / "rows.npy", *arguments, "--out", tmp_path / "b")
    assert code == 2
    assert "flat rows" in errors
    shape = ["--set", "image_shape=8,9"]
    code, _, errors = run("fit", tmp_path / "rows.npy", *arguments, *shape, "--out", tmp_path / "b")
    assert code == 0, errors


def test_number_of_clusters_is_found(tmp_path):
    folder = tmp_path / "out"
    arguments = ["--model", "self-expressive", "--clusters", "auto", "--baselines", "--set", "features=none"]
    random = np.random.default_rng(0)
    bases = [np.linalg.qr(random.normal(size=(30, 3)))[0] for _ in range(4)]
    np.save(tmp_path / "rows.npy", np.concatenate([random.normal(size=(60, 3)) @ basis.T for basis in bases]))
    code, output, errors = run("fit", tmp_path / "rows.npy", *arguments, "--out", folder, "--epochs", 1)
    assert code == 2  # the method has no epochs
    code, output, errors = run("fit", tmp_path / "rows.npy", *arguments[:5], "--out", folder)
    assert code == 0, errors
    assert len(set(np.load(folder / "labels.npy"))) == 4
    assert json.loads((folder / "config.json").read_text())["parameters"]["n_clusters"] == 4
    assert "as many clusters as are found" in output
    assert imread(folder / "spectrum.png").std() > 0.05
    page = Page((folder / "report.html").read_text())
    drawn = base64.b64encode((folder / "spectrum.png").read_bytes()).decode()
    assert any(names.get("src") == f"data:image/png;base64,{drawn}" for _, names in page.elements)
    assert "The number of clusters is certain. 4 was taken" in page.text
    assert "uncertain" not in errors
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {"self-expressive", "k-means", "ae-kmeans"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--model", "desc", "--clusters", "auto"],
            "desc needs the number of clusters; only self-expressive",
        ),
        (["--model", "desc", "--clusters", "ten"], "--clusters: wanted a whole number, or auto; got 'ten'"),
        (["--clusters", "3", "--features", "wavelets"], "--features=wavelets: wanted scattering or none"),
    ],
)
def test_numbers_of_clusters_and_features_that_are_none(arguments, message, tmp_path):
    code, _, errors = run("fit", "digits", *arguments, "--out", tmp_path / "o")
    assert (code, message in errors) == (2, True), errors


# predict and evaluate


def test_predict_and_evaluate_agree_with_fit(digits_run, tmp_path):
    folder, _, _ = digits_run
    code, _, errors = run("predict", folder, "digits", "--out", tmp_path / "labels.npy")
    assert code == 0, errors
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), np.load(folder / "labels.npy"))
    code, output, errors = run("evaluate", folder, "digits")
    assert code == 0, errors
    acc = json.loads((folder / "metrics.json").read_text())["desc"]["acc"]
    assert f"{acc:.3f}" in output


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_data_of_another_width_is_refused(digits_run, table, tmp_path, command):
    folder, _, _ = digits_run
    extra = ["--out", tmp_path / "l.npy"] if command == "predict" else []
    code, _, errors = run(command, folder, table[0], "--labels", "kind", *extra)
    assert code == 2
    assert "has 6 columns, and the result in" in errors
    assert errors.endswith("was fitted to images 8×8\n")
    assert not (tmp_path / "l.npy").exists()


def test_folders_that_hold_no_model(tmp_path, digits_run):
    code, _, errors = run("evaluate", tmp_path, "digits")
    assert (code, "it has no config.json" in errors) == (2, True)
    damaged = tmp_path / "damaged"
    shutil.copytree(digits_run[0], damaged)
    weights = next((damaged / "model").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    code, _, errors = run("evaluate", damaged, "digits")
    assert (code, weights.name in errors) == (2, True)
    (damaged / "config.json").write_text("{")
    code, _, errors = run("evaluate", damaged, "digits")
    assert (code, "config.json is damaged" in errors) == (2, True)


# folders in use, interrupted runs


def test_folders_in_use_are_not_written_to(tmp_path, table):
    arguments = ["fit", table[0], "--labels", "kind", "--clusters", 3, "--epochs", 1, *SMALL, "--out"]
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    code, _, errors = run(*arguments, foreign)
    assert (code, "is not empty" in errors) == (2, True)
    code, _, _ = run(*arguments, foreign, "--overwrite")
    assert code == 0
    assert (foreign / "thesis.txt").read_text() == "mine"
    assert {path.name for path in foreign.iterdir()} == RESULTS | {"classes.png", "thesis.txt"}
    code, _, errors = run(*arguments, foreign)
    assert (code, "holds results already" in errors) == (2, True)
    code, _, errors = run(*arguments, foreign / "thesis.txt")
    assert (code, "is a file" in errors) == (2, True)
    code, _, errors = run(*arguments, foreign, "--resume")
    assert (code, "its run has finished" in errors) == (2, True)


# Ctrl-C and --resume


def wait_for_epoch(checkpoint: Path, epoch: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            state = json.loads(checkpoint.read_text())
            if state["stage"] == "refine" and state["epoch"] >= epoch:
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.005)
    raise AssertionError(f"no epoch {epoch} was reached: {process.communicate()}")


def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path):
    np.save(tmp_path / "rows.npy", load_digits().data[:200].astype(np.float32))
    fit_rows = ["fit", tmp_path / "rows.npy", "--clusters", 10]
    arguments = [*fit_rows, "--epochs", 60, "--set", "tol=0", *SMALL]
    whole = start(*arguments, "--out", tmp_path / "whole")
    assert whole.wait(timeout=300) == 0

    folder = tmp_path / "in two parts"
    first = start(*arguments, "--out", folder, cwd=tmp_path)
    wait_for_epoch(folder / "checkpoint" / "state" / "config.json", 3, first)
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 130, errors
    assert "Traceback" not in errors
    done = json.loads((folder / "checkpoint" / "state" / "config.json").read_text())["epoch"]
    assert 3 <= done < 60
    assert {path.name for path in folder.iterdir()} == {"checkpoint"}

    code, _, other = run(*fit_rows, "--out", folder)
    assert (code, "holds an interrupted run: go on with --resume" in other) == (2, True)
    code, _, other = run(*arguments, "--seed", 1, "--out", folder, "--resume")
    assert (code, "options.random_state = 0, and --resume was given with 1" in other) == (2, True)

    command = errors.strip().splitlines()[-1].strip()
    assert command.startswith("desc-ext fit ")
    second = subprocess.run(
        command, shell=True, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True
    )
    assert second.returncode == 0, second.stderr
    for name in ("labels.npy", "embedding.npy"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    weights = [
        next((run / "model").glob("*.safetensors")).read_bytes() for run in (folder, tmp_path / "whole")
    ]
    assert weights[0] == weights[1]
    assert {path.name for path in folder.iterdir()} == RESULTS


def test_an_interrupted_baseline_leaves_the_results(tmp_path, monkeypatch, table):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "add_baselines", interrupt)
    arguments = ["--labels", "kind", "--clusters", 3, "--epochs", 1, *SMALL, "--baselines"]
    code, _, _ = run("fit", table[0], "--out", tmp_path / "o", *arguments)
    assert code == 130
    assert {path.name for path in (tmp_path / "o").iterdir()} == RESULTS | {"classes.png"}


# settings, datasets, info


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("5", int | None, 5),
        ("none", int | None, None),
        ("1e-3", float | None, 1e-3),
        ("3", float, 3.0),
        ("yes", bool | None, True),
        ("False", bool, False),
        ("500,500,1000", tuple[int, ...] | None, (500, 500, 1000)),
        ("(64, 32)", tuple[int, ...], (64, 32)),
        ("64", tuple[int, ...] | None, (64,)),
        ("kl", str | None, "kl"),
        ("none", str | None, None),
        ("2", int | float, 2),
    ],
)
def test_settings_are_read_as_their_type(text, hint, value):
    read = parse_setting("option", text, hint)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "hint"), [("5.5", int), ("maybe", bool), ("1,b", tuple[int, ...]), ("x", float)]
)
def test_settings_of_another_type_are_refused(text, hint):
    with pytest.raises(ValueError, match=r"^option=.*: wanted "):
        parse_setting("option", text, hint)


def test_datasets_and_info(tmp_path):
    code, output, _ = run("datasets", "--data-dir", tmp_path)
    assert code == 0
    for name in ("digits", "mnist", "mnist-test", "fashion-mnist", "fashion-mnist-test"):
        assert any(f" {name} " in line for line in output.splitlines())
    assert "70,000" in output
    code, output, _ = run("info", "--data-dir", tmp_path)
    assert code == 0
    assert str(tmp_path) in output
    assert "instruction sets" in output


def test_version_and_module(tmp_path):
    """``python -m desc_ext`` is the command line, from any folder."""
    command = [sys.executable, "-m", "desc_ext", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (0, f"desc-ext {desc_ext.__version__}\n")
    assert run("--version") == (0, done.stdout, "")


def test_sub_packages_are_attributes(tmp_path):
    """They are imported when they are first asked for, so that ``import desc_ext`` alone stays quick."""
    code = """
import sys, desc_ext
assert "desc_ext.models" not in sys.modules and "sklearn" not in sys.modules
assert {"models", "data", "ops"} <= set(dir(desc_ext))
print(desc_ext.models.DESC.__name__, desc_ext.engine.Callback.__name__, hasattr(desc_ext, "nothing"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "DESC Callback False\n", "")
