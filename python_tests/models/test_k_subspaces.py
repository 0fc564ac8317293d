"""k-subspaces against planted subspaces and a plain NumPy alternation: start, alternation, estimator, command line."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from helpers.commands import RESULTS
from helpers.subspaces import D, K, P, model, planted, projectors
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize
from typer.testing import CliRunner

from desc_ext import cli
from desc_ext.algorithms.k_subspaces import (
    KSubspacesOptions,
    lloyd,
    search,
    self_expressive_labels,
    subspace_seeds,
    typical_dimension,
)
from desc_ext.cli.run import scaled_input
from desc_ext.data import Dataset
from desc_ext.engine.callbacks import Callback, Evaluate
from desc_ext.engine.state_folder import read_state_folder, write_state_folder
from desc_ext.models import DESC, KSubspaces, load_model


def numpy_step(X, labels, n_clusters, dim):
    """One iteration straight from the definition: scatter, eigenvectors, residuals; float64."""
    bases = []
    for k in range(n_clusters):
        rows = X[labels == k]
        scatter = sum((np.outer(x, x) for x in rows), np.zeros((X.shape[1],) * 2))
        bases.append(np.linalg.eigh(scatter)[1][:, ::-1][:, :dim])
    residual = np.array([[np.sum((x - s @ (s.T @ x)) ** 2) for s in bases] for x in X])
    return np.array(bases), residual


# ---------------------------------------------------------------------- the algorithm


@pytest.mark.parametrize("dim", [1, D, P])
def test_one_iteration_is_the_closed_form(dim):
    X, _, _ = planted(200, noise=0.3)
    labels = np.random.default_rng(1).integers(K, size=len(X))
    bases, residual = numpy_step(X, labels, K, dim)
    reports = []

    def report(record, nearest):
        reports.append((record, nearest.numpy()))
        return True

    found = lloyd(torch.from_numpy(X), torch.from_numpy(labels), KSubspacesOptions(K, dim, 1, 0), report)
    (record, nearest) = reports[0]
    assert found.n_iter == len(reports) == 1
    np.testing.assert_allclose(projectors(found.bases.numpy()), projectors(bases), atol=1e-9)
    assert found.residual == record["loss"] == pytest.approx(residual.min(1).mean(), abs=1e-12)
    if dim < P:  # with d = p every residual is 0 and the nearest subspace a matter of rounding
        np.testing.assert_array_equal(nearest, residual.argmin(1))
        assert record["cluster_sizes"] == np.bincount(residual.argmin(1), minlength=K).tolist()
        assert record["label_change"] == pytest.approx(np.mean(residual.argmin(1) != labels))


@pytest.mark.parametrize("init", ["k-means", "k-subspaces++"])
def test_the_alternation_ends_where_plain_numpy_ends(init):
    X, _, _ = planted(150, noise=0.4, seed=3)
    how = KSubspacesOptions(K, D, 1, 5, init=init)
    found = search(torch.from_numpy(X), how, lambda *_: False)
    labels, steps = found.start.numpy(), 0
    while True:
        _, residual = numpy_step(X, labels, K, D)
        steps += 1
        if np.array_equal(residual.argmin(1), labels):
            break
        labels = residual.argmin(1)
    np.testing.assert_array_equal(found.labels.numpy(), labels)
    assert found.n_iter == steps > 2
    assert found.residual == pytest.approx(residual.min(1).mean(), rel=1e-9)


@pytest.mark.parametrize("init", ["k-means", "k-subspaces++"])
def test_the_residual_never_rises_and_the_best_restart_is_kept(init):
    records = []
    rows = torch.from_numpy(normalize(load_digits().data[:500]))
    search(rows, KSubspacesOptions(10, 4, 5, 0, init=init), lambda record, _: records.append(record))
    losses = {stage: [r["loss"] for r in records if r["stage"] == stage] for stage in ("restart", "refine")}
    assert len(losses["restart"]) == 5
    assert len(losses["refine"]) > 3
    assert np.all(np.diff(losses["refine"]) <= 1e-12)
    assert losses["refine"][-1] == min(losses["restart"]) < max(losses["restart"])


def test_seeds_are_drawn_from_what_fits_worst():
    """Without noise a drawn row and its neighbours span its own subspace, whose rows are not drawn again."""
    X, _, bases = planted(400, noise=0.0, n_clusters=3, p=30)
    for seed in range(5):
        seeds = subspace_seeds(torch.from_numpy(X), 3, D, seed).numpy()
        assert seeds.shape == (3, 30, D)
        np.testing.assert_allclose(np.swapaxes(seeds, 1, 2) @ seeds, np.eye(D)[None].repeat(3, 0), atol=1e-12)
        distance = np.linalg.norm(projectors(seeds)[:, None] - projectors(bases)[None], axis=(2, 3))
        assert distance.min(1).max() < 1e-6
        assert sorted(distance.argmin(1)) == [0, 1, 2]


def clusters_about_means(n, dims, p=40):
    """n rows about each of far means, with equal energy in ``dims[k]`` directions of their own."""
    random, rows = np.random.default_rng(0), []
    for k, dim in enumerate(dims):
        part = np.zeros((n, p))
        part[:, k] = 10
        start = len(dims) + sum(dims[:k])
        part[:, start : start + dim] = np.linalg.qr(random.normal(size=(n, dim)))[0]
        rows.append(part)
    return np.concatenate(rows)


@pytest.mark.parametrize("scale", [1.0, 1e-120])
def test_the_dimension_is_that_of_the_directions_about_the_means(scale):
    X = torch.from_numpy(scale * clusters_about_means(400, (3, 6, 9)))
    assert typical_dimension(X, 3, 0) == 1 + 6
    # not more than n/(5 K) or half of the columns
    for n, most in ((25, 5), (10, 2), (9, 1)):
        assert typical_dimension(torch.from_numpy(scale * clusters_about_means(n, (3, 6, 9))), 3, 0) == most
    even = torch.from_numpy(scale * np.random.default_rng(0).normal(size=(400, 9)))
    assert typical_dimension(even, 1, 0) == 4
    assert typical_dimension(torch.zeros(50, 40), 1, 0) == 1


def test_the_dimension_follows_the_spectra_of_the_clusters():
    X = normalize(load_digits().data)
    labels = KMeans(10, n_init=1, random_state=5).fit(X).labels_
    counts = []
    for k in range(10):
        energy = np.sort(np.linalg.svd(X[labels == k], compute_uv=False) ** 2)[-2::-1]
        counts.append(energy.sum() ** 2 / np.square(energy).sum())
    assert typical_dimension(torch.from_numpy(X), 10, 5) == round(1 + np.mean(counts))
    fitted = [
        KSubspaces(10, n_init=1, max_iter=1, random_state=0, dtype=t).fit(X) for t in ("float32", "float64")
    ]
    assert len({model.resolved_params_["subspace_dim"] for model in fitted}) == 1
    assert fitted[0].resolved_params_["subspace_dim"] in (round(np.mean(counts)) + i for i in (0, 1, 2))


def test_seeds_from_fewer_rows_than_dimensions():
    X = np.random.default_rng(0).normal(size=(3, 8))
    seeds = subspace_seeds(torch.from_numpy(X), 2, 5, 0).numpy()
    np.testing.assert_allclose(np.swapaxes(seeds, 1, 2) @ seeds, np.eye(5)[None].repeat(2, 0), atol=1e-12)
    zeros = subspace_seeds(torch.zeros(6, 8, dtype=torch.float64), 2, 5, 0).numpy()
    np.testing.assert_allclose(np.swapaxes(zeros, 1, 2) @ zeros, np.eye(5)[None].repeat(2, 0), atol=1e-12)


def test_a_start_by_self_expression_keeps_subspaces_and_copies_apart():
    X, y, _ = planted(400, noise=0.02, n_clusters=3, p=30)
    rows = torch.from_numpy(normalize(X))
    assert adjusted_rand_score(y, self_expressive_labels(rows, 3, 0).numpy()) == 1.0
    few = rows[[0, 1, 0, 1, 1]]  # no more different rows than clusters
    assert self_expressive_labels(few, 3, 0).tolist() == [0, 1, 0, 1, 1]


def test_empty_clusters_are_repaired_and_counted():
    X, y, _ = planted(300, noise=0.01)
    X = np.pad(X, ((0, 0), (0, D)))  # a cluster without rows spans the last D axes, and is no row's nearest
    crowded = np.where(y == 3, 0, y)
    once = lloyd(torch.from_numpy(X), torch.from_numpy(crowded), KSubspacesOptions(K, D, 1, 0, max_iter=1))
    _, residual = numpy_step(X, crowded, K, D)
    worst = np.sort(np.argsort(residual[:, :3].min(1))[-D:])
    np.testing.assert_array_equal(np.flatnonzero(once.labels.numpy() == 3), worst)
    records = []
    found = lloyd(
        torch.from_numpy(X),
        torch.from_numpy(crowded),
        KSubspacesOptions(K, D, 1, 0),
        lambda r, _: records.append(r),
    )
    sizes = np.bincount(found.labels.numpy(), minlength=K)
    assert sizes.min() > 0
    assert found.n_reseeded == sum(r["n_reseeded"] for r in records) >= 1
    assert records[0]["cluster_sizes"][3] == 0
    losses = [r["loss"] for r in records]
    assert np.all(np.diff(losses) <= 1e-12)


# ---------------------------------------------------------------------- the estimator


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("init", ["k-means", "k-subspaces++", "self-expressive"])
@pytest.mark.parametrize("unit_rows", [True, False])
def test_planted_subspaces_are_recovered(dtype, init, unit_rows):
    # unit rows: only rows far from the origin tell their subspace in noise
    X, y, bases = planted(seed=2)
    X, y = (part[np.linalg.norm(X, axis=1) > 0.8] for part in (X, y))
    fitted = model(dtype=dtype, init=init, unit_rows=unit_rows).fit(X)
    assert fitted.resolved_params_["n_init"] == (1 if init == "self-expressive" else 8)
    assert len([r for r in fitted.history_ if r["stage"] == "restart"]) == fitted.resolved_params_["n_init"]
    assert adjusted_rand_score(y, fitted.labels_) == 1.0
    assert fitted.bases_.dtype == fitted.embedding_.dtype == np.dtype(dtype)
    rows = normalize(X) if unit_rows else X
    expected, residual = numpy_step(rows, fitted.labels_, K, D)
    tolerance = 2e-5 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(projectors(fitted.bases_), projectors(expected), atol=tolerance)
    assert fitted.inertia_ == pytest.approx(residual.min(1).sum(), rel=1e-4 if dtype == "float32" else 1e-9)
    np.testing.assert_allclose(fitted.transform(X), np.sqrt(residual), atol=1e-4)
    np.testing.assert_allclose(
        fitted.energies_,
        [np.linalg.svd(rows[fitted.labels_ == k], compute_uv=False)[:D] ** 2 for k in range(K)],
        rtol=1e-4,
    )
    distance = np.linalg.norm(projectors(fitted.bases_)[:, None] - projectors(bases)[None], axis=(2, 3))
    assert distance.min(1).max() < 0.1


def test_lines_and_the_whole_space():
    X, y, _ = planted(dim=1, noise=0.02)
    X, y = (part[np.linalg.norm(X, axis=1) > 0.5] for part in (X, y))
    assert adjusted_rand_score(y, model(subspace_dim=1).fit_predict(X)) == 1.0
    with pytest.warns(ConvergenceWarning, match="KSubspaces: . of 4 clusters are empty"):
        whole = model(subspace_dim=P, n_init=1, max_iter=3, unit_rows=False).fit(np.eye(P)[:10] * 4)
    assert whole.inertia_ == pytest.approx(0, abs=1e-9)


def test_results_agree_with_each_other():
    X = load_digits().data[:700]
    fitted = KSubspaces(10, random_state=0, n_init=3).fit(X)
    d = fitted.resolved_params_["subspace_dim"]
    assert fitted.bases_.shape == (10, 64, d)
    assert fitted.labels_.dtype == np.int64
    np.testing.assert_array_equal(fitted.predict(X), fitted.labels_)
    np.testing.assert_array_equal(fitted.predict(X[100:103]), fitted.labels_[100:103])
    np.testing.assert_array_equal(fitted.transform(X), fitted.embedding_)
    np.testing.assert_array_equal(fitted.embedding_.argmin(1), fitted.labels_)
    assert fitted.score(X) == -fitted.inertia_ == pytest.approx(-np.sum(fitted.embedding_.min(1) ** 2))
    assert list(fitted.get_feature_names_out()) == [f"ksubspaces{k}" for k in range(10)]
    stages = [record["stage"] for record in fitted.history_]
    assert stages == ["restart"] * 3 + ["refine"] * fitted.n_iter_
    assert fitted.n_reseeded_ == sum(r["n_reseeded"] for r in fitted.history_ if r["stage"] == "restart")
    last = fitted.history_[-1]
    assert last["cluster_sizes"] == np.bincount(fitted.labels_, minlength=10).tolist()
    assert last["loss"] == pytest.approx(fitted.inertia_ / 700, rel=1e-5)
    assert KSubspaces(2, n_init=1, random_state=0).fit(X[:, 10:16]).resolved_params_["subspace_dim"] == 3


def test_wide_rows_are_clustered_within_their_leading_directions():
    X, _, _ = planted(500, p=150, noise=0.02, seed=1)
    whole, bounded = (model(n_components=q, unit_rows=False).fit(X) for q in (None, 12))
    assert bounded.bases_.shape == whole.bases_.shape == (K, 150, D)
    np.testing.assert_allclose(
        np.swapaxes(bounded.bases_, 1, 2) @ bounded.bases_, np.eye(D)[None].repeat(K, 0), atol=1e-5
    )
    span = np.linalg.svd(X, full_matrices=False)[2][:12].T
    outside = bounded.bases_ - span @ (span.T @ bounded.bases_)
    assert np.linalg.norm(outside) < 1e-3
    assert adjusted_rand_score(whole.labels_, bounded.labels_) == 1.0
    assert whole.inertia_ <= bounded.inertia_ <= 1.02 * whole.inertia_
    np.testing.assert_array_equal(bounded.predict(X), bounded.labels_)


def test_more_rows_than_the_restarts_see():
    X, y, _ = planted(12_000, p=8, dim=2, noise=0.01, seed=4)
    X, y = (part[np.linalg.norm(X, axis=1) > 0.3] for part in (X, y))
    assert len(X) > 10_000
    fitted = model(subspace_dim=2, n_init=3).fit(X)
    assert adjusted_rand_score(y, fitted.labels_) > 0.97  # rows near two planes at once
    assert fitted.labels_.shape == (len(X),)
    restarts = [r["n_iter"] for r in fitted.history_ if r["stage"] == "restart"]
    refined = sum(r["stage"] == "refine" for r in fitted.history_)
    assert fitted.n_iter_ - refined in restarts


def test_tol_and_max_iter_end_the_alternation():
    X = load_digits().data
    full = KSubspaces(10, n_init=1, random_state=0).fit(X)
    assert full.history_[-1]["label_change"] == 0
    loose = KSubspaces(10, n_init=1, random_state=0, tol=0.02).fit(X)
    changes = [record["label_change"] for record in loose.history_[1:]]
    assert changes[-1] <= 0.02 < changes[-2]
    assert loose.n_iter_ < full.n_iter_
    other = KSubspaces(10, n_init=1, random_state=1).fit(X)
    assert other.history_[0]["loss"] != full.history_[0]["loss"]
    short = KSubspaces(10, n_init=1, random_state=0, max_iter=2).fit(X)
    assert short.n_iter_ == 2
    np.testing.assert_array_equal(short.predict(X), short.labels_)


@pytest.mark.bits
@pytest.mark.parametrize("init", ["k-subspaces++", "k-means", "self-expressive"])
def test_same_seed_same_bits_for_any_number_of_threads(init):
    """From 100 columns on torch's decompositions and products depend on the number of threads; float64 shows it."""
    X = np.random.default_rng(0).normal(size=(3000, 130))
    options = {"n_init": 2, "max_iter": 6, "dtype": "float64", "init": init}
    n_threads, results = torch.get_num_threads(), []
    before = torch.random.get_rng_state()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            fitted = KSubspaces(4, random_state=3, **options).fit(X)
            fitted.partial_fit(X[:500])
            results.append(fitted)
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(n_threads)
    assert torch.equal(torch.random.get_rng_state(), before)
    for other in results[1:]:
        np.testing.assert_array_equal(other.bases_, results[0].bases_)
        np.testing.assert_array_equal(other.embedding_, results[0].embedding_)
        assert other.inertia_ == results[0].inertia_
        assert [r["loss"] for r in other.history_] == [r["loss"] for r in results[0].history_]
    different = KSubspaces(4, random_state=4, **options).fit(X)
    assert not np.array_equal(different.labels_, results[0].labels_)


