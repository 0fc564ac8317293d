"""The estimators as scikit-learn sees them: contract, input, errors, repeatability."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.estimators import NETWORKS, REFINED, external_options, small
from helpers.products import Products
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from desc_ext.models import (
    DESC,
    MODELS,
    load_model,
)
from desc_ext.nn import Layers

# small networks are never sure of themselves, nor is NCSC on noise; each method's own file tests the warnings themselves
pytestmark = [
    pytest.mark.filterwarnings("ignore:no row was ever confident"),
    pytest.mark.filterwarnings("ignore:NCSC collapsed"),
]

# a classifier needs more steps than elsewhere to part the blobs of one of the checks
LONGER = {"ncsc": {"classifier_epochs": 10, "min_batches": 5, "learning_rate": 1e-2}}


@parametrize_with_checks(
    [
        *(small(method, 8, **LONGER.get(method, {})) for method in MODELS),
        DESC(random_state=0, preset="paper", **REFINED),
    ]
)
def test_scikit_learn_contract(estimator, check):
    """All checks, of all estimators: none is expected to fail."""
    check(estimator)


@pytest.mark.bits
@pytest.mark.parametrize("method", NETWORKS)
def test_shapes_and_types(method, digits):
    model = small(method).fit(digits)
    p = model.network_.latent_dim
    assert model.labels_.shape == (300,)
    assert model.labels_.dtype == np.int64
    assert model.embedding_.shape == (300, p)
    assert model.embedding_.dtype == np.float32
    np.testing.assert_array_equal(model.predict(digits), model.labels_)
    np.testing.assert_array_equal(model.transform(digits), model.embedding_)
    proba = model.predict_proba(digits)
    assert proba.shape == (300, 3)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(proba.argmax(1), model.labels_)
    stages = [record["stage"] for record in model.history_]
    assert stages == ["pretrain"] * 4 + ["refine"] * (0 if method == "ae-kmeans" else 4)
    assert model.n_iter_ == stages.count("refine")


def test_attributes_of_the_methods(digits):
    assert small("desc").fit(digits).bases_.shape == (3, 9, 3)
    assert small("ae-kmeans", latent_dim=7).fit(digits).cluster_centers_.shape == (3, 7)


def test_history_of_refinement(digits):
    record = small("desc").fit(digits).history_[-1]
    terms = {"loss", "reconstruction", "basis", "clustering", "head", "anchor"}
    rest = {"stage", "epoch", "seconds", "n_confident", "label_change", "n_reseeded", "cluster_sizes"}
    assert terms | rest <= set(record)
    assert record["epoch"] == 4
    assert sum(record["cluster_sizes"]) == 300
    weights = {"reconstruction": 1, "basis": 0.001, "clustering": 1, "head": 0.1, "anchor": 1}  # "robust"
    total = sum(weight * record[name] for name, weight in weights.items())
    assert record["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.bits
@pytest.mark.parametrize("method", MODELS)
def test_same_seed_same_bits_and_untouched_global_state(method, digits):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = small(method).fit(digits)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    second = small(method).fit(digits)
    np.testing.assert_array_equal(first.embedding_, second.embedding_)
    np.testing.assert_array_equal(first.labels_, second.labels_)
    if method != "self-expressive":  # of so few rows, it draws nothing but the k-means starts
        other = small(method, random_state=1).fit(digits)
        assert not np.array_equal(first.embedding_, other.embedding_)


def test_kinds_of_input_agree(digits, tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, digits)
    expected = small("desc").fit(digits).embedding_
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(digits, columns=[f"pixel{i}" for i in range(64)])
    kinds = {
        "memory map": np.load(path, mmap_mode="r"),
        "torch": torch.from_numpy(digits),
        "float64": digits.astype(np.float64),
        "integers": digits.astype(np.uint8),
        "Fortran order": np.asfortranarray(digits),
        "frame": frame,
    }
    for name, X in kinds.items():
        np.testing.assert_array_equal(small("desc").fit(X).embedding_, expected, err_msg=name)


def test_memory_map_is_read_in_batches(tmp_path):
    """A map must not come into memory whole: no read asks for more than 9000 of its 20,000 rows."""
    rows = np.lib.format.open_memmap(tmp_path / "big.npy", mode="w+", dtype=np.float32, shape=(20_000, 16))
    rows[:] = np.random.default_rng(0).normal(size=rows.shape)
    reads = []

    class Watched(np.ndarray):
        def __getitem__(self, key):
            part = super().__getitem__(key)
            if getattr(part, "ndim", 0) == 2:
                reads.append(len(part))
            return part

    from desc_ext.engine import rows as rows_module

    watched = rows.view(Watched)
    rows_module.check_training_rows(watched, 3)
    offset, scale = rows_module.scaling_statistics(watched, "global")
    read = rows_module.Rows(
        watched, torch.from_numpy(offset), torch.from_numpy(scale), torch.device("cpu"), torch.float32
    )
    assert sum(len(chunk) for chunk in read.chunks()) == 20_000
    assert max(reads) <= 9000


@pytest.mark.bits
@pytest.mark.parametrize(
    ("method", "shape", "dtype"),
    [
        *((name, (64,), "float32") for name in MODELS),
        ("dcec", (8, 8), "float32"),
        ("desc", (64,), "float64"),
        ("self-expressive", (64,), "float64"),
        ("ncsc", (8, 8), "float64"),
        ("desc", (64,), "mixed_bfloat16"),
    ],
)
def test_results_of_a_row_do_not_depend_on_its_company(method, shape, dtype, digits):
    model = small(method, dtype=dtype).fit(digits.reshape(-1, *shape))
    names = ["transform", "predict_proba" if hasattr(model, "predict_proba") else "predict"]
    names = [name for name in names if hasattr(model, name)]

    def results(X):
        return [getattr(model, name)(X.reshape(-1, *shape)) for name in names]

    n_threads, rows = torch.get_num_threads(), np.concatenate([digits, digits, digits[:20]])  # two chunks
    order = np.random.default_rng(0).permutation(len(rows))
    try:
        torch.set_num_threads(1)
        with Products() as products:
            whole = results(rows)
        # On this processor the bits may be equal all the same: of no product is anything left over by whole tiles.
        assert products.left_over() == []
        assert (
            products.shapes or method == "k-subspaces" or shape != (64,)
        )  # kernels of our own, convolutions
        torch.set_num_threads(3)
        for found, expected in zip(results(rows), whole, strict=True):
            np.testing.assert_array_equal(found, expected)
    finally:
        torch.set_num_threads(n_threads)
    for some in (order, slice(17, 18), slice(590, 620)):
        for found, expected in zip(results(rows[some]), whole, strict=True):
            np.testing.assert_array_equal(found, expected[some])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda X: np.where(np.arange(X.size).reshape(X.shape) == 5 * 64 + 7, np.nan, X), "row 5, column 7"),
        (lambda X: np.where(np.arange(X.size).reshape(X.shape) == 64, np.inf, X), "in 1 of 300 rows.*row 1"),
        (lambda X: X[:2], "n_samples=2 cannot make n_clusters=3"),
        (lambda X: np.tile(X[:1], (50, 1)), "X is constant.*64 columns.*50 rows"),
        (lambda X: X[0], "1D array"),
        (lambda X: X[:0], "0 sample"),
    ],
)
@pytest.mark.parametrize("method", ["desc", "ae-kmeans", "k-subspaces", "self-expressive"])
def test_bad_data_is_refused(method, damage, message, digits):
    with pytest.raises(ValueError, match=message):
        small(method).fit(damage(digits))


def test_a_diverging_loss_is_reported_and_keeps_the_checkpoint(digits, tmp_path):
    options = {"scaling": "none", "pretrain_learning_rate": 1e25, "checkpoint": tmp_path, "unit_codes": False}
    with pytest.raises(FloatingPointError, match=r"the loss became .* in pretrain epoch"):
        small("desc", **options).fit(digits * 1e3)


def test_sparse_and_wrong_width_are_refused(digits):
    from scipy import sparse

    with pytest.raises(TypeError, match="dense data is required"):
        small("desc").fit(sparse.csr_matrix(digits))
    model = small("desc").fit(digits)
    with pytest.raises(ValueError, match="X has 63 features, but DESC is expecting 64"):
        model.predict(digits[:, :63])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_clusters": 0}, "n_clusters must be an integer >= 1, got 0"),
        ({"preset": "best"}, "preset must be one of 'paper', 'robust', got 'best'"),
        ({"subspace_dim": 2.5}, "subspace_dim must be an integer >= 1, got 2.5"),
        ({"subspace_dim": 9, "latent_dim": 8}, "subspace_dim=9 must be <= latent_dim=8"),
        ({"hidden_sizes": (10, 0)}, "hidden_sizes must be a tuple"),
        ({"smoothing": float("nan")}, "smoothing must be a finite number"),
        ({"smoothing": 0.0}, "smoothing must be a finite number > 0, got 0.0"),
        ({"hard_weight": "strong"}, "hard_weight must be one of"),
        ({"corruption": 1.0}, "corruption must be"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"device": "tpu9"}, "device must be 'auto' or a torch device"),
        ({"resume": True}, "resume=True needs checkpoint"),
    ],
)
def test_bad_options_are_refused(options, message, digits):
    with pytest.raises(ValueError, match=message):
        DESC(**options).fit(digits)


def test_clone_parameters_and_pipeline(digits):
    model = small("desc")
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    copy.set_params(smoothing=0.5, preset="paper")
    assert copy.fit(digits).resolved_params_["smoothing"] == 0.5
    assert copy.resolved_params_["objective"] == "projection"
    pipeline = make_pipeline(StandardScaler(), model)
    labels = pipeline.fit_predict(digits)
    np.testing.assert_array_equal(pipeline.predict(digits), labels)
    assert list(model.fit(digits).get_feature_names_out()[:2]) == ["desc0", "desc1"]


def test_set_output(digits):
    pandas = pytest.importorskip("pandas")
    codes = small("desc", latent_dim=4).fit(digits).set_output(transform="pandas").transform(digits)
    assert isinstance(codes, pandas.DataFrame)
    assert list(codes.columns) == ["desc0", "desc1", "desc2", "desc3"]


@pytest.mark.parametrize("method", [name for name, cls in MODELS.items() if hasattr(cls, "predict")])
def test_predict_does_not_see_set_output(method, digits):
    pytest.importorskip("pandas")
    model = small(method).fit(digits)
    before = model.predict(digits)
    np.testing.assert_array_equal(model.set_output(transform="pandas").predict(digits), before)


def test_grid_search(digits):
    """Over options that presets set: the best residual is that of the larger subspaces."""
    search = GridSearchCV(small("k-subspaces"), {"subspace_dim": [1, 6], "unit_rows": [True]}, cv=2).fit(
        digits
    )
    assert search.best_params_["subspace_dim"] == 6
    assert search.best_estimator_.bases_.shape == (3, 64, 6)
    search = GridSearchCV(
        small("idec"),
        {"latent_dim": [2, 5]},
        cv=2,
        scoring=lambda model, X, y=None: model.embedding_.shape[1],
    ).fit(digits)
    assert search.best_estimator_.network_.latent_dim == 5


@pytest.mark.parametrize("scaling", ["global", "standard", "minmax", "uncentred", "none"])
def test_scaling(scaling):
    X = np.random.default_rng(0).normal(3, [1, 5, 0], size=(500, 3))
    from desc_ext.engine.rows import Rows, scaling_statistics

    offset, scale = (torch.from_numpy(part) for part in scaling_statistics(X, scaling))
    scaled = Rows(X, offset, scale, torch.device("cpu"), torch.float64).take(np.arange(500)).numpy()
    expected = {
        "global": (X - X.mean(0)) / (X - X.mean(0)).std(),
        "standard": (X - X.mean(0)) / np.array([*X.std(0)[:2], 1]),
        "minmax": (X - X.min()) / (X.max() - X.min()),
        "uncentred": X / np.sqrt(np.mean(X**2)),
        "none": X,
    }[scaling]
    np.testing.assert_allclose(scaled, expected, atol=1e-12)


@pytest.mark.bits
@pytest.mark.parametrize("method", [*NETWORKS, "ncsc", "dsc-net", "lrsc"])
def test_mixed_precision_is_that_of_the_layers(method, digits, tmp_path, monkeypatch):
    seen, forward = set(), Layers.forward

    def watched(layers, x):
        result = forward(layers, x)
        seen.add((layers.mixed, next(layers.parameters()).dtype, result.dtype))
        return result

    monkeypatch.setattr(Layers, "forward", watched)
    options = {} if method != "lrsc" else external_options(digits[:60], np.arange(60) % 3)
    model = small(method, dtype="mixed_bfloat16", **options).fit(digits)
    assert seen == {(True, torch.float32, torch.float32)}
    assert model.embedding_.dtype == np.float32
    model.save(tmp_path)
    np.testing.assert_array_equal(load_model(tmp_path).transform(digits), model.transform(digits))
    exact = small(method, **options).fit(digits)
    assert exact.history_[0]["loss"] == pytest.approx(model.history_[0]["loss"], rel=0.02)
    assert exact.history_[0]["loss"] != model.history_[0]["loss"]


def test_one_cluster_and_narrow_data():
    X, y = make_blobs(90, n_features=2, centers=3, cluster_std=0.3, random_state=0)
    assert set(small("desc", 1).fit_predict(X)) == {0}
    labels = small("desc", 3, pretrain_epochs=30).fit_predict(X)
    from sklearn.metrics import adjusted_rand_score

    assert adjusted_rand_score(y, labels) > 0.9
