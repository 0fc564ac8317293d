"""Models that earlier versions have written, and the rows that they were fitted to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SAVED = Path(__file__).parents[1] / "models" / "saved"
FOLDERS = sorted(path.parent for path in SAVED.glob("*/*/config.json"))


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Small integers: their statistics are exact on every processor."""
    y = np.arange(48) % 3
    return (8 * np.eye(3, 6)[y] + np.random.default_rng(0).integers(0, 4, (48, 6))).astype(np.float32), y
