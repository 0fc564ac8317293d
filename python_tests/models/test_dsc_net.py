"""DSC-Net against the paper's formulas in NumPy (float64), spectral clustering against scikit-learn's, its limits."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from helpers.fits import begun
from helpers.interrupt import Interrupt
from sklearn.cluster import KMeans, SpectralClustering
from sklearn.datasets import load_digits, make_blobs
from sklearn.metrics import adjusted_rand_score
from typer.testing import CliRunner

from desc_ext.algorithms.graph import learned_affinity
from desc_ext.algorithms.smoothed_codes import normalised_cut, refined_clusters
from desc_ext.cli import app
from desc_ext.models import MODELS, DSCNet, load_model

SMALL = {
    "hidden_sizes": (16,),
    "latent_dim": 6,
    "pretrain_epochs": 3,
    "max_steps": 5,
    "batch_size": 16,
    "n_init": 3,
}
IMAGES = {name: value for name, value in SMALL.items() if name not in ("hidden_sizes", "latent_dim")}


def random_rows(n=40, m=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n, m))


def started(model, X):
    """The state of a fit of rows ``X`` before its first full-batch step, and the stage of these steps."""
    return begun(model, X, "expression")


def scaled(X):
    return (X - X.mean(0)) / (X - X.mean(0)).std()


@pytest.mark.parametrize("penalty", ["l2", "l1"])
@pytest.mark.parametrize("reconstruction", ["sum", "mean"])
def test_loss_terms_follow_the_formula(penalty, reconstruction):
    model = DSCNet(
        3, penalty=penalty, reconstruction=reconstruction, fidelity_weight=5.0, coefficient_weight=0.3,
        coefficient_scale="absolute", dtype="float64", random_state=0, **SMALL,
    )  # fmt: skip
    X = random_rows()
    fit, stage = started(model, X)
    coefficient, network = fit.network.expression.coefficient, fit.network.autoencoder
    with torch.no_grad():
        coefficient.normal_(generator=torch.Generator().manual_seed(0))
    (index,) = stage.batches()
    np.testing.assert_array_equal(
        index.numpy(), np.arange(40)
    )  # C's rows are those of the data, in their order
    terms, _ = stage.terms(index, None)
    x = scaled(X)
    z = network.encode(torch.from_numpy(x)).detach().numpy()
    c = coefficient.detach().numpy() * (1 - np.eye(40))
    back = network.decode(torch.from_numpy(c @ z)).detach().numpy()
    expected = {
        "reconstruction": (0.5, np.sum((x - back) ** 2) / (40 if reconstruction == "sum" else 40 * 8)),
        "fidelity": (5.0, np.sum((z - c @ z) ** 2) / 2 / 40),
        "coefficients": (0.3, np.sum(c**2 if penalty == "l2" else np.abs(c)) / 40),
    }
    assert set(terms) == set(expected)
    for name, (weight, value) in expected.items():
        assert terms[name][0] == weight
        assert terms[name][1].item() == pytest.approx(value, rel=1e-9), name
    # the gradients of one product and one pass over C, against those of the formula
    total = sum(weight * value for weight, value in terms.values())
    found = torch.autograd.grad(total, [coefficient, *network.parameters()])
    masked = coefficient * (1 - torch.eye(40, dtype=torch.float64))
    z = network.encode(torch.from_numpy(x))
    back = network.decode(masked @ z)
    formula = (
        (torch.from_numpy(x) - back).square().sum() / (2 if reconstruction == "sum" else 16)
        + 2.5 * (z - masked @ z).square().sum()
        + 0.3 * (masked.square().sum() if penalty == "l2" else masked.abs().sum())
    ) / 40
    for one, other in zip(
        found, torch.autograd.grad(formula, [coefficient, *network.parameters()]), strict=True
    ):
        torch.testing.assert_close(one, other)


def exact_coefficients(z, ratio):
    """The minimiser of ratio·‖z_i − Σ_j c_j z_j‖²/2 + ‖c‖², row by row, by solving for it."""
    n = len(z)
    c = np.zeros((n, n))
    for i in range(n):
        others = np.delete(np.arange(n), i)
        gram = z[others] @ z[others].T
        c[i, others] = np.linalg.solve(gram + 2 / ratio * np.eye(n - 1), z[others] @ z[i])
    return c


@pytest.mark.parametrize("n", [40, 5])  # more and fewer rows than entries of a code
def test_closed_form_is_the_minimiser(n):
    model = DSCNet(
        3, preset="paper", self_expression="closed-form", fidelity_weight=5.0, coefficient_weight=0.3,
        dtype="float64", random_state=0, **SMALL,
    )  # fmt: skip
    X = random_rows(n)
    fit, stage = started(model, X)
    (index,) = stage.batches()
    assert sorted(index.tolist()) == list(range(n))
    terms, _ = stage.terms(index, None)
    x = scaled(X)[index.numpy()]
    z = fit.network.autoencoder.encode(torch.from_numpy(x)).detach().numpy()
    c = exact_coefficients(z, 5.0 / 0.3)
    back = fit.network.autoencoder.decode(torch.from_numpy(c @ z)).detach().numpy()
    assert terms["reconstruction"][1].item() == pytest.approx(np.sum((x - back) ** 2) / n, rel=1e-7)
    assert terms["fidelity"][1].item() == pytest.approx(np.sum((z - c @ z) ** 2) / 2 / n, rel=1e-7)
    assert terms["coefficients"][1].item() == pytest.approx(np.sum(c**2) / n, rel=1e-7)


def test_learned_coefficients_start_at_the_minimiser():
    X = random_rows()
    options = SMALL | {"max_steps": 0, "fidelity_weight": 4.0, "coefficient_weight": 0.5}
    for unit_codes in (True, False):
        for scale in ("absolute", "relative"):
            extra = {"unit_codes": unit_codes, "coefficient_scale": scale}
            model = DSCNet(3, dtype="float64", random_state=0, **options, **extra).fit(X)
            z = model.embedding_
            mean = np.linalg.eigvalsh(z.T @ z).mean() if scale == "relative" else 1.0
            expected = exact_coefficients(z, 8.0 / mean)
            np.testing.assert_allclose(model.coefficients_, expected, rtol=1e-6, atol=1e-9)
    constant = DSCNet(3, coefficient_init="constant", random_state=0, **options).fit(X).coefficients_
    np.testing.assert_array_equal(constant, np.float32(1e-4) * (1 - np.eye(40, dtype=np.float32)))


def test_closed_form_has_no_limit_and_no_square_array():
    X, y = planted(n_each=4000, d=3, m=12)
    model = DSCNet(
        3, self_expression="closed-form", hidden_sizes=(), latent_dim=12, scaling="none", n_neighbors=5,
        coefficient_weight=0.05, coefficient_scale="absolute", pretrain_epochs=1, max_steps=1, batch_size=1000,
        random_state=0,
    )  # fmt: skip
    model.fit(X[::100])  # what is imported only now does not count
    tracemalloc.start()
    model.fit(X)
    assert tracemalloc.get_traced_memory()[1] < 12_000**2 / 2  # NumPy's own; half a byte for each pair
    tracemalloc.stop()
    assert adjusted_rand_score(y, model.labels_) > 0.95
    affinity = model.affinity_matrix_
    assert affinity.shape == (12_000, 12_000)
    assert affinity.nnz <= 12_000 * 2 * 5 + 100
    rows = np.array([5, 1, 77])
    np.testing.assert_array_equal(model.dense_affinity(rows), affinity[rows][:, rows].toarray())
    with pytest.raises(AttributeError, match="never stored"):
        _ = model.coefficients_


@pytest.mark.parametrize("shape", [(64,), (8, 8)])
def test_fit(shape):
    X = load_digits().data[:200].astype(np.float32).reshape(-1, *shape)
    options = IMAGES if len(shape) > 1 else SMALL
    model = DSCNet(4, preset="paper", random_state=0, **options).fit(X)
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
    terms = 0.5 * record["reconstruction"] + 150 * record["fidelity"] + record["coefficients"]
    assert record["loss"] == pytest.approx(terms, rel=1e-5)
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
        3, preset="paper", penalty=penalty, hidden_sizes=(), latent_dim=20, scaling="none", fidelity_weight=30.0,
        coefficient_weight=1.0 if penalty == "l2" else 0.2, pretrain_epochs=100, max_steps=300, batch_size=50,
        random_state=0,
    ).fit(X)  # fmt: skip
    assert adjusted_rand_score(y, model.labels_) > 0.95
    assert adjusted_rand_score(y, model.initial_labels_) < 0.5
    same = y[:, None] == y
    assert model.affinity_matrix_[same].mean() > 2 * model.affinity_matrix_[~same].mean()
    other = SpectralClustering(3, affinity="precomputed", random_state=0).fit_predict(model.affinity_matrix_)
    assert adjusted_rand_score(other, model.labels_) == 1


def test_kept_share_by_hand():
    c = torch.tensor([[0, 6.0, -3, 1], [1, 0, 2, -8], [2, 3, 0, 2.5], [0, 0, 0, 0]])
    # row 0: 6 is .6 of 10, so −3 is needed too; row 1: 8 is .73; row 2: 3 is .4 and 5.5 is .73 of 7.5
    kept = np.array([[0, 6, 3, 0], [0, 0, 0, 8], [0, 3, 0, 2.5], [0, 0, 0, 0]])
    np.testing.assert_allclose(learned_affinity(c, 0.7, 0, 2), (kept + kept.T) / 2)
    np.testing.assert_allclose(learned_affinity(c, 1.0, 0, 2), (c.abs() + c.abs().T) / 2)
    # few neighbours: each row over its largest
    two = np.array([[0, 1, 1 / 2, 0], [0, 0, 1 / 4, 1], [0, 1, 0, 5 / 6], [0, 0, 0, 0]])
    np.testing.assert_allclose(learned_affinity(c, 1.0, 2, 1).toarray(), (two + two.T) / 2, rtol=1e-6)
    np.testing.assert_allclose(
        learned_affinity(c, 0.7, 2, 1).toarray(), (two * (kept > 0) + (two * (kept > 0)).T) / 2, rtol=1e-6
    )


def test_lone_rows_are_joined_to_their_nearest():
    """Two groups of 20 and a pair that knows only itself among its two largest: it gets its largest other link."""
    rng = np.random.default_rng(0)
    c = np.zeros((42, 42))
    for rows in (slice(0, 20), slice(20, 40)):
        c[rows, rows] = rng.uniform(0.5, 1, (20, 20))
    c[40, 41] = c[41, 40] = 1
    c[40, 7], c[25, 41] = 0.1, -0.3
    np.fill_diagonal(c, 0)
    affinity = learned_affinity(torch.from_numpy(c), 1.0, 1, 2).toarray()
    assert affinity[40, 7] == pytest.approx(0.05)  # over the largest of row 40, which is 1
    assert affinity[41, 25] == pytest.approx(0.3 / c[25, :40].max() / 2)


@pytest.mark.parametrize("extra", [0, 1])
def test_clusters_are_k_means_of_the_leading_eigenvectors(extra):
    """Of D^(-1/2) W D^(-1/2), K and ``extra_components`` of them, rows divided by their norm."""
    model = DSCNet(
        3, spectral="eigenvectors", extra_components=extra, n_neighbors=0, random_state=0, **SMALL
    ).fit(random_rows())
    w = model.affinity_matrix_.astype(np.float64)
    roots = 1 / np.sqrt(w.sum(1))
    vectors = np.linalg.eigh(roots[:, None] * w * roots)[1][:, -3 - extra :]
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    expected = KMeans(3, n_init=SMALL["n_init"], random_state=seed).fit_predict(rows)
    assert adjusted_rand_score(expected, model.labels_) == 1


def test_clusters_are_k_means_of_a_dense_diffusion():
    """λ^t v / √d of 2 K eigenvectors but the trivial one, (λ_4/λ_2)^t = 0.5, at unit length."""
    model = DSCNet(3, spectral="diffusion", diffusion_ratio=0.5, n_neighbors=0, random_state=0, **SMALL).fit(
        random_rows()
    )
    w = model.affinity_matrix_.astype(np.float64)
    roots = 1 / np.sqrt(w.sum(1))
    values, vectors = np.linalg.eigh(roots[:, None] * w * roots)
    values, vectors = values[:-7:-1], vectors[:, :-7:-1]
    time = np.log(0.5) / np.log(values[3] / values[1])
    rows = values[1:].clip(0) ** time * vectors[:, 1:] * roots[:, None]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    expected = KMeans(3, n_init=300, random_state=seed).fit_predict(rows)
    assert adjusted_rand_score(expected, model.labels_) == 1


def test_smoothed_codes_refine_the_clusters_of_the_diffusion():
    """By the affinity, the codes and the clusters that the same fit with spectral="diffusion" has."""
    X, _ = make_blobs(120, 12, centers=3, cluster_std=4.0, random_state=2)
    options = {"n_neighbors": 4, "random_state": 0} | SMALL
    first, model = (DSCNet(3, spectral=name, **options).fit(X) for name in ("diffusion", "smoothed"))
    np.testing.assert_array_equal(first.embedding_, model.embedding_)
    seed, affinity = int(np.random.RandomState(0).randint(2**31 - 1)), model.affinity_matrix_
    expected = refined_clusters(affinity, model.embedding_, first.labels_, 3, 300, seed)
    np.testing.assert_array_equal(model.labels_, expected)
    assert (model.labels_ != first.labels_).any()
    assert normalised_cut(affinity, model.labels_) < normalised_cut(affinity, first.labels_)


def test_learning_rates_of_the_full_batch_steps():
    """Adam's first step has the length of its rate: here one for the autoencoder and one for C."""
    rates = {"autoencoder_learning_rate": 2e-4, "learning_rate": 3e-3, "dtype": "float64", "random_state": 0}
    models = [DSCNet(3, **SMALL | rates | {"max_steps": epochs}).fit(random_rows()) for epochs in (0, 1)]
    before, after = (model.network_.state_dict() for model in models)
    steps = {name: (after[name] - before[name]).abs().max().item() for name in before}
    assert steps["expression.coefficient"] == pytest.approx(3e-3, rel=1e-3)
    assert steps["autoencoder.encoder.0.weight"] == pytest.approx(2e-4, rel=1e-3)


