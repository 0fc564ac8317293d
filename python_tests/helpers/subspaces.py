"""Planted subspaces, and the small :class:`KSubspaces` that is to find them."""

from __future__ import annotations

import numpy as np

from desc_ext.models import KSubspaces

K, P, D = 4, 20, 3


def planted(n=600, p=P, dim=D, n_clusters=K, noise=0.05, seed=0):
    """Rows on random subspaces through the origin, with noise off them, their classes and the subspaces."""
    rng = np.random.default_rng(seed)
    bases = np.stack([np.linalg.qr(rng.normal(size=(p, dim)))[0] for _ in range(n_clusters)])
    y = rng.integers(n_clusters, size=n)
    X = np.einsum("npd,nd->np", bases[y], rng.normal(size=(n, dim))) + noise * rng.normal(size=(n, p))
    return X, y, bases


def projectors(bases):
    return bases @ np.swapaxes(bases, -1, -2)


def model(**options):
    return KSubspaces(K, **{"subspace_dim": D, "n_init": 8, "random_state": 0, **options})
