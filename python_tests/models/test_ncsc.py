"""NCSC as an estimator: its stages and start, collapse, input of rows and of images, resume, memory, quality."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.collaborative import IMAGES, SMALL, K, N, P, begun, digits, random_rows, small_fits_collapse
from helpers.interrupt import Interrupt
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from desc_ext.algorithms import ncsc_initialization
from desc_ext.engine.callbacks import Callback
from desc_ext.engine.options import preset_names
from desc_ext.models import NCSC


# ---------------------------------------------------------------------- stages
class Snapshots(Callback):
    """The network's tensors after every stage's last epoch."""

    def __init__(self):
        self.after, self.fit = {}, None

    def on_epoch_end(self, model, record):
        state = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.after.setdefault(record["stage"], []).append(state)


class Labels(Callback):
    """The labels at the end of every epoch that has clusters."""

    def __init__(self):
        self.after = {}

    def on_epoch_end(self, model, record):
        if "cluster_sizes" in record:
            self.after.setdefault(record["stage"], []).append(model.labels_)


def fitted_with_snapshots(monkeypatch, **options):
    snapshots = Snapshots()
    begin = NCSC._begin

    def watched(self, X, resolved):
        fit = begin(self, X, resolved)
        snapshots.network = fit.network
        return fit

    monkeypatch.setattr(NCSC, "_begin", watched)
    model = NCSC(K, random_state=0, callbacks=[snapshots], **(SMALL | options)).fit(random_rows())
    return model, snapshots.after


@small_fits_collapse
@pytest.mark.parametrize("self_expression", ["closed-form", "learned"])
def test_each_stage_trains_its_own_parts(self_expression, monkeypatch):
    _, after = fitted_with_snapshots(monkeypatch, self_expression=self_expression)
    stages = ["pretrain", "expression", "start", "classifier", "refine"]
    assert list(after) == stages
    changed = {}
    for before, stage in pairwise(stages):
        old, new = after[before][-1], after[stage][-1]
        changed[stage] = {name.split(".")[0] for name in new if not torch.equal(old[name], new[name])}
    coefficients = {"expression"} if self_expression == "learned" else set()
    assert changed["expression"] == {"autoencoder"} | coefficients
    assert changed["start"] == changed["classifier"] == {"head"}
    assert changed["refine"] == {"autoencoder", "head"} | coefficients


def test_learning_rates(monkeypatch):
    """Adam's first step moves every entry by its learning rate: 1e-5 for the autoencoder, 1e-3 for the rest."""
    _, after = fitted_with_snapshots(
        monkeypatch, preset="paper", self_expression="learned", batch_size=50, soft_indicator=True,
        expression_epochs=1, classifier_epochs=0, max_epochs=0, scaling="global",
    )  # fmt: skip
    old, new = after["pretrain"][-1], after["expression"][-1]
    moves = {name: (new[name] - old[name]).abs().max().item() for name in new}
    autoencoder = [value for name, value in moves.items() if name.startswith("autoencoder")]
    assert max(autoencoder) == pytest.approx(1e-5, rel=0.05)
    assert moves["expression.0.coefficient"] == pytest.approx(1e-3, rel=0.05)


def test_batches_hold_enough_rows_and_come_often_enough():
    _, _, stage = begun("classifier", X=random_rows(25), batch_size=12, min_batches=7)
    batches = stage.batches()
    assert sorted(map(len, batches)) == [8] * 6 + [9] * 3  # 25 = 9 + 8 + 8, three times
    for start in (0, 3, 6):
        assert sorted(torch.cat(batches[start : start + 3]).tolist()) == list(range(25))
    _, _, pretraining = begun("pretrain", X=random_rows(25), batch_size=12)
    assert [len(batch) for batch in pretraining.batches()] == [12, 12, 1]


def test_learned_coefficients_keep_their_rows():
    model, fit, stage = begun("refine", X=random_rows(25), self_expression="learned")
    first, second = stage.batches(), stage.batches()
    key = lambda batches: sorted(tuple(part.tolist()) for part in batches)  # noqa: E731
    assert key(first) == key(second)
    for part in first:
        assert model._layer(fit, part).coefficient.shape == (len(part), len(part))


