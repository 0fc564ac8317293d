"""NCSC in small, and the formulas of its paper in NumPy (float64), one pair of rows after the other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from desc_ext.models import NCSC
from helpers import fits

N, M, K, P = 30, 8, 3, 6
SMALL = {
    "hidden_sizes": (16,), "latent_dim": P, "head_sizes": (8,), "pretrain_epochs": 2, "expression_epochs": 2,
    "start_epochs": 2, "classifier_epochs": 2, "max_epochs": 2, "pretrain_batch_size": 12, "batch_size": 12,
    "min_batches": 1,
}  # fmt: skip
IMAGES = {name: value for name, value in SMALL.items() if name not in ("hidden_sizes", "latent_dim")}
small_fits_collapse = pytest.mark.filterwarnings("ignore:NCSC collapsed")


def random_rows(n=N, m=M, seed=0):
    return np.random.default_rng(seed).normal(size=(n, m))


def digits(n=300):
    return load_digits().data[:n].astype(np.float32)


def begun(stage, X=None, **options):
    """A model in float64, its running fit at the beginning of ``stage``, and that stage."""
    model = NCSC(K, random_state=0, dtype="float64", **(SMALL | options))
    fit, found = fits.begun(model, random_rows() if X is None else X, stage)
    return model, fit, found


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
        centre(head[:2](z * z.shape[1] ** 0.5 if fit.options.unit_codes else z), head[2])


def predictions(fit, z):
    proba = fit.network.classify(z).detach().numpy()
    return proba / np.linalg.norm(proba, axis=1, keepdims=True)
