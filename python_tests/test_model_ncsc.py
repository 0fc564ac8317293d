"""NCSC against the paper's formulas in NumPy (float64), its stages, collapse, input of rows and of images."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score

from desc_ext import ops
from desc_ext.models import NCSC
from desc_ext.models.collaboration import apart_limit
from desc_ext.training import Callback

N, M, K, P = 30, 8, 3, 6
SMALL = {
    "hidden_sizes": (16,), "latent_dim": P, "head_sizes": (8,), "pretrain_epochs": 2, "expression_epochs": 2,
    "classifier_epochs": 2, "epochs": 2, "pretrain_batch_size": 12, "batch_size": 12, "min_batches": 1,
}  # fmt: skip
IMAGES = {name: value for name, value in SMALL.items() if name not in ("hidden_sizes", "latent_dim")}
small_fits_collapse = pytest.mark.filterwarnings("ignore:NCSC collapsed")


def random_rows(n=N, m=M, seed=0):
    return np.random.default_rng(seed).normal(size=(n, m))


def digits(n=300):
    return load_digits().data[:n].astype(np.float32)


def begun(stage, X=None, **options):
    """A model in float64 and its running fit at the start of ``stage``."""
    model = NCSC(K, random_state=0, dtype="float64", **(SMALL | options))
    options = model.resolved_params_ = model._resolve_options() | {"image_shape": None}
    fit = model._begin(random_rows() if X is None else X, options)
    fit.stage = stage
    return model, fit


# ---------------------------------------------------------------------- the formulas, in NumPy
def constrained_coefficients(z, weight):
    """Row i of C minimises ‖c‖² + (weight/2)‖z_i − Σ_j≠i c_j z_j‖²."""
    n = len(z)
    c = np.zeros((n, n))
    for i in range(n):
        others = np.delete(np.arange(n), i)
        gram = z[others] @ z[others].T + 2 / weight * np.eye(n - 1)
        c[i, others] = np.linalg.solve(gram, z[others] @ z[i])
    return c


def affinity_of(c):
    a = (np.abs(c) + np.abs(c.T)) / 2
    a = a / a.max(1, keepdims=True)
    return a + np.eye(len(c))


def collaborative(nu, a_s, upper, lower, apart):
    """L_pos, L_neg, the apart term and the numbers of their pairs, pair by pair."""
    sums, counts = np.zeros(3), np.zeros(3, dtype=int)
    for i in range(len(nu)):
        for j in range(len(nu)):
            if i == j:
                continue
            a_c = float(nu[i] @ nu[j])
            if a_s[i, j] > upper:
                sums[0] -= a_s[i, j] * math.log(max(a_c, 1e-6))
                counts[0] += 1
            if a_c < lower:
                sums[1] -= (1 - a_c) * math.log(max(1 - a_s[i, j], 1e-6))
                counts[1] += 1
            if a_s[i, j] < apart:
                sums[2] -= math.log(max(1 - a_c, 1e-6))
                counts[2] += 1
    return sums / np.maximum(counts, 1), counts


def spread_predictions(fit):
    """Codes around 0 and a head certain of various clusters: those of untrained networks are nearly the same."""

    def centre(rows, layer):
        layer.bias.copy_(-(rows @ layer.weight.T).mean(0))

    with torch.no_grad():
        rows, encoder = fit.rows.take(np.arange(len(fit.rows))), fit.network.autoencoder.encoder
        centre(encoder[:-1](rows), encoder[-1])
        z, head = fit.network.autoencoder.encode(rows), fit.network.head.layers
        head[0].weight.mul_(30)
        head[2].weight.mul_(30)
        centre(z, head[0])
        centre(head[:2](z * z.shape[1] ** 0.5 if fit.options["unit_codes"] else z), head[2])


def predictions(fit, z):
    proba = fit.network.classify(z).detach().numpy()
    return proba / np.linalg.norm(proba, axis=1, keepdims=True)


@pytest.mark.parametrize("self_expression", ["closed", "learned"])
def test_equation_9(self_expression):
    weight = 7.0
    model, fit = begun("expression", self_expression=self_expression, fidelity_weight=weight)
    index = model._batches(fit)[1]
    x = fit.rows.take(index.numpy())
    z = fit.network.autoencoder.encode(x)
    if self_expression == "closed":
        c = constrained_coefficients(z.detach().numpy(), weight)
    else:
        layer = model._layer(fit, index)
        with torch.no_grad():
            layer.coefficient.normal_(generator=torch.Generator().manual_seed(0)).fill_diagonal_(0)
        c = layer.coefficient.detach().numpy()
    terms = model._terms(fit, index, None)
    n, rows = len(index), z.detach().numpy()
    back = fit.network.autoencoder.decode(torch.from_numpy(c @ rows)).detach().numpy()
    expected = {
        "reconstruction": (0.5, np.sum((x.numpy() - back) ** 2) / n),
        "coefficients": (1.0, np.sum(c**2) / n),
        "fidelity": (weight, np.sum((rows - c @ rows) ** 2) / 2 / n),
    }
    assert set(terms) == set(expected)
    for name, (factor, value) in expected.items():
        assert terms[name][0] == factor
        assert terms[name][1].item() == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("self_expression", ["closed", "learned"])
@pytest.mark.parametrize("preset", ["paper", "robust"])
def test_equations_5_to_7(preset, self_expression):
    options = {"apart_share": 0.4, "upper": 0.6, "lower": 0.8, "negative_weight": 0.5, "batch_size": 20}
    model, fit = begun("classifier", preset=preset, self_expression=self_expression, **options)
    fit.epoch = 1
    spread_predictions(fit)
    fit.codes = model._encode_all(fit)
    index = model._batches(fit)[0]
    z = fit.codes[index]
    if self_expression == "closed":
        c = constrained_coefficients(z.numpy(), 10.0 if preset == "paper" else 1.0)
    else:
        layer = model._layer(fit, index)
        with torch.no_grad():
            layer.coefficient.normal_(generator=torch.Generator().manual_seed(0)).fill_diagonal_(0)
        c = layer.coefficient.detach().numpy()
    nu, a_s = predictions(fit, z), affinity_of(c)
    n, share = len(index), 0.4 if preset == "robust" else 0
    apart = np.quantile(a_s[~np.eye(n, dtype=bool)], share) if share else 0.0  # so few rows are all compared
    expected, counts = collaborative(nu, a_s, 0.6, 0.8, apart)
    assert (counts[:2] > 5).all()
    terms = model._terms(fit, index, None)
    assert fit.n_pairs.tolist() == counts.tolist()
    assert terms["positive"][1].item() == pytest.approx(expected[0], rel=1e-8)
    assert terms["negative"][1].item() == pytest.approx(expected[1], rel=1e-8)
    assert (terms["positive"][0], terms["negative"][0]) == (1.0, 0.5)
    if preset == "paper":
        assert set(terms) == {"positive", "negative"}
        return
    assert counts[2] == pytest.approx(0.4 * n * (n - 1), rel=0.1)
    assert terms["apart"][1].item() == pytest.approx(expected[2], rel=1e-8)
    mean = (nu**2).mean(0)
    assert terms["balance"][1].item() == pytest.approx(math.log(K) + np.sum(mean * np.log(mean)), rel=1e-8)


@pytest.mark.parametrize("self_expression", ["closed", "learned"])
@pytest.mark.parametrize("soft", [False, True])
def test_teachers_carry_no_gradient_unless_asked(self_expression, soft):
    """In L_pos only A_c learns, in L_neg only A_s; with soft_indicator both do."""
    options = {"preset": "paper", "soft_indicator": soft, "upper": 0.3, "lower": 0.9}
    model, fit = begun("refine", self_expression=self_expression, **options)
    fit.epoch = 1
    spread_predictions(fit)
    index = model._batches(fit)[0]
    if self_expression == "learned":  # 1e-4 everywhere makes all pairs equal
        with torch.no_grad():
            for layer in fit.network.expression:
                layer.coefficient.normal_(generator=torch.Generator().manual_seed(0)).fill_diagonal_(0)
    for name, student, teacher in (("positive", "head", "A_s"), ("negative", "A_s", "head")):
        fit.network.zero_grad(set_to_none=True)
        z = fit.network.autoencoder.encode(fit.rows.take(index.numpy())).detach().requires_grad_()
        y = None
        if self_expression == "closed":
            y = ops.ridge_self_expression(z.detach(), 0.2).requires_grad_()
        model._collaborative_terms(fit, index, z, y)[name][1].backward()
        source = y if y is not None else model._layer(fit, index).coefficient
        reached = {
            "head": any(p.grad is not None and p.grad.abs().sum() > 0 for p in fit.network.head.parameters()),
            "A_s": source.grad is not None and bool(source.grad.abs().sum() > 0),
        }
        assert reached[student], name
        assert reached[teacher] == soft, name


@small_fits_collapse
def test_upper_threshold_rises_after_the_first_epoch(monkeypatch):
    seen = []
    loss = ops.collaborative_loss

    def watched(nu, y, upper, lower, **rest):
        seen.append((upper, lower))
        return loss(nu, y, upper, lower, **rest)

    monkeypatch.setattr(ops, "collaborative_loss", watched)
    NCSC(K, random_state=0, **(SMALL | {"batch_size": 50})).fit(random_rows())
    assert seen == [(0.7, 0.1), (0.9, 0.1), (0.9, 0.1), (0.9, 0.1)]  # two epochs of each stage
    seen.clear()
    NCSC(K, random_state=0, **(SMALL | {"batch_size": 50, "classifier_epochs": 0})).fit(random_rows())
    assert seen == [(0.7, 0.1), (0.9, 0.1)]


def test_loss_weight_brings_both_losses_to_one_size():
    model, fit = begun("refine", collaborative_weight=2.0)
    fit.history = [
        {"stage": "expression", "loss": 50.0},
        {"stage": "expression", "loss": 12.0},
        {"stage": "classifier", "loss": 0.3},
    ]
    fit.epoch = 1
    index = model._batches(fit)[0]
    terms = model._terms(fit, index, None)
    scale = 2.0 * 12.0 / 0.3
    assert terms["positive"][0] == pytest.approx(scale)
    assert terms["apart"][0] == pytest.approx(scale)
    assert terms["fidelity"][0] == 1.0
    fit.history = []  # without those stages λ_cl is the weight itself
    assert model._terms(fit, index, None)["positive"][0] == 2.0


def test_apart_limit_is_a_quantile():
    rng = np.random.default_rng(0)
    y = 0.05 * rng.normal(size=(400, 12))
    h = (y**2).sum(1)
    c = (y @ y.T) / (1 - h[:, None])
    np.fill_diagonal(c, 0)
    a_s = affinity_of(c) - np.eye(400)
    rows, off = torch.from_numpy(y), ~np.eye(400, dtype=bool)
    row_max = torch.from_numpy(((np.abs(c) + np.abs(c.T)) / 2).max(1))
    for share in (0.2, 0.7):
        limit = apart_limit(rows, row_max, share)
        assert (a_s[off] < limit).mean() == pytest.approx(share, abs=0.02)
        dense = torch.from_numpy((np.abs(c) + np.abs(c.T)) / 2)
        assert apart_limit(dense, None, share) == pytest.approx(limit)
    assert apart_limit(rows, row_max, 0.0) == 0.0
    assert apart_limit(rows[:2], row_max[:2], 0.5) == 0.0


# ---------------------------------------------------------------------- stages
class Snapshots(Callback):
    """The network's tensors after every stage's last epoch."""

    def __init__(self):
        self.after, self.fit = {}, None

    def on_epoch_end(self, model, record):
        state = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.after.setdefault(record["stage"], []).append(state)


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
@pytest.mark.parametrize("self_expression", ["closed", "learned"])
def test_each_stage_trains_its_own_parts(self_expression, monkeypatch):
    _, after = fitted_with_snapshots(monkeypatch, self_expression=self_expression)
    assert list(after) == ["pretrain", "expression", "classifier", "refine"]
    changed = {}
    for before, stage in (("pretrain", "expression"), ("expression", "classifier"), ("classifier", "refine")):
        old, new = after[before][-1], after[stage][-1]
        changed[stage] = {name.split(".")[0] for name in new if not torch.equal(old[name], new[name])}
    coefficients = {"expression"} if self_expression == "learned" else set()
    assert changed["expression"] == {"autoencoder"} | coefficients
    assert changed["classifier"] == {"head"}
    assert changed["refine"] == {"autoencoder", "head"} | coefficients


def test_learning_rates(monkeypatch):
    """Adam's first step moves every entry by its learning rate: 1e-5 for the autoencoder, 1e-3 for the rest."""
    _, after = fitted_with_snapshots(
        monkeypatch, preset="paper", self_expression="learned", batch_size=50, soft_indicator=True,
        expression_epochs=1, classifier_epochs=0, epochs=0, scaling="global",
    )  # fmt: skip
    old, new = after["pretrain"][-1], after["expression"][-1]
    moves = {name: (new[name] - old[name]).abs().max().item() for name in new}
    autoencoder = [value for name, value in moves.items() if name.startswith("autoencoder")]
    assert max(autoencoder) == pytest.approx(1e-5, rel=0.05)
    assert moves["expression.0.coefficient"] == pytest.approx(1e-3, rel=0.05)


