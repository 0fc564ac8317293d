"""k-subspaces by mini-batches: beside a fit, as the closed form, over data that change, after a fit."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.subspaces import D, K, model, planted, projectors
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from desc_ext.models import KSubspaces


def batches(X, size, n_passes, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(n_passes):
        order = rng.permutation(len(X))
        for start in range(0, len(X), size):
            yield X[order[start : start + size]]


@pytest.mark.parametrize("unit_rows", [True, False])
def test_mini_batches_come_near_fit(unit_rows):
    X, _, _ = planted(3000, noise=0.1, seed=5)
    X = X[np.linalg.norm(X, axis=1) > 0.8]
    whole, stream = model(unit_rows=unit_rows).fit(X), model(unit_rows=unit_rows)
    for batch in batches(X, 150, 4):
        stream.partial_fit(batch)
    assert stream.score(X) >= -1.02 * whole.inertia_
    assert adjusted_rand_score(whole.labels_, stream.predict(X)) > 0.98
    assert stream.n_iter_ == len(stream.history_) == 4 * -(-len(X) // 150)
    assert {record["stage"] for record in stream.history_} == {"partial_fit"}


def test_a_mini_batch_is_the_closed_form():
    X, _, _ = planted(400, noise=0.3)
    stream = model(dtype="float64", unit_rows=False, decay=0.7, max_iter=5, n_init=2)
    stream.partial_fit(X[:200])
    grams = [X[:200][stream.labels_ == k].T @ X[:200][stream.labels_ == k] for k in range(K)]
    for start in (200, 300):
        batch = X[start : start + 100]
        labels, loss = stream.predict(batch), -stream.score(batch) / 100
        grams = [
            0.7 * gram + batch[labels == k].T @ batch[labels == k] if (labels == k).any() else gram
            for k, gram in enumerate(grams)
        ]
        stream.partial_fit(batch)
        expected = [np.linalg.eigh(gram)[1][:, -D:] for gram in grams]
        np.testing.assert_allclose(projectors(stream.bases_), projectors(np.array(expected)), atol=1e-9)
        assert stream.history_[-1]["loss"] == pytest.approx(loss)
        np.testing.assert_array_equal(stream.labels_, stream.predict(batch))
        energies = [np.linalg.eigvalsh(gram)[::-1][:D] for gram in grams]
        np.testing.assert_allclose(stream.energies_, energies, rtol=1e-9)
    before = stream.energies_
    stream.partial_fit(X[stream.predict(X) == 0])  # no rows for the others: nothing of theirs decays
    np.testing.assert_array_equal(stream.energies_[1:], before[1:])
    assert not np.array_equal(stream.energies_[0], before[0])


def test_mini_batches_follow_data_that_change():
    """The fourth subspace is replaced: its cluster runs empty, is begun anew and finds the new one."""
    before, _, bases = planted(2000, noise=0.01, seed=6)
    after, y_after, _ = planted(4000, noise=0.01, seed=7)
    keep = y_after == 3
    rng = np.random.default_rng(8)
    rest = np.einsum("npd,nd->np", bases[rng.integers(3, size=len(after))], rng.normal(size=(len(after), D)))
    changed = np.where(keep[:, None], after, rest)
    stream = model(unit_rows=False, decay=0.5)
    for batch in batches(before, 200, 1):
        stream.partial_fit(batch)
    assert stream.score(before) > -0.02 * len(before)
    for batch in batches(changed, 200, 3):
        stream.partial_fit(batch)
    assert stream.n_reseeded_ > 0
    assert stream.score(changed) > -0.02 * len(changed)


def test_mini_batches_after_fit_start_from_its_subspaces():
    X, _, _ = planted(noise=0.02)
    fitted = model(unit_rows=False).fit(X)
    bases, energies, n_iter = fitted.bases_.copy(), fitted.energies_, fitted.n_iter_
    fitted.partial_fit(X[:50])
    np.testing.assert_allclose(projectors(fitted.bases_), projectors(bases), atol=0.05)
    assert not np.array_equal(fitted.bases_, bases)
    assert np.all(
        fitted.energies_ > 0.9 * energies - 1e-3
    )  # remembered, and the rows of the mini-batch on top
    assert fitted.n_iter_ == n_iter + 1
    assert len(fitted.labels_) == 50
    fitted.set_params(subspace_dim=2)
    with pytest.raises(
        ValueError, match="subspace_dim=2, but partial_fit goes on from a fit with subspace_dim=3"
    ):
        fitted.partial_fit(X[:50])


def test_mini_batches_keep_the_dimension_of_the_first():
    X = load_digits().data
    fitted = KSubspaces(10, n_init=2, random_state=0).partial_fit(X[:600])
    d = fitted.resolved_params_["subspace_dim"]
    fitted.partial_fit(X[600:650])
    assert fitted.bases_.shape == (10, 64, d)
    assert fitted.resolved_params_["subspace_dim"] == d > 1
    with pytest.raises(ValueError, match=f"subspace_dim=1, but partial_fit goes on from .* subspace_dim={d}"):
        fitted.set_params(subspace_dim=1).partial_fit(X[:100])
