"""Callbacks and state folders."""

from __future__ import annotations

import json
import logging
import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from desc_ext.engine import callbacks
from desc_ext.engine.callbacks import Callback, Evaluate, ProgressBar
from desc_ext.engine.optimizers import adam, without_denormals
from desc_ext.engine.state_folder import read_state_folder, write_state_folder
from desc_ext.models import DESC, KSubspaces, SelfExpressiveClustering

SMALL = {"hidden_sizes": (24,), "pretrain_epochs": 3, "max_epochs": 3, "warmup_epochs": 1, "n_init": 2} | {
    "subspace_dim": 3,
    "hard_weight": "off",
    "tol": 0.0,
    "random_state": 0,
}


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return data.data[:200], data.target[:200]


def test_hooks_are_called_in_order(digits):
    calls = []

    class Recorder(Callback):
        def on_fit_begin(self, model, stages):
            calls.append(("begin", dict(stages)))

        def on_epoch_end(self, model, record):
            calls.append((record["stage"], record["epoch"]))
            record["note"] = len(calls)

        def on_fit_end(self, model):
            calls.append(("end",))

    model = DESC(4, callbacks=[Recorder()], **SMALL).fit(digits[0])
    epochs = [(stage, epoch) for stage in ("pretrain", "refine") for epoch in (1, 2, 3)]
    assert calls == [("begin", {"pretrain": 3, "refine": 3}), *epochs, ("end",)]
    assert [record["note"] for record in model.history_] == [2, 3, 4, 5, 6, 7]


def test_a_callback_stops_a_stage(digits):
    class Stop(Callback):
        def on_epoch_end(self, model, record):
            return (record["stage"], record["epoch"]) in {("pretrain", 1), ("refine", 2)}

    model = DESC(4, callbacks=[Stop()], **SMALL).fit(digits[0])
    assert [record["stage"] for record in model.history_] == ["pretrain", "refine", "refine"]
    assert model.n_iter_ == 2


def test_arrays_in_a_record_become_lists(digits, tmp_path):
    class Adds(Callback):
        def on_epoch_end(self, model, record):
            record |= {
                "count": np.int64(3),
                "share": np.float32(0.5),
                "sizes": np.arange(3),
                "both": torch.ones(2),
            }

    model = DESC(3, **SMALL, callbacks=[Adds()], checkpoint=tmp_path / "checkpoint").fit(digits[0])
    model.save(tmp_path / "model")
    record = model.history_[0]
    assert [record[name] for name in ("count", "share", "sizes", "both")] == [3, 0.5, [0, 1, 2], [1.0, 1.0]]
    assert DESC.load(tmp_path / "model").history_ == model.history_


def test_stop_on_label_change(digits):
    model = DESC(4, **(SMALL | {"tol": 1.0, "max_epochs": 9, "warmup_epochs": 4})).fit(digits[0])
    assert model.n_iter_ == 5  # every change is below 1, but the warm-up is never cut short
    changes = [record["label_change"] for record in model.history_[3:]]
    assert all(0 <= change < 1 for change in changes)


def test_evaluate_scores_every_refinement_epoch(digits):
    X, y = digits
    model = DESC(4, callbacks=[Evaluate(y)], **SMALL).fit(X)
    assert "acc" not in model.history_[0]
    assert all({"acc", "nmi", "ari"} <= set(record) for record in model.history_[3:])
    last = model.history_[-1]
    assert last["nmi"] == pytest.approx(normalized_mutual_info_score(y, model.labels_))
    assert last["ari"] == pytest.approx(adjusted_rand_score(y, model.labels_))
    blind = DESC(4, **SMALL).fit(X)
    np.testing.assert_array_equal(blind.labels_, model.labels_)


