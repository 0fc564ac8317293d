"""DEC, IDEC and DCEC against the papers' formulas in NumPy (float64), and against plain torch loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.fits import begun
from helpers.student_formulas import begin, random_rows, sharpened, student_t
from sklearn.datasets import load_digits, make_blobs
from sklearn.metrics import adjusted_rand_score

from desc_ext.engine.state import Evaluation
from desc_ext.models import DCEC, DEC, IDEC

SMALL = {
    "hidden_sizes": (16,), "latent_dim": 4, "pretrain_epochs": 3, "max_rounds": 3, "update_interval": 5, "batch_size": 16,
    "n_init": 3, "tol": 0.0, "random_state": 0, "preset": "paper",
}  # fmt: skip
CONV = {"channels": (3, 4, 5), "batch_size": 32}


@pytest.mark.parametrize(("cls", "weights"), [(DEC, (0, 1.0)), (IDEC, (1.0, 0.1))])
def test_loss_terms_follow_the_formula(cls, weights):
    X = random_rows()
    model = cls(3, dtype="float64", **SMALL)
    fit = begin(model, X)
    network = fit.network
    with torch.no_grad():
        now = model._evaluate(fit)
    index = torch.tensor([3, 40, 7, 0, 21])
    terms, _ = model._terms(fit, index, now)
    x = (X - X.mean(0)) / (X - X.mean(0)).std()
    with torch.no_grad():
        z, back = (part.numpy() for part in network.autoencoder(torch.from_numpy(x)))
    q = student_t(z, network.centroids.detach().numpy())
    p = sharpened(q, q.sum(0))  # over the whole data set, not the mini-batch
    np.testing.assert_allclose(now.target.numpy(), p, rtol=1e-9)
    np.testing.assert_array_equal(now.labels.numpy(), q.argmax(1))
    assert now.record["mean_max_assignment"] == pytest.approx(q.max(1).mean())
    assert now.record["mean_max_target"] == pytest.approx(p.max(1).mean())
    rows = index.numpy()
    expected = {
        "reconstruction": (weights[0], np.mean((x - back)[rows] ** 2)),
        "clustering": (weights[1], np.mean(np.sum(p * np.log(p / q), 1)[rows])),
    }
    expected = {name: term for name, term in expected.items() if term[0]}
    assert set(terms) == set(expected)
    for name, (weight, value) in expected.items():
        assert terms[name][0] == weight
        assert terms[name][1].item() == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("cls", [DEC, IDEC])
def test_refinement_is_that_of_a_plain_loop(cls):
    """Two rounds in plain torch: autograd through the formulas, the reference's optimizer, the same mini-batches."""
    X, seen = random_rows(), []

    class Watched(cls):
        def _batches_of_round(self, state):
            batches = super()._batches_of_round(state)
            seen.append([batch.clone() for batch in batches])
            return batches

    options = SMALL | {"max_rounds": 2, "pretrain_epochs": 0, "learning_rate": 0.05, "dtype": "float64"}
    model = Watched(3, **options).fit(X)
    start = cls(3, **options | {"max_rounds": 0}).fit(X)
    x = torch.from_numpy((X - X.mean(0)) / (X - X.mean(0)).std())
    network, mu = start.network_.autoencoder, start.network_.centroids.detach().clone().requires_grad_()
    parameters = [*network.parameters(), mu]
    optimizer = (
        torch.optim.SGD(parameters, 0.05, momentum=0.9) if cls is DEC else torch.optim.Adam(parameters, 0.05)
    )

    def assigned(z):
        q = 1 / (1 + torch.cdist(z, mu) ** 2)
        return q / q.sum(1, keepdim=True)

    for batches in seen:
        with torch.no_grad():
            q = assigned(network.encode(x))
            p = q**2 / q.sum(0)
            p = p / p.sum(1, keepdim=True)
        for rows in batches:
            z, back = network(x[rows])
            loss = (p[rows] * (p[rows] / assigned(z)).log()).sum(1).mean()
            if cls is IDEC:
                loss = 0.1 * loss + (x[rows] - back).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    np.testing.assert_allclose(model.cluster_centers_, mu.detach().numpy(), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(model.embedding_, network.encode(x).detach().numpy(), rtol=1e-7, atol=1e-9)
    assert np.abs(model.cluster_centers_ - start.cluster_centers_).max() > 1e-3  # it moved


def test_the_decoder_of_dec_is_not_refined():
    X = random_rows()
    before, after = (DEC(3, **SMALL | {"max_rounds": n}).fit(X).network_.autoencoder for n in (0, 3))
    for name, value in before.decoder.state_dict().items():
        assert torch.equal(after.decoder.state_dict()[name], value), name
    assert not torch.equal(before.encoder[0].weight, after.encoder[0].weight)


def test_a_round_is_so_many_mini_batches():
    model = DEC(3, **SMALL | {"update_interval": 11})
    _, refinement = begun(model, random_rows(), "refine")
    batches = refinement.batches()  # 50 rows: four mini-batches a pass
    assert [len(batch) for batch in batches] == [16, 16, 16, 2] * 2 + [16, 16, 16]
    for first in (0, 4):
        assert torch.equal(torch.cat(batches[first : first + 4]).sort().values, torch.arange(50))
    assert not torch.equal(batches[0], batches[4])
    _, pretraining = begun(model, random_rows(), "pretrain")
    assert len(pretraining.batches()) == 4


def test_stops_when_few_labels_change():
    X, _ = make_blobs(200, n_features=5, centers=4, cluster_std=3.0, random_state=0)
    model = IDEC(4, **SMALL | {"max_rounds": 60, "tol": 0.02}).fit(X)
    changes = [record["label_change"] for record in model.history_ if record["stage"] == "refine"]
    assert changes[-1] < 0.02 <= min(changes[:-1], default=1)
    assert model.n_iter_ == len(changes) < 60


@pytest.mark.parametrize("cls", [DEC, IDEC])
def test_clusters_of_blobs_are_found_and_sharpened(cls):
    X, y = make_blobs(300, n_features=10, centers=4, cluster_std=1.0, random_state=3)
    options = {"hidden_sizes": (32,), "pretrain_epochs": 30, "max_rounds": 5, "update_interval": 30}
    model = cls(4, **SMALL | options).fit(X)
    assert adjusted_rand_score(y, model.labels_) > 0.95
    refined = [record for record in model.history_ if record["stage"] == "refine"]
    assert refined[-1]["mean_max_assignment"] > refined[0]["mean_max_assignment"]
    assert refined[-1]["clustering"] < refined[0]["clustering"]


def test_history():
    model = IDEC(3, **SMALL).fit(random_rows())
    assert [record["stage"] for record in model.history_] == ["pretrain"] * 3 + ["refine"] * 3
    record = model.history_[-1]
    assert record["loss"] == pytest.approx(record["reconstruction"] + 0.1 * record["clustering"], rel=1e-6)
    assert record["epoch"] == model.n_iter_ == 3
    assert sum(record["cluster_sizes"]) == 50
    assert model.cluster_centers_.shape == (3, 4)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 28, 28), (1, 16, 16), (3, 55, 55), (1, 9, 13)])
