"""What the tests of all estimators fit to."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits


@pytest.fixture(scope="module")
def digits():
    return load_digits().data[:300].astype(np.float32)
