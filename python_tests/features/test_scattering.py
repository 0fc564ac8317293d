"""Wavelet scattering against kymatio's values and closed forms; the transformer against scikit-learn's PCA."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.products import Products
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from desc_ext.features import Scattering2D, transformer
from desc_ext.features.scattering import Scattering

REFERENCE = Path(__file__).parent / "scattering_reference.npz"


@pytest.fixture(scope="module")
def images():
    return load_digits().images[:200].astype(np.float32)


def transform(x, J=3, L=8, dtype=torch.float64):
    return Scattering(*x.shape[1:], J, L, dtype)(torch.as_tensor(x, dtype=dtype)).numpy()


# ---------------------------------------------------------------------- the transform


@pytest.mark.parametrize("case", range(6))
def test_kymatio_gives_the_same_values(case):
    with np.load(REFERENCE) as reference:
        J, L, height, width = map(int, reference["cases"][case])
        x, expected = reference[f"images_{case}"], reference[f"S_{case}"]
        released = reference[f"released_{case}"]
    found = transform(x, J, L)
    assert x.shape[1:] == (height, width)
    assert found.shape == expected.shape == (2, 1 + L * J + L * L * J * (J - 1) // 2, *found.shape[2:])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    # The released filters are each too large by π/3.1415, and are single precision: one filter in order 0, three in
    # order 2.
    order = np.repeat([1, 2, 3], [1, L * J, len(found[0]) - 1 - L * J])[:, None, None]
    expected = released * (3.1415 / np.pi) ** order
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    single = transform(x, J, L, torch.float32)
    np.testing.assert_allclose(single, found, rtol=0, atol=2e-6 * np.abs(found).max())


def test_a_constant_image_has_its_value_in_order_0_and_nothing_else():
    paths = transform(np.full((1, 28, 20), 3.0))
    np.testing.assert_allclose(paths[:, 0], 3.0, rtol=1e-4)  # a Gaussian's sum on the grid, its tails cut
    assert np.abs(paths[:, 1:]).max() < 1e-13


def test_paths_are_positively_homogeneous():
    x = np.random.default_rng(0).normal(size=(3, 16, 16))
    np.testing.assert_allclose(transform(-2.5 * x)[:, 1:], 2.5 * transform(x)[:, 1:], rtol=1e-11)


def test_shifts_by_a_step_of_the_result_shift_it():
    x = np.random.default_rng(0).normal(size=(2, 32, 64))
    moved = transform(np.roll(x, (8, -16), (1, 2)))
    np.testing.assert_allclose(moved, np.roll(transform(x), (1, -2), (2, 3)), atol=1e-13)


def test_small_shifts_change_little():
    x = np.zeros((1, 32, 32))
    x[0, 12:20, 13:17] = 1
    moved = transform(np.roll(x, 1, 2)) - transform(x)
    assert np.linalg.norm(moved) < 0.25 * np.linalg.norm(transform(x))
    assert np.linalg.norm(np.roll(x, 1, 2) - x) > 0.69 * np.linalg.norm(x)  # what the pixels change


def test_littlewood_paley_bound_and_no_expansion():
    """|φ|² + ½ Σ (|ψ(ω)|² + |ψ(−ω)|²) <= B at all frequencies ω, so a layer expands distances by √B at most."""
    paths = Scattering(32, 32, dtype=torch.float64)
    # φ's spectrum, from its response to an impulse at every place
    impulses = torch.eye(32 * 32, dtype=torch.float64).view(-1, 32, 32)
    response = paths(impulses)[:, 0, 0, 0].view(32, 32)
    power = torch.fft.fft2(response).abs().square()
    for j in range(3):
        psi = paths._psi[j, 0] * 4**j  # without what folding takes
        mirrored = psi.flip(1, 2).roll((1, 1), (1, 2))
        power += ((psi.square() + mirrored.square()) / 2).sum(0)
    bound = float(power.max())
    assert 1 <= bound < 1.1
    random = np.random.default_rng(0)

    def energy(paths):  # φ passes little of what is lost by taking every 8th pixel: one stands for 64
        return 64 * np.square(paths).sum((1, 2, 3))

    for x, y in (random.normal(size=(2, 5, 32, 32)), np.cumsum(random.normal(size=(2, 5, 32, 32)), axis=2)):
        assert (energy(transform(x) - transform(y)) <= bound**3 * np.square(x - y).sum((1, 2))).all()
        assert (energy(transform(x)) <= bound**3 * np.square(x).sum((1, 2))).all()
        assert (energy(transform(x)) >= 0.5 * np.square(x).sum((1, 2))).all()  # little is left for order 3


def test_sizes_are_padded_to_powers_of_two():
    for height, width, J, expected in [
        (28, 28, 3, (32, 32)),
        (32, 33, 3, (32, 64)),
        (1, 5, 3, (8, 8)),
        (64, 9, 2, (64, 16)),
    ]:
        paths = Scattering(height, width, J)
        assert paths.padded_shape == expected
        assert paths.map_shape == tuple(size // 2**J for size in expected)
    x = np.random.default_rng(0).normal(size=(1, 28, 28))
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2)), mode="reflect")
    np.testing.assert_array_equal(transform(x), transform(padded))


# ---------------------------------------------------------------------- the transformer


def channels(images, **options):
    """Scaled channels in float64, from the definition."""
    maps = transform(images.astype(np.float64), **options)
    norms = np.sqrt(np.square(maps).sum((2, 3))).max(0)
    return (maps / norms[:, None, None]).reshape(len(maps), -1)


def test_channels_are_scaled_by_their_largest_norm(images):
    model = Scattering2D(None, dtype="float64").fit(images)
    scaled = model.transform(images)
    assert scaled.shape == (200, 217)
    np.testing.assert_allclose(scaled, channels(images), rtol=1e-10)
    largest = np.linalg.norm(model.transform(images).reshape(200, 217, -1), axis=2).max(0)
    np.testing.assert_allclose(largest, 1, rtol=1e-12)
    assert model.path_norms_.shape == (1, 217)


@pytest.mark.parametrize("route", ["covariance", "few", "incremental"])
@pytest.mark.parametrize("size", [8, 16])
def test_principal_components_are_scikit_learns(route, size, images, monkeypatch):
    if route == "incremental":
        monkeypatch.setattr(transformer, "_MAX_COVARIANCE", 10)
    if route != "few":
        monkeypatch.setattr(transformer, "_MAX_KEPT", 10)
    images = np.kron(images, np.ones((1, size // 8, size // 8), dtype=np.float32))
    called = []
    name = {"covariance": "_fit_covariance", "few": "_fit_few", "incremental": "_fit_incremental"}[route]
    kept = getattr(Scattering2D, name)
    monkeypatch.setattr(Scattering2D, name, lambda *arguments: called.append(1) or kept(*arguments))
    model = Scattering2D(20, dtype="float64").fit(images[:90] if size == 8 else images)
    assert called
    X = channels(images[:90] if size == 8 else images)
    expected = PCA(20, svd_solver="full").fit(X)
    np.testing.assert_allclose(model.components_, expected.components_, atol=1e-8)
    np.testing.assert_allclose(model.explained_variance_, expected.explained_variance_, rtol=1e-10)
    np.testing.assert_allclose(
        model.explained_variance_ratio_, expected.explained_variance_ratio_, rtol=1e-10
    )
    found = model.transform(images[150:])
    norms = np.repeat(model.path_norms_.ravel(), X.shape[1] // 217)
    raw = transform(images[150:].astype(np.float64)).reshape(50, -1)
    np.testing.assert_allclose(found, expected.transform(raw / norms), atol=1e-8)


def test_truncation_in_batches_is_close(images, monkeypatch):
    monkeypatch.setattr(transformer, "_MAX_COVARIANCE", 10)
    monkeypatch.setattr(transformer, "_MAX_KEPT", 10)
    monkeypatch.setattr(transformer, "_GRAM_ROWS", 64)
    model = Scattering2D(30, dtype="float64").fit(images)
    expected = PCA(30).fit(channels(images))
    kept, best = model.explained_variance_ratio_.sum(), expected.explained_variance_ratio_.sum()
    assert 0.99 * best < kept <= best * (1 + 1e-9)


def test_colours_are_channels_of_their_own(images):
    gray = images[:40].astype(np.float64)
    colour = np.stack([gray, gray[::-1], gray**2], 1)
    found = Scattering2D(None, dtype="float64").fit_transform(colour).reshape(40, 3, 217)
    for c in range(3):
        np.testing.assert_allclose(found[:, c], channels(colour[:, c]), rtol=1e-10)


@pytest.mark.bits
def test_kinds_of_input_agree(images, tmp_path):
    expected = Scattering2D(10).fit_transform(images)
    np.save(tmp_path / "stack.npy", images)
    flat = Scattering2D(10, image_shape=(8, 8))
    np.testing.assert_array_equal(flat.fit_transform(images.reshape(200, 64)), expected)
    for stack in (
        images[:, None],
        torch.from_numpy(images),
        images.astype(np.float64),
        images.astype(np.uint8),
        images.astype(np.uint8).tolist(),
        np.load(tmp_path / "stack.npy", mmap_mode="r"),
        np.asfortranarray(images),
    ):
        np.testing.assert_array_equal(Scattering2D(10).fit_transform(stack), expected)
    fitted = Scattering2D(10).fit(images)
    np.testing.assert_array_equal(fitted.transform(images.reshape(200, 64)), expected)


@pytest.mark.bits
def test_rows_do_not_depend_on_their_company_nor_on_threads(images):
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        model = Scattering2D(10, image_shape=(8, 8)).fit(images)
        alone = model.transform(images)
        torch.set_num_threads(3)
        np.testing.assert_array_equal(model.transform(images), alone)
        np.testing.assert_array_equal(clone(model).fit_transform(images), alone)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(n_threads)
    np.testing.assert_array_equal(model.transform(images[17:18]), alone[17:18])
    np.testing.assert_array_equal(model.transform(images[::-1]), alone[::-1])
    np.testing.assert_array_equal(model.fit_transform(images), alone)


@pytest.mark.bits
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((28, 28), {}),
        ((9, 13), {"batch_size": 5}),
        ((3, 10, 10), {"n_components": 7}),
        ((20, 30), {"dtype": "float64"}),
    ],
)
def test_of_no_product_is_anything_left_over(shape, options):
    """What whole tiles of a BLAS leave over is added in another order, so a row's bits would depend on its place."""
    images = np.random.default_rng(0).random((90, *shape))
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        model = Scattering2D(**{"n_components": 20, **options}).fit(images)
        with Products() as products:
            whole = model.transform(images)
    finally:
        torch.set_num_threads(n_threads)
    assert products.left_over() == []
    assert max(k for _, k, _ in products.shapes) >= len(
        model.mean_
    )  # the principal components are among them
    order = np.random.default_rng(1).permutation(90)
    np.testing.assert_array_equal(model.transform(images[order]), whole[order])


