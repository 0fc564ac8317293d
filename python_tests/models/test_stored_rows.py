"""Every estimator takes rows on disk: what sees all rows at once finds the same as of the array."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.estimators import small

from desc_ext.data import stored_rows
from desc_ext.engine import inputs
from desc_ext.models import MODELS

WHOLE = ("dsc-net", "self-expressive", "k-subspaces")  # their updates see all rows


@pytest.mark.parametrize("method", sorted(set(MODELS) - {"dcec"}))  # whose rows are images, which are loaded
def test_every_estimator_takes_rows_on_disk(method, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "READ_WHOLE", 0)
    X = digits[:120]
    np.save(tmp_path / "x.npy", X)
    stored = stored_rows(tmp_path / "x.npy")
    found, again = small(method).fit(stored), small(method).fit(stored)
    assert found.labels_.shape == (120,)
    np.testing.assert_array_equal(found.embedding_, again.embedding_)
    if method in WHOLE:
        np.testing.assert_array_equal(found.labels_, small(method).fit(X).labels_)
    if hasattr(found, "predict"):
        np.testing.assert_array_equal(found.predict(stored), found.predict(X))
        np.testing.assert_array_equal(found.transform(stored), found.transform(X))


def test_images_on_disk_are_loaded(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "READ_WHOLE", 0)
    np.save(tmp_path / "x.npy", digits[:60])
    options = {"image_shape": (8, 8)}
    found, wanted = (
        small("dcec", **options).fit(of) for of in (stored_rows(tmp_path / "x.npy"), digits[:60])
    )
    np.testing.assert_array_equal(found.embedding_, wanted.embedding_)