def test_progress_in_lines_without_a_terminal(digits, capfd, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own
    model = DESC(4, verbose=1, **SMALL).fit(digits[0])
    out, err = capfd.readouterr()
    loss = model.history_[3]["loss"]
    number = r"\d+\.\d s"
    assert out == ""
    assert [re.sub(number, "T", line) for line in err.splitlines() if "refine" in line] == [
        "DESC: refine begins, T",
        f"DESC: refine 1 of 3, loss {loss:.4g}, clusters 4, T",
        f"DESC: refine 3 of 3, loss {model.history_[5]['loss']:.4g}, clusters 4, T",
    ]
    assert len(err.splitlines()) == 6
    assert not logging.getLogger("desc_ext").handlers
    assert logging.getLogger("desc_ext").level == logging.NOTSET
    DESC(4, **SMALL).fit(digits[0])
    assert capfd.readouterr() == ("", "")


def test_a_line_every_few_seconds(digits, caplog, monkeypatch):
    """Handlers of the program take the lines, and the last one of a stage that ends early comes too."""
    clock = iter(range(1000))
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(callbacks, "_SECONDS_BETWEEN_LINES", 10)

    class Stop:
        def on_epoch_end(self, model, record):
            return (record["stage"], record["epoch"]) == ("refine", 17)

    options = SMALL | {"pretrain_epochs": 1, "max_epochs": 30}
    DESC(4, callbacks=[Stop(), ProgressBar()], **options).fit(digits[0])
    lines = [record.getMessage() for record in caplog.records if record.name == "desc_ext"]
    epochs = [int(re.search(r"refine (\d+) of 30", line)[1]) for line in lines if " of 30" in line]
    assert epochs[0] == 1
    assert epochs[-1] == 17
    assert 1 < len(epochs) < 10
    assert caplog.records[0].levelname == "INFO"


def test_progress_of_a_method_without_epochs(digits, caplog):
    SelfExpressiveClustering(4, n_init=1, random_state=0, callbacks=[ProgressBar()]).fit(digits[0])
    lines = [re.sub(r", [^,]* s$", "", record.getMessage()) for record in caplog.records]
    stages = ["rows", "coefficients", "affinity", "eigenvectors", "k-means"]
    begun = [f"SelfExpressiveClustering: {stage} begins" for stage in stages]
    assert [line for line in lines if "begins" in line] == begun
    assert [line.split(" 1 of 1")[0] for line in lines if " 1 of 1" in line] == [
        f"SelfExpressiveClustering: {stage}" for stage in stages
    ]
    KSubspaces(4, n_init=2, random_state=0, callbacks=[ProgressBar()]).fit(digits[0])
    assert any("KSubspaces: restart 2 of 2, loss" in record.getMessage() for record in caplog.records)


def test_any_object_with_a_hook_is_a_callback(digits):
    calls = []
    begins = SimpleNamespace(on_stage_begin=lambda model, stage: calls.append(stage))
    epochs = SimpleNamespace(on_epoch_end=lambda model, record: calls.append(record["epoch"]))
    DESC(4, callbacks=(begins, epochs), **SMALL).fit(digits[0])
    assert calls == ["pretrain", 1, 2, 3, "refine", 1, 2, 3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([object()], "has none of the methods that are called: on_fit_begin, "),
        ([print], "has none of the methods"),
        ([ProgressBar], r"the class ProgressBar, wanted an object of it: ProgressBar\(\)"),
        (ProgressBar(), "callbacks must be a list of callbacks, got"),
    ],
)
def test_other_callbacks_are_refused(given, message):
    with pytest.raises(
        ValueError, match=f"DESC: callbacks .*{message}" if "must" not in message else message
    ):
        DESC(4, callbacks=given).fit(np.eye(9))


def test_progress_bar_on_a_terminal(digits, capsys, monkeypatch):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    bar = ProgressBar()
    model = DESC(4, callbacks=[bar], **SMALL).fit(digits[0])
    text = capsys.readouterr().err
    assert "pretrain" in text
    assert "refine" in text
    assert "clusters 4" in text
    pickle.loads(pickle.dumps(model))


def test_state_folder_round_trip(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(3), "c": torch.zeros(0, 2)}
    write_state_folder(tmp_path, "model", {"x": [1, "two"]}, tensors)
    config, found = read_state_folder(tmp_path, "model")
    assert config["x"] == [1, "two"]
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


@pytest.mark.parametrize("failing", ["config.json", ".safetensors"])
def test_a_crash_while_writing_leaves_the_old_state(failing, tmp_path, monkeypatch):
    from desc_ext.engine import state_folder

    write_state_folder(tmp_path, "checkpoint", {"epoch": 1}, {"a": torch.ones(3)})
    replace = state_folder.os.replace

    def crash(source, target):
        if str(target).endswith(failing):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(state_folder.os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_state_folder(tmp_path, "checkpoint", {"epoch": 2}, {"a": torch.zeros(3)})
    monkeypatch.undo()
    config, tensors = read_state_folder(tmp_path, "checkpoint")
    assert config["epoch"] == 1
    assert torch.equal(tensors["a"], torch.ones(3))
    write_state_folder(tmp_path, "checkpoint", {"epoch": 2}, {"a": torch.zeros(3)})
    assert read_state_folder(tmp_path, "checkpoint")[0]["epoch"] == 2
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_shape_that_the_config_does_not_promise(tmp_path):
    write_state_folder(tmp_path, "model", {}, {"a": torch.ones(3)})
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["shapes"]["a"] = [4]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"tensor 'a' has shape \[3\], wanted \[4\]"):
        read_state_folder(tmp_path, "model")


def sgd(parameters, rate):
    return torch.optim.SGD(parameters, rate, momentum=0.9, fused=True)


def plain_adam(parameters, rate):
    return torch.optim.Adam(parameters, rate, fused=True)


@pytest.mark.parametrize(
    ("ours", "usual", "moment"),
    [
        (adam, plain_adam, "exp_avg"),
        (lambda parameters, rate: without_denormals(sgd(parameters, rate)), sgd, "momentum_buffer"),
    ],
)
def test_no_moment_becomes_a_denormal_number(ours, usual, moment):
    weights, moments = [], []
    for make in (ours, usual):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 400).reshape(20, 20))
        optimizer = make([weight], 1e-2)
        for step in range(1500):
            # one half of it dies; the gradients of the other one stay small
            weight.grad = torch.full((20, 20), 1e-6) if step < 100 else torch.zeros(20, 20)
            weight.grad[10:] = 1e-9 * (step % 7 - 3)
            optimizer.step()
            kept = optimizer.state[weight][moment]
            if make is ours:
                assert not ((kept != 0) & (kept.abs() < torch.finfo(torch.float32).tiny)).any()
        weights.append(weight.detach())
        moments.append(kept)
    assert torch.equal(*weights)
    assert torch.equal(moments[0][10:], moments[1][10:])
    assert (moments[1][:10].abs() < torch.finfo(torch.float32).tiny).all()  # torch's own are
    assert (moments[1][:10] != 0).all()
