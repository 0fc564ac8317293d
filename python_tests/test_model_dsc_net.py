"""DSC-Net against the paper's formulas in NumPy (float64), spectral clustering against scikit-learn's, its limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import SpectralClustering
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from typer.testing import CliRunner

from desc_ext.cli import app
from desc_ext.models import MODELS, DSCNet, load_model
from desc_ext.models.dsc_net import _affinity
from desc_ext.training import Callback

SMALL = {
    "hidden_sizes": (16,),
    "latent_dim": 6,
    "pretrain_epochs": 3,
    "epochs": 5,
    "batch_size": 16,
    "n_init": 3,
}
IMAGES = {name: value for name, value in SMALL.items() if name not in ("hidden_sizes", "latent_dim")}


def random_rows(n=40, m=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n, m))


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_loss_terms_follow_the_formula(penalty):
    model = DSCNet(
        3,
        penalty=penalty,
        fidelity_weight=5.0,
        coefficient_weight=0.3,
        dtype="float64",
        random_state=0,
        **SMALL,
    )
    X = random_rows()
    options = model.resolved_params_ = model._resolve_options() | {"image_shape": None}
    fit = model._begin(X, options)
    fit.stage = "expression"
    coefficient, network = fit.network.expression.coefficient, fit.network.autoencoder
    with torch.no_grad():
        coefficient.normal_(generator=torch.Generator().manual_seed(0))
    (index,) = model._batches(fit)
    np.testing.assert_array_equal(
        index.numpy(), np.arange(40)
    )  # C's rows are those of the data, in their order
    terms = model._terms(fit, index, None)
    x = X - X.mean(0)
    x /= x.std()
    z = network.encode(torch.from_numpy(x)).detach().numpy()
    c = coefficient.detach().numpy() * (1 - np.eye(40))
    back = network.decode(torch.from_numpy(c @ z)).detach().numpy()
    expected = {
        "reconstruction": (0.5, np.sum((x - back) ** 2)),
        "fidelity": (5.0, np.sum((z - c @ z) ** 2) / 2),
        "coefficients": (0.3, np.sum(c**2) if penalty == "l2" else np.sum(np.abs(c))),
    }
    assert set(terms) == set(expected)
    for name, (weight, value) in expected.items():
        assert terms[name][0] == weight
        assert terms[name][1].item() == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("shape", [(64,), (8, 8)])
def test_fit(shape):
    X = load_digits().data[:200].astype(np.float32).reshape(-1, *shape)
    model = DSCNet(4, random_state=0, **(IMAGES if len(shape) > 1 else SMALL)).fit(X)
    c, affinity = model.coefficients_, model.affinity_matrix_
    assert c.shape == affinity.shape == (200, 200)
    assert (c.diagonal() == 0).all()
    off = ~np.eye(200, dtype=bool)
    assert 1e-4 < np.abs(c[off]).max() <= 5.2e-3  # five steps of 1e-3 from 1e-4
    np.testing.assert_allclose(affinity, (np.abs(c) + np.abs(c.T)) / 2, rtol=1e-6)
    assert model.labels_.dtype == np.int64
    assert set(model.labels_) == {0, 1, 2, 3}
    assert model.embedding_.shape == (200, 6 if len(shape) == 1 else 480)
    np.testing.assert_array_equal(model.transform(X), model.embedding_)
    assert [record["stage"] for record in model.history_] == ["pretrain"] * 3 + ["expression"] * 5
    record = model.history_[-1]
    terms = 0.5 * record["reconstruction"] + model.fidelity_weight * record["fidelity"]
    assert record["loss"] == pytest.approx(
        terms + model.coefficient_weight * record["coefficients"], rel=1e-5
    )
    assert model.n_iter_ == 5
    rows = np.array([5, 1, 77])
    np.testing.assert_array_equal(model.dense_affinity(rows), affinity[rows][:, rows])


def planted(n_each=50, k=3, d=3, m=30, seed=0):
    rng = np.random.default_rng(seed)
    bases = [np.linalg.qr(rng.normal(size=(m, d)))[0] for _ in range(k)]
    X = np.concatenate([rng.normal(size=(n_each, d)) @ s.T for s in bases])
    order = rng.permutation(len(X))
    return X[order], np.repeat(np.arange(k), n_each)[order]


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_subspaces_are_found_and_clustered_as_scikit_learn_does(penalty):
    """Rows of independent subspaces, a linear autoencoder: C is nearly block diagonal, k-means of the codes is lost."""
    X, y = planted()
    model = DSCNet(
        3, penalty=penalty, hidden_sizes=(), latent_dim=20, scaling="none", fidelity_weight=30.0,
        coefficient_weight=1.0 if penalty == "l2" else 0.2, pretrain_epochs=100, epochs=300, batch_size=50,
        random_state=0,
    ).fit(X)  # fmt: skip
    assert adjusted_rand_score(y, model.labels_) > 0.95
    assert adjusted_rand_score(y, model.initial_labels_) < 0.5
    same = y[:, None] == y
    assert model.affinity_matrix_[same].mean() > 2 * model.affinity_matrix_[~same].mean()
    other = SpectralClustering(3, affinity="precomputed", random_state=0).fit_predict(model.affinity_matrix_)
    assert adjusted_rand_score(other, model.labels_) == 1


def test_kept_share_by_hand():
    c = torch.tensor([[0, 6.0, -3, 1], [1, 0, 1, -8], [2, 2, 0, 2], [0, 0, 0, 0]])
    # row 0: 6 is .6 of 10, so −3 is needed too; row 1: 8 is .8; row 2: two are .67, so all
    kept = np.array([[0, 6, 3, 0], [0, 0, 0, 8], [2, 2, 0, 2], [0, 0, 0, 0]])
    np.testing.assert_allclose(_affinity(c, 0.7), (kept + kept.T) / 2)
    np.testing.assert_allclose(_affinity(c, 1.0), (c.abs() + c.abs().T) / 2)


def test_too_many_rows_are_refused():
    X = np.broadcast_to(np.arange(10_001, dtype=np.float32)[:, None], (10_001, 3))
    with pytest.raises(ValueError, match=r"X has 10,001 rows.*10,000 at most; use SelfExpressiveClustering"):
        DSCNet(3, **SMALL).fit(X)


def test_new_rows_have_no_clusters(tmp_path):
    """As with scikit-learn's SpectralClustering; the command line says so."""
    assert not hasattr(DSCNet(), "predict")
    assert not hasattr(DSCNet(), "predict_proba")
    file, out = tmp_path / "rows.npz", tmp_path / "out"
    np.savez(file, X=random_rows(60), labels=np.arange(60) % 3)
    settings = [
        f"--set={name}={value}" for name, value in SMALL.items() if name not in ("hidden_sizes", "epochs")
    ]
    command = ["fit", str(file), "--model", "dsc-net", "--clusters", "3", "--out", str(out), "--epochs", "4"]
    done = CliRunner().invoke(app, [*command, "--labels", "labels", "--set", "hidden_sizes=16", *settings])
    assert done.exit_code == 0, done.output
    assert {"labels.npy", "affinity.png", "curves.png", "metrics.json"} <= {
        path.name for path in out.iterdir()
    }
    for rest in (
        ["predict", str(out), str(file), "--out", str(tmp_path / "l.npy")],
        ["evaluate", str(out), str(file)],
    ):
        done = CliRunner().invoke(app, [*rest, "--labels", "labels"])
        assert done.exit_code == 2
        assert "dsc-net assigns no new rows to its clusters" in done.output
        assert str(out / "labels.npy") in done.output.replace("\n", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": "nuclear"}, "penalty must be one of 'l2', 'l1', got 'nuclear'"),
        ({"kept_share": 0}, "kept_share must be a finite number > 0 and <= 1, got 0"),
        ({"fidelity_weight": -1}, "fidelity_weight must be a finite number >= 0"),
        ({"resume": True}, "DSCNet: resume=True needs checkpoint"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DSCNet(3, **(SMALL | options)).fit(random_rows())


def test_attributes_before_fit():
    for name in ("coefficients_", "affinity_matrix_"):
        with pytest.raises(AttributeError, match=f"has no {name} before fit"):
            getattr(DSCNet(), name)


class Interrupt(Callback):
    def __init__(self, stage, epoch):
        self.at = stage, epoch

    def on_epoch_end(self, model, record):
        if (record["stage"], record["epoch"]) == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("stage", "epoch"), [("pretrain", 2), ("expression", 1), ("expression", 5)])
def test_resumed_fit_has_the_same_bits(stage, epoch, tmp_path):
    X = random_rows()
    whole = DSCNet(3, random_state=0, **SMALL).fit(X)
    with pytest.raises(KeyboardInterrupt):
        DSCNet(3, random_state=0, checkpoint=tmp_path, callbacks=[Interrupt(stage, epoch)], **SMALL).fit(X)
    for _ in range(2):  # the second time nothing is left to do
        resumed = DSCNet(3, random_state=0, checkpoint=tmp_path, resume=True, **SMALL).fit(X)
        np.testing.assert_array_equal(resumed.coefficients_, whole.coefficients_)
        np.testing.assert_array_equal(resumed.labels_, whole.labels_)
        np.testing.assert_array_equal(resumed.embedding_, whole.embedding_)


def test_save_and_load(tmp_path):
    X = random_rows()
    model = DSCNet(3, random_state=0, kept_share=0.8, **SMALL).fit(X)
    model.save(tmp_path)
    for loaded in (DSCNet.load(tmp_path), load_model(tmp_path)):
        assert loaded.get_params() == model.get_params()
        np.testing.assert_array_equal(loaded.coefficients_, model.coefficients_)
        np.testing.assert_array_equal(loaded.affinity_matrix_, model.affinity_matrix_)
        np.testing.assert_array_equal(loaded.labels_, model.labels_)
        np.testing.assert_array_equal(loaded.transform(X), model.transform(X))
        assert loaded.history_ == model.history_
    assert MODELS["dsc-net"] is DSCNet