def test_callbacks_see_every_iteration_and_can_end_a_stage():
    X, y, _ = planted()

    class Watch(Callback):
        calls, stages, ended = (), None, 0

        def on_fit_begin(self, model, stages):
            self.stages = dict(stages)

        def on_epoch_end(self, model, record):
            self.calls += ((record["stage"], record["epoch"]),)
            return record["stage"] == "restart" and record["epoch"] == 3

        def on_fit_end(self, model):
            self.ended += 1

    watch = Watch()
    fitted = model(callbacks=[watch, Evaluate(y)], unit_rows=False).fit(X)
    assert watch.stages == {"restart": 8, "refine": 100}
    assert watch.calls[:3] == (("restart", 1), ("restart", 2), ("restart", 3))
    assert watch.calls[3:] == tuple(("refine", i + 1) for i in range(fitted.n_iter_))
    assert watch.ended == 1
    assert fitted.history_[-1]["ari"] == pytest.approx(adjusted_rand_score(y, fitted.labels_))


# ---------------------------------------------------------------------- saving, errors


@pytest.mark.bits
@pytest.mark.parametrize("way", ["fit", "partial_fit"])
def test_save_and_load_go_on_with_the_same_bits(way, tmp_path):
    X, _, _ = planted(noise=0.1)
    fitted = model(n_init=2)
    fitted.fit(X) if way == "fit" else fitted.partial_fit(X[:200]).partial_fit(X[200:400])
    fitted.save(tmp_path / "model")
    for loaded in (load_model(tmp_path / "model"), pickle.loads(pickle.dumps(fitted))):
        assert loaded.get_params() == fitted.get_params()
        for name in ("bases_", "energies_", "labels_", "embedding_"):
            np.testing.assert_array_equal(getattr(loaded, name), getattr(fitted, name))
        for name in ("inertia_", "n_iter_", "n_reseeded_", "history_", "resolved_params_", "n_features_in_"):
            assert getattr(loaded, name) == getattr(fitted, name)
        np.testing.assert_array_equal(loaded.transform(X), fitted.transform(X))
    loaded = load_model(tmp_path / "model")
    np.testing.assert_array_equal(loaded.partial_fit(X[400:]).bases_, fitted.partial_fit(X[400:]).bases_)


