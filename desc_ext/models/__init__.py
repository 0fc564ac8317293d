"""Estimators: scikit-learn's contract, computed by torch. :data:`MODELS` names them all."""

from __future__ import annotations

import os

from desc_ext.engine.estimator import Estimator
from desc_ext.engine.state_folder import read_state_config
from desc_ext.models.asc2d import ASC2D
from desc_ext.models.autoencoder_kmeans import AutoencoderKMeans
from desc_ext.models.batch_predictor import BatchPredictor
from desc_ext.models.dec import DCEC, DEC, IDEC
from desc_ext.models.desc import DESC
from desc_ext.models.dsc_net import DSCNet
from desc_ext.models.edesc import EDESC
from desc_ext.models.k_subspaces import KSubspaces
from desc_ext.models.lrsc import LRSC
from desc_ext.models.ncsc import NCSC
from desc_ext.models.self_expressive import SelfExpressiveClustering

__all__ = [
    "ASC2D",
    "DCEC",
    "DEC",
    "DESC",
    "EDESC",
    "IDEC",
    "LRSC",
    "MODELS",
    "NCSC",
    "AutoencoderKMeans",
    "BatchPredictor",
    "DSCNet",
    "KSubspaces",
    "SelfExpressiveClustering",
    "load_model",
]

# The one list of methods: the command line, the README's table and the tests are made from it. First what to take first, then
# what refines its clusters (docs/choosing.md).
MODELS: dict[str, type[Estimator]] = {
    cls.method: cls
    for cls in (
        SelfExpressiveClustering,
        DESC,
        EDESC,
        NCSC,
        ASC2D,
        DCEC,
        IDEC,
        DEC,
        DSCNet,
        LRSC,
        KSubspaces,
        AutoencoderKMeans,
    )
}
"""The estimators by their names on the command line."""


def load_model(folder: str | os.PathLike[str]) -> Estimator:
    """The estimator saved in ``folder``, whichever of :data:`MODELS` it is; errors as for ``load``."""
    method = read_state_config(folder, "model").get("method")
    if not isinstance(method, str) or method not in MODELS:
        raise ValueError(
            f"{folder} holds a model of the unknown method {method!r}; known: {', '.join(MODELS)}"
        )
    return MODELS[method].load(folder)
