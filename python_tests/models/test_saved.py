"""Models and a checkpoint that an earlier version has written: every later one loads them, or says why not.

``PYTHONPATH=python_tests python python_tests/models/test_saved.py`` writes those of the present version, into a folder of
its name; folders of earlier versions stay as they are.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings

import desc_ext  # isort: skip  (before torch)

import numpy as np
import pytest
from helpers.estimators import external_options, small
from helpers.interrupt import Interrupt
from helpers.saved_models import FOLDERS, SAVED, rows

from desc_ext.models import MODELS, load_model

TINY = {
    **{name: {"hidden_sizes": (5,), "latent_dim": 4, "subspace_dim": 2} for name in ("desc", "edesc")},
    **{name: {"hidden_sizes": (5,), "latent_dim": 3} for name in ("dec", "idec", "dcec")},
    "ae-kmeans": {"hidden_sizes": (5,), "latent_dim": 4},
    "asc2d": {"hidden_sizes": (5,), "discriminator_sizes": (4,)},
    "ncsc": {"hidden_sizes": (5,), "head_sizes": (4,), "latent_dim": 4},
    "dsc-net": {"hidden_sizes": (5,), "latent_dim": 4},
    "lrsc": {"latent_dim": 4},
}
CHECKPOINT = {"hidden_sizes": (5,), "latent_dim": 4, "subspace_dim": 2, "scaling": "none", "max_epochs": 4}
# what the preset had when the checkpoint was written
CHECKPOINT |= {"corruption": 0.5, "init": "k-subspaces", "anchor_weight": 0.0, "anchor_share": 0.5}
CHECKPOINT |= {"schedule": "constant", "image_network": "dense"}


@pytest.mark.parametrize(
    "folder", [f for f in FOLDERS if f.name != "checkpoint"], ids=lambda f: f"{f.parent.name}-{f.name}"
)
def test_saved_models_load(folder):
    model = load_model(folder)
    assert type(model) is MODELS[folder.name]
    X, _ = rows()
    found = model.transform(X)
    if (
        folder.name != "self-expressive"
    ):  # whose new rows are extended from all training rows, themselves among them
        np.testing.assert_allclose(found, model.embedding_, rtol=1e-3, atol=1e-4)
    assert found.shape == model.embedding_.shape
    if hasattr(model, "predict"):
        assert (model.predict(X) == model.labels_).mean() > 0.95
    assert model.history_
    assert model.get_params()["n_clusters"] == model.resolved_params_["n_clusters"] == 3


@pytest.mark.parametrize(
    "folder", [f for f in FOLDERS if f.name == "checkpoint"], ids=lambda f: f.parent.name
)
@pytest.mark.filterwarnings("ignore:no row was ever confident")
def test_saved_checkpoints_are_gone_on_from(folder, tmp_path):
    """It was left after two of four epochs; what they recorded stays, and two more follow."""
    shutil.copytree(folder, tmp_path / "c")
    before = json.loads((folder / "config.json").read_text())
    model = small("desc", checkpoint=tmp_path / "c", resume=True, **CHECKPOINT).fit(rows()[0])
    assert model.history_[: len(before["history"])] == before["history"]
    assert model.n_iter_ == 4 > before["epoch"] == 2


def test_there_are_saved_folders_of_this_version():
    version = SAVED / desc_ext.__version__
    assert {path.name for path in version.iterdir()} == {*MODELS, "checkpoint"}


def main() -> None:
    folder = SAVED / desc_ext.__version__
    shutil.rmtree(folder, ignore_errors=True)
    X, y = rows()
    warnings.simplefilter("ignore")
    for name in MODELS:
        options = TINY.get(name, {}) | (external_options(X, y) if name == "lrsc" else {})
        small(name, device="cpu", **options).fit(X).save(folder / name)
    interrupt = Interrupt("refine", 3)
    with contextlib.suppress(KeyboardInterrupt):
        small("desc", checkpoint=folder / "checkpoint", callbacks=[interrupt], **CHECKPOINT).fit(X)


if __name__ == "__main__":
    main()
