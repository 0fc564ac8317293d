"""NCSC's losses against the paper's formulas in NumPy (float64): eqs. 4 to 9, thresholds, teachers, weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.collaborative import (
    SMALL,
    K,
    affinity_of,
    begun,
    collaborative,
    constrained_coefficients,
    predictions,
    random_rows,
    small_fits_collapse,
    spread_predictions,
)

from desc_ext import ops
from desc_ext.algorithms.ncsc_losses import imbalance, separation_limit
from desc_ext.engine.state import Evaluation
from desc_ext.models import NCSC, ncsc


@pytest.mark.parametrize("self_expression", ["closed-form", "learned"])
def test_equation_9(self_expression):
    weight = 7.0
    model, fit, stage = begun("expression", self_expression=self_expression, fidelity_weight=weight)
    index = stage.batches()[1]
    x = fit.rows.take(index.numpy())
    z = fit.network.autoencoder.encode(x)
    if self_expression == "closed-form":
        c = constrained_coefficients(z.detach().numpy(), weight)
    else:
        layer = model._layer(fit, index)
        with torch.no_grad():
            layer.coefficient.normal_(generator=torch.Generator().manual_seed(0)).fill_diagonal_(0)
        c = layer.coefficient.detach().numpy()
    terms, _ = stage.terms(index, None)
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


@pytest.mark.parametrize("self_expression", ["closed-form", "learned"])
@pytest.mark.parametrize("preset", ["paper", "robust"])
def test_equations_5_to_7(preset, self_expression):
    options = {"separation_share": 0.4, "upper": 0.6, "lower": 0.8, "negative_weight": 0.5, "batch_size": 20}
    options |= {"fidelity_weight": 10.0} if preset == "paper" else {"fidelity_weight": 1.0}
    model, fit, stage = begun("classifier", preset=preset, self_expression=self_expression, **options)
    fit.epoch = 1
    spread_predictions(fit)
    fit.codes = model._encode_all(fit)
    index = stage.batches()[0]
    z = fit.codes[index]
    if self_expression == "closed-form":
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
    terms, _ = stage.terms(index, None)
    assert fit.n_pairs.tolist() == counts.tolist()
    assert terms["positive"][1].item() == pytest.approx(expected[0], rel=1e-8)
    assert terms["negative"][1].item() == pytest.approx(expected[1], rel=1e-8)
    assert (terms["positive"][0], terms["negative"][0]) == (1.0, 0.5)
    if preset == "paper":
        assert set(terms) == {"positive", "negative"}
        return
    assert counts[2] == pytest.approx(0.4 * n * (n - 1), rel=0.1)
    assert terms["separation"][1].item() == pytest.approx(expected[2], rel=1e-8)
    mean = (nu**2).mean(0)
    assert terms["balance"][1].item() == pytest.approx(math.log(K) + np.sum(mean * np.log(mean)), rel=1e-8)


@pytest.mark.parametrize("self_expression", ["closed-form", "learned"])
@pytest.mark.parametrize("soft", [False, True])
def test_teachers_carry_no_gradient_unless_asked(self_expression, soft):
    """In L_pos only A_c learns, in L_neg only A_s; with soft_indicator both do."""
    options = {"preset": "paper", "soft_indicator": soft, "upper": 0.3, "lower": 0.9}
    model, fit, stage = begun("refine", self_expression=self_expression, **options)
    fit.epoch = 1
    spread_predictions(fit)
    index = stage.batches()[0]
    if self_expression == "learned":  # 1e-4 everywhere makes all pairs equal
        with torch.no_grad():
            for layer in fit.network.expression:
                layer.coefficient.normal_(generator=torch.Generator().manual_seed(0)).fill_diagonal_(0)
    for name, student, teacher in (("positive", "head", "A_s"), ("negative", "A_s", "head")):
        fit.network.zero_grad(set_to_none=True)
        z = fit.network.autoencoder.encode(fit.rows.take(index.numpy())).detach().requires_grad_()
        y = None
        if self_expression == "closed-form":
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

    def watched(nu, y, upper, lower, *rest):
        seen.append((upper, lower))
        return loss(nu, y, upper, lower, *rest)

    monkeypatch.setattr(ops, "collaborative_loss", watched)
    NCSC(K, random_state=0, init="k-means", **(SMALL | {"batch_size": 50})).fit(random_rows())
    assert seen == [(0.7, 0.1), (0.9, 0.1), (0.9, 0.1), (0.9, 0.1)]  # two epochs of each stage
    seen.clear()
    options = SMALL | {"batch_size": 50, "classifier_epochs": 0, "init": "random"}
    NCSC(K, random_state=0, **options).fit(random_rows())
    assert seen == [(0.7, 0.1), (0.9, 0.1)]


def test_loss_weight_brings_both_losses_to_one_size():
    _, fit, stage = begun("refine", collaborative_weight=2.0, separation_weight=0.25, fidelity_weight=3.0)
    fit.history = [
        {"stage": "expression", "loss": 50.0},
        {"stage": "expression", "loss": 12.0},
        {"stage": "classifier", "loss": 0.3},
    ]
    fit.epoch = 1
    index = stage.batches()[0]
    terms, _ = stage.terms(index, None)
    scale = 2.0 * 12.0 / 0.3
    assert terms["positive"][0] == pytest.approx(scale)
    assert terms["balance"][0] == pytest.approx(scale)
    assert terms["separation"][0] == pytest.approx(0.25 * scale)
    assert terms["fidelity"][0] == 3.0
    fit.history = []  # without those stages λ_cl is the weight itself
    assert stage.terms(index, None)[0]["positive"][0] == 2.0


def test_the_anchor_is_in_units_of_the_loss_of_stage_1():
    _, fit, stage = begun("refine", anchor_weight=0.5, corruption=0.0)
    fit.history = [{"stage": "expression", "loss": 50.0}, {"stage": "expression", "loss": 12.0}]
    n, n_clusters = len(fit.rows), fit.options.n_clusters
    targets = torch.eye(n_clusters, dtype=torch.float64)[torch.arange(n) % n_clusters]
    index = stage.batches()[0]
    evaluation = Evaluation(torch.zeros(n, 1), torch.zeros(n), anchor=targets)
    weight, loss = stage.terms(index, evaluation)[0]["anchor"]
    assert weight == 0.5 * 12.0
    x = fit.rows.take(index.numpy())
    with torch.no_grad():
        proba = fit.network.classify(fit.network.autoencoder.encode(x)).numpy()
    expected = -np.mean(np.log(proba[np.arange(len(index)), index.numpy() % n_clusters]))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_separation_limit_is_a_quantile():
    rng = np.random.default_rng(0)
    y = 0.05 * rng.normal(size=(400, 12))
    h = (y**2).sum(1)
    c = (y @ y.T) / (1 - h[:, None])
    np.fill_diagonal(c, 0)
    a_s = affinity_of(c) - np.eye(400)
    rows, off = torch.from_numpy(y), ~np.eye(400, dtype=bool)
    row_max = torch.from_numpy(((np.abs(c) + np.abs(c.T)) / 2).max(1))
    for share in (0.2, 0.7):
        limit = separation_limit(rows, row_max, share)
        assert (a_s[off] < limit).mean() == pytest.approx(share, abs=0.02)
        dense = torch.from_numpy((np.abs(c) + np.abs(c.T)) / 2)
        assert separation_limit(dense, None, share) == pytest.approx(limit)
    assert separation_limit(rows, row_max, 0.0) == 0.0
    assert separation_limit(rows[:2], row_max[:2], 0.5) == 0.0


def test_imbalance():
    assert imbalance(torch.eye(K, dtype=torch.float64).repeat(4, 1)).item() == pytest.approx(0)
    assert imbalance(torch.eye(K)[:1].repeat(4, 1)).item() == pytest.approx(math.log(K))
    shares = np.array([0.2, 0.3, 0.5])
    nu = torch.eye(K, dtype=torch.float64).repeat_interleave(torch.tensor([2, 3, 5]), 0)
    assert imbalance(nu).item() == pytest.approx(math.log(K) + np.sum(shares * np.log(shares)))


@small_fits_collapse
def test_the_separation_limit_is_found_once_an_epoch(monkeypatch):
    """It is a number that the device has to be waited for: not in every mini-batch."""
    limits = []

    def watched(*arguments):
        limits.append(separation_limit(*arguments))
        return limits[-1]

    used = []
    loss = ops.collaborative_loss

    def watched_loss(nu, y, upper, lower, limit, *rest):
        used.append(limit)
        return loss(nu, y, upper, lower, limit, *rest)

    monkeypatch.setattr(ncsc, "separation_limit", watched)
    monkeypatch.setattr(ops, "collaborative_loss", watched_loss)
    NCSC(K, random_state=0, init="k-means", **SMALL).fit(random_rows())
    n_batches = 3  # 30 rows, 12 at most
    assert len(limits) == 4
    assert used == [limit for limit in limits for _ in range(n_batches)]


@small_fits_collapse
def test_dense_affinity_is_equation_4():
    model = NCSC(K, random_state=0, dtype="float64", fidelity_weight=1.0, **SMALL).fit(random_rows())
    rows = np.array([3, 9, 4, 20, 28, 11])
    expected = affinity_of(constrained_coefficients(model.embedding_[rows], 1.0))
    np.testing.assert_allclose(model.dense_affinity(rows), expected, rtol=1e-8, atol=1e-12)
