"""A user's script with wrong arguments, which ``make lint`` gives to mypy and nobody runs.

Where mypy does not find one, its comment is unused, which is an error.
"""

from __future__ import annotations

import numpy as np
import torch

from desc_ext import ops
from desc_ext.data import load_dataset
from desc_ext.metrics import clustering_scores
from desc_ext.models import DESC, KSubspaces, SelfExpressiveClustering, load_model

z, bases = torch.randn(10, 6), torch.randn(3, 6, 2)

# Right ones pass, and what they give has a type.
energy: torch.Tensor = ops.projection_energy(z, bases)
labels, values = ops.nearest_subspace(z, bases, metric="energy")
assignment: torch.Tensor = ops.subspace_soft_assignment(z, bases, 0.1)
digits = load_dataset("digits")
model: DESC = DESC(10, random_state=0).fit(digits.X)
clusters: np.ndarray = model.predict(digits.X)
if digits.labels is not None:
    acc: float = clustering_scores(digits.labels, clusters)["acc"]

# Wrong ones do not.
ops.projection_energy(z, "bases")  # type: ignore[arg-type]
ops.projection_energy(z)  # type: ignore[call-arg]
ops.projection_residual(z, bases, metric="energy")  # type: ignore[call-arg]
ops.nearest_subspace(z, bases, metric="nearest")  # type: ignore[arg-type]
ops.projection_energies(z, bases)  # type: ignore[attr-defined]
wrong: int = ops.target_distribution(assignment)  # type: ignore[assignment]
SelfExpressiveClustering(n_clusters="ten")  # type: ignore[arg-type]
KSubspaces(10, n_init="ten")  # type: ignore[arg-type]
DESC(10, latent_dim="five")  # type: ignore[arg-type]
load_model(3)  # type: ignore[arg-type]