def test_too_many_rows_are_refused():
    X = np.broadcast_to(np.arange(10_001, dtype=np.float32)[:, None], (10_001, 3))
    with pytest.raises(
        ValueError, match=r"X has 10,001 rows.*10,000 at most; use self_expression='closed-form'"
    ):
        DSCNet(3, **SMALL).fit(X)


def test_new_rows_have_no_clusters(tmp_path):
    """As with scikit-learn's SpectralClustering; the command line says so."""
    assert not hasattr(DSCNet(), "predict")
    assert not hasattr(DSCNet(), "predict_proba")
    file, out = tmp_path / "rows.npz", tmp_path / "out"
    np.savez(file, X=random_rows(60), labels=np.arange(60) % 3)
    settings = [
        f"--set={name}={value}" for name, value in SMALL.items() if name not in ("hidden_sizes", "max_steps")
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
        ({"preset": "best"}, "preset must be one of 'paper', 'robust'"),
        ({"self_expression": "closed-form", "penalty": "l1"}, "penalty='l1' has no closed form"),
        (
            {"self_expression": "closed-form", "fidelity_weight": 0},
            "fidelity_weight must be > 0 for C's closed form",
        ),
        ({"coefficient_weight": 0.0}, "coefficient_weight must be > 0 for C's closed form"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DSCNet(3, **(SMALL | options)).fit(random_rows())


def test_attributes_before_fit():
    for name in ("coefficients_", "affinity_matrix_"):
        with pytest.raises(AttributeError, match=f"has no {name} before fit"):
            getattr(DSCNet(), name)


@pytest.mark.bits
@pytest.mark.parametrize(("stage", "epoch"), [("pretrain", 2), ("expression", 1), ("expression", 5)])
@pytest.mark.parametrize("self_expression", ["learned", "closed-form"])
def test_resumed_fit_has_the_same_bits(self_expression, stage, epoch, tmp_path):
    X = random_rows()
    options = SMALL | {"random_state": 0, "self_expression": self_expression, "expression_batch_size": 20}
    whole = DSCNet(3, **options).fit(X)
    with pytest.raises(KeyboardInterrupt):
        DSCNet(3, checkpoint=tmp_path, callbacks=[Interrupt(stage, epoch)], **options).fit(X)
    for _ in range(2):  # the second time nothing is left to do
        resumed = DSCNet(3, checkpoint=tmp_path, resume=True, **options).fit(X)
        if self_expression == "learned":
            np.testing.assert_array_equal(resumed.coefficients_, whole.coefficients_)
        np.testing.assert_array_equal(resumed.labels_, whole.labels_)
        np.testing.assert_array_equal(resumed.embedding_, whole.embedding_)


@pytest.mark.bits
@pytest.mark.parametrize(
    "options", [{"preset": "paper", "kept_share": 0.8}, {"self_expression": "closed-form"}]
)
def test_save_and_load(options, tmp_path):
    X = random_rows()
    model = DSCNet(3, random_state=0, **options, **SMALL).fit(X)
    model.save(tmp_path)
    for loaded in (DSCNet.load(tmp_path), load_model(tmp_path)):
        assert loaded.get_params() == model.get_params()
        if "preset" in options:
            np.testing.assert_array_equal(loaded.coefficients_, model.coefficients_)
        rows = np.arange(40)
        np.testing.assert_array_equal(loaded.dense_affinity(rows), model.dense_affinity(rows))
        np.testing.assert_array_equal(loaded.labels_, model.labels_)
        np.testing.assert_array_equal(loaded.transform(X), model.transform(X))
        assert loaded.history_ == model.history_
    assert MODELS["dsc-net"] is DSCNet


@pytest.mark.parametrize(("n", "latent_dim"), [(60, 6), (60, 80)])
def test_weight_by_effective_dimensions(n, latent_dim):
    options = SMALL | {"latent_dim": latent_dim}
    fit, stage = started(DSCNet(3, dtype="float64", random_state=0, **options), random_rows(n))
    (index,) = stage.batches()
    terms, _ = stage.terms(index, None)
    z = fit.network.autoencoder.encode(torch.from_numpy(scaled(random_rows(n)))).detach().numpy()
    eigenvalues = np.linalg.eigvalsh(z.T @ z).clip(0)
    ridge = 2 * terms["coefficients"][0] / terms["fidelity"][0]
    wanted = min(7 * 3, 0.25 * min(n, latent_dim))
    assert (eigenvalues / (eigenvalues + ridge)).sum() == pytest.approx(wanted, rel=1e-2)


def test_l1_has_no_dimensions():
    _fit, stage = started(DSCNet(3, penalty="l1", random_state=0, **SMALL), random_rows())
    (index,) = stage.batches()
    terms, _ = stage.terms(index, None)
    assert terms["coefficients"][0] == pytest.approx(0.03)  # codes of unit length
    with pytest.raises(ValueError, match="coefficient_scale='dimensions' is of a ridge"):
        DSCNet(3, penalty="l1", coefficient_scale="dimensions", **SMALL).fit(random_rows())


@pytest.mark.parametrize(
    ("n", "images", "kept"), [(60, False, 20), (1500, False, 40), (60, True, 5), (400, True, 10)]
)
def test_neighbours_by_kind_of_rows(n, images, kept):
    X = random_rows(n, 64)
    options = (IMAGES | {"channels": (4,)}) if images else SMALL
    model = DSCNet(3, random_state=0, pretrain_epochs=1, max_steps=0, **{
        name: value for name, value in options.items() if name not in ("pretrain_epochs", "max_steps")
    }).fit(X.reshape(n, 8, 8) if images else X)  # fmt: skip
    assert model.resolved_params_["n_neighbors"] == kept
    # each row keeps so many, and is kept by others
    assert (model.affinity_matrix_ > 0).sum(axis=1).min() == kept


def test_svd_power_is_the_affinity():
    model = DSCNet(3, svd_power=(2, 4), random_state=0, **SMALL).fit(random_rows())
    c = model.coefficients_.astype(np.float64)
    u, s, _ = np.linalg.svd((c + c.T) / 2 + np.eye(40))
    rows = u[:, :7] * np.sqrt(s[:7])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = np.maximum(rows @ rows.T, 0) ** 4 * (1 - np.eye(40))
    np.testing.assert_allclose(model.affinity_matrix_, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"self_expression": "closed-form"}, "is of a learned C"),
        ({"n_neighbors": 5}, "takes whole rows of C"),
    ],
)
def test_svd_power_refuses_what_it_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        DSCNet(3, svd_power=(2, 4), **SMALL, **options).fit(random_rows())


@pytest.mark.parametrize(
    ("options", "side", "expected"),
    [
        ({}, 16, "scattering"),
        ({}, 12, None),
        ({"features": None}, 16, None),
        ({"channels": (4,)}, 16, None),
        ({"image_network": "conv"}, 16, None),
        ({"preset": "paper"}, 16, None),
        ({"preset": "paper", "features": "scattering"}, 16, "scattering"),
    ],
)
def test_features_follow_the_images_and_the_options(options, side, expected):
    images = np.random.default_rng(0).random((30, side, side))
    for name in ("dsc-net", "lrsc"):
        state = MODELS[name](3, feature_dim=10, **options).begin(images)
        assert state.options.features == expected
        assert state.rows.n_features == (10 if expected else side**2)
