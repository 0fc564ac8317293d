"""The version of a distribution: that of desc_ext, and of a wheel with CUDA kernels a local part, as in 0.3.0+cu130."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIANT = "DESC_EXT_VARIANT"  # the environment variable: cu130 for CUDA 13.0; empty for the CPU
SOURCE = Path(__file__).resolve().parents[1] / "desc_ext" / "__init__.py"


def dynamic_metadata(settings: Mapping[str, Any], project: Mapping[str, Any]) -> dict[str, str]:
    """What scikit-build-core asks for: the version.

    Raises:
        ValueError: ``DESC_EXT_VARIANT`` is no cuXYZ.
    """
    found = re.search(r'^__version__ = "(.+)"$', SOURCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    variant = os.environ.get(VARIANT, "")
    if variant and not re.fullmatch(r"cu\d{3}", variant):
        raise ValueError(f"{VARIANT} must be cu and CUDA's version, such as cu130, or empty; got {variant!r}")
    return {"version": f"{found[1]}+{variant}" if variant else found[1]}
