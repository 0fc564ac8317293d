"""Assignments and targets of DEC and its kin in NumPy, from the papers' formulas; fits of theirs with random centroids."""

from __future__ import annotations

import numpy as np
import torch

from helpers.fits import begun


def random_rows(n=50, m=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n, m))


def begin(model, X):
    """A fit at the beginning of its refinement, with random centroids and an optimizer that moves nothing."""
    fit, _ = begun(model, X, "refine")
    with torch.no_grad():
        fit.network.centroids.normal_(generator=torch.Generator().manual_seed(1))
    fit.optimizer = torch.optim.SGD(fit.network.parameters(), 0.0)
    return fit


def student_t(z, centroids):
    q = 1 / (1 + ((z[:, None] - centroids) ** 2).sum(2))
    return q / q.sum(1, keepdims=True)


def sharpened(q, frequency):
    p = q**2 / frequency
    return p / p.sum(1, keepdims=True)
