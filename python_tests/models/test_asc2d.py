"""ASC2D against the paper's formulas in NumPy (float64), and against a plain loop with two optimizers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers.interrupt import Interrupt
from helpers.student_formulas import begin, random_rows, sharpened, student_t
from sklearn.datasets import load_digits, make_blobs
from sklearn.metrics import adjusted_rand_score
from typer.testing import CliRunner

from desc_ext.cli import app
from desc_ext.models import ASC2D, MODELS
from desc_ext.nn import Discriminator

SMALL = {
    "hidden_sizes": (16,), "discriminator_sizes": (12, 7), "pretrain_epochs": 3, "max_rounds": 3, "update_interval": 5,
    "batch_size": 16, "n_init": 3, "tol": 0.0, "random_state": 0, "preset": "paper", "scaling": "global",
    "pretrain_learning_rate": 1e-3, "learning_rate": 3e-4,
}  # fmt: skip
WEIGHTS = {
    "reconstruction": 1.0, "adversarial": 0.5, "consistency": 1.0, "self_supervision": 1e-4, "specificity": 1e-5,
}  # fmt: skip


@pytest.mark.parametrize("row_losses", ["sum", "mean"])
@pytest.mark.parametrize("reconstruction", ["sum", "mean"])
def test_loss_terms_follow_the_formulas(row_losses, reconstruction):
    """Eqs. 2 to 8; the discriminator's own loss and accuracy are metrics."""
    X = random_rows()
    how = {"scaling": "none", "row_losses": row_losses, "reconstruction": reconstruction, "dtype": "float64"}
    model = ASC2D(3, **SMALL | how)
    fit = begin(model, X)
    network = fit.network
    with torch.no_grad():
        now = model._evaluate(fit)
        z, back = (part.numpy() for part in network.autoencoder(torch.from_numpy(X)))
    index = torch.tensor([3, 40, 7, 0, 21])
    terms, metrics = model._terms(fit, index, now)
    d1 = student_t(z, network.centroids.detach().numpy())
    d2 = sharpened(d1, d1.sum(0))
    np.testing.assert_allclose(now.target.numpy(), d2, rtol=1e-9)
    np.testing.assert_array_equal(now.labels.numpy(), d2.argmax(1))
    assert now.record["mean_max_assignment"] == pytest.approx(d1.max(1).mean())
    assert now.record["mean_max_target"] == pytest.approx(d2.max(1).mean())
    rows = index.numpy()
    x, z, back, d1, d2 = X[rows], z[rows], back[rows], d1[rows], d2[rows]
    parameters = [p.detach().numpy() for p in network.discriminator.parameters()]

    def real(rows):
        """D: K - 12 - 7 - 1, ReLU, the logistic function of a logit."""
        (w1, b1, w2, b2, w3, b3), hidden = parameters, rows
        hidden = np.maximum(hidden @ w1.T + b1, 0)
        hidden = np.maximum(hidden @ w2.T + b2, 0)
        return 1 / (1 + np.exp(-(hidden @ w3.T + b3)[:, 0]))

    squared = ((x - back) ** 2).sum(1)
    right = np.concatenate([real(d2) > 0.5, real(d1) < 0.5])
    n = 5 if row_losses == "sum" else 1
    expected = {
        "reconstruction": (1.0, squared.mean() / (1 if reconstruction == "sum" else 8)),
        "consistency": (n * 1.0, ((d1 - d2) ** 2).sum() / 5),
        "self_supervision": (n * 1e-4, ((z - d2) ** 2).sum() / 5),
        "specificity": (n * 1e-5, (np.abs(z).sum(1) ** 2).sum() / 5),
        "adversarial": (n * 0.5, -np.log(real(d1)).sum() / 5),
    }
    told_apart = {
        "discriminator": -(np.log(real(d2)).mean() + np.log(1 - real(d1)).mean()) / 2,
        "discriminator_accuracy": right.mean(),
    }
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(told_apart, rel=1e-9)
    assert set(terms) == set(expected)
    for name, (weight, value) in expected.items():
        assert terms[name][0] == pytest.approx(weight), name
        assert terms[name][1].item() == pytest.approx(value, rel=1e-9), name