def test_batches_hold_enough_rows_and_come_often_enough():
    model, fit = begun("classifier", X=random_rows(25), batch_size=12, min_batches=7)
    batches = model._batches(fit)
    assert sorted(map(len, batches)) == [8] * 6 + [9] * 3  # 25 = 9 + 8 + 8, three times
    for start in (0, 3, 6):
        assert sorted(torch.cat(batches[start : start + 3]).tolist()) == list(range(25))
    fit.stage = "pretrain"
    assert [len(batch) for batch in model._batches(fit)] == [12, 12, 1]


def test_learned_coefficients_keep_their_rows():
    model, fit = begun("refine", X=random_rows(25), self_expression="learned")
    first, second = model._batches(fit), model._batches(fit)
    key = lambda batches: sorted(tuple(part.tolist()) for part in batches)  # noqa: E731
    assert key(first) == key(second)
    for part in first:
        assert model._layer(fit, part).coefficient.shape == (len(part), len(part))


@small_fits_collapse
def test_history():
    model = NCSC(K, random_state=0, **SMALL).fit(random_rows())
    assert [(r["stage"], r["epoch"]) for r in model.history_] == [
        (stage, epoch) for stage in ("pretrain", "expression", "classifier", "refine") for epoch in (1, 2)
    ]
    record = model.history_[-1]
    pairs = {"n_positive", "n_negative", "n_apart"}
    terms = {"reconstruction", "coefficients", "fidelity", "positive", "negative", "apart", "balance"}
    rest = {"loss", "seconds", "collapsed", "mean_max_assignment", "label_change", "cluster_sizes"}
    assert terms | pairs | rest <= set(record)
    expression, classifier = model.history_[3], model.history_[5]
    assert set(expression) == {
        "stage",
        "epoch",
        "seconds",
        "loss",
        "reconstruction",
        "coefficients",
        "fidelity",
    }
    loss = 0.5 * expression["reconstruction"] + expression["coefficients"] + expression["fidelity"]
    assert expression["loss"] == pytest.approx(loss, rel=1e-5)
    loss = sum(classifier[name] for name in ("positive", "negative", "apart", "balance"))
    assert classifier["loss"] == pytest.approx(loss, rel=1e-5)