def test_convolutional_network(shape):
    """DCEC: three convolutions of stride 2, 32-64-128, 5-5-3, one linear layer to ten values, and back to every size."""
    network = DCEC(3, preset="paper").begin(np.random.default_rng(0).random((8, *shape))).network.float()
    layers = [m for m in network.autoencoder.encoder if isinstance(m, torch.nn.Conv2d)]
    assert [(m.out_channels, *m.kernel_size, *m.stride) for m in layers] == [
        (32, 5, 5, 2, 2), (64, 5, 5, 2, 2), (128, 3, 3, 2, 2),
    ]  # fmt: skip
    z, back = network.autoencoder(torch.zeros(2, int(np.prod(shape))))
    assert z.shape == (2, 10)
    assert back.shape == (2, np.prod(shape))
    assert network.centroids.shape == (3, 10)
    dense = DEC(3, preset="paper").begin(np.random.default_rng(0).random((8, 8, 8))).network
    widths = [layer.out_features for layer in dense.autoencoder.encoder if hasattr(layer, "out_features")]
    assert widths == [500, 500, 2000, 10]


def test_images_and_rows():
    images = load_digits().images[:120].astype(np.float32)
    options = {name: value for name, value in (SMALL | CONV).items() if name != "hidden_sizes"}
    model = DCEC(4, **options).fit(images)
    assert type(model.network_.autoencoder).__name__ == "ConvAutoencoder"
    np.testing.assert_array_equal(model.predict(images), model.labels_)
    np.testing.assert_array_equal(model.transform(images.reshape(120, 64)), model.embedding_)
    with pytest.raises(ValueError, match=r"images \(4, 16\)"):
        model.predict(images.reshape(120, 4, 16))
    assert type(DCEC(4, **SMALL).fit(images.reshape(120, 64)).network_.autoencoder).__name__ == "Autoencoder"
    colour = np.random.default_rng(0).random((40, 3, 9, 8)).astype(np.float32)
    assert DCEC(2, **options).fit(colour).embedding_.shape == (40, 4)


def test_terms_of_weight_zero_are_not_computed(monkeypatch):
    X = random_rows()
    model = IDEC(3, **SMALL | {"clustering_weight": 0.0}).fit(X)
    assert "clustering" not in model.history_[-1]
    fit = begin(model, X)
    monkeypatch.setattr(fit.network, "assign", None)  # would be called
    now = Evaluation(torch.zeros(50, 4), torch.zeros(50), target=torch.zeros(50, 3))
    assert set(model._terms(fit, torch.arange(5), now)[0]) == {"reconstruction"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "best"}, "preset must be one of 'paper', 'robust', got 'best'"),
        ({"optimizer": "lbfgs"}, "optimizer must be one of 'sgd', 'adam', got 'lbfgs'"),
        ({"update_interval": 0}, "update_interval must be an integer >= 1, got 0"),
        ({"kernels": (4, 5, 3)}, "kernels must be a tuple of odd integers >= 1"),
        ({"channels": (8, 8)}, r"one entry a layer each, got \(8, 8\) and \(5, 5, 3\)"),
        ({"channels": ()}, "channels must be a tuple of integers >= 1, at least one"),
        ({"image_network": "residual"}, "image_network must be one of 'conv', 'dense'"),
        ({"latent_dim": 0}, "latent_dim must be an integer >= 1"),
        (
            {"clustering_weight": 0.0},
            "at least one of clustering_weight, reconstruction_weight, anchor_weight must be > 0",
        ),
        ({"resume": True}, "DEC: resume=True needs checkpoint"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DEC(3, **SMALL | options).fit(random_rows())


def test_attributes_before_fit():
    with pytest.raises(AttributeError, match="this DCEC has no cluster_centers_ before fit"):
        DCEC().cluster_centers_  # noqa: B018
