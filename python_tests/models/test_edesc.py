"""EDESC: DESC with H ≡ 1 and the KL objective, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from desc_ext.models import DESC, EDESC

SMALL = {"hidden_sizes": (16,), "subspace_dim": 2, "pretrain_epochs": 2, "max_epochs": 4, "warmup_epochs": 1}


@pytest.mark.parametrize("preset", ["paper", "robust"])
def test_edesc_is_desc_without_hard_samples(preset):
    X = np.random.default_rng(0).normal(size=(90, 8))
    edesc = EDESC(3, preset=preset, random_state=0, tol=0.0, **SMALL).fit(X)
    options = {"objective": "kl", "hard_weight": "off", "head_weight": 0.0, "reconstruction": "mean"}
    options["basis_weight"] = {"paper": 0.01, "robust": 0.001}[preset]
    desc = DESC(3, preset=preset, random_state=0, tol=0.0, **options, **SMALL).fit(X)
    np.testing.assert_array_equal(edesc.embedding_, desc.embedding_)
    np.testing.assert_array_equal(edesc.labels_, desc.labels_)
    assert edesc.resolved_params_ == desc.resolved_params_


def test_reported_clustering_loss_is_the_divergence_from_the_target():
    X = np.random.default_rng(1).normal(size=(90, 8))
    options = SMALL | {"warmup_epochs": 0, "max_epochs": 1, "learning_rate": 1e-30}
    model = EDESC(3, preset="paper", random_state=0, dtype="float64", **options).fit(X)
    z, bases = model.embedding_, model.bases_
    energy = np.array([[np.sum((s.T @ row) ** 2) for s in bases] for row in z])
    w = (energy + 5 * 2) / (energy + 5 * 2).sum(1, keepdims=True)
    target = w**2 / w.sum(0)
    target /= target.sum(1, keepdims=True)
    divergence = np.mean(np.sum(target * np.log(target / w), 1))
    # a step of 1e-30 moves nothing, so this is the loss of the very state that was saved
    assert model.history_[-1]["clustering"] == pytest.approx(divergence, rel=1e-8)
