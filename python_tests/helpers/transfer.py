"""Small LRSC fits for its tests: options, rows to cluster, external data, and the state before the first epoch."""

from __future__ import annotations

import numpy as np

from helpers import fits

SMALL = {
    "latent_dim": 5, "teacher_sizes": (8, 7, 6), "teacher_epochs": 2, "meta_epochs": 1, "meta_tasks": 2,
    "episode_size": 24, "pretrain_epochs": 2, "max_steps": 3, "batch_size": 16, "n_init": 2, "random_state": 0,
}  # fmt: skip
IMAGES = {key: value for key, value in SMALL.items() if key != "latent_dim"} | {
    "channels": (3, 4), "teacher_channels": (2, 3, 4, 4),
}  # fmt: skip


def rows(n=40, m=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n, m))


def other(n=60, m=8, classes=4):
    return rows(n, m, seed=1), np.arange(n) % classes


def begun(model, X, stage):
    """The state of a fit at the beginning of a stage, with what its teachers know, and the stage."""
    fit, found = fits.begun(model, X, stage)
    if found.before is not None:
        found.before()
    return fit, found
