"""All estimators saved, loaded and resumed: the same bits come back, and what is damaged or another's is refused."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from helpers.estimators import small
from helpers.estimators import small as small_model
from helpers.interrupt import Interrupt

from desc_ext.models import DESC, MODELS, load_model

# small networks are never sure of themselves, nor is NCSC on noise; each method's own file tests the warnings themselves
pytestmark = [
    pytest.mark.filterwarnings("ignore:no row was ever confident"),
    pytest.mark.filterwarnings("ignore:NCSC collapsed"),
]

ANCHORED = {
    "init": "self-expressive", "anchor_weight": 1.0, "warmup_epochs": 2, "schedule": "cosine", "average_decay": 0.9,
}  # fmt: skip


@pytest.mark.bits
@pytest.mark.parametrize("method", MODELS)
def test_save_and_load(method, digits, tmp_path):
    model = small(method).fit(digits)
    model.save(tmp_path / "model")
    model.save(tmp_path / "model")  # over itself
    assert len(list((tmp_path / "model").iterdir())) == 2
    for loaded in (MODELS[method].load(tmp_path / "model"), load_model(tmp_path / "model")):
        assert loaded.get_params() == model.get_params()
        if hasattr(model, "predict_proba"):
            np.testing.assert_array_equal(loaded.predict_proba(digits), model.predict_proba(digits))
        np.testing.assert_array_equal(loaded.transform(digits), model.transform(digits))
        np.testing.assert_array_equal(loaded.labels_, model.labels_)
        np.testing.assert_array_equal(loaded.embedding_, model.embedding_)
        assert loaded.history_ == model.history_
        assert loaded.n_iter_ == model.n_iter_
        with pytest.raises(ValueError, match="expecting 64 features"):
            getattr(loaded, "predict", loaded.transform)(digits[:, 1:])


@pytest.mark.bits
def test_float64_survives_saving(digits, tmp_path):
    model = small("desc", dtype="float64").fit(digits)
    assert model.embedding_.dtype == np.float64
    model.save(tmp_path)
    np.testing.assert_array_equal(DESC.load(tmp_path).transform(digits), model.embedding_)


def test_damaged_folders_are_refused(digits, tmp_path):
    model = small("desc").fit(digits)

    def fresh(name):
        model.save(tmp_path / name)
        return tmp_path / name, next((tmp_path / name).glob("*.safetensors"))

    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        DESC.load(tmp_path / "nowhere")
    folder, tensors = fresh("flipped")
    content = bytearray(tensors.read_bytes())
    content[-5] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{tensors.name} is damaged"):
        DESC.load(folder)
    folder, tensors = fresh("missing")
    tensors.unlink()
    with pytest.raises(FileNotFoundError, match=tensors.name):
        DESC.load(folder)
    folder, _ = fresh("cut")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config[: len(config) // 2])
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        DESC.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"method": "edesc"}, "method 'edesc', but DESC is 'desc'"),
        ({"kind": "checkpoint"}, "describes a checkpoint, wanted a model"),
        ({"n_features": 63}, r"tensor 'network\.offset' has shape \[64\], wanted \[63\]"),
        ({"resolved_params": None}, r"config\.json is damaged"),
        ({"params": {"colour": 1}}, r"config\.json is damaged.*colour"),
        ({"params": {"device": "toaster"}}, r"config\.json: device must be .* got 'toaster'"),
        ({"tensor_file": None}, r"config\.json is damaged: tensor_file is None"),
        ({"tensor_file": "../x"}, r"config\.json is damaged: tensor_file is '\.\./x'"),
        ({"shapes": 5}, r"config\.json is damaged: shapes"),
        ({"shapes": {"labels_": None}}, r"config\.json is damaged: shapes"),
        ({"n_features": -3}, r"config\.json: n_features is -3"),
        ({"n_features": 0}, r"config\.json: n_features is 0"),
        ({"resolved": {"n_clusters": -3}}, r"config\.json: DESC: n_clusters must be .* got -3"),
        ({"resolved": {"dtype": "float33"}}, r"config\.json: DESC: dtype must be .* got 'float33'"),
        ({"resolved": {"smoothing": "x"}}, r"config\.json: DESC: smoothing must be .* got 'x'"),
        ({"resolved": {"smoothing": None}}, r"config\.json: the resolved option smoothing is None"),
        ({"resolved": {"subspace_dim": 10**30}}, r"config\.json"),
    ],
)
def test_altered_config_is_refused(change, message, digits, tmp_path):
    small("desc").fit(digits).save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["resolved_params"] |= change.pop("resolved", {})
    path.write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        DESC.load(tmp_path)


def test_unknown_methods_and_devices_are_refused(digits, tmp_path):
    small("k-subspaces").fit(digits).save(tmp_path)
    path = tmp_path / "config.json"
    content = path.read_text()
    path.write_text(content.replace('"device": "auto"', '"device": "toaster"'))
    with pytest.raises(ValueError, match=r"config\.json: device must be .* got 'toaster'"):
        load_model(tmp_path)
    path.write_text(content)
    for method in (None, [], "best"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"method": method}))
        with pytest.raises(ValueError, match="unknown method"):
            load_model(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"epoch": -3}, {"epoch": "x"}, {"epoch": 1.5}, {"stopped": None}, {"history": {}}, {"stage": []}],
)
def test_altered_checkpoint_is_refused(change, digits, tmp_path):
    small("desc", checkpoint=tmp_path).fit(digits)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"config\.json is damaged: .*{next(iter(change))}"):
        small("desc", checkpoint=tmp_path, resume=True).fit(digits)


def test_missing_tensor_is_named(digits, tmp_path):
    from desc_ext.engine.state_folder import read_state_folder, write_state_folder

    small("desc").fit(digits).save(tmp_path)
    config, tensors = read_state_folder(tmp_path, "model")
    del tensors["network.bases"]
    for key in ("format_version", "kind", "tensor_file", "sha256", "shapes"):
        del config[key]
    write_state_folder(tmp_path, "model", config, tensors)
    with pytest.raises(ValueError, match=r"tensor 'network\.bases' is missing"):
        DESC.load(tmp_path)


@pytest.mark.bits
@pytest.mark.parametrize(
    ("method", "stage", "epoch", "options"),
    [
        ("desc", "pretrain", 3, {}),
        ("desc", "refine", 1, {}),
        ("desc", "refine", 3, {}),
        ("desc", "refine", 2, ANCHORED),
        ("edesc", "refine", 2, {}),
        ("asc2d", "refine", 3, {}),
        ("asc2d", "refine", 2, ANCHORED),
        ("dec", "refine", 2, {}),
        ("idec", "refine", 2, {}),
        ("idec", "pretrain", 4, ANCHORED),
        ("idec", "refine", 1, ANCHORED),
        ("idec", "refine", 3, ANCHORED),
        ("dcec", "pretrain", 4, {}),
        ("ae-kmeans", "pretrain", 2, {}),
        ("ncsc", "refine", 1, ANCHORED),
    ],
)
def test_resumed_fit_has_the_same_bits(method, stage, epoch, options, digits, tmp_path):
    small = functools.partial(small_model, **options)
    whole = small(method).fit(digits)
    interrupt = Interrupt(stage, epoch)
    model = small(method, checkpoint=str(tmp_path), callbacks=[interrupt])
    with pytest.raises(KeyboardInterrupt):
        model.fit(digits)
    assert interrupt.ended
    resumed = small(method, checkpoint=str(tmp_path), resume=True).fit(digits)
    np.testing.assert_array_equal(resumed.embedding_, whole.embedding_)
    np.testing.assert_array_equal(resumed.labels_, whole.labels_)
    for name, value in whole.network_.state_dict().items():
        assert torch.equal(resumed.network_.state_dict()[name], value), name
    strip = [{k: v for k, v in record.items() if k != "seconds"} for record in whole.history_]
    assert [{k: v for k, v in record.items() if k != "seconds"} for record in resumed.history_] == strip
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    again = small(method, checkpoint=str(tmp_path), resume=True).fit(digits)  # nothing left to do
    np.testing.assert_array_equal(again.embedding_, whole.embedding_)


def test_resume_refuses_another_fit(digits, tmp_path):
    def resumed(X=digits, **options):
        return small("desc", checkpoint=str(tmp_path), resume=True, **options).fit(X)

    resumed()  # an empty folder: starts
    with pytest.raises(ValueError, match=r"smoothing: 0\.1 there, 0\.7 here"):
        resumed(smoothing=0.7)
    with pytest.raises(ValueError, match="seed: "):
        resumed(random_state=3)
    with pytest.raises(ValueError, match=r"data_shape: \[300, 64\] there, \[299, 64\] here"):
        resumed(digits[:299])
    with pytest.raises(ValueError, match=r"another fit \(data: the values in X differ\)"):
        resumed(digits + 1)
    with pytest.raises(ValueError, match="method: 'desc' there, 'edesc' here"):
        small("edesc", checkpoint=str(tmp_path), resume=True).fit(digits)
    damaged = next(tmp_path.glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{damaged.name} is damaged"):
        resumed()


@pytest.mark.parametrize("scaling", ["minmax", "none"])
@pytest.mark.parametrize(
    "method", [name for name in MODELS if name not in ("k-subspaces", "self-expressive")]
)
def test_resume_refuses_other_rows_of_the_same_scale(method, scaling, digits, tmp_path):
    """Statistics that know nothing of most values let other rows pass."""
    options = {"checkpoint": str(tmp_path), "scaling": scaling}
    small(method, **options).fit(digits)
    with pytest.raises(ValueError, match="data: the values in X differ"):
        small(method, **options, resume=True).fit(np.ascontiguousarray(digits[::-1]))
    small(method, **options, resume=True).fit(np.asfortranarray(digits))


def test_checkpoints_without_a_digest_of_the_data_are_taken(digits, tmp_path):
    options = {"checkpoint": str(tmp_path)}
    whole = small("desc", **options).fit(digits)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["data_digest"]
    path.write_text(json.dumps(config))
    np.testing.assert_array_equal(small("desc", **options, resume=True).fit(digits).labels_, whole.labels_)
    with pytest.raises(ValueError, match="fit to other data"):
        small("desc", **options, resume=True).fit(digits + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": -3}, "batch_size must be an integer >= 1, got -3"),
        ({"verbose": 7}, "verbose must be one of 0, 1, got 7"),
        ({"random_state": "x"}, "random_state must be an integer .* got 'x'"),
        ({"image_shape": [4]}, r"image_shape must be \(H, W\)"),
        ({"preset": "best"}, "preset must be one of"),
        ({"callbacks": "x"}, "callbacks must be a list"),
    ],
)
def test_every_saved_parameter_is_checked(change, message, digits, tmp_path):
    small("desc").fit(digits).save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["params"] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config\.json: DESC: {message}"):
        DESC.load(tmp_path)
