"""Data and options at the edge of what has clusters: finite and right results, a word where one is due, or a clear error."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from helpers.estimators import external_options, small
from helpers.transfer import SMALL as TRANSFER
from helpers.transfer import other, rows
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning

from desc_ext.metrics import clustering_scores
from desc_ext.models import DESC, LRSC, MODELS, KSubspaces, SelfExpressiveClustering

every_method = pytest.mark.parametrize("method", MODELS)


def odd_data(kind: str) -> np.ndarray:
    random = np.random.default_rng(0)
    X = random.normal(size=(120, 6))
    one = np.zeros((400, 8))
    one[:, 3] = random.normal(size=400)
    return {
        "single column": X[:, :1],
        "subnormal": (X * 20).astype(np.float32) * np.float32(1e-45),
        "without squares": X * 1e-200,
        "with overflowing squares": X * 1e200,
        "one column that is not zero": one.astype(np.float32),
        "constant columns": np.concatenate([np.full((120, 3), 7.5), X[:, :1]], axis=1),
    }[kind]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind",
    [
        "single column",
        "subnormal",
        "without squares",
        "with overflowing squares",
        "one column that is not zero",
        "constant columns",
    ],
)
@every_method
def test_results_are_finite_or_refused(method, kind):
    X = odd_data(kind)
    model = small(method)
    try:
        model.fit(X)
    except ValueError as error:
        # rows of one column, divided by their norm, are 1 and −1: no three clusters
        assert "2 distinct rows after" in str(error)  # noqa: PT017
        assert method == "self-expressive"
        return
    assert np.isfinite(model.embedding_).all()
    assert np.isfinite(model.transform(X)).all()
    assert set(model.labels_) <= {0, 1, 2}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("factor", [1e-40, 1e-200, 1e200])
@every_method
def test_clusters_do_not_depend_on_the_unit(method, factor):
    X, _ = make_blobs(90, 6, centers=3, cluster_std=0.2, random_state=3)
    plain = small(method).fit(X)
    scaled = small(method).fit(X * factor)
    # equal but for rounding, which training magnifies
    assert clustering_scores(plain.labels_, scaled.labels_)["acc"] > 0.95


@every_method
def test_fewer_distinct_rows_than_clusters_are_refused(method):
    X = np.repeat(np.random.default_rng(0).normal(size=(3, 5)), 10, axis=0)
    with pytest.raises(ValueError, match="X has 3 distinct rows among its 30, fewer than n_clusters=4"):
        small(method, 4).fit(X)


@pytest.mark.parametrize("method", [SelfExpressiveClustering, MODELS["ae-kmeans"], MODELS["dsc-net"]])
def test_as_many_clusters_as_rows(method):
    X = np.random.default_rng(0).normal(size=(38, 6)).astype(np.float32)
    assert len(set(small(method.method, 38).fit(X).labels_)) == 38


# ---------------------------------------------------------------------- words


@every_method
def test_empty_clusters_are_named(method, monkeypatch):
    """From one place, whatever the method: here it is told that it found two of four clusters."""
    X, _ = make_blobs(60, 6, centers=4, random_state=0)
    cls, labels = MODELS[method], np.array([0, 2] * 30)
    fit = cls._fit

    def collapsed(self, *arguments):
        fit(self, *arguments)
        self.labels_ = labels

    monkeypatch.setattr(cls, "_fit", collapsed)
    with pytest.warns(
        ConvergenceWarning, match=rf"{cls.__name__}: 2 of 4 clusters are empty: 1, 3; ask for"
    ) as caught:
        small(method, 4).fit(X)
    assert next(w for w in caught if "empty" in str(w.message)).filename == __file__


def test_without_empty_clusters_there_is_no_word():
    X, _ = make_blobs(60, 6, centers=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        SelfExpressiveClustering(3, random_state=0).fit(X)
        small("dec").fit(X)


def test_hard_samples_are_spoken_of_where_something_can_be_done():
    X, _ = make_blobs(90, 6, centers=3, cluster_std=0.2, random_state=3)
    options = {
        "hidden_sizes": (8,),
        "pretrain_epochs": 1,
        "max_epochs": 1,
        "random_state": 0,
        "subspace_dim": 2,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="no row was ever confident")
        DESC(3, **options).fit(X)
    with pytest.warns(UserWarning, match="no row was ever confident") as caught:
        DESC(3, confidence_threshold=0.999, **options).fit(X)
    assert not any("preset" in str(warning.message) for warning in caught)
    with pytest.warns(UserWarning, match="no row was ever confident.*or use preset='robust'"):
        DESC(3, preset="paper", **options).fit(X)


def test_lrsc_says_what_it_does_without_external_data():
    with pytest.warns(
        UserWarning, match="LRSC: there are no external data, so task_level and model_level"
    ) as caught:
        LRSC(3, **TRANSFER).fit(rows())
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="LRSC: there are no")
        LRSC(3, task_level=False, model_level=False, **TRANSFER).fit(rows())
        LRSC(3, external=other(), **TRANSFER).fit(rows())
    with pytest.raises(ValueError, match="LRSC: model_level=True needs external data"):
        LRSC(3, model_level=True, **TRANSFER).fit(rows())


# ---------------------------------------------------------------------- seeds, half types


@every_method
def test_a_generator_of_numpy_is_a_seed(method):
    X, y = make_blobs(60, 6, centers=3, random_state=0)
    options = external_options(X, y) if method == "lrsc" else {}
    fits = [small(method, random_state=np.random.default_rng(5), **options).fit(X) for _ in range(2)]
    np.testing.assert_array_equal(fits[0].embedding_, fits[1].embedding_)
    np.testing.assert_array_equal(fits[0].labels_, fits[1].labels_)
    generator = np.random.default_rng(5)
    drawn = KSubspaces(3, random_state=generator)._draw_seed()
    assert (
        drawn
        == int(np.random.default_rng(5).integers(2**31 - 1))
        != KSubspaces(3, random_state=generator)._draw_seed()
    )


@pytest.mark.parametrize("seed", ["x", -1, 1.5])
def test_other_seeds_are_refused_before_any_work(seed):
    with pytest.raises(
        ValueError, match=r"DESC: random_state must be an integer from 0 .*default_rng.*; got"
    ):
        DESC(3, random_state=seed).fit(None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_external_tensors_of_half_types(dtype):
    E, y = other()
    half = torch.from_numpy(E).to(dtype)
    expected = LRSC(3, external=(half.float().numpy(), y), **TRANSFER).fit(rows())
    found = LRSC(3, external=(half, torch.from_numpy(y)), **TRANSFER).fit(rows())
    np.testing.assert_array_equal(found.embedding_, expected.embedding_)