def test_damaged_folders_are_refused(tmp_path):
    model(n_init=1).fit(planted()[0]).save(tmp_path)
    path = tmp_path / "config.json"
    sound = json.loads(path.read_text())
    for change, message in (
        ({"method": "desc"}, "method 'desc', but KSubspaces is 'k-subspaces'"),
        ({"inertia": None, "n_features": 19}, r"'bases_' has shape \[4, 20, 3\], wanted \[4, 19, 3\]"),
        ({"resolved_params": {}}, r"config\.json is damaged: KeyError\('n_clusters'\)"),
    ):
        path.write_text(json.dumps(sound | change))
        with pytest.raises(ValueError, match=message):
            KSubspaces.load(tmp_path)
    path.write_text(json.dumps(sound))
    config, tensors = read_state_folder(tmp_path, "model")
    del tensors["energies_"]
    header = ("format_version", "kind", "tensor_file", "sha256", "shapes")
    write_state_folder(tmp_path, "model", {k: v for k, v in config.items() if k not in header}, tensors)
    with pytest.raises(ValueError, match="tensor 'energies_' is missing"):
        KSubspaces.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_clusters": 0}, "n_clusters must be an integer >= 1, got 0"),
        ({"subspace_dim": 0}, "subspace_dim must be an integer >= 1, or None, got 0"),
        ({"subspace_dim": 21}, "subspace_dim=21 must be <= the 20 columns of X"),
        ({"subspace_dim": 7, "n_components": 6}, "subspace_dim=7 must be <= n_components=6"),
        ({"n_components": 2.5}, "n_components must be an integer >= 1, or None, got 2.5"),
        ({"unit_rows": "yes"}, "unit_rows must be True or False, got 'yes'"),
        (
            {"init": "random"},
            "init must be one of 'k-subspaces\\+\\+', 'k-means', 'self-expressive', got 'random'",
        ),
        ({"n_init": 0}, "n_init must be an integer >= 1, got 0"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1, got 0"),
        ({"tol": -1}, "tol must be a finite number >= 0 and <= 1, got -1"),
        ({"decay": 1.5}, "decay must be a finite number >= 0 and <= 1, got 1.5"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"device": "tpu9"}, "device must be 'auto' or a torch device"),
        ({"verbose": 3}, "verbose must be one of 0, 1, got 3"),
    ],
)
@pytest.mark.parametrize("way", ["fit", "partial_fit"])
def test_bad_options_are_refused(way, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(KSubspaces(**{"n_clusters": K, **options}), way)(planted(50)[0])


@pytest.mark.parametrize("way", ["fit", "partial_fit"])
def test_rows_that_overflow_are_refused(way):
    X = planted(50)[0] * 1e25
    with pytest.raises(ValueError, match="squared norm overflows float32"):
        getattr(model(unit_rows=False), way)(X)
    getattr(model(), way)(X)
    getattr(model(unit_rows=False, dtype="float64"), way)(X)


def test_more_clusters_than_directions_warns():
    X = np.repeat(np.eye(3), 20, axis=0) * np.random.default_rng(0).uniform(1, 2, (60, 1))
    with pytest.warns(ConvergenceWarning, match="1 of 4 clusters are empty: [0-3]; ") as caught:
        fitted = model(subspace_dim=1).fit(X)
    assert [warning.filename for warning in caught] == [__file__]
    assert np.isfinite(fitted.bases_).all()
    assert fitted.n_reseeded_ > 0


# ---------------------------------------------------------------------- command line


def command(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_command_line_from_fit_to_evaluate(tmp_path):
    X, y, _ = planted(120, noise=0.2)
    rows, out = tmp_path / "rows.npz", tmp_path / "out"
    np.savez(rows, X=X, kind=y)
    options = ["--clusters", K, "--set", "n_init=2", "--set", f"subspace_dim={D}", "--labels", "kind"]
    result = command("fit", rows, "--model", "k-subspaces", *options, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert {path.name for path in out.iterdir()} == RESULTS | {"classes.png"}
    fitted = model(n_init=2).fit(X)
    np.testing.assert_array_equal(np.load(out / "labels.npy"), fitted.labels_)
    np.testing.assert_array_equal(np.load(out / "embedding.npy"), fitted.embedding_)
    assert json.loads((out / "config.json").read_text())["parameters"]["subspace_dim"] == D
    lines = (out / "history.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 + fitted.n_iter_
    ari = json.loads((out / "metrics.json").read_text())["k-subspaces"]["ari"]
    assert ari == pytest.approx(adjusted_rand_score(y, fitted.labels_))
    assert ari == pytest.approx(float(lines[-1].split(",")[-1]))
    result = command("evaluate", out, rows, "--labels", "kind")
    assert f"{ari:.3f}" in result.stdout
    result = command("predict", out, rows, "--labels", "kind", "--out", tmp_path / "labels.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), fitted.labels_)


def test_pictures_show_the_nearest_rows_first():
    X = load_digits().data[:60]
    fitted = model(n_init=1).fit(X)
    np.testing.assert_array_equal(fitted.confidence(), -fitted.transform(X).min(1))


def test_command_line_says_that_there_is_nothing_to_resume(tmp_path, monkeypatch):
    arguments = ["fit", "digits", "--model", "k-subspaces", "--clusters", 10, "--out", tmp_path / "out"]
    result = command(*arguments, "--resume")
    assert (result.exit_code, "there is nothing to resume in" in result.stderr) == (2, True)

    def interrupt(self, X, y=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(KSubspaces, "fit", interrupt)
    result = command(*arguments)
    assert (result.exit_code, "nothing was kept, start again" in result.stderr) == (130, True)
    assert not (tmp_path / "out").exists()


def test_baselines_see_rows_scaled_alike():
    images = load_digits().images[:200]
    X = images.reshape(200, 64)
    rows = Dataset("rows", X)
    np.testing.assert_allclose(scaled_input(model(n_init=1).fit(X), rows), normalize(X))
    np.testing.assert_array_equal(scaled_input(model(n_init=1, unit_rows=False).fit(X), rows), X)
    fitted = model(n_init=1, features="scattering", feature_dim=30).fit(images)
    expected = normalize(fitted.features_.transform(images))
    np.testing.assert_allclose(
        scaled_input(fitted, Dataset("images", X, image_shape=(8, 8))), expected, atol=1e-6
    )
    network = DESC(3, hidden_sizes=(8,), pretrain_epochs=1, max_epochs=0, n_init=1, random_state=0).fit(X)
    standard = (X - network.network_.offset.numpy()) / network.network_.scale.numpy()
    np.testing.assert_allclose(scaled_input(network, rows), standard)


@pytest.mark.slow
def test_quality_on_digits_with_defaults():
    """The mean over 3 seeds is that of a plain reading: k-subspaces on unit rows, ACC about .85."""
    X, y = load_digits(return_X_y=True)
    scores = [adjusted_rand_score(y, KSubspaces(10, random_state=s).fit_predict(X)) for s in range(3)]
    assert np.mean(scores) > 0.7
