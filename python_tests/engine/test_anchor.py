"""The anchor against its formulas in NumPy (float64): targets, shares, certain rows, average, learning rate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.estimators import small
from helpers.fits import begun
from helpers.student_formulas import student_t

from desc_ext.engine.anchor import anchor_loss, anchor_targets, cosine, share_of_start
from desc_ext.models import DEC

ANCHORED = {"anchor_weight": 1.5, "warmup_epochs": 1, "schedule": "cosine", "average_decay": 0.8}


def assignments(n=40, k=4, seed=0):
    q = np.random.default_rng(seed).random((n, k)) ** 3
    return q / q.sum(1, keepdims=True)


def rows(n=60, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 6))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_targets_mix_start_and_sharpened_assignments(share):
    q, labels = assignments(), np.arange(40) % 4
    t = q**2 / q.sum(0)
    t /= t.sum(1, keepdims=True)
    found = anchor_targets(torch.from_numpy(labels), torch.from_numpy(q), share)
    np.testing.assert_allclose(found, share * np.eye(4)[labels] + (1 - share) * t, rtol=1e-12)


def test_in_the_warm_up_certain_rows_alone_have_a_target():
    q, labels = assignments(), np.arange(40) % 4
    certain = np.arange(40) < 25
    found = anchor_targets(torch.from_numpy(labels), torch.from_numpy(q), 0.5, torch.from_numpy(certain))
    np.testing.assert_array_equal(found, np.eye(4)[labels] * certain[:, None])


def test_a_cluster_without_assignments_gives_no_nan():
    q = np.zeros((5, 3))
    q[:, 0] = 1
    found = anchor_targets(torch.zeros(5, dtype=torch.int64), torch.from_numpy(q), 0.2)
    np.testing.assert_allclose(found, q)


def test_the_share_falls_linearly_to_half_of_it():
    found = [share_of_start(0.5, epoch, 3, 12) for epoch in range(12)]
    np.testing.assert_allclose(found, [0.5, 0.5, 0.5, *np.linspace(0.5, 0.25, 9)])
    assert share_of_start(0.5, 0, 0, 1) == 0.5


def test_the_loss_is_the_cross_entropy_of_rows_with_a_target():
    q, t = assignments(seed=0), assignments(seed=1)
    t[7:] = 0
    found = anchor_loss(torch.from_numpy(q), torch.from_numpy(t))
    assert found.item() == pytest.approx(-np.mean(np.sum(t * np.log(q), 1)[:7]))
    assert anchor_loss(torch.from_numpy(q), torch.zeros(40, 4, dtype=torch.float64)) == 0


def test_the_learning_rate_falls_as_a_cosine():
    found = [cosine(passed) for passed in (0, 0.25, 0.5, 1)]
    np.testing.assert_allclose(found, [1, 0.5 + np.sqrt(0.125), 0.5, 0], atol=1e-15)
    seen = []

    class Watched(DEC):
        def _terms(self, state, index, evaluation):
            seen.append((state.epoch, state.optimizer.param_groups[0]["lr"]))
            return super()._terms(state, index, evaluation)

    options = {
        "hidden_sizes": (5,),
        "latent_dim": 3,
        "pretrain_epochs": 1,
        "max_rounds": 4,
        "n_init": 1,
        "tol": 0.0,
    }
    Watched(3, random_state=0, update_interval=2, learning_rate=0.5, schedule="cosine", **options).fit(rows())
    expected = {epoch: 0.25 * (1 + np.cos(np.pi * epoch / 4)) for epoch in range(4)}
    assert len(seen) == 8
    for epoch, rate in seen:
        assert rate == pytest.approx(expected[epoch])


def test_the_average_is_the_weighted_sum_of_all_steps():
    """After k steps: decay^k · start + (1 − decay) Σ_j decay^(k − j) · network after step j."""
    model = small("idec", dtype="float64", **ANCHORED)
    state, stage = begun(model, rows(), "refine")
    state.initial_labels = model._find_start(state, model._encode_all(state))
    stage.before()
    parameters = list(state.network.parameters())
    expected = [p.detach().numpy().copy() for p in parameters]
    rng = np.random.default_rng(0)
    after = []
    for _ in range(5):
        with torch.no_grad():
            for p in parameters:
                p.copy_(torch.from_numpy(rng.normal(size=p.shape)))
        after.append([p.detach().numpy().copy() for p in parameters])
        stage.after_step()
    for i, average in enumerate(state.average.parameters()):
        steps = sum(0.8 ** (4 - j) * after[j][i] for j in range(5))
        np.testing.assert_allclose(
            average.detach(), 0.8**5 * expected[i] + 0.2 * steps, rtol=1e-9, atol=1e-12
        )


def test_the_average_is_evaluated_and_is_the_result():
    """With a decay so near to 1 that it never moves, the result is the network at the start; its own parameters move."""
    options = ANCHORED | {"average_decay": 1 - 1e-12, "max_rounds": 3, "warmup_epochs": 3}
    still = small("idec", **options).fit(rows())
    start = small("idec", max_rounds=0).fit(rows())
    np.testing.assert_allclose(still.embedding_, start.embedding_, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(still.predict(rows()), still.labels_)
    moved = small("idec", **options | {"average_decay": 0.0}).fit(rows())
    assert np.abs(moved.embedding_ - start.embedding_).max() > 1e-2
    losses = [record["anchor"] for record in still.history_ if record["stage"] == "refine"]
    assert losses[-1] < losses[0]  # what is trained learns, though its average does not


def test_terms_of_warm_up_and_after_it():
    model = small("dec", dtype="float64", **ANCHORED | {"certain_share": 0.5, "anchor_share": 0.4})
    state, stage = begun(model, rows(), "refine")
    state.initial_labels = model._find_start(state, model._encode_all(state))
    stage.before()
    index = torch.arange(0, 60, 3)
    for epoch in (0, 1):
        state.epoch = epoch
        evaluation = model._evaluate(state)
        with torch.no_grad():
            q = student_t(evaluation.z.numpy(), state.network.centroids.numpy()) ** 2
        q /= q.sum(1, keepdims=True)
        t = q**2 / q.sum(0)
        t /= t.sum(1, keepdims=True)
        start = np.eye(3)[state.initial_labels]
        expected = 0.4 * start + 0.6 * t
        if epoch == 0:
            expected = start * (state.certainty.numpy() > 0.5)[:, None]
        np.testing.assert_allclose(evaluation.anchor, expected, rtol=1e-9)
        weight, loss = stage.terms(index, evaluation)[0]["anchor"]
        part, chosen = q[index], expected[index]
        assert weight == 1.5
        assert loss.item() == pytest.approx(-np.sum(chosen * np.log(part)) / chosen.sum(), rel=1e-9)


def test_without_a_weight_there_is_neither_anchor_nor_average():
    model = small("idec", anchor_weight=0.0)
    state, stage = begun(model, rows(), "refine")
    state.initial_labels = model._find_start(state, model._encode_all(state))
    assert stage.before is None
    assert stage.after_step is None
    evaluation = model._evaluate(state)
    assert evaluation.anchor is None
    assert state.certainty is state.average is None
    assert "anchor" not in stage.terms(torch.arange(9), evaluation)[0]