def test_batch_size_changes_only_roundings(images):
    expected = Scattering2D(10, batch_size=200).fit(images)
    for size in (1, 7, 1000):
        other = Scattering2D(10, batch_size=size).fit(images)
        np.testing.assert_allclose(other.components_, expected.components_, atol=1e-4)
        np.testing.assert_allclose(other.transform(images), expected.transform(images), atol=1e-4)


def test_more_components_than_there_are(images):
    assert Scattering2D(500).fit_transform(images[:30]).shape == (30, 30)
    assert Scattering2D(500, J=1, L=2).fit_transform(images).shape == (200, 3 * 16)


def test_scikit_learn_contract(images):
    model = Scattering2D(5, J=2, image_shape=(8, 8))
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    flat = images.reshape(200, 64)
    model.fit(flat)
    assert model.n_features_in_ == 64
    assert list(model.get_feature_names_out()) == [f"scattering2d{i}" for i in range(5)]
    assert model.transform(flat).dtype == np.float32
    assert Scattering2D(5, dtype="float64").fit_transform(images).dtype == np.float64
    rows = make_pipeline(copy, Normalizer()).fit_transform(flat)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    pandas = pytest.importorskip("pandas")
    frame = clone(model).set_output(transform="pandas").fit_transform(flat)
    assert isinstance(frame, pandas.DataFrame)


