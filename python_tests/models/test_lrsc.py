"""LRSC: every loss against the paper's formula in NumPy, Algorithm 1 by hand, switches, limits, resuming."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from helpers.interrupt import Interrupt
from helpers.transfer import IMAGES, SMALL, begun, other, rows
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from torch import nn
from typer.testing import CliRunner

from desc_ext.algorithms.distillation import distillation_loss, median_squared_distance
from desc_ext.algorithms.meta_learning import meta_gradient
from desc_ext.cli import app
from desc_ext.engine.external import External
from desc_ext.engine.stages import WEIGHTED
from desc_ext.features import resized_images
from desc_ext.models import LRSC, load_model

# Losses


def weights_by_hand(t, bandwidth):
    return np.exp(-np.square(t[:, None] - t).sum(2) / bandwidth)


def unit(z):
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def distillation_by_hand(z, t, bandwidth, form="ratio"):
    n = len(z)
    distances = np.square(unit(z)[:, None] - unit(z)).sum(2)  # the diagonal is 0
    energy = (weights_by_hand(t, bandwidth) * distances).sum() / 2
    return energy / (n * (n - 1) if form == "energy" else distances.sum() / 2)


def test_distillation_and_bandwidth():
    z, t = rows(30, 4), rows(30, 6, seed=2)
    squared = np.square(t[:, None] - t).sum(2)[np.triu_indices(30, 1)]
    bandwidth = median_squared_distance(torch.from_numpy(t), 0)
    assert sorted(squared)[(len(squared) - 1) // 2] == pytest.approx(bandwidth)
    for form in ("energy", "ratio"):
        found, longer = (
            distillation_loss(torch.from_numpy(factor * z), torch.from_numpy(t), bandwidth, form).item()
            for factor in (1, 3)
        )
        assert found == pytest.approx(distillation_by_hand(z, t, bandwidth, form), rel=1e-9)
        assert longer == pytest.approx(found)  # no reward for shrinking z
    # nor, with "ratio", for moving all codes together
    near = torch.from_numpy(z + 100 * np.ones(4))
    together = [
        distillation_loss(near, torch.from_numpy(t), bandwidth, form).item() for form in ("energy", "ratio")
    ]
    assert together[0] < 1e-2 * distillation_by_hand(z, t, bandwidth, "energy")
    assert together[1] > 0.5 * distillation_by_hand(z, t, bandwidth, "ratio")
    assert distillation_loss(torch.ones(4, 2), torch.ones(4, 2), 1.0, "ratio").isfinite()
    assert median_squared_distance(torch.zeros(5, 2), 0) == 1


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_the_loss_of_the_full_batch_steps(penalty):
    """Eq. 9, term by term."""
    X = rows()
    model = LRSC(
        3, external=other(), penalty=penalty, fidelity_weight=5.0, coefficient_weight=0.3, distillation_weight=2.0,
        contrast_weight=0.7, temperature=0.2, coefficient_scale="absolute", dtype="float64", **SMALL,
    )  # fmt: skip
    fit, stage = begun(model, X, "expression")
    coefficient, network = fit.network.expression.coefficient, fit.network.autoencoder
    with torch.no_grad():
        coefficient.normal_(generator=torch.Generator().manual_seed(0))
    (index,) = stage.batches()
    terms, _ = stage.terms(index, None)
    x = (X - X.mean(0)) / (X - X.mean(0)).std()
    z = network.encode(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1)
    c = coefficient.detach().numpy() * (1 - np.eye(40))
    g = c @ z
    back = network.decode(torch.from_numpy(g)).detach().numpy()
    t = fit.network.teachers[0].features(torch.from_numpy(x)).detach().numpy()
    logits = unit(z) @ unit(g).T / 0.2
    bandwidth = median_squared_distance(torch.from_numpy(t), fit.seed + 5)
    expected = {
        "reconstruction": (0.5, np.mean((x - back) ** 2)),
        "fidelity": (5.0, np.sum((z - g) ** 2) / 2 / 40),
        "coefficients": (0.3, np.sum(c**2 if penalty == "l2" else np.abs(c)) / 40),
        "distillation": (2.0, distillation_by_hand(z, t, bandwidth)),
        "contrast": (0.7, np.mean(np.log(np.exp(logits).sum(1)) - logits.diagonal())),
    }
    assert set(terms) == set(expected)
    for name, (weight, value) in expected.items():
        assert terms[name][0] == weight
        assert terms[name][1].item() == pytest.approx(value, rel=1e-8), name


def test_the_loss_of_the_mini_batches_and_of_the_episodes():
    """Algorithm 2's first loop is eq. 9 without C and contrast; eq. 6 is eq. 7 on a half of an episode."""
    X, (E, labels) = rows(), other()
    weights = {"fidelity_weight": 5.0, "coefficient_weight": 0.3, "coefficient_scale": "absolute"}
    model = LRSC(3, external=(E, labels), dtype="float64", **weights, **SMALL)
    fit, stage = begun(model, X, "pretrain")
    index = torch.tensor([3, 1, 30, 22])
    terms, _ = stage.terms(index, None)
    x = ((X - X.mean(0)) / (X - X.mean(0)).std())[index]
    z, back = (part.detach().numpy() for part in fit.network.autoencoder(torch.from_numpy(x)))
    features, bandwidth = fit.knowledge
    assert set(terms) == {"reconstruction", "distillation"}
    assert terms["reconstruction"][1].item() == pytest.approx(np.mean((x - back) ** 2))
    by_hand = distillation_by_hand(z, features[index].numpy(), bandwidth)
    assert terms["distillation"][1].item() == pytest.approx(by_hand)

    fit.order.manual_seed(7)
    half, train, test = fit.external.draw_episode(3, 24, fit.order)
    fit.order.manual_seed(7)
    losses = model._task(fit)
    for index, loss in zip((train, test), losses, strict=True):
        terms = loss(fit.network.autoencoder)
        x = ((E - E.mean(0)) / (E - E.mean(0)).std())[index]
        z = fit.network.autoencoder.encode(torch.from_numpy(x)).detach().numpy()
        gram = z @ z.T
        fidelity = 0.0
        for i in range(len(z)):  # C by a regression for every row
            rest = np.delete(np.arange(len(z)), i)
            c = np.linalg.solve(gram[np.ix_(rest, rest)] + 2 * 0.3 / 5 * np.eye(len(rest)), gram[rest, i])
            fidelity += np.square(z[i] - c @ z[rest]).sum() / 2
        assert terms["fidelity"][1].item() == pytest.approx(fidelity / len(z), rel=1e-7)
        # the other half's teacher
        t = fit.network.teachers[1 - half].features(torch.from_numpy(x)).detach().numpy()
        own = External.split(E, labels, "global", torch.device("cpu"), torch.float64, fit.seed + 3).halves[
            half
        ]
        xs = ((E - E.mean(0)) / (E - E.mean(0)).std())[own]
        everything = fit.network.teachers[1 - half].features(torch.from_numpy(xs)).detach()
        bandwidth = median_squared_distance(everything, fit.seed + 5)
        assert terms["distillation"][1].item() == pytest.approx(distillation_by_hand(z, t, bandwidth))


