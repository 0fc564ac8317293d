"""Every estimator takes rows on disk, and images on disk: it finds what it finds of the array."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.estimators import small
from sklearn.base import clone

from desc_ext.data import stored_rows
from desc_ext.engine import inputs, large_arrays
from desc_ext.engine import rows as rows_module
from desc_ext.models import MODELS

N = 120
AT_ONCE = ("dsc-net", "lrsc")  # every step of these takes all rows


@pytest.fixture
def X(digits):
    return digits[:N].astype(np.float32)


@pytest.fixture
def on_disk(X, tmp_path, monkeypatch):
    """The rows in a file, of which nothing is small enough to be read whole, in the order of rows in memory."""
    monkeypatch.setattr(inputs, "READ_WHOLE", 0)

    class Order:
        def __init__(self, X, generator):
            self.order, self.take = torch.randperm(len(X), generator=generator), X.__getitem__

    monkeypatch.setattr(rows_module, "BlockShuffle", Order)
    np.save(tmp_path / "x.npy", X)
    return stored_rows(tmp_path / "x.npy")


@pytest.mark.filterwarnings("ignore:NCSC collapsed", "ignore:no row was ever confident")
@pytest.mark.parametrize("images", [False, True], ids=["rows", "images"])
@pytest.mark.parametrize("method", sorted(MODELS))
def test_every_estimator_takes_rows_on_disk(method, images, X, on_disk):
    if method == "dcec" and not images:
        pytest.skip("it is for images")
    model = small(method, **({"image_shape": (8, 8)} if images else {}))
    found, wanted = clone(model).fit(on_disk), clone(model).fit(X)
    np.testing.assert_array_equal(found.labels_, wanted.labels_)
    np.testing.assert_allclose(found.embedding_, wanted.embedding_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.confidence(), wanted.confidence(), rtol=1e-4, atol=1e-5)
    for name in ("predict", "transform", "predict_proba", "score"):
        if hasattr(found, name):
            new, of_array = getattr(found, name)(on_disk), getattr(found, name)(X)
            np.testing.assert_array_equal(new, of_array)
            assert np.asarray(new).dtype == np.asarray(of_array).dtype
    if hasattr(found, "partial_fit"):
        ends = [clone(model), clone(model)]
        for step in range(3):
            rows = slice(40 * step, 40 * step + 40)
            for end, part in zip(ends, (on_disk.between(rows.start, rows.stop), X[rows]), strict=True):
                end.partial_fit(part)
        np.testing.assert_array_equal(ends[0].bases_, ends[1].bases_)
        np.testing.assert_array_equal(ends[0].labels_, ends[1].labels_)


@pytest.mark.parametrize("method", [*AT_ONCE, "self-expressive", "k-subspaces"])
def test_what_takes_all_rows_says_where_they_do_not_fit(method, X, on_disk, monkeypatch):
    """The steps of the first two, self-expression without landmarks, and the mini-batch of partial_fit."""
    monkeypatch.setattr(large_arrays, "free_memory", lambda: 1000)
    model = small(method)
    fit = model.partial_fit if method == "k-subspaces" else model.fit
    message = rf"{type(model).__name__}: .*{N} rows of 64 columns.* GiB of memory.* are free"
    with pytest.raises(MemoryError, match=message):
        fit(on_disk)
    fit(X)  # which are in memory
    if method == "self-expressive":
        small(method, landmarks=60).fit(on_disk)
    if method == "k-subspaces":
        small(method).fit(on_disk)


def test_rows_that_fit_are_loaded(on_disk, monkeypatch):
    monkeypatch.setattr(large_arrays, "free_memory", lambda: None)  # no one knows
    small("dsc-net").fit(on_disk)
