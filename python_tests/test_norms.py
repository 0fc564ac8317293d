"""Rows divided by their norm, and what is made of such rows, for norms of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.subspaces import K, planted
from sklearn.metrics import adjusted_rand_score
from torch.nn import functional

from desc_ext.engine.rows import Rows, scaling_statistics
from desc_ext.models import DESC, KSubspaces, SelfExpressiveClustering
from desc_ext.norms import unit_rows, unit_rows_of_narrow

FACTORS = [1e-40, 1e-30, 1e-17, 1e25]


def rows(n=300, p=37, dtype=torch.float32):
    x = torch.randn(n, p, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ordinary_rows_have_the_bits_of_torch(dtype):
    x, grad = rows(dtype=dtype).requires_grad_(), rows(dtype=dtype).flip(0)
    assert torch.equal(unit_rows(x), functional.normalize(x, dim=1))
    expected = torch.autograd.grad(functional.normalize(x, dim=1), x, grad)
    assert torch.equal(torch.autograd.grad(unit_rows(x), x, grad)[0], expected[0])


@pytest.mark.parametrize(
    ("dtype", "factor"),
    [(torch.float32, factor) for factor in (*FACTORS, 1e37)]
    + [(torch.float64, factor) for factor in (1e-310, 1e-200, 1e200, 1e306)],
)
def test_any_norm(dtype, factor):
    x = rows(dtype=dtype) * factor
    exact = x.numpy().astype(np.longdouble)
    exact = exact / np.sqrt(np.square(exact).sum(1, keepdims=True))
    atol = 4 * torch.finfo(dtype).eps
    np.testing.assert_allclose(unit_rows(x).numpy(), exact.astype(np.float64), rtol=0, atol=atol)


def test_rows_of_zeros_stay():
    x = torch.tensor([[0.0, 0.0], [3.0, -4.0]], requires_grad=True)
    found = unit_rows(x)
    torch.testing.assert_close(found.detach(), torch.tensor([[0.0, 0.0], [0.6, -0.8]]))
    assert torch.autograd.grad(found.sum(), x)[0].isfinite().all()
    assert unit_rows(torch.zeros(0, 3)).shape == (0, 3)
    assert unit_rows(torch.zeros(3, 0)).shape == (3, 0)
    assert torch.autograd.gradcheck(unit_rows, rows(4, 3, torch.float64).requires_grad_())


@pytest.mark.parametrize("factor", FACTORS)
def test_directions_of_rows(factor):
    X = (rows().numpy() * factor).astype(np.float32)
    place = (torch.zeros(37), torch.ones(37), torch.device("cpu"), torch.float32)
    expected = X.astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(Rows(X, *place).directions(slice(0, 300)).numpy(), expected, atol=1e-6)


def distances(rows):
    """Between all pairs, which know nothing of the order of the columns."""
    return np.linalg.norm(rows[:, None] - rows, axis=2)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("method", [KSubspaces, SelfExpressiveClustering])
def test_clusters_do_not_depend_on_the_lengths_of_rows(method, factor):
    X, _, _ = planted(n=200)
    lengths = np.exp(np.random.default_rng(0).normal(size=(len(X), 1)))
    options = {"n_init": 5, "random_state": 0}
    plain = method(K, **options).fit(X)
    scaled = (X * lengths * factor).astype(np.float32)
    model = method(K, **options).fit(scaled)
    # rounding may change which restart comes first, and so the numbers of the clusters
    assert adjusted_rand_score(plain.labels_, model.labels_) == 1
    assert adjusted_rand_score(plain.predict(X), model.predict(scaled)) == 1
    found, expected = model.transform(scaled), plain.transform(X)
    np.testing.assert_allclose(distances(found), distances(expected), atol=5e-3)


def test_mini_batches_of_short_rows():
    X, _, _ = planted(n=200)
    plain, short = (KSubspaces(K, n_init=5, random_state=0) for _ in range(2))
    for part in np.array_split(X, 2):
        plain.partial_fit(part)
        short.partial_fit(part.astype(np.float32) * np.float32(2.0**-100))
    np.testing.assert_array_equal(short.labels_, plain.labels_)


@pytest.mark.parametrize("factor", FACTORS)
def test_first_clusters_of_desc(factor):
    X, _, _ = planted(n=200)
    X = X.astype(np.float32)
    options = {
        "hidden_sizes": (8,),
        "pretrain_epochs": 1,
        "max_epochs": 0,
        "subspace_dim": 2,
        "random_state": 0,
    }
    plain, model = DESC(K, **options).fit(X), DESC(K, **options).fit((X * factor).astype(np.float32))
    np.testing.assert_array_equal(model.initial_labels_, plain.initial_labels_)
    assert np.isfinite(model.embedding_).all()


@pytest.mark.parametrize("factor", [1e-30, 1e25])
@pytest.mark.parametrize("method", [KSubspaces, SelfExpressiveClustering])
def test_lengths_that_have_no_square_are_refused(method, factor):
    X, _, _ = planted(n=200)
    fate = "underflows" if factor < 1 else "overflows"
    with pytest.raises(
        ValueError, match=rf"squared norm {fate} float32; .*unit_rows=True or dtype='float64'"
    ):
        method(K, unit_rows=False).fit((X * factor).astype(np.float32))
    method(K, unit_rows=False, dtype="float64", n_init=2).fit((X * factor).astype(np.float32))


@pytest.mark.parametrize("scaling", ["global", "standard", "minmax", "uncentred"])
@pytest.mark.parametrize("factor", [2.0**-1000, 2.0**-600, 2.0**600, 2.0**1000])
def test_statistics_of_values_without_squares(scaling, factor):
    X = np.random.default_rng(0).normal(size=(200, 3)) + 1
    if scaling == "standard" and factor < 1:
        return  # a column whose variance underflows counts as constant
    for found, expected in zip(
        scaling_statistics(X * factor, scaling), scaling_statistics(X, scaling), strict=True
    ):
        np.testing.assert_allclose(found, expected * factor, rtol=1e-12)


@pytest.mark.bits
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int32"])
def test_narrow_rows_have_the_same_bits(dtype):
    random = np.random.default_rng(0)
    x = random.normal(size=(500, 37)) * 10.0 ** random.uniform(-44, 38, size=(500, 1))
    largest = np.finfo(dtype).max if dtype.startswith("float") else np.iinfo(dtype).max
    x = np.clip(x, 0 if dtype == "uint8" else -float(largest), float(largest)).astype(dtype)
    x[7] = 0
    z = torch.from_numpy(x.astype(np.float64))
    assert torch.equal(unit_rows_of_narrow(z), unit_rows(z))
    place = (torch.zeros(37), torch.ones(37), torch.device("cpu"), torch.float32)
    assert torch.equal(Rows(x, *place).directions(slice(0, 500)), unit_rows(z).float())