def test_refinement_is_that_of_a_plain_loop_with_two_optimizers():
    """Two rounds: three updates of the discriminator (D2 real, D1 fake), then one of autoencoder and centroids."""
    X, seen, opponents = random_rows(), [], []

    class Watched(ASC2D):
        def _begin(self, X, options):
            fit = super()._begin(X, options)
            opponents.append({name: p.clone() for name, p in fit.network.discriminator.state_dict().items()})
            return fit

        def _batches_of_round(self, state):
            batches = super()._batches_of_round(state)
            seen.append([batch.clone() for batch in batches])
            return batches

    options = SMALL | {"max_rounds": 2, "pretrain_epochs": 0, "scaling": "none", "dtype": "float64"}
    options |= {"learning_rate": 0.02, "discriminator_learning_rate": 0.03, "preset": "paper"}
    options |= {"self_supervision_weight": 0.01, "specificity_weight": 0.02}
    model = Watched(3, **options).fit(X)
    start = ASC2D(3, **options | {"max_rounds": 0}).fit(X)
    x = torch.from_numpy(X)
    network, mu = start.network_.autoencoder, start.network_.centroids.detach().clone().requires_grad_()
    opponent = Discriminator(3, (12, 7), torch.Generator()).double()
    opponent.load_state_dict(opponents[0])
    own, theirs = (
        torch.optim.Adam([*network.parameters(), mu], 0.02),
        torch.optim.Adam(opponent.parameters(), 0.03),
    )

    def assigned(z):
        q = 1 / (1 + torch.cdist(z, mu) ** 2)
        return q / q.sum(1, keepdim=True)

    accuracy = []
    for batches in seen:
        with torch.no_grad():
            d1 = assigned(network.encode(x))
            d2 = d1**2 / d1.sum(0)
            d2 = d2 / d2.sum(1, keepdim=True)
        right = 0.0
        for rows in batches:
            z, back = network(x[rows])
            d1, aim, n = assigned(z), d2[rows], len(rows)
            with torch.no_grad():
                right += float((opponent(aim) > 0).sum() + (opponent(d1) <= 0).sum()) / 2
            for _ in range(3):
                theirs.zero_grad()
                fooled = opponent(aim).sigmoid().log() + (1 - opponent(d1.detach()).sigmoid()).log()
                (-fooled.mean() / 2).backward()
                theirs.step()
            loss = (x[rows] - back).square().sum() / n + (d1 - aim).square().sum()
            loss = loss - 0.5 * opponent(d1).sigmoid().log().sum()
            loss = loss + 0.01 * (z - aim).square().sum() + 0.02 * z.abs().sum(1).square().sum()
            own.zero_grad()
            loss.backward()
            own.step()
        accuracy.append(right / sum(map(len, batches)))
    np.testing.assert_allclose(model.cluster_centers_, mu.detach().numpy(), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(model.embedding_, network.encode(x).detach().numpy(), rtol=1e-6, atol=1e-8)
    assert [record["discriminator_accuracy"] for record in model.history_] == pytest.approx(accuracy)
    assert np.abs(model.cluster_centers_ - start.cluster_centers_).max() > 1e-2  # it moved


def test_the_two_sides_do_not_move_each_other():
    X = random_rows()
    model = ASC2D(3, **SMALL)
    fit = begin(model, X)
    network = fit.network
    fit.optimizer = torch.optim.Adam(network.parameters(), 0.01)
    with torch.no_grad():
        now = model._evaluate(fit)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    terms, _ = model._terms(fit, torch.arange(16), now)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("discriminator."), name
    fit.optimizer.zero_grad()
    sum(weight * value for weight, value in terms.values()).backward()
    assert all(p.grad is None for p in network.discriminator.parameters())
    assert all(p.grad is not None for p in [*network.autoencoder.parameters(), network.centroids])


@pytest.mark.parametrize("off", WEIGHTS)
def test_a_weight_of_zero_removes_its_term(off):
    X = random_rows()
    weights = {f"{name}_weight": weight for name, weight in WEIGHTS.items()} | {f"{off}_weight": 0.0}
    given = {"max_rounds": 1, "pretrain_epochs": 1, "row_losses": "mean", **weights}
    model = ASC2D(3, **SMALL | given)
    opponent = {"discriminator", "discriminator_accuracy"}
    if off == "adversarial":
        assert begin(model, X).network.discriminator is None
    record = model.fit(X).history_[-1]
    kept = {name: weight for name, weight in WEIGHTS.items() if name != off}
    assert set(record) & (set(WEIGHTS) | opponent) == set(kept) | (
        set() if off == "adversarial" else opponent
    )
    total = sum(weight * record[name] for name, weight in kept.items())
    assert record["loss"] == pytest.approx(total, rel=1e-5)


def test_the_start_does_not_depend_on_the_discriminator():
    X = random_rows()
    with_it, without = (
        ASC2D(3, **SMALL | {"max_rounds": 0, "adversarial_weight": w}).fit(X) for w in (0.5, 0.0)
    )
    np.testing.assert_array_equal(with_it.embedding_, without.embedding_)


def test_new_rows_take_the_stored_frequencies():
    X, _ = make_blobs([150, 30, 20], n_features=6, random_state=0)
    model = ASC2D(3, **SMALL).fit(X)
    d1 = student_t(model.embedding_.astype(float), model.cluster_centers_.astype(float))
    np.testing.assert_allclose(model.frequencies_, d1.sum(0), rtol=1e-5)
    np.testing.assert_allclose(model.frequencies_.sum(), 200, rtol=1e-5)
    new = X[[5, 170, 199]]  # their own frequencies would be others
    d1 = student_t(model.transform(new).astype(float), model.cluster_centers_.astype(float))
    np.testing.assert_allclose(model.predict_proba(new), sharpened(d1, model.frequencies_), rtol=1e-4)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    np.testing.assert_array_equal(model.confidence(), model.predict_proba(X).max(1))


def test_discriminator():
    """K - 2000 - 2000 - 1 with ReLU between; learns to tell sharp rows from soft ones."""
    paper = ASC2D(10, preset="paper")
    fit = begin(paper, random_rows())
    sizes = [
        (m.in_features, m.out_features) for m in fit.network.discriminator.layers if hasattr(m, "in_features")
    ]
    assert sizes == [(10, 2000), (2000, 2000), (2000, 1)]
    rng = np.random.default_rng(0)
    soft = torch.from_numpy(rng.dirichlet(np.full(3, 20.0), 100)).float()
    sharp = torch.eye(3)[rng.integers(0, 3, 100)]
    model = ASC2D(3, **SMALL)
    fit = begin(model, random_rows())
    fit.optimizer = torch.optim.Adam(fit.network.discriminator.parameters(), 0.02)
    records = [model._train_discriminator(fit, soft, sharp) for _ in range(40)]
    assert records[-1]["discriminator_accuracy"] == 1
    assert records[-1]["discriminator"] < 0.1 < records[0]["discriminator"]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (3, 11, 9)])
