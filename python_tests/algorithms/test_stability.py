"""How many neighbours of images are kept: by whether a third of the rows is clustered as all of them are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from sklearn.utils import check_random_state

from desc_ext.algorithms.first_clusters import by_self_expression
from desc_ext.algorithms.stability import has_other_neighbors
from desc_ext.models import SelfExpressiveClustering

N, SIDE, K = 3_200, 8, 4


def images(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 8, 8] near K subspaces of three dimensions, and which one."""
    random = np.random.default_rng(0)
    bases = np.linalg.qr(random.normal(size=(K, SIDE * SIDE, 3)))[0]
    member = random.integers(K, size=N)
    rows = np.einsum("npd,nd->np", bases[member], random.normal(size=(N, 3)))
    return (rows + noise * random.normal(size=rows.shape)).reshape(N, SIDE, SIDE).astype(np.float32), member


def stability(model: SelfExpressiveClustering) -> dict:
    [record] = [record for record in model.history_ if record["stage"] == "stability"]
    return record


def test_rows_for_which_other_neighbours_come_into_question():
    """40 or a 25th of a cluster, where that is more than 10."""
    assert not has_other_neighbors(2_999, 4)  # too few
    assert has_other_neighbors(3_000, 4)
    assert not has_other_neighbors(3_000, 12)  # 250 rows a cluster
    assert has_other_neighbors(3_200, 12)
    assert not has_other_neighbors(5_000, 60)  # 5 neighbours of few rows a cluster


def test_clusters_that_a_sample_has_too_stay_with_few_neighbours():
    X, member = images(0.02)
    model = SelfExpressiveClustering(K, random_state=0).fit(X)
    assert adjusted_rand_score(member, model.labels_) > 0.98
    record = stability(model)
    assert list(record["agreement"]) == ["10"]
    assert record["agreement"]["10"] > 0.98
    assert record["n_neighbors"] == model.resolved_params_["n_neighbors"] == 10


@pytest.mark.slow
@pytest.mark.parametrize("ridge", [None, 3])
def test_of_clusters_that_change_the_more_stable_ones_are_taken(ridge):
    X, _ = images(0.5)
    model = SelfExpressiveClustering(K, random_state=0, ridge=ridge).fit(X)
    shares = stability(model)["agreement"]
    assert sorted(shares) == ["10", "32"]  # 3,200/(25 · 4)
    assert shares["10"] < 0.9
    best, seed = max(shares, key=shares.get), check_random_state(0).randint(2**31 - 1)
    assert model.resolved_params_["n_neighbors"] == int(best)
    third = None if ridge is None else ridge / 3  # eigenvalues of the Gram matrix grow with the rows
    for neighbors in shares:
        given = SelfExpressiveClustering(K, random_state=0, n_neighbors=int(neighbors), ridge=ridge).fit(X)
        assert (adjusted_rand_score(given.labels_, model.labels_) == 1) == (neighbors == best)
        sample = np.sort(np.random.default_rng(seed).choice(N, N // 3, replace=False, shuffle=False))
        alone = SelfExpressiveClustering(K, random_state=0, n_neighbors=int(neighbors), ridge=third).fit(
            X[sample]
        )
        agreed = np.bincount(given.labels_[sample] * K + alone.labels_, minlength=K * K).reshape(K, K)
        assert shares[neighbors] == pytest.approx(_matched(agreed) / len(sample), abs=0.03)


def test_the_start_of_a_refinement_has_them():
    X, _ = images(0.5)
    model = SelfExpressiveClustering(K, random_state=0).fit(X)
    seed = check_random_state(0).randint(2**31 - 1)
    start = by_self_expression(torch.from_numpy(X.reshape(N, -1)), K, seed, images=True)
    assert model.resolved_params_["n_neighbors"] == 32
    assert adjusted_rand_score(start.labels.numpy(), model.labels_) == 1


@pytest.mark.parametrize("given", [{"n_neighbors": 10}, {"expression": "omp", "n_neighbors": 5}])
def test_what_is_given_is_not_compared(given):
    X, _ = images(0.02)
    model = SelfExpressiveClustering(K, random_state=0, **given).fit(X)
    assert not [record for record in model.history_ if record["stage"] == "stability"]


def test_rows_that_are_no_images_are_not_compared():
    X, _ = images(0.02)
    model = SelfExpressiveClustering(K, random_state=0).fit(X.reshape(N, -1))
    assert not [record for record in model.history_ if record["stage"] == "stability"]


def _matched(counts: np.ndarray) -> int:
    """The most rows that a one-to-one naming of clusters can keep, by all namings."""
    return max(
        sum(counts[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(len(counts)))
    )
