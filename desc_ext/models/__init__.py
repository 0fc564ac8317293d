"""Estimators: scikit-learn's contract, computed by torch.

=================== ============ ======================================================================
class               name in CLI  method
=================== ============ ======================================================================
DESC                desc         deep embedded subspace clustering with hard-sample mining
EDESC               edesc        the same without hard samples, with EDESC's KL objective
AutoencoderKMeans   ae-kmeans    plain autoencoder, then k-means on the codes (baseline)
KSubspaces          k-subspaces  nearest linear subspaces of the rows themselves, no network
=================== ============ ======================================================================
"""

from __future__ import annotations

import os

from desc_ext.models.autoencoder_kmeans import AutoencoderKMeans
from desc_ext.models.base import DeepClusterer
from desc_ext.models.desc import DESC
from desc_ext.models.edesc import EDESC
from desc_ext.models.k_subspaces import KSubspaces
from desc_ext.training import read_state_config

__all__ = ["DESC", "EDESC", "MODELS", "AutoencoderKMeans", "KSubspaces", "load_model"]

MODELS: dict[str, type[DeepClusterer | KSubspaces]] = {
    "desc": DESC,
    "edesc": EDESC,
    "ae-kmeans": AutoencoderKMeans,
    "k-subspaces": KSubspaces,
}


def load_model(folder: str | os.PathLike[str]) -> DeepClusterer | KSubspaces:
    """The estimator saved in ``folder``, whichever of :data:`MODELS` it is; errors as for ``load``."""
    method = read_state_config(folder, "model").get("method")
    if method not in MODELS:
        raise ValueError(
            f"{folder} holds a model of the unknown method {method!r}; known: {', '.join(MODELS)}"
        )
    return MODELS[method].load(folder)