# Algorithm 1


def test_episodes():
    X, labels = other(200, classes=10)
    external = External.split(X, labels, "none", torch.device("cpu"), torch.float64, 0)
    assert sorted(torch.cat(external.halves).tolist()) == list(range(200))
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(50):
        half, train, test = external.draw_episode(3, 20, generator)
        both = torch.cat([train, test])
        assert len(set(both.tolist())) == len(train) + len(test) == 20
        assert abs(len(train) - len(test)) <= 1
        assert set(both.tolist()) <= set(external.halves[half].tolist())
        assert (external.half_of[both] == half).all()
        assert len(set(labels[both])) <= 3
        seen |= set(both.tolist())
    assert len(seen) > 190
    unlabelled = External.split(X, None, "none", torch.device("cpu"), torch.float64, 0)
    _, train, test = unlabelled.draw_episode(3, 20, generator)
    assert len(set(labels[torch.cat([train, test])])) > 3


def test_meta_gradient_by_hand():
    """Losses ½‖A θ − b‖²: θ_i = θ − α Aᵀ(Aθ − b), twice; then the mean over tasks of Bᵀ(Bθ_i − c)."""
    random = np.random.default_rng(0)
    model = nn.Linear(3, 1, bias=False).double()
    theta = model.weight.detach().numpy().ravel().copy()
    parts = [[(random.normal(size=(4, 3)), random.normal(size=4)) for _ in range(2)] for _ in range(3)]

    def loss(a, b):
        a, b = torch.from_numpy(a), torch.from_numpy(b)
        return lambda learner: {"half": (0.5, (learner(a)[:, 0] - b).square().sum())}

    means = meta_gradient(model, [(loss(*train), loss(*test)) for train, test in parts], 2, 0.05)
    gradient, value = np.zeros(3), 0.0
    for (a, b), (a_test, b_test) in parts:
        adapted = theta.copy()
        for _ in range(2):
            adapted -= 0.05 * a.T @ (a @ adapted - b)
        gradient += a_test.T @ (a_test @ adapted - b_test) / 3
        value += np.sum((a_test @ adapted - b_test) ** 2) / 3
    np.testing.assert_allclose(model.weight.grad.numpy().ravel(), gradient)
    np.testing.assert_array_equal(model.weight.detach().numpy().ravel(), theta)  # only the optimiser moves it
    assert means["half"].item() == pytest.approx(value)
    assert means["loss"].item() == pytest.approx(value / 2)