@pytest.mark.bits
def test_state_goes_through_json(images):
    for options in ({}, {"n_components": None, "dtype": "float64", "J": 2}):
        model = Scattering2D(**{"n_components": 12, **options}).fit(images)
        config, tensors = model.state()
        again = Scattering2D.from_state(json.loads(json.dumps(config)), tensors)
        np.testing.assert_array_equal(again.transform(images), model.transform(images))
        assert again.image_shape_ == (1, 8, 8)
        with pytest.raises(ValueError, match="have shapes"):
            Scattering2D.from_state(config, tensors | {"mean_": tensors["mean_"][1:]})


def test_paths_of_nothing_stay_nothing():
    """Constant images have rounding errors in orders 1 and 2, which must not be blown up to norm 1."""
    flat = np.random.default_rng(0).uniform(1, 2, size=(50, 1, 1)) * np.ones((50, 8, 8))
    for dtype in ("float32", "float64"):
        scaled = Scattering2D(None, dtype=dtype).fit_transform(flat)
        assert np.abs(scaled[:, 1:]).max() < 1e-5
        np.testing.assert_allclose(scaled[:, 0], flat[:, 0, 0] / flat.max(), rtol=1e-5)
    assert np.isfinite(Scattering2D(3).fit_transform(np.zeros((120, 8, 8)))).all()