@small_fits_collapse
def test_history():
    weights = {"fidelity_weight": 0.25, "separation_weight": 0.5, "balance_weight": 2}
    model = NCSC(K, random_state=0, **SMALL, **weights).fit(random_rows())
    assert [(r["stage"], r["epoch"]) for r in model.history_] == [
        (stage, epoch)
        for stage in ("pretrain", "expression", "start", "classifier", "refine")
        for epoch in (1, 2)
    ]
    record = model.history_[-1]
    pairs = {"n_positive", "n_negative", "n_separated"}
    terms = {"reconstruction", "coefficients", "fidelity", "positive", "negative", "separation", "balance"}
    rest = {"loss", "seconds", "collapsed", "mean_max_assignment", "label_change", "cluster_sizes"}
    assert terms | pairs | rest <= set(record)
    expression, start, classifier = model.history_[3], model.history_[5], model.history_[7]
    losses = {"reconstruction", "coefficients", "fidelity"}
    assert set(expression) == {"stage", "epoch", "seconds", "loss"} | losses | {
        f"weighted_{k}" for k in losses
    }
    assert sum(expression[f"weighted_{k}"] for k in losses) == pytest.approx(expression["loss"], rel=1e-5)
    loss = 0.5 * expression["reconstruction"] + expression["coefficients"] + 0.25 * expression["fidelity"]
    assert expression["loss"] == pytest.approx(loss, rel=1e-5)
    assert {"loss", "start", "collapsed", "label_change", "cluster_sizes"} <= set(start)
    assert start["loss"] == start["start"]
    weights = {"positive": 1, "negative": 1, "separation": 0.5, "balance": 2}
    loss = sum(weight * classifier[name] for name, weight in weights.items())
    assert classifier["loss"] == pytest.approx(loss, rel=1e-5)


# ---------------------------------------------------------------------- start
def independent_subspaces(n=40, dim=2, seed=0):
    """n unit rows in each of K subspaces of dimension ``dim``, orthogonal to each other in 2·K·dim columns."""
    rng = np.random.default_rng(seed)
    bases = np.linalg.qr(rng.normal(size=(2 * K * dim, K * dim)))[0]
    z = np.concatenate([rng.normal(size=(n, dim)) @ bases[:, k * dim : (k + 1) * dim].T for k in range(K)])
    return z / np.linalg.norm(z, axis=1, keepdims=True), np.repeat(np.arange(K), n)


def test_spectral_start_finds_subspaces():
    """k-means cannot: a subspace's rows are on both sides of the origin."""
    z, truth = independent_subspaces()
    found = {}
    for init in ("k-means", "self-expressive"):
        model, fit, _ = begun("start", X=z, init=init)
        labels = model._find_start(fit, torch.from_numpy(z))
        found[init] = adjusted_rand_score(truth, labels.numpy())
    assert found["self-expressive"] == 1
    assert found["k-means"] < 0.7


@pytest.mark.parametrize("bad", ["k-means", "self-expressive"])
def test_best_start_is_the_one_of_smaller_loss(bad, monkeypatch):
    """Clusters that both methods find, unless one of them is made to fail."""
    rng = np.random.default_rng(0)
    z = np.repeat(np.eye(P)[:K], 20, 0) + 0.05 * rng.normal(size=(20 * K, P))
    truth = np.repeat(np.arange(K), 20)
    failed = torch.from_numpy(rng.permutation(truth))
    if bad == "k-means":
        monkeypatch.setattr(ncsc_initialization, "kmeans", lambda z, n_clusters, n_init, seed: (failed, None))
    else:
        monkeypatch.setattr(ncsc_initialization, "_self_expressive_labels", lambda z, options, seed: failed)
    _, fit, _ = begun("start", X=z, init="best")
    labels = ncsc_initialization.first_labels(torch.from_numpy(z), fit.options, fit.seed)
    assert adjusted_rand_score(truth, labels.numpy()) == 1


def test_start_is_the_cross_entropy_of_its_labels():
    model, fit, stage = begun("start", preset="robust")
    fit.initial_labels = torch.arange(N) % K
    fit.codes = model._encode_all(fit)
    index = stage.batches()[1]
    assert len(index) == SMALL["pretrain_batch_size"]
    proba = fit.network.classify(fit.codes).detach().numpy()
    expected = -np.mean([np.log(proba[i, i % K]) for i in index.tolist()])
    losses, _ = stage.terms(index, None)
    weight, value = losses["start"]
    assert (weight, set(losses)) == (1.0, {"start"})
    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_with_an_anchor_the_start_teaches_certain_rows_alone():
    model, fit, stage = begun("start", certain_share=0.5)
    fit.initial_labels = torch.arange(N) % K
    fit.certainty = torch.from_numpy(np.random.default_rng(0).permutation(N) + 1.0) / N
    fit.codes = model._encode_all(fit)
    index = stage.batches()[0]
    certain = [i for i in index.tolist() if fit.certainty[i] > 0.5]
    assert 0 < len(certain) < len(index)
    proba = fit.network.classify(fit.codes).detach().numpy()
    expected = -np.mean([np.log(proba[i, i % K]) for i in certain])
    assert stage.terms(index, None)[0]["start"][1].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", [None, (8, 8)])