def test_the_meta_learner_is_the_start():
    X = rows()
    for task_level in (True, False):
        model = LRSC(
            3, external=other(), task_level=task_level, model_level=False, **SMALL | {"meta_epochs": 3}
        )
        seen, before = [], [p.clone() for p in model.begin(X).network.autoencoder.parameters()]

        def watched(state, stages=model.stages, seen=seen):
            def look(name):
                seen.append([name, *(p.detach().clone() for p in state.network.autoencoder.parameters())])

            return [replace(stage, before=partial(look, stage.name)) for stage in stages(state)]

        model.stages = watched
        model.callbacks = [Interrupt("pretrain", 1)]
        with pytest.raises(KeyboardInterrupt):
            model.fit(X)
        assert [stage for stage, *_ in seen] == (["meta", "pretrain"] if task_level else ["pretrain"])
        moved = any(not torch.equal(a, b) for a, b in zip(before, seen[-1][1:], strict=True))
        assert moved == task_level


# Estimator


def planted(seed=0, n=150, m=20):
    """Four directions of three dimensions each, mixed by one linear map; the first three are the classes to find."""
    random = np.random.default_rng(seed)
    mix = np.linalg.qr(np.random.default_rng(99).normal(size=(m, m)))[0]
    labels = random.integers(0, 3, n)
    z = np.zeros((n, m))
    for k in range(3):
        z[labels == k, 3 * k : 3 * k + 3] = random.normal(size=((labels == k).sum(), 3))
    return z @ mix.T + 0.05 * random.normal(size=(n, m)), labels


@pytest.mark.parametrize(
    "options", [{}, {"self_expression": "closed-form"}, {"penalty": "l1", "coefficient_weight": 0.02}]
)
def test_subspaces_are_found(options):
    X, y = planted()
    settings = SMALL | {
        "latent_dim": 16,
        "pretrain_epochs": 20,
        "max_steps": 20,
        "scaling": "none",
        "coefficient_weight": 0.05,
    }
    model = LRSC(3, external=planted(1, 200), **settings | options).fit(X)
    assert adjusted_rand_score(y, model.labels_) > 0.9
    assert set(model.labels_) == {0, 1, 2}
    stages = ["teacher"] * 2 + ["meta"] + ["pretrain"] * 20 + ["expression"] * 20
    assert [record["stage"] for record in model.history_] == stages
    assert not hasattr(model.network_, "teachers")
    assert not hasattr(model, "predict")


