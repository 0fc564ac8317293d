"""Loads the operators from the library that DESC_EXT_SANITIZED_LIBRARY names: imported before desc_ext, also by pytest -p."""

from __future__ import annotations

import os

import torch

_load = torch.ops.load_library


def _load_sanitized(path: str) -> None:
    named = os.environ["DESC_EXT_SANITIZED_LIBRARY"]
    _load(named if os.path.basename(path) == "lib_desc_ext.so" else path)


torch.ops.load_library = _load_sanitized