@pytest.mark.parametrize(
    ("options", "X", "message"),
    [
        ({"n_components": 0}, np.zeros((5, 8, 8)), "n_components must be an integer >= 1 or None, got 0"),
        ({"J": 0}, np.zeros((5, 8, 8)), "J must be an integer >= 1, got 0"),
        ({"L": 2.0}, np.zeros((5, 8, 8)), "L must be an integer >= 1, got 2.0"),
        ({"batch_size": -1}, np.zeros((5, 8, 8)), "batch_size must be an integer >= 1 or None"),
        ({"dtype": "float16"}, np.zeros((5, 8, 8)), "dtype must be one of"),
        ({"device": "tpu9"}, np.zeros((5, 8, 8)), "device must be 'auto' or a torch device"),
        ({}, np.zeros((5, 64)), r"flat rows.*set image_shape=\(H, W\)"),
        ({"image_shape": (7, 8)}, np.zeros((5, 64)), "has 56 pixels, but the rows of X have 64 columns"),
        ({}, np.zeros((1, 8, 8)), "minimum of 2 is required"),
        ({}, np.full((5, 8, 8), np.nan), "contains NaN"),
        ({}, np.zeros((5, 2, 3, 4, 5)), "dim 5|Found array with dim"),
    ],
)
def test_bad_input_is_refused(options, X, message):
    with pytest.raises(ValueError, match=message):
        Scattering2D(**options).fit(X)


def test_other_images_than_the_fitted_ones_are_refused(images):
    model = Scattering2D(5).fit(images)
    with pytest.raises(ValueError, match=r"images of \(1, 8, 8\) are wanted"):
        model.transform(images.reshape(200, 4, 16))
    with pytest.raises(ValueError, match="has 64 pixels"):
        model.transform(images.reshape(200, 64)[:, 1:])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none")
def test_cuda_agrees_with_the_cpu(images):
    expected = Scattering2D(10, device="cpu").fit(images)
    found = Scattering2D(10, device="cuda").fit(images)
    np.testing.assert_allclose(found.transform(images), expected.transform(images), atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"image_shape": [1, 10**6, 10**6]},
        {"J": 14},
        {"J": 10**18},
        {"L": 10**7},
        {"image_shape": [10**6, 8, 8]},
    ],
)
def test_saved_sizes_are_refused_before_filters_are_made(change):
    features = Scattering2D(4).fit(np.random.default_rng(0).normal(size=(12, 8, 8)))
    config, tensors = features.state()
    with pytest.raises(ValueError, match=r"no filters of J|the saved tensors have shapes"):
        Scattering2D.from_state({**config, "params": config["params"] | change}, tensors)