SWITCHES = {
    "none": ({"task_level": False, "model_level": False, "self_supervision": False}, set(), set()),
    "task": ({"model_level": False, "self_supervision": False}, {"meta"}, set()),
    "task and model": ({"self_supervision": False}, {"teacher", "meta"}, {"distillation"}),
    "model": ({"task_level": False, "self_supervision": False}, {"teacher"}, {"distillation"}),
    "all": ({}, {"teacher", "meta"}, {"distillation", "contrast"}),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_switches_of_table_3(name):
    options, stages, terms = SWITCHES[name]
    history = LRSC(3, external=other(), **SMALL | options).fit(rows()).history_
    assert {record["stage"] for record in history} == {"pretrain", "expression"} | stages
    base = {"stage", "epoch", "seconds", "loss", "reconstruction"}
    records = {record["stage"]: {key for key in record if not key.startswith(WEIGHTED)} for record in history}
    assert records["expression"] == base | {"fidelity", "coefficients"} | terms
    assert records["pretrain"] == base | terms - {"contrast"}
    if "meta" in stages:
        assert records["meta"] == base | {"fidelity", "coefficients"} | terms - {"contrast"}


def test_without_external_data():
    model = LRSC(3, **SMALL).fit(rows())
    assert {record["stage"] for record in model.history_} == {"pretrain", "expression"}
    assert (model.resolved_params_["task_level"], model.resolved_params_["model_level"]) == (False, False)
    assert "contrast" in model.history_[-1]


@pytest.mark.parametrize("shape", [(9, 9), (2, 9, 9)])
def test_images(shape):
    """External images of another size are resized; the network halves in every layer."""
    random = np.random.default_rng(0)
    X, E = random.normal(size=(50, *shape)), random.normal(size=(60, *shape[:-2], 12, 10))
    options = IMAGES | {"image_shape": shape}
    model = LRSC(3, external=(E, np.arange(60) % 3), **options).fit(X)
    assert model.embedding_.shape == (50, 4 * 3 * 3)
    np.testing.assert_array_equal(model.transform(X), model.embedding_)
    last = np.moveaxis(E, 1, -1) if len(shape) == 3 else E[..., None]
    for external in (resized_images(E, (9, 9)), last):
        again = LRSC(3, external=(external, np.arange(60) % 3), **options).fit(X)
        np.testing.assert_array_equal(again.embedding_, model.embedding_)
    with pytest.raises(
        ValueError, match=rf"LRSC: external: .* the wanted {len(E[0]) if len(shape) == 3 else 1}"
    ):
        LRSC(3, external=(random.normal(size=(60, 5, 9, 9)), np.arange(60) % 3), **options).fit(X)


def test_resized_images_as_pillow_does():
    image = pytest.importorskip("PIL.Image")
    X = np.random.default_rng(0).normal(size=(3, 28, 21)).astype(np.float32)
    expected = [np.asarray(image.fromarray(x).resize((32, 11), image.Resampling.BILINEAR)) for x in X]
    np.testing.assert_allclose(resized_images(X, (11, 32)), expected, atol=1e-5)
    colour = np.stack([X, 2 * X], axis=1)
    np.testing.assert_allclose(resized_images(colour, (11, 32))[:, 1], 2 * np.array(expected), atol=1e-5)


def test_scattering_features_of_external_images():
    digits = load_digits()
    external = (digits.images[200:300], digits.target[200:300])
    model = LRSC(3, features="scattering", feature_dim=10, external=external, **SMALL).fit(
        digits.images[:100]
    )
    assert model.features_ is not None
    assert model.n_features_in_ == 64
    expected = model.features_.transform(digits.images[200:300].reshape(100, -1))
    ready = LRSC(3, external=(expected, external[1]), **SMALL).fit(
        model.features_.transform(digits.images[:100])
    )
    np.testing.assert_allclose(ready.embedding_, model.embedding_, atol=1e-5)


@pytest.mark.parametrize(
    ("external", "message"),
    [
        (np.zeros((20, 81)), "LRSC: external data have 81 columns, but X has 64; .* must be a stack"),
        (np.full((20, 8, 8), np.nan), "LRSC: external data contain NaN or infinity"),
    ],
)
def test_external_images_that_have_no_features(external, message):
    with pytest.raises(ValueError, match=message):
        LRSC(3, features="scattering", external=(external, np.arange(20) % 2), **SMALL).fit(
            load_digits().images[:50]
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"external": (rows(60, 7), np.arange(60) % 3)}, "external data have 7 columns, but X has 8"),
        ({"external": rows(60)}, "teacher='classifier' needs classes of the external data"),
        (
            {"external": (rows(60), np.arange(59))},
            r"external classes must be one a row, \[60\]; got shape \[59\]",
        ),
        ({"external": (rows(60), np.zeros(60))}, "external data have one class"),
        ({"external": (rows(60), None, None)}, "external must be .* got 3 parts"),
        ({"external": (rows(6), np.arange(6))}, "external data have 6 rows; wanted 8 at least"),
        (
            {"external": (np.full((20, 8), np.nan), np.arange(20) % 2)},
            "external data contain NaN or infinity",
        ),
        ({"external": (np.array([["a"]] * 20), np.arange(20))}, "external X must be rows"),
        ({"external": "mnist"}, r"external must be \(X, y\) or X, got the name 'mnist'.*load_dataset"),
        ({"teacher": "oracle"}, "teacher must be one of 'classifier', 'autoencoder'"),
        ({"teacher_sizes": (5, 5)}, "teacher_sizes must be three integers"),
        ({"teacher_channels": (5, 4, 4, 4)}, "teacher_channels must be four integers"),
        ({"temperature": 0}, "temperature must be a finite number > 0"),
        (
            {"external": other(), "coefficient_weight": 0.0},
            "coefficient_weight must be > 0 for C's closed form",
        ),
        ({"resume": True}, "LRSC: resume=True needs checkpoint"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LRSC(3, **SMALL | options).fit(rows())


def test_too_many_rows_name_the_closed_form():
    X = np.broadcast_to(np.arange(10_001, dtype=np.float32)[:, None], (10_001, 3))
    with pytest.raises(ValueError, match="10,000 at most; use self_expression='closed-form'"):
        LRSC(3, **SMALL).fit(X)


STAGES = [("teacher", 1), ("teacher", 2), ("meta", 1), ("meta", 2), ("pretrain", 2), ("expression", 2)]


@pytest.mark.bits
@pytest.mark.parametrize("at", STAGES)
def test_resumed_fit_has_the_same_bits(at, tmp_path):
    X, options = rows(), SMALL | {"meta_epochs": 2, "external": other()}
    whole = LRSC(3, **options).fit(X)
    with pytest.raises(KeyboardInterrupt):
        LRSC(3, checkpoint=tmp_path, callbacks=[Interrupt(*at)], **options).fit(X)
    resumed = LRSC(3, checkpoint=tmp_path, resume=True, **options).fit(X)
    for name in ("coefficients_", "embedding_", "labels_", "initial_labels_"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    strip = [{key: value for key, value in record.items() if key != "seconds"} for record in whole.history_]
    assert [{k: v for k, v in record.items() if k != "seconds"} for record in resumed.history_] == strip


def test_resume_refuses_other_external_data(tmp_path):
    X, (E, labels) = rows(), other()
    LRSC(3, checkpoint=tmp_path, external=(E, labels), **SMALL).fit(X)
    with pytest.raises(ValueError, match="external: "):
        LRSC(3, checkpoint=tmp_path, resume=True, external=(E + 1, labels), **SMALL).fit(X)


@pytest.mark.bits
def test_same_seed_same_bits_and_the_seed_matters():
    X, options = rows(), SMALL | {"external": other()}
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = LRSC(3, **options).fit(X)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(LRSC(3, **options).fit(X).embedding_, first.embedding_)
    assert not np.array_equal(LRSC(3, **options | {"random_state": 1}).fit(X).embedding_, first.embedding_)


@pytest.mark.bits
def test_save_and_load(tmp_path):
    X = rows()
    model = LRSC(3, external=other(), **SMALL).fit(X)
    model.save(tmp_path)
    for loaded in (LRSC.load(tmp_path), load_model(tmp_path)):
        assert loaded.external is None
        np.testing.assert_array_equal(loaded.coefficients_, model.coefficients_)
        np.testing.assert_array_equal(loaded.transform(X), model.embedding_)
        assert loaded.history_ == model.history_
    names = json.loads((tmp_path / "config.json").read_text())["shapes"]
    assert not any("teacher" in name for name in names)


# Command line


def test_command_line(tmp_path):
    X, y = planted()
    E, labels = planted(1, 200)
    np.savez(tmp_path / "x.npz", X=X, kind=y)
    np.savez(tmp_path / "e.npz", X=E, sort=labels)
    settings = [
        f"--set={key}={value}"
        for key, value in SMALL.items()
        if isinstance(value, int) and key not in ("max_steps", "random_state")
    ]
    command = [
        "fit",
        tmp_path / "x.npz",
        "--labels",
        "kind",
        "--model",
        "lrsc",
        "--clusters",
        3,
        "--epochs",
        4,
        *settings,
    ]
    command += ["--set", "teacher_sizes=8,7,6", "--external", tmp_path / "e.npz", "--external-labels", "sort"]
    done = CliRunner().invoke(app, [str(part) for part in [*command, "--out", tmp_path / "out"]])
    assert done.exit_code == 0, done.output
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"labels.npy", "affinity.png", "curves.png", "history.csv", "model"} <= written
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["parameters"]["external"] == config["options"]["external"] == str(tmp_path / "e.npz")
    again = LRSC(3, external=(E, labels), **SMALL | {"max_steps": 4}).fit(X)
    np.testing.assert_array_equal(again.labels_, np.load(tmp_path / "out" / "labels.npy"))
    np.testing.assert_array_equal(again.embedding_, np.load(tmp_path / "out" / "embedding.npy"))
    done = CliRunner().invoke(
        app,
        [
            str(part)
            for part in ["predict", tmp_path / "out", tmp_path / "x.npz", "--out", tmp_path / "l.npy"]
        ],
    )
    assert (done.exit_code, "lrsc assigns no new rows" in done.output) == (2, True)
    other_model = [part if part != "lrsc" else "desc" for part in map(str, command)]
    done = CliRunner().invoke(app, [*other_model, "--out", str(tmp_path / "o")])
    assert (done.exit_code, "desc has no option external: leave out --external" in done.output) == (2, True)