def test_images(shape):
    """A convolution for each of 32, 64 and 128 channels, kernels 5-5-3, stride 2, then K values; any size, any colours."""
    images = np.random.default_rng(0).random((30, *shape)).astype(np.float32)
    small = {name: value for name, value in SMALL.items() if name != "hidden_sizes"}
    model = ASC2D(4, **small | {"pretrain_epochs": 1, "max_rounds": 1, "update_interval": 2}).fit(images)
    network = model.network_.autoencoder
    layers = [m for m in network.encoder if isinstance(m, torch.nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in layers] == [
        (32, 5, 2),
        (64, 5, 2),
        (128, 3, 2),
    ]
    assert model.embedding_.shape == (30, 4)
    assert network.decode(torch.from_numpy(model.embedding_)).shape == (30, np.prod(shape))
    np.testing.assert_array_equal(model.predict(images), model.labels_)


def test_clusters_of_blobs_are_found():
    X, y = make_blobs(300, n_features=10, centers=4, cluster_std=1.0, random_state=3)
    options = SMALL | {"hidden_sizes": (32,), "pretrain_epochs": 30, "update_interval": 20}
    model = ASC2D(4, **options).fit(X)
    assert adjusted_rand_score(y, model.labels_) > 0.95


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("method", ["asc2d", "dcec", "dec"])
def test_device(method, device):
    """Images on the device: the same bits in a second fit, and the training rows' labels from predict."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    images = np.random.default_rng(0).random((700, 3, 9, 8)).astype(np.float32)
    options = {"pretrain_epochs": 1, "max_rounds": 2, "update_interval": 3, "n_init": 2, "tol": 0.0}
    options |= {"hidden_sizes": (16,), "channels": (3, 4, 5)}
    options |= {"discriminator_sizes": (9, 8)} if method == "asc2d" else {}
    first, second = (
        MODELS[method](3, random_state=0, device=device, **options).fit(images) for _ in range(2)
    )
    assert next(first.network_.parameters()).device.type == device
    assert first.history_[-1]["epoch"] == 2
    assert np.isfinite(first.embedding_).all()
    np.testing.assert_array_equal(first.embedding_, second.embedding_)
    np.testing.assert_array_equal(first.cluster_centers_, second.cluster_centers_)
    np.testing.assert_array_equal(first.predict(images), first.labels_)
    assert not torch.backends.cudnn.deterministic  # as it was


@pytest.mark.bits
@pytest.mark.parametrize(("stage", "epoch"), [("pretrain", 2), ("refine", 2), ("refine", 3)])
def test_resumed_fit_has_the_same_bits(stage, epoch, tmp_path):
    """With both optimizers and the discriminator, which the checkpoint holds and the finished model does not."""
    X = random_rows()
    whole = ASC2D(3, **SMALL).fit(X)
    with pytest.raises(KeyboardInterrupt):
        ASC2D(3, checkpoint=tmp_path, callbacks=[Interrupt(stage, epoch)], **SMALL).fit(X)
    held = json.loads((tmp_path / "config.json").read_text())["shapes"]
    assert held["network.discriminator.layers.0.weight"] == [12, 3]
    if (stage, epoch) != ("pretrain", 2):
        # 8 tensors of autoencoder, the centroids, 6 of the discriminator
        assert len({name.split(".")[1] for name in held if name.startswith("optimizer.")}) == 8 + 1 + 6
    for _ in range(2):  # the second time nothing is left to do
        resumed = ASC2D(3, checkpoint=tmp_path, resume=True, **SMALL).fit(X)
        np.testing.assert_array_equal(resumed.embedding_, whole.embedding_)
        np.testing.assert_array_equal(resumed.cluster_centers_, whole.cluster_centers_)
        np.testing.assert_array_equal(resumed.labels_, whole.labels_)
        timeless = [[{**record, "seconds": 0} for record in m.history_] for m in (whole, resumed)]
        assert timeless[0] == timeless[1]


def test_saved_model_has_no_discriminator(tmp_path):
    X = random_rows()
    model = ASC2D(3, **SMALL).fit(X)
    assert model.network_.discriminator is None
    model.save(tmp_path)
    assert not any(
        "discriminator" in name for name in json.loads((tmp_path / "config.json").read_text())["shapes"]
    )
    loaded = ASC2D.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(loaded.frequencies_, model.frequencies_)


def test_command_line(tmp_path):
    out, images = tmp_path / "out", tmp_path / "images.npz"
    digits = load_digits()
    np.savez(images, X=digits.images[:100].astype(np.float32) / 16, labels=digits.target[:100])
    settings = {
        "channels": "3,4,5",
        "adversarial_weight": 0.005,
        "discriminator_sizes": "8,8",
        "pretrain_epochs": 1,
        "update_interval": 3,
        "n_init": 1,
    }
    command = [
        "fit",
        str(images),
        "--labels",
        "labels",
        "--model",
        "asc2d",
        "--clusters",
        "10",
        "--epochs",
        "2",
    ]
    settings = [f"--set={name}={value}" for name, value in settings.items()]
    done = CliRunner().invoke(app, [*command, "--out", str(out), *settings])
    assert done.exit_code == 0, done.output
    assert {"labels.npy", "model", "curves.png", "examples.png", "embedding.png", "metrics.json"} <= {
        path.name for path in out.iterdir()
    }
    header = (out / "history.csv").read_text().splitlines()[0].split(",")
    assert {*WEIGHTS, "discriminator_accuracy", "mean_max_target", "label_change", "acc"} <= set(header)
    new = ["predict", str(out), str(images), "--labels", "labels", "--out", str(tmp_path / "labels.npy")]
    done = CliRunner().invoke(app, new)
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), np.load(out / "labels.npy"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "best"}, "preset must be one of 'paper', 'robust'"),
        ({"row_losses": "max"}, "row_losses must be one of 'mean', 'sum'"),
        ({"adversarial_weight": -1.0}, "adversarial_weight must be a finite number >= 0"),
        ({"discriminator_steps": 0}, "discriminator_steps must be an integer >= 1"),
        ({f"{name}_weight": 0.0 for name in WEIGHTS}, "ASC2D: at least one of reconstruction_weight"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ASC2D(3, **SMALL | options).fit(random_rows())


def test_attributes_before_fit():
    for name in ("cluster_centers_", "frequencies_"):
        with pytest.raises(AttributeError, match=f"this ASC2D has no {name} before fit"):
            getattr(ASC2D(), name)
