"""DESC against the paper's formulas in NumPy (float64), its starts against planted subspaces."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from desc_ext.algorithms.k_subspaces import k_subspaces, subspace_bases
from desc_ext.engine.chunks import CHUNK_ROWS
from desc_ext.engine.deep import reconstruction_loss
from desc_ext.engine.options import preset_names
from desc_ext.engine.rows import Rows
from desc_ext.engine.stages import _evaluate_and_reseed
from desc_ext.engine.state import Evaluation
from desc_ext.models import DESC
from desc_ext.models.desc import hard_sample_weight

# small networks are never sure of themselves; one test below asks for the warning
pytestmark = pytest.mark.filterwarnings("ignore:no row was ever confident")

N, M, K, P, D = 40, 9, 3, 7, 2
SMALL = {"hidden_sizes": (16,), "latent_dim": P, "subspace_dim": D, "pretrain_epochs": 2, "max_epochs": 3}


def random_rows(n=N, m=M, seed=0):
    return np.random.default_rng(seed).normal(size=(n, m))


@pytest.fixture
def prepared():
    """A model in float64 and its running fit, with random codes and bases that are not orthonormal."""

    def prepare(**options):
        model = DESC(K, random_state=0, dtype="float64", **(SMALL | {"n_init": 2} | options))
        X = random_rows()
        fit = model.begin(X)
        generator = torch.Generator().manual_seed(1)
        z = torch.randn(N, P, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            fit.network.bases.copy_(torch.randn(K, P, D, generator=generator, dtype=torch.float64))
            fit.network.mean_energy.fill_(2.5)
        return model, fit, z

    return prepare


def energies(z, bases):
    return np.array([[np.sum((s.T @ row) ** 2) for s in bases] for row in z])


def residuals(z, bases):
    return np.array([[np.sum((row - s @ s.T @ row) ** 2) for s in bases] for row in z])


def soft(z, bases, gamma_d, h):
    score = h[:, None] * energies(z, bases) + gamma_d
    return score / score.sum(1, keepdims=True)


def basis_penalty(bases, within):
    s = np.concatenate(list(bases), 1)
    gram, eye = s.T @ s, np.eye(K * D)
    outside = 1 - np.kron(np.eye(K), np.ones((D, D)))
    if within == "orthonormal":
        return np.sum((gram - eye) ** 2)
    return np.sum((gram * eye - eye) ** 2) + np.sum((gram * outside) ** 2)


@pytest.mark.parametrize("preset", ["paper", "robust"])
@pytest.mark.parametrize("within", ["unit", "orthonormal"])
@pytest.mark.parametrize("objective", ["projection", "kl"])
def test_loss_terms_follow_the_formulas(preset, within, objective, prepared):
    model, fit, z = prepared(preset=preset, within=within, objective=objective, head_target="own")
    index = torch.arange(5, 25)
    h = np.random.default_rng(3).uniform(0, 2, N)
    target = np.random.default_rng(4).dirichlet(np.ones(K), N)
    now = Evaluation(z, torch.zeros(N, dtype=torch.int64), sample_weight=torch.from_numpy(h))
    if objective == "kl":
        now.target = torch.from_numpy(target)
    terms = model._subspace_terms(fit, z[index], index, now)
    rows, bases = z[index].numpy(), fit.network.bases.detach().numpy()
    gamma_d = 5 * D if preset == "paper" else 0.1 * 2.5
    w = soft(rows, bases, gamma_d, h[5:25])
    if objective == "kl":
        t = target[5:25]
        clustering = np.mean(np.sum(t * np.log(t / w), 1))
    else:
        clustering = np.mean(np.sum(w * residuals(rows, bases), 1))
    weights = {"paper": (1.0, 0.1, 0.1), "robust": (0.001, 1.0, 0.1)}[preset]
    assert [terms[name][0] for name in ("basis", "clustering", "head")] == list(weights)
    assert terms["clustering"][1].item() == pytest.approx(clustering, rel=1e-10)
    assert terms["basis"][1].item() == pytest.approx(basis_penalty(bases, within), rel=1e-10)


@pytest.mark.parametrize("head_target", ["own", "labels"])
def test_head_loss(head_target, prepared):
    model, fit, z = prepared(preset="paper", head_target=head_target, confidence_threshold=0.5)
    labels = torch.arange(N) % K
    z.requires_grad_()
    loss = model._head_loss(fit, z, labels)
    layer = fit.network.head
    logits = z.detach().numpy() @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if head_target == "own":
        confident = p.max(1) > 0.5
        assert 0 < confident.sum() < N
        expected = np.sum(-np.log(p.max(1)) * confident) / N
    else:
        expected = -np.mean(np.log(p[np.arange(N), labels.numpy()]))
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    loss.backward()
    assert z.grad is None  # φ alone learns, unless asked otherwise
    fit.options.head_trains_encoder = True
    model._head_loss(fit, z, labels).backward()
    assert z.grad.abs().sum() > 0


@pytest.mark.parametrize("reconstruction", ["sum", "mean"])
def test_reconstruction_loss(reconstruction):
    x, back = torch.from_numpy(random_rows(6)), torch.from_numpy(random_rows(6, seed=1))
    squared = (x.numpy() - back.numpy()) ** 2
    expected = squared.sum(1).mean() if reconstruction == "sum" else squared.mean()
    assert float(reconstruction_loss(x, back, reconstruction)) == pytest.approx(expected, rel=1e-12)


def test_hard_sample_weights_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.95, 0.05], [0.1, 0.9], [0.6, 0.4], [0.9, 0.1]], dtype=torch.float64)
    w = torch.tensor([[0.81, 0.19], [0.9, 0.1], [0.9, 0.1], [0.99, 0.01], [0.5, 0.5]], dtype=torch.float64)
    # V = rows 0, 1, 2; divergences −log .81, −log .9 (the smallest), −log .1 (the largest)
    middle = (math.log(0.9) - math.log(0.81)) / (math.log(0.9) - math.log(0.1))
    h, n_confident = hard_sample_weight(p, w, 0.8, "norm")
    assert n_confident == 3
    np.testing.assert_allclose(h.numpy(), [middle, 0, 1, 1, 1], atol=1e-12)
    h, _ = hard_sample_weight(p, w, 0.8, "one-plus")
    np.testing.assert_allclose(h.numpy(), [1 + middle, 1, 2, 1, 1], atol=1e-12)
    h, n_confident = hard_sample_weight(p, w, 0.8, "off")
    assert (h.tolist(), n_confident) == ([1.0] * 5, 3)
    same, n_confident = hard_sample_weight(p[[0, 0]], w[[0, 0]], 0.8, "norm")  # all equal: nobody is harder
    assert (same.tolist(), n_confident) == ([1.0, 1.0], 2)
    assert hard_sample_weight(p, w, 0.999, "norm")[1] == 0


def test_hard_samples_enter_the_next_epoch(prepared):
    model, fit, z = prepared(preset="paper", hard_weight="norm", confidence_threshold=0.3, objective="kl")
    with torch.no_grad():
        now = model._evaluate_codes(fit, z)
    bases = fit.network.bases.detach().numpy()
    w = soft(z.numpy(), bases, 5 * D, np.ones(N))
    np.testing.assert_array_equal(now.labels.numpy(), w.argmax(1))
    logits = z @ fit.network.head.weight.T + fit.network.head.bias
    h, count = hard_sample_weight(logits.softmax(1), torch.from_numpy(w), 0.3, "norm")
    assert now.record["n_confident"] == count > 0
    np.testing.assert_allclose(now.sample_weight.detach().numpy(), h.detach().numpy(), atol=1e-9)
    weighted = soft(z.numpy(), bases, 5 * D, h.detach().numpy())
    target = weighted**2 / weighted.sum(0)
    np.testing.assert_allclose(now.target.detach().numpy(), target / target.sum(1, keepdims=True), rtol=1e-8)


def test_warm_up_aims_at_the_first_clusters(prepared):
    model, fit, z = prepared(warmup_epochs=2)
    fit.initial_labels = torch.arange(N) % K
    for fit.epoch in (0, 1, 2):
        now = model._evaluate_codes(fit, z)
        warm = torch.equal(now.target, torch.nn.functional.one_hot(fit.initial_labels, K).double())
        assert warm == (fit.epoch < 2)
        assert (now.sample_weight is None) == warm


def test_predictions_follow_equation_6():
    X = random_rows()
    model = DESC(K, random_state=0, dtype="float64", **SMALL).fit(X)
    z = model.embedding_
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-12)
    gamma_d = 0.1 * energies(z, model.bases_).mean()  # "relative": a share of the mean energy
    np.testing.assert_allclose(model.predict_proba(X), soft(z, model.bases_, gamma_d, np.ones(N)), rtol=1e-9)


def test_relative_smoothing_has_no_scale(prepared):
    model, fit, z = prepared(preset="paper", smoothing=0.1, smoothing_scale="relative")
    model._evaluate_codes(fit, z)
    small = model._assign(fit.network, z)
    model._evaluate_codes(fit, 100 * z)
    torch.testing.assert_close(model._assign(fit.network, 100 * z), small)


def planted(n_each=120, m=30, k=4, d=3, noise=0.02, seed=0):
    rng = np.random.default_rng(seed)
    bases = [np.linalg.qr(rng.normal(size=(m, d)))[0] for _ in range(k)]
    X = np.concatenate([rng.normal(size=(n_each, d)) @ s.T for s in bases])
    X += noise * rng.normal(size=X.shape)
    labels = np.repeat(np.arange(k), n_each)
    order = rng.permutation(len(X))
    return X[order].astype(np.float32), labels[order], bases


def test_k_subspaces_recovers_planted_subspaces():
    X, y, truth = planted()
    assert adjusted_rand_score(y, KMeans(4, n_init=5, random_state=0).fit_predict(X)) < 0.7
    unit = torch.nn.functional.normalize(torch.from_numpy(X), dim=1)
    labels, bases = k_subspaces(unit, 4, 3, n_init=10, seed=0)
    assert adjusted_rand_score(y, labels.numpy()) > 0.98
    for found in bases.numpy().astype(np.float64):
        # cosines of the principal angles to the closest planted subspace
        cosines = max(np.linalg.svd(found.T @ s, compute_uv=False).min() for s in truth)
        assert cosines > 0.99


def test_bases_are_leading_singular_vectors():
    X, y, _ = planted(noise=0.3)
    bases = subspace_bases(torch.from_numpy(X).double(), torch.from_numpy(y), 4, 3).numpy()
    for k in range(4):
        u = np.linalg.svd(X[y == k].astype(np.float64).T, full_matrices=False)[0][:, :3]
        np.testing.assert_allclose(bases[k] @ bases[k].T, u @ u.T, atol=1e-6)


def test_wide_input_is_reduced_without_changing_angles():
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(700, 60)) @ rng.normal(size=(60, 300))).astype(np.float32)
    rows = Rows(X, torch.zeros(300), torch.ones(300), torch.device("cpu"), torch.float32)
    reduced = rows.reduced(100, torch.Generator().manual_seed(0), directions=True)[0].numpy()
    assert reduced.shape == (700, 100)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    np.testing.assert_allclose(reduced @ reduced.T, unit @ unit.T, atol=1e-5)


@pytest.mark.parametrize("init", ["k-means", "latent-k-subspaces", "k-subspaces"])
def test_first_clusters(init):
    X, y, _ = planted()
    options = SMALL | {"latent_dim": 12, "subspace_dim": 3, "max_epochs": 0, "n_init": 10}
    model = DESC(4, init=init, random_state=0, **options).fit(X)
    assert model.n_iter_ == 0
    if init == "k-subspaces":
        assert adjusted_rand_score(y, model.initial_labels_) > 0.98
    z = model.embedding_.astype(np.float64)
    if init == "k-means":
        expected = KMeans(4, n_init=10, random_state=0).fit(z)
        centres = np.array([z[model.initial_labels_ == k].mean(0) for k in range(4)])
        inertia = np.sum((z - centres[model.initial_labels_]) ** 2)
        assert inertia <= 1.02 * expected.inertia_
    for k in range(4):
        u = np.linalg.svd(z[model.initial_labels_ == k].T, full_matrices=False)[0][:, :3]
        np.testing.assert_allclose(model.bases_[k] @ model.bases_[k].T, u @ u.T, atol=1e-3)


def test_empty_clusters_are_reseeded_and_counted(prepared):
    model, fit, _ = prepared(preset="paper", warmup_epochs=0)
    z = model._encode_all(fit)
    with torch.no_grad():
        fit.network.bases.copy_(subspace_bases(z, torch.arange(N) % K, K, D))
        fit.network.bases[1] = 1e-3 * fit.network.bases[0]  # always behind the first
    assert np.bincount(model._evaluate(fit).labels, minlength=K)[1] == 0
    fit.optimizer = torch.optim.Adam(fit.network.parameters())
    now, record = _evaluate_and_reseed(model, fit)
    assert record["n_reseeded"] >= 1
    assert np.bincount(now.labels, minlength=K).min() > 0
    np.testing.assert_array_equal(model.labels_, now.labels)


def test_warns_once_when_no_row_is_confident():
    X = random_rows()
    with pytest.warns(UserWarning, match="V stayed empty") as caught:
        DESC(K, preset="paper", random_state=0, **SMALL).fit(X)
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DESC(K, preset="paper", hard_weight="off", random_state=0, **SMALL).fit(X)
        DESC(K, preset="paper", confidence_threshold=0.0, random_state=0, **SMALL).fit(X)


def test_presets_and_docstring_name_every_option():
    paper, robust = DESC.presets["paper"], DESC.presets["robust"]
    assert set(paper) == set(robust) == set(preset_names(DESC))
    table = {line.split()[0] for line in DESC.__doc__.splitlines() if line.strip()}
    assert set(paper) <= table
    stated = {"smoothing": 5, "basis_weight": 1, "clustering_weight": 0.1, "learning_rate": 1e-3}
    assert {name: paper[name] for name in stated} == stated  # section 4 of the paper
    assert paper["hidden_sizes"] == (500, 500, 1000)


def test_images_meet_convolutions_and_rows_do_not():
    """In "robust" maps of 4, 2 and 1 pixels of 32, 64 and 128 channels, then one layer to K·d values of norm 1."""
    images = np.random.default_rng(0).random((40, 8, 8))
    network = DESC(K).begin(images).network
    x = torch.from_numpy(images.reshape(40, 64)).float()
    with torch.no_grad():
        maps = network.autoencoder.encoder(x.reshape(-1, 1, 8, 8))
        z = network.autoencoder.encode(x)
    assert maps.shape == (40, 128, 1, 1)
    assert z.shape == (40, K * 8)
    assert network.bases.shape == (K, K * 8, 8)
    np.testing.assert_allclose(z.norm(dim=1).numpy(), 1, rtol=1e-5)
    for fully_connected in (
        DESC(K).begin(images.reshape(40, 64)),
        DESC(K, preset="paper").begin(images),
        DESC(K, image_network="dense").begin(images),
    ):
        layers = fully_connected.network.autoencoder.encoder
        widths = [layer.out_features for layer in layers if hasattr(layer, "out_features")]
        assert widths[:3] == [500, 500, 1000]


def test_layers_that_do_not_fit_are_refused():
    message = r"DESC: channels and kernels must have one entry a layer each, got \(4, 5\) and \(5, 5, 3\)"
    with pytest.raises(ValueError, match=message):
        DESC(K, channels=(4, 5)).fit(random_rows())
    with pytest.raises(ValueError, match="kernels must be a tuple of odd integers >= 1"):
        DESC(K, kernels=(4, 5, 3)).fit(random_rows())


@pytest.mark.parametrize("shape", [None, (8, 8)])
def test_robust_keeps_the_start_it_is_given(shape):
    """Labels of digits, a tenth of them wrong: the end agrees with the truth as well as they do."""
    X, truth = (part[:300] for part in load_digits(return_X_y=True))
    rng = np.random.default_rng(0)
    given = np.where(rng.random(300) < 0.1, rng.integers(0, 10, 300), truth)
    model = DESC(10, init=given, image_shape=shape, random_state=0, pretrain_epochs=5, max_epochs=15)
    model.fit(X)
    np.testing.assert_array_equal(model.initial_labels_, given)
    assert (model.labels_ == truth).mean() > (given == truth).mean()
    assert {record["stage"] for record in model.history_ if "anchor" in record} == {"refine"}


@pytest.mark.bits
def test_more_rows_than_a_chunk():
    X = random_rows(2 * CHUNK_ROWS + 3)
    model = DESC(K, random_state=0, hard_weight="off", **SMALL).fit(X)
    assert model.embedding_.shape == (2 * CHUNK_ROWS + 3, P)
    np.testing.assert_array_equal(model.predict(X), model.labels_)


@pytest.mark.slow
def test_quality_on_digits_with_defaults():
    X, y = load_digits(return_X_y=True)
    model = DESC(10, random_state=0).fit(X)
    baseline = KMeans(10, n_init=20, random_state=0).fit_predict(X)
    nmi = normalized_mutual_info_score(y, model.labels_)
    assert nmi > 0.80 > normalized_mutual_info_score(y, baseline) + 0.03
    start = normalized_mutual_info_score(y, model.initial_labels_)
    assert nmi > start - 0.005  # the refinement does not destroy its start
    assert model.history_[-1]["n_confident"] > 0
    assert model.history_[-1]["mean_max_assignment"] > 0.7
