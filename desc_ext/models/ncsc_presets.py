"""The presets of NCSC."""

from __future__ import annotations

from typing import Any

from desc_ext.engine.refined import ANCHORED, UNANCHORED

__all__ = ["PAPER", "ROBUST"]

PAPER: dict[str, Any] = {
    "image_network": "conv",
    "channels": None,
    "hidden_sizes": (500, 500, 1000),
    "latent_dim": None,
    "unit_codes": False,
    "scaling": "minmax",
    "head_sizes": (64, 64, 64),
    "self_expression": "closed-form",
    "fidelity_weight": 10.0,
    "first_upper": 0.7,
    "upper": 0.9,
    "lower": 0.1,
    "soft_indicator": False,
    "negative_weight": 1.0,
    "collaborative_weight": 1.0,
    "separation_weight": 0.0,
    "separation_share": 0.2,
    "balance_weight": 0.0,
    **UNANCHORED,
    "init": "random",
    "n_init": 20,
    "pretrain_epochs": 60,
    "expression_epochs": 10,
    "start_epochs": 0,
    "classifier_epochs": 10,
    "max_epochs": 30,
    "pretrain_batch_size": 5000,
    "batch_size": 5000,
    "min_batches": 1,
    "pretrain_learning_rate": 1e-3,
    "autoencoder_learning_rate": 1e-5,
    "learning_rate": 1e-3,
    "tol": 0.0,
}

ROBUST: dict[str, Any] = PAPER | {
    **ANCHORED,
    "corruption": None,
    "scaling": "global",
    "unit_codes": True,
    "fidelity_weight": 0.05,
    # the affinity is a weaker teacher than the start: at 1, with two epochs of stage 2 and mini-batches of 512, digits were
    # at .939 from .947 after 15 epochs
    "collaborative_weight": 0.1,
    "separation_weight": 0.03,
    "separation_share": 0.5,
    "balance_weight": 1.0,
    "pretrain_epochs": None,
    "expression_epochs": None,
    "start_epochs": None,
    # taught by the affinity alone, the classifier loses its start: on digits from .945 to .870 in one epoch
    "classifier_epochs": 0,
    "max_epochs": None,
    "pretrain_batch_size": 128,
    "batch_size": 256,
    "min_batches": 14,
    "autoencoder_learning_rate": 3e-3,
    "learning_rate": 3e-3,
}
