"""EDESC: efficient deep embedded subspace clustering."""

from __future__ import annotations

from typing import Any, ClassVar

from desc_ext.engine.options import estimator
from desc_ext.models.desc import DESC

__all__ = ["EDESC"]

_EDESC: dict[str, Any] = {"objective": "kl", "hard_weight": "off", "head_weight": 0.0}


@estimator
class EDESC(DESC):
    """Efficient deep embedded subspace clustering (Cai et al., CVPR 2022): DESC without hard samples.

    The same network, stages and attributes as :class:`desc_ext.models.DESC`; H ≡ 1, and the clustering loss is
    KL(target ‖ w) with target_ik ∝ w_ik² / Σ_i w_ik over the whole data set. The preset "paper" further averages the
    reconstruction error over the columns and weighs the basis loss 0.01, EDESC's own scales.

    {options}
    """

    method = "edesc"
    presets: ClassVar = {
        "paper": DESC.presets["paper"] | _EDESC | {"reconstruction": "mean", "basis_weight": 0.01},
        "robust": DESC.presets["robust"] | _EDESC,
    }