def test_robust_keeps_the_start_it_is_given(shape):
    """Labels of digits, a tenth of them wrong: the end agrees with the truth as well as they do."""
    X, truth = (part[:300] for part in load_digits(return_X_y=True))
    rng = np.random.default_rng(0)
    given = np.where(rng.random(300) < 0.1, rng.integers(0, 10, 300), truth)
    model = NCSC(10, init=given, image_shape=shape, random_state=0, pretrain_epochs=5)
    model.fit(X)
    np.testing.assert_array_equal(model.initial_labels_, given)
    assert (model.labels_ == truth).mean() > (given == truth).mean()
    assert {record["stage"] for record in model.history_ if "anchor" in record} == {"refine"}


@small_fits_collapse
@pytest.mark.parametrize(("classifier_epochs", "omega"), [(0, False), (2, True)])
def test_collaboration_is_measured_in_what_the_stages_left(classifier_epochs, omega):
    """λ_cl = .5 · (eq. 9) / Ω of the last epochs of stages 1 and 2; without stage 2, of (eq. 9) / 1."""
    options = SMALL | {"classifier_epochs": classifier_epochs, "collaborative_weight": 0.5}
    last = {
        record["stage"]: record for record in NCSC(K, random_state=0, **options).fit(random_rows()).history_
    }
    wanted = 0.5 * last["expression"]["loss"] / (last["classifier"]["loss"] if omega else 1)
    joint = last["refine"]
    assert joint["weighted_positive"] == pytest.approx(wanted * joint["positive"], rel=1e-5)
    assert joint["positive"] > 0
    assert joint["weighted_anchor"] == pytest.approx(last["expression"]["loss"] * joint["anchor"], rel=1e-5)


def test_classifier_begins_where_the_start_ends():
    options = SMALL | {"latent_dim": 20, "head_sizes": (64,), "pretrain_epochs": 5, "start_epochs": 60}
    options |= {"pretrain_batch_size": 50, "batch_size": 300}
    labels = Labels()
    model = NCSC(10, random_state=0, callbacks=[labels], **options).fit(digits())
    certain = []  # within each cluster, 60% of the rows
    for k in range(10):
        members = np.flatnonzero(model.initial_labels_ == k)
        certain.append((labels.after["start"][-1][members] == k).mean())
    assert min(certain) > 0.6 * 0.95
    assert (labels.after["start"][-1] == model.initial_labels_).mean() > 0.8
    kmeans = NCSC(10, random_state=0, init="k-means", **(options | {"classifier_epochs": 0, "max_epochs": 0}))
    kmeans.fit(digits())
    expected = KMeans(10, n_init=20, random_state=0).fit(kmeans.embedding_)
    assert adjusted_rand_score(expected.labels_, kmeans.initial_labels_) > 0.8
    centres = [kmeans.embedding_[kmeans.initial_labels_ == k].mean(0) for k in range(10)]
    inertia = np.sum((kmeans.embedding_ - np.array(centres)[kmeans.initial_labels_]) ** 2)
    assert inertia == pytest.approx(expected.inertia_, rel=0.02)


@small_fits_collapse
def test_without_a_start_the_classifier_is_as_drawn():
    model = NCSC(K, random_state=0, init="random", **(SMALL | {"classifier_epochs": 0, "max_epochs": 0}))
    model.fit(random_rows())
    assert {record["stage"] for record in model.history_} == {"pretrain", "expression"}
    np.testing.assert_array_equal(model.initial_labels_, model.labels_)


# ---------------------------------------------------------------------- collapse
def test_a_collapse_is_noticed():
    with pytest.warns(UserWarning, match="NCSC collapsed: one of 10 clusters.*use preset='robust'") as caught:
        model = NCSC(10, preset="paper", random_state=0, **(SMALL | {"batch_size": 300})).fit(digits())
    # that it collapsed, and which clusters are empty
    assert [warning.filename for warning in caught] == [__file__] * 2
    assert model.history_[-1]["collapsed"] is True
    assert max(model.history_[-1]["cluster_sizes"]) > 270


def test_advice_after_a_collapse_is_not_the_preset_in_use():
    """Rows of nearly one direction have nearly one code, which an untaught classifier puts into one cluster."""
    options = SMALL | {"start_epochs": 0, "classifier_epochs": 0, "max_epochs": 1}
    rows = 10 + 0.01 * np.random.default_rng(0).normal(size=(40, 6))
    with pytest.warns(UserWarning, match="NCSC collapsed.*start_epochs and max_epochs more") as caught:
        NCSC(8, random_state=0, **(options | {"scaling": "none"})).fit(rows)
    assert not any("preset" in str(warning.message) for warning in caught)


