"""Every estimator at a size that fits within a second, for the test files that ask the same of all of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from desc_ext.models import MODELS

SMALL = {"hidden_sizes": (24,), "pretrain_epochs": 4, "n_init": 3, "batch_size": 64}
REFINED = SMALL | {"max_epochs": 4, "warmup_epochs": 1, "subspace_dim": 3, "tol": 0.0}
COLLABORATIVE = {
    "hidden_sizes": (24,), "head_sizes": (16,), "pretrain_epochs": 2, "expression_epochs": 1, "classifier_epochs": 2,
    "max_epochs": 2, "pretrain_batch_size": 64, "batch_size": 64, "min_batches": 1,
}  # fmt: skip
ROUNDS = SMALL | {"max_rounds": 4, "update_interval": 6, "warmup_epochs": 1, "tol": 0.0}
OPTIONS = {
    "desc": REFINED,
    "edesc": REFINED,
    "ncsc": COLLABORATIVE,
    "asc2d": ROUNDS | {"discriminator_sizes": (16,)},
    "dec": ROUNDS,
    "idec": ROUNDS,
    "dcec": ROUNDS,
    "dsc-net": SMALL | {"max_steps": 3},
    "lrsc": SMALL | {"max_steps": 3},
    "ae-kmeans": SMALL,
    "k-subspaces": {"n_init": 3},
    "self-expressive": {},
}

# those of the shared two stages; test_ncsc, test_dsc_net and test_lrsc look at the others
NETWORKS = ["desc", "edesc", "asc2d", "dec", "idec", "dcec", "ae-kmeans"]


def small(method: str, n_clusters: int = 3, **options):
    return MODELS[method](n_clusters, **{"random_state": 0, **OPTIONS[method], **options})


def external_options(X: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Options of a small LRSC with external data."""
    return {
        "external": (X, labels),
        "teacher_sizes": (8, 7, 6),
        "teacher_channels": (2, 3, 4, 5),
        "teacher_epochs": 1,
        "meta_epochs": 1,
        "episode_size": 24,
    }
