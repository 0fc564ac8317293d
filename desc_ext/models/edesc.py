"""EDESC: efficient deep embedded subspace clustering."""

from __future__ import annotations

from typing import Any

from desc_ext.models.desc import DESC

__all__ = ["EDESC"]

_EDESC: dict[str, Any] = {"objective": "kl", "hard_weight": "off", "head_weight": 0.0}


class EDESC(DESC):
    """Efficient deep embedded subspace clustering (Cai et al., CVPR 2022): DESC without hard samples.

    The same network, loop, options and attributes as :class:`desc_ext.models.DESC`; H ≡ 1, and the
    clustering loss is KL(target ‖ w) with target_ik ∝ w_ik² / Σ_i w_ik over the whole data set. In both
    presets ``objective`` is "kl", ``hard_weight`` "off" and ``head_weight`` 0. The preset "paper" further
    averages the reconstruction error over the columns (``reconstruction="mean"``) and weighs the basis
    loss 0.01, EDESC's own scales; what is not named here has DESC's value of that preset.
    """

    _method = "edesc"
    _presets = {  # noqa: RUF012  (read only)
        "paper": DESC._presets["paper"] | _EDESC | {"reconstruction": "mean", "basis_weight": 0.01},
        "robust": DESC._presets["robust"] | _EDESC,
    }