def test_robust_does_not_collapse():
    options = SMALL | {"batch_size": 300, "classifier_epochs": 40, "latent_dim": 20, "head_sizes": (64,)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = NCSC(10, random_state=0, **options).fit(digits())
    assert not any(record.get("collapsed") for record in model.history_[-3:])
    assert max(np.bincount(model.labels_, minlength=10)) < 120


def test_one_cluster_is_no_collapse():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = NCSC(1, random_state=0, **SMALL).fit(random_rows())
    assert model.history_[-1]["collapsed"] is False
    assert set(model.labels_) == {0}


# ---------------------------------------------------------------------- rows and images
@small_fits_collapse
@pytest.mark.parametrize("network", ["conv", "residual"])
@pytest.mark.parametrize("shape", [(8, 8), (9, 11), (3, 10, 8)])
def test_images(network, shape):
    stack = np.random.default_rng(0).normal(size=(40, *shape)).astype(np.float32)
    model = NCSC(K, random_state=0, image_network=network, **IMAGES).fit(stack)
    flat = NCSC(K, random_state=0, image_network=network, image_shape=shape, **IMAGES)
    flat.fit(stack.reshape(40, -1))
    np.testing.assert_array_equal(flat.embedding_, model.embedding_)
    assert model.embedding_.shape == (40, model.resolved_params_["latent_dim"])
    np.testing.assert_array_equal(model.predict(stack), model.labels_)
    np.testing.assert_array_equal(model.predict(stack.reshape(40, -1)[5:9]), model.labels_[5:9])
    np.testing.assert_allclose(model.predict_proba(stack).sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(model.transform(stack), model.embedding_)


@pytest.mark.parametrize(
    ("network", "side", "latent_dim"),
    [("conv", 28, 480), ("residual", 28, 640), ("conv", 8, 480), ("conv", 32, 480), ("residual", 64, 640)],
)
def test_code_space_is_large_enough_for_the_subspaces(network, side, latent_dim):
    """Section 4: its dimension exceeds that of a subspace (9) times the number of clusters."""
    stack = np.random.default_rng(0).normal(size=(12, side, side)).astype(np.float32)
    options = IMAGES | dict.fromkeys(
        ("pretrain_epochs", "expression_epochs", "start_epochs", "classifier_epochs", "max_epochs"), 0
    )
    model = NCSC(10, random_state=0, image_network=network, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(stack)
    assert model.resolved_params_["latent_dim"] == model.embedding_.shape[1] == latent_dim > 9 * 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = NCSC(10, random_state=0, **options, hidden_sizes=(5,)).fit(stack.reshape(12, -1))
    assert rows.embedding_.shape == (12, 90)


def test_images_and_latent_dim_do_not_go_together():
    with pytest.raises(ValueError, match=r"NCSC: latent_dim=6 is for rows.*set channels instead"):
        NCSC(K, **SMALL).fit(np.zeros((20, 8, 8)) + np.arange(20)[:, None, None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_network": "vgg"}, "image_network must be one of 'conv', 'residual'.*got 'vgg'"),
        ({"channels": ()}, "channels must be a tuple of integers >= 1, at least one"),
        ({"self_expression": "exact"}, "self_expression must be one of 'closed-form', 'learned'"),
        ({"fidelity_weight": 0}, "fidelity_weight must be a finite number > 0"),
        ({"upper": 1.2}, "upper must be a finite number >= 0 and <= 1, got 1.2"),
        ({"soft_indicator": 1}, "soft_indicator must be True or False"),
        (
            {"init": "first"},
            "init must be one of .*'best'.* or a NumPy array of labels .*, got 'first'",
        ),
        ({"min_batches": 0}, "min_batches must be an integer >= 1"),
        ({"preset": "best"}, "preset must be one of 'paper', 'robust'"),
        ({"image_shape": (3, 3)}, r"image_shape=\(3, 3\) has 9 pixels, but the rows of X have 8 columns"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NCSC(K, **(SMALL | options)).fit(random_rows())


@pytest.mark.bits
# ---------------------------------------------------------------------- resume, presets, memory, quality
@small_fits_collapse
@pytest.mark.parametrize("self_expression", ["closed-form", "learned"])
@pytest.mark.parametrize(
    ("stage", "epoch"),
    [
        ("pretrain", 2),
        ("expression", 1),
        ("expression", 2),
        ("start", 1),
        ("start", 2),
        ("classifier", 1),
        ("classifier", 2),
        ("refine", 2),
    ],
)
def test_resumed_fit_has_the_same_bits(self_expression, stage, epoch, tmp_path):
    X = digits(60).reshape(-1, 8, 8)
    options = IMAGES | {"channels": (4, 5), "self_expression": self_expression, "batch_size": 25}
    whole = NCSC(K, random_state=0, **options).fit(X)
    model = NCSC(K, random_state=0, checkpoint=tmp_path, callbacks=[Interrupt(stage, epoch)], **options)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    for _ in range(2):  # the second time nothing is left to do
        resumed = NCSC(K, random_state=0, checkpoint=tmp_path, resume=True, **options).fit(X)
        np.testing.assert_array_equal(resumed.embedding_, whole.embedding_)
        np.testing.assert_array_equal(resumed.labels_, whole.labels_)
        np.testing.assert_array_equal(resumed.initial_labels_, whole.initial_labels_)
        for name, value in whole.network_.state_dict().items():
            assert torch.equal(resumed.network_.state_dict()[name], value), name
        strip = [
            [{k: v for k, v in record.items() if k != "seconds"} for record in fitted.history_]
            for fitted in (whole, resumed)
        ]
        assert strip[0] == strip[1]


@small_fits_collapse
def test_saved_model_has_no_coefficients(tmp_path):
    model = NCSC(K, random_state=0, self_expression="learned", **SMALL).fit(random_rows())
    model.save(tmp_path)
    loaded = NCSC.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(random_rows()), model.predict_proba(random_rows()))
    assert loaded.history_ == model.history_
    assert not any("expression" in name for name in model.network_.state_dict())


def test_presets_and_docstring_name_every_option():
    paper, robust = NCSC.presets["paper"], NCSC.presets["robust"]
    assert set(paper) == set(robust) == set(preset_names(NCSC))
    lines = [line.split() for line in NCSC.__doc__.splitlines() if line.strip()]
    table = {
        words[0]: [word for word in words[1:] if word != "(off)"][:2] for words in lines if len(words) > 3
    }
    for name in paper:
        for value, text in zip((paper[name], robust[name]), table[name], strict=True):
            spelled = ",".join(map(str, value)) if isinstance(value, tuple) else value
            spelled = f'"{spelled}"' if isinstance(value, str) else spelled
            assert str(spelled) == text or float(text) == value, name
    stated = {  # sections 5 and 5.1
        "fidelity_weight": 10, "first_upper": 0.7, "upper": 0.9, "lower": 0.1, "pretrain_epochs": 60,
        "batch_size": 5000, "pretrain_learning_rate": 1e-3, "autoencoder_learning_rate": 1e-5, "learning_rate": 1e-3,
        "image_network": "conv", "self_expression": "closed-form", "separation_weight": 0, "balance_weight": 0,
        "init": "random", "unit_codes": False,
    }  # fmt: skip
    assert {name: paper[name] for name in stated} == stated


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_a_batch_of_5000_images_fits_in_a_gigabyte():
    """The whole process, torch included. C alone would be 100 MB; eager pair losses hold a dozen such arrays."""
    # ru_maxrss would count what the process that starts this one had before; every further thread keeps buffers of its own
    code = """
import numpy as np
from desc_ext.models import NCSC
X = np.random.default_rng(0).random((5000, 28, 28), dtype=np.float32)
names = ("pretrain_epochs", "expression_epochs", "start_epochs", "classifier_epochs", "max_epochs")
epochs = dict.fromkeys(names, 0) | {"max_epochs": 1}
options = {"init": "random", "anchor_weight": 0, "augment": "none", "batch_size": 5000, "min_batches": 1}
NCSC(10, random_state=0, **options, **epochs).fit(X)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    # memory goes back when it is freed: the peak is what is held, not how the heap is torn, which differs by 90 MB a run
    held = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **held}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2**20


@pytest.mark.slow
def test_quality_on_digits_with_defaults():
    X, y = (part[::2] for part in load_digits(return_X_y=True))
    model = NCSC(10, random_state=0).fit(X.reshape(-1, 8, 8))
    baseline = KMeans(10, n_init=20, random_state=0).fit_predict(X)
    nmi = normalized_mutual_info_score(y, model.labels_)
    assert nmi > normalized_mutual_info_score(y, baseline)
    # half of the digits: the refinement does not destroy its start
    assert nmi > normalized_mutual_info_score(y, model.initial_labels_) - 0.005
    assert not model.history_[-1]["collapsed"]