# ---------------------------------------------------------------------- collapse
def test_a_collapse_is_noticed():
    with pytest.warns(UserWarning, match="NCSC collapsed: one of 10 clusters") as caught:
        model = NCSC(10, preset="paper", random_state=0, **(SMALL | {"batch_size": 300})).fit(digits())
    assert len(caught) == 1
    assert model.history_[-1]["collapsed"] is True
    assert max(model.history_[-1]["cluster_sizes"]) > 270


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
        ("pretrain_epochs", "expression_epochs", "classifier_epochs", "epochs"), 0
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
        ({"image_network": "vgg"}, "image_network must be one of 'conv', 'residual', got 'vgg'"),
        ({"channels": ()}, "channels must be a tuple of integers >= 1, at least one"),
        ({"self_expression": "exact"}, "self_expression must be one of 'closed', 'learned'"),
        ({"fidelity_weight": 0}, "fidelity_weight must be a finite number > 0"),
        ({"upper": 1.2}, "upper must be a finite number >= 0 and <= 1, got 1.2"),
        ({"soft_indicator": 1}, "soft_indicator must be True or False"),
        ({"min_batches": 0}, "min_batches must be an integer >= 1"),
        ({"preset": "best"}, "preset must be one of 'paper', 'robust'"),
        ({"image_shape": (3, 3)}, r"image_shape=\(3, 3\) has 9 pixels, but the rows of X have 8 columns"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NCSC(K, **(SMALL | options)).fit(random_rows())


@small_fits_collapse
def test_dense_affinity_is_equation_4():
    model = NCSC(K, random_state=0, dtype="float64", **SMALL).fit(random_rows())
    rows = np.array([3, 9, 4, 20, 28, 11])
    expected = affinity_of(constrained_coefficients(model.embedding_[rows], 1.0))
    np.testing.assert_allclose(model.dense_affinity(rows), expected, rtol=1e-8, atol=1e-12)


# ---------------------------------------------------------------------- resume, presets, memory, quality
class Interrupt(Callback):
    def __init__(self, stage, epoch):
        self.at = stage, epoch

    def on_epoch_end(self, model, record):
        if (record["stage"], record["epoch"]) == self.at:
            raise KeyboardInterrupt


@small_fits_collapse
@pytest.mark.parametrize("self_expression", ["closed", "learned"])
@pytest.mark.parametrize(
    ("stage", "epoch"),
    [
        ("pretrain", 2),
        ("expression", 1),
        ("expression", 2),
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
    paper, robust = NCSC._presets["paper"], NCSC._presets["robust"]
    assert set(paper) == set(robust) == set(NCSC._checks)
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
        "image_network": "conv", "self_expression": "closed", "apart_weight": 0, "balance_weight": 0,
    }  # fmt: skip
    assert {name: paper[name] for name in stated} == stated


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_a_batch_of_5000_images_fits_in_a_gigabyte():
    """The whole process, torch included. C alone would be 100 MB; eager pair losses hold a dozen such arrays."""
    # ru_maxrss would count what the process that starts this one had before
    code = """
import numpy as np
from desc_ext.models import NCSC
X = np.random.default_rng(0).random((5000, 28, 28), dtype=np.float32)
epochs = {"pretrain_epochs": 0, "expression_epochs": 0, "classifier_epochs": 0, "epochs": 1}
NCSC(10, random_state=0, batch_size=5000, min_batches=1, **epochs).fit(X)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2**20


@pytest.mark.slow
def test_quality_on_digits_with_defaults():
    X, y = load_digits(return_X_y=True)
    model = NCSC(10, random_state=0).fit(X.reshape(-1, 8, 8))
    baseline = KMeans(10, n_init=20, random_state=0).fit_predict(X)
    nmi = normalized_mutual_info_score(y, model.labels_)
    assert nmi > normalized_mutual_info_score(y, baseline)
    assert not model.history_[-1]["collapsed"]
