"""Estimators: scikit-learn's contract, computed by torch.

======================== =============== ======================================================================
class                    name in CLI     method
======================== =============== ======================================================================
DESC                     desc            deep embedded subspace clustering with hard-sample mining
EDESC                    edesc           the same without hard samples, with EDESC's KL objective
AutoencoderKMeans        ae-kmeans       plain autoencoder, then k-means on the codes (baseline)
KSubspaces               k-subspaces     nearest linear subspaces of the rows themselves, no network
NCSC                     ncsc            classifier and self-expression that teach each other
ASC2D                    asc2d           Student-t clusters, and a discriminator of assignments and their targets
DEC                      dec             Student-t clusters that sharpen their own assignments
IDEC                     idec            the same beside the reconstruction
DCEC                     dcec            the same with a convolutional network for images
DSCNet                   dsc-net         coefficients learned as a layer, then spectral clustering (small data)
LRSC                     lrsc            the same with what can be learned from external data
SelfExpressiveClustering self-expressive regression of every row on all others, then spectral clustering
======================== =============== ======================================================================
"""

from __future__ import annotations

import os

from desc_ext.models.asc2d import ASC2D
from desc_ext.models.autoencoder_kmeans import AutoencoderKMeans
from desc_ext.models.base import DeepEmbedding
from desc_ext.models.dec import DCEC, DEC, IDEC
from desc_ext.models.desc import DESC
from desc_ext.models.dsc_net import DSCNet
from desc_ext.models.edesc import EDESC
from desc_ext.models.k_subspaces import KSubspaces
from desc_ext.models.lrsc import LRSC
from desc_ext.models.ncsc import NCSC
from desc_ext.models.self_expressive import SelfExpressiveClustering
from desc_ext.training import read_state_config

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
    "DSCNet",
    "KSubspaces",
    "SelfExpressiveClustering",
    "load_model",
]

MODELS: dict[str, type[DeepEmbedding | KSubspaces | SelfExpressiveClustering]] = {
    "desc": DESC,
    "edesc": EDESC,
    "ae-kmeans": AutoencoderKMeans,
    "ncsc": NCSC,
    "asc2d": ASC2D,
    "dec": DEC,
    "idec": IDEC,
    "dcec": DCEC,
    "dsc-net": DSCNet,
    "lrsc": LRSC,
    "k-subspaces": KSubspaces,
    "self-expressive": SelfExpressiveClustering,
}


def load_model(folder: str | os.PathLike[str]) -> DeepEmbedding | KSubspaces | SelfExpressiveClustering:
    """The estimator saved in ``folder``, whichever of :data:`MODELS` it is; errors as for ``load``."""
    method = read_state_config(folder, "model").get("method")
    if method not in MODELS:
        raise ValueError(
            f"{folder} holds a model of the unknown method {method!r}; known: {', '.join(MODELS)}"
        )
    return MODELS[method].load(folder)
