"""Self-expressive clustering: coefficients against constrained solves, spectra against NumPy's, and the estimator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.peak_memory import extra_memory
from scipy import sparse
from sklearn.cluster import SpectralClustering
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize

from desc_ext.algorithms import graph
from desc_ext.algorithms.cluster_number import ClusterNumber, cluster_number
from desc_ext.algorithms.graph import symmetric_affinity
from desc_ext.algorithms.spectral import leading_eigenvectors, spectral_kmeans
from desc_ext.engine.callbacks import Callback
from desc_ext.models import SelfExpressiveClustering, load_model


def subspaces(n_each=(60, 60, 60), p=30, dim=3, noise=0.01, seed=0):
    """Rows of independent linear subspaces with noise, and the subspace of each."""
    random = np.random.default_rng(seed)
    parts = [random.normal(size=(n, dim)) @ np.linalg.qr(random.normal(size=(p, dim)))[0].T for n in n_each]
    X = np.concatenate(parts) + noise * random.normal(size=(sum(n_each), p))
    return X, np.repeat(np.arange(len(n_each)), n_each)


def coefficients(z, ridge):
    """C row by row from its definition: min ‖c‖² + ‖z_i − cZ‖²/ridge over c with c_i = 0."""
    C = np.zeros((len(z), len(z)))
    for i in range(len(z)):
        rest = np.delete(np.arange(len(z)), i)
        A = z[rest]
        C[i, rest] = np.linalg.solve(A @ A.T + ridge * np.eye(len(rest)), A @ z[i])
    return C


def affinity_by_definition(z, ridge, k):
    size = np.abs(coefficients(z, ridge))
    kept = np.zeros_like(size)
    for i, row in enumerate(size):
        top = np.argsort(-row)[:k]
        kept[i, top] = row[top] / row.max()
    return (kept + kept.T) / 2


# ---------------------------------------------------------------------- affinity


@pytest.mark.parametrize("p", [12, 90])
@pytest.mark.parametrize("ridge", [0.1, 3.0])
def test_affinity_is_that_of_constrained_solves(p, ridge):
    X, _ = subspaces(n_each=(25, 20, 15), p=p)
    model = SelfExpressiveClustering(3, ridge=ridge, n_neighbors=4, dtype="float64", random_state=0).fit(X)
    expected = affinity_by_definition(normalize(X), ridge, 4)
    np.testing.assert_allclose(model.affinity_matrix_.toarray(), expected, rtol=1e-8, atol=1e-12)
    full = np.abs(coefficients(normalize(X), ridge))
    full /= full.max(1, keepdims=True)
    rows = [3, 50, 17, 0]
    np.testing.assert_allclose(
        model.dense_affinity(rows), ((full + full.T) / 2)[np.ix_(rows, rows)], rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize("scaling", ["none", "global", "standard", "minmax"])
@pytest.mark.parametrize("unit_rows", [True, False])
def test_scaling_and_units_of_the_ridge(scaling, unit_rows):
    X, _ = subspaces(n_each=(20, 20, 20), p=8)
    X = 5 * X + 1
    z = {
        "none": X,
        "global": (X - X.mean(0)) / np.sqrt(X.var(0).mean()),
        "standard": (X - X.mean(0)) / X.std(0),
        "minmax": (X - X.min()) / (X.max() - X.min()),
    }[scaling]
    z = normalize(z) if unit_rows else z
    ridge = 0.5 * np.square(z).sum(1).mean()
    options = {
        "scaling": scaling,
        "unit_rows": unit_rows,
        "ridge": 0.5,
        "n_neighbors": 5,
        "dtype": "float64",
        "random_state": 0,
    }
    model = SelfExpressiveClustering(3, **options).fit(X)
    np.testing.assert_allclose(
        model.affinity_matrix_.toarray(), affinity_by_definition(z, ridge, 5), rtol=1e-7, atol=1e-12
    )
    if scaling == "none":  # nothing depends on the unit of X
        other = SelfExpressiveClustering(3, **options).fit(1000 * X)
        np.testing.assert_allclose(
            other.affinity_matrix_.toarray(), model.affinity_matrix_.toarray(), rtol=1e-7
        )


def test_symmetric_affinity():
    indices = np.array([[1, 2], [0, 2], [1, 0], [0, 1]])
    values = np.array([[0.5, -0.25], [1.0, 0.0], [-2.0, 1.0], [0.0, 0.0]])
    dense = np.zeros((4, 4))
    np.put_along_axis(dense, indices, np.abs(values), 1)
    affinity = symmetric_affinity(indices, values)
    np.testing.assert_array_equal(affinity.toarray(), (dense + dense.T) / 2)
    assert affinity.nnz == 6  # explicit zeros are gone


# ---------------------------------------------------------------------- spectrum


def random_graph(n, seed=0):
    random = np.random.default_rng(seed)
    graph = sparse.random_array((n, n), density=8 / n, rng=random, format="csr")
    graph.setdiag(0)
    return ((graph + graph.T) / 2).tocsr()


@pytest.mark.parametrize("solver", ["arpack", "lobpcg", "chebyshev"])
@pytest.mark.parametrize("n", [40, 700])
def test_eigenvectors_are_numpys(solver, n):
    affinity = random_graph(n)
    values, vectors = leading_eigenvectors(affinity, 6, solver, 0)
    degree = affinity.toarray().sum(1)
    normalised = affinity.toarray() / np.sqrt(np.outer(degree, degree))
    expected, basis = np.linalg.eigh(normalised)
    np.testing.assert_allclose(values, expected[:-7:-1], atol=1e-8)
    overlap = np.abs(vectors.T @ basis[:, :-7:-1])
    np.testing.assert_allclose(overlap, np.eye(6), atol=1e-6 if solver == "arpack" else 2e-3)
    assert (vectors.max(0) >= -vectors.min(0)).all()
    again = leading_eigenvectors(affinity, 6, solver, 0)
    np.testing.assert_array_equal(again[1], vectors)


@pytest.mark.parametrize("solver", ["arpack", "lobpcg", "chebyshev"])
def test_components_and_isolated_rows(solver):
    """Eigenvalue 1 as often as there are components; a row without affinity has no part in any eigenvector."""
    blocks = [random_graph(200, seed) for seed in range(3)]
    affinity = sparse.block_diag([*blocks, sparse.csr_array((2, 2))], format="csr")
    values, vectors = leading_eigenvectors(affinity, 4, solver, 0)
    np.testing.assert_allclose(values[:3], 1, atol=1e-6)
    assert values[3] < 0.999
    np.testing.assert_allclose(vectors[600:], 0, atol=1e-3)
    _, model = spectral_kmeans(vectors[:600, :3], 3, 5, 0)
    assert adjusted_rand_score(np.repeat([0, 1, 2], 200), model.labels_) == 1


def test_small_components_are_found_and_joined(monkeypatch):
    X, truth = subspaces(n_each=(100, 100, 100))
    random = np.random.default_rng(1)
    # seven rows that have only each other: nearly one direction, far from all others
    lone = np.zeros((7, 40))
    lone[:, 35] = 1
    lone[:, :35] = 1e-2 * random.normal(size=(7, 35))
    X = np.concatenate([np.pad(X, ((0, 0), (0, 10))), lone])
    model = SelfExpressiveClustering(3, ridge=0.1, n_neighbors=5, random_state=0).fit(X)
    record = model.history_[2]
    assert (record["stage"], record["n_joined"]) == ("affinity", 7)
    assert adjusted_rand_score(truth, model.labels_[:300]) > 0.95
    coef = np.abs(coefficients(normalize(X), 0.1))
    coef /= coef.max(1, keepdims=True)
    full = (coef + coef.T) / 2
    for row in range(300, 307):  # its strongest link out of the component, and no other
        linked = model.affinity_matrix_[[row]].toarray()[0, :300]
        best = full[row, :300].argmax()
        assert np.flatnonzero(linked).tolist() == [best]
        np.testing.assert_allclose(linked[best], full[row, best], rtol=1e-3)
    assert model.eigenvalues_[1] < 0.999
    monkeypatch.setattr(graph, "_SMALL_SHARE", 0.0)  # without it the seven rows claim an eigenvector
    assert (
        SelfExpressiveClustering(3, ridge=0.1, n_neighbors=5, random_state=0).fit(X).eigenvalues_[1]
        > 1 - 1e-6
    )


# ---------------------------------------------------------------------- estimator


@pytest.mark.parametrize("solver", ["arpack", "lobpcg", "chebyshev"])
def test_subspaces_are_found(solver):
    X, truth = subspaces(n_each=(150, 150, 150, 150), p=40, dim=4, noise=0.02)
    model = SelfExpressiveClustering(4, eigen_solver=solver, ridge=0.1, random_state=0).fit(X)
    assert adjusted_rand_score(truth, model.labels_) > 0.99
    new, new_truth = subspaces(n_each=(150, 150, 150, 150), p=40, dim=4, noise=0.02)
    assert adjusted_rand_score(new_truth, model.predict(new + 1e-3)) > 0.95


def test_labels_are_those_of_scikit_learn_on_the_same_affinity():
    X = load_digits().data[:600]
    model = SelfExpressiveClustering(10, random_state=0).fit(X)
    other = SpectralClustering(10, affinity="precomputed", assign_labels="kmeans", random_state=0, n_init=20)
    labels = other.fit(model.affinity_matrix_.toarray()).labels_
    # scikit-learn takes K eigenvectors and divides rows by nothing, so not every row agrees
    assert adjusted_rand_score(labels, model.labels_) > 0.5
    wrong = np.random.default_rng(0).permutation(labels)
    assert adjusted_rand_score(wrong, model.labels_) < 0.1


def test_attributes_and_history():
    X = load_digits().data[:400].astype(np.float32)
    model = SelfExpressiveClustering(5, random_state=0).fit(X)
    assert model.labels_.dtype == np.int64
    assert model.eigenvalues_[1] < 1 - 1e-9  # one component, so the trivial eigenvector is left out
    assert model.embedding_.shape == (400, 9)
    assert model.cluster_centers_.shape == (5, 9)
    assert model.eigenvalues_.shape == (10,)
    assert (model.n_clusters_, model.cluster_candidates_) == (5, [])
    assert SelfExpressiveClustering(5, n_components=4, random_state=0).fit(X).embedding_.shape == (400, 3)
    assert model.embedding_.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(model.embedding_, axis=1), 1, rtol=1e-6)
    assert model.eigenvalues_[0] == pytest.approx(1)
    assert (np.diff(model.eigenvalues_) <= 0).all()
    affinity = model.affinity_matrix_
    assert affinity.shape == (400, 400)
    assert affinity.dtype == np.float32
    assert (affinity != affinity.T).nnz == 0
    assert not affinity.diagonal().any()
    assert 5 * 400 <= affinity.nnz <= 10 * 400
    stages = ["rows", "coefficients", "affinity", "eigenvectors", "k-means"]
    assert [record["stage"] for record in model.history_] == stages
    assert all(record["seconds"] > 0 for record in model.history_)
    assert sum(model.history_[-1]["cluster_sizes"]) == 400
    nearest = np.square(model.embedding_[:, None] - model.cluster_centers_).sum(2)
    np.testing.assert_array_equal(nearest.argmin(1), model.labels_)
    np.testing.assert_allclose(model.confidence(), -np.sqrt(nearest.min(1)), atol=1e-6)
    assert model.inertia_ == pytest.approx(nearest.min(1).sum(), rel=1e-4)


def diffusion_by_definition(affinity, n_clusters, m, ratio):
    """Coordinates λ^t v_i / √d_i without the trivial one, at unit length, from a dense decomposition; and λ, t."""
    degree = affinity.sum(1)
    values, vectors = np.linalg.eigh(affinity / np.sqrt(np.outer(degree, degree)))
    values, vectors = values[: -m - 1 : -1], vectors[:, : -m - 1 : -1]
    time = np.log(ratio) / np.log(values[n_clusters] / values[1])
    coordinates = values[1:] ** time * vectors[:, 1:] / np.sqrt(degree)[:, None]
    return normalize(coordinates), values, time


def noisy_subspaces():
    """Rows whose graph is connected."""
    return subspaces(noise=0.25)[0]


@pytest.mark.parametrize(("ratio", "m"), [(0.65, None), (0.3, None), (0.9, 5)])
def test_embedding_is_a_dense_diffusion(ratio, m):
    model = SelfExpressiveClustering(
        3, diffusion_ratio=ratio, n_components=m, dtype="float64", random_state=0
    ).fit(noisy_subspaces())
    affinity = model.affinity_matrix_.toarray()
    expected, values, time = diffusion_by_definition(affinity, 3, m or 6, ratio)
    np.testing.assert_allclose(model.eigenvalues_, values, atol=1e-10)
    assert model.history_[-2]["time"] == pytest.approx(time)
    # P moves an embedding by one step of the walk, whatever the signs and rotations of the eigenvectors
    np.testing.assert_allclose(model.embedding_ @ model.embedding_.T, expected @ expected.T, atol=1e-8)


def test_new_rows_get_the_coordinates_extended():
    """φ_j(i) = Σ_i' P_ii' φ_j(i') / λ_j, so an affinity row of the graph itself gives its own embedding."""
    X = noisy_subspaces()
    model = SelfExpressiveClustering(3, ridge=1.0, n_neighbors=5, dtype="float64", random_state=0).fit(X)
    extension = model._extension.added.numpy()
    embedding = normalize(model.affinity_matrix_ @ extension)
    np.testing.assert_allclose(embedding, model.embedding_, atol=1e-9)
    # a new row's coefficients are those of the plain ridge regression on all training rows
    new = np.random.default_rng(5).normal(size=(7, X.shape[1]))
    z, x = normalize(X), normalize(new)
    coef = np.linalg.solve(z @ z.T + np.eye(len(z)), z @ x.T).T
    found = model._extension.coefficients(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, coef, atol=1e-10)
    expected = np.zeros((7, extension.shape[1]))
    for i, row in enumerate(np.abs(coef)):
        top = np.argsort(-row)[:5]
        expected[i] = row[top] @ extension[top]
    np.testing.assert_allclose(model.transform(new), normalize(expected), atol=1e-9)
    # a training row is expressed by the others: the coefficients of the fit, up to a factor
    fitted = np.abs(coefficients(z, 1.0))[11]
    top = np.argsort(-fitted)[:5]
    expected = normalize((fitted[top] @ extension[top])[None])
    np.testing.assert_allclose(model.transform(X[11:12]), expected, atol=1e-9)


@pytest.mark.parametrize("shape", [(200, 30), (40, 90)])
def test_default_ridge_leaves_seven_dimensions_a_cluster(shape):
    X = np.random.default_rng(0).normal(size=shape) * np.linspace(0.2, 2, shape[1])
    model = SelfExpressiveClustering(2, dtype="float64", random_state=0).fit(X)
    values = np.linalg.svd(normalize(X), compute_uv=False) ** 2
    ridge = model.resolved_params_["ridge"]
    wanted = min(14, 0.25 * min(shape))
    assert (values / (values + ridge)).sum() == pytest.approx(wanted, rel=5e-3)
    again = SelfExpressiveClustering(2, ridge=ridge, dtype="float64", random_state=0).fit(X)
    np.testing.assert_array_equal(again.embedding_, model.embedding_)
    # ε is in units of the mean ‖z_i‖²
    longer = SelfExpressiveClustering(2, unit_rows=False, dtype="float64").fit(10 * normalize(X))
    assert longer.resolved_params_["ridge"] == pytest.approx(ridge, rel=1e-2)


@pytest.mark.parametrize("expression", ["omp", "elastic-net", "low-rank"])
def test_other_expressions(expression):
    X, truth = subspaces(n_each=(80, 80, 80), p=40, noise=0.005)
    model = SelfExpressiveClustering(3, expression=expression, random_state=0).fit(X)
    assert adjusted_rand_score(truth, model.labels_) > 0.97
    assert adjusted_rand_score(truth, model.predict(X)) > 0.9
    ridge = SelfExpressiveClustering(3, random_state=0).fit(X)
    assert (model.affinity_matrix_ != ridge.affinity_matrix_).nnz > 100


# ---------------------------------------------------------------------- the number of clusters


@pytest.mark.parametrize("n_each", [(100,) * 5, (60,) * 12, (90, 60, 120), (30,) * 20])
def test_number_of_subspaces_is_found(n_each, recwarn):
    X, truth = subspaces(n_each=n_each, p=80, dim=4, noise=0.02)
    model = SelfExpressiveClustering(None, random_state=0).fit(X)
    assert model.n_clusters_ == model.resolved_params_["n_clusters"] == len(n_each)
    assert model.cluster_candidates_[0][0] == len(n_each)
    assert adjusted_rand_score(truth, model.labels_) > 0.99
    assert not [warning for warning in recwarn if "uncertain" in str(warning.message)]
    record = model.history_[1]
    assert record["stage"] == "number of clusters"
    assert [tuple(pair) for pair in record["candidates"]] == model.cluster_candidates_
    assert len(record["eigenvalues"]) == 51


def test_an_uncertain_number_is_told(tmp_path):
    X = load_digits().data
    with pytest.warns(UserWarning, match=r"number of clusters is uncertain\. 9 was taken.*give n_clusters"):
        model = SelfExpressiveClustering(None, random_state=0).fit(X)
    assert abs(model.n_clusters_ - 10) <= 1
    gaps = [gap for _, gap in model.cluster_candidates_]
    assert gaps == sorted(gaps, reverse=True)
    model.save(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.n_clusters is None
    assert (loaded.n_clusters_, loaded.cluster_candidates_) == (model.n_clusters_, model.cluster_candidates_)
    np.testing.assert_array_equal(loaded.predict(X[:50]), model.predict(X[:50]))


def test_relative_gaps_of_a_spectrum():
    values = np.array([1.0, 0.99, 0.98, 0.6, 0.58, 0.3, 0.1])
    found = cluster_number(values)
    gaps = {k: (values[k - 1] - values[k]) / (1 - values[k] + 0.02) for k in range(2, 7)}
    assert found.best == 3
    assert found.candidates == tuple(sorted(gaps.items(), key=lambda pair: -pair[1]))
    assert found.certain  # .38/.42 against .28/.72 of 5
    with pytest.raises(ValueError, match="2 eigenvalues show no gap; wanted at least 3"):
        cluster_number(values[:2])
    with pytest.raises(
        ValueError, match=r"2 distinct rows .*n_clusters=None; name n_clusters, or give 3 rows"
    ):
        SelfExpressiveClustering(None).fit(np.eye(2))


@pytest.mark.parametrize(
    ("gaps", "certain"),
    [
        ([0.19, 0.16, 0.11], False),  # the digits
        ([0.41, 0.20], True),
        ([0.41, 0.21], False),
        ([0.39, 0.15], False),
        ([0.32, 0.08], True),
        ([0.21, 0.05, 0.05], True),
        ([0.19, 0.01], False),  # as rows without clusters have
        ([0.93], True),
    ],
)
def test_a_number_is_certain_where_its_gap_is_clear(gaps, certain):
    found = ClusterNumber(tuple((k + 2, gap) for k, gap in enumerate(gaps)))
    assert found.certain == certain
    assert ("uncertain" in found.described) != certain


def test_images_are_scattered_where_that_helps():
    images = np.random.default_rng(0).random((30, 16, 16))
    model = SelfExpressiveClustering(3, random_state=0).fit(images)
    assert model.resolved_params_["features"] == "scattering"
    assert model.features_ is not None
    assert SelfExpressiveClustering(3, features=None, random_state=0).fit(images).features_ is None
    small = SelfExpressiveClustering(3, random_state=0).fit(images[:, :15])
    assert (small.features_, small.resolved_params_["features"]) == (None, None)
    assert SelfExpressiveClustering(3, random_state=0).fit(images.reshape(30, 256)).features_ is None


@pytest.mark.bits
def test_prediction_does_not_depend_on_company_and_agrees_with_the_fit():
    X, _ = subspaces()
    model = SelfExpressiveClustering(3, random_state=0).fit(X)
    assert (model.predict(X) == model.labels_).mean() > 0.98
    whole = model.transform(X)
    np.testing.assert_array_equal(model.transform(X[17:18]), whole[17:18])
    np.testing.assert_array_equal(model.transform(X[::-1]), whole[::-1])


@pytest.mark.bits
@pytest.mark.parametrize("p", [20, 400])
def test_save_and_load(p, tmp_path):
    X, _ = subspaces(p=p)
    model = SelfExpressiveClustering(3, scaling="global", random_state=0).fit(X)
    model.save(tmp_path)
    for loaded in (SelfExpressiveClustering.load(tmp_path), load_model(tmp_path)):
        assert loaded.get_params() == model.get_params()
        np.testing.assert_array_equal(loaded.labels_, model.labels_)
        np.testing.assert_array_equal(loaded.transform(X), model.transform(X))
        np.testing.assert_array_equal(loaded.dense_affinity([1, 5]), model.dense_affinity([1, 5]))
        assert (loaded.affinity_matrix_ != model.affinity_matrix_).nnz == 0
        assert loaded.history_ == model.history_
        assert (loaded.inertia_, loaded.n_iter_) == (model.inertia_, model.n_iter_)


def test_scattering_features(tmp_path):
    images = load_digits().images[:300]
    model = SelfExpressiveClustering(10, features="scattering", feature_dim=50, random_state=0).fit(images)
    rows = model.features_.transform(images)
    expected = SelfExpressiveClustering(10, random_state=0).fit(rows)
    np.testing.assert_array_equal(model.labels_, expected.labels_)
    model.save(tmp_path)
    np.testing.assert_array_equal(
        load_model(tmp_path).predict(images), model.predict(images.reshape(300, 64))
    )


@pytest.mark.bits
def test_same_seed_same_bits():
    X = load_digits().data[:500]
    first, second = (SelfExpressiveClustering(6, random_state=3).fit(X) for _ in range(2))
    np.testing.assert_array_equal(first.embedding_, second.embedding_)
    np.testing.assert_array_equal(first.labels_, second.labels_)


def test_rows_of_zeros_and_few_rows():
    X, _ = subspaces()
    X[[5, 100]] = 0
    model = SelfExpressiveClustering(3, random_state=0).fit(X)
    assert model.affinity_matrix_[[5, 100]].nnz == 0
    assert np.isfinite(model.embedding_).all()
    assert np.isfinite(model.transform(np.zeros((2, 30)))).all()
    few = SelfExpressiveClustering(2, n_neighbors=5, random_state=0).fit(X[[0, 1, 70]])  # k is cut to n − 1
    assert few.affinity_matrix_.nnz == 6
    assert SelfExpressiveClustering(3, random_state=0).fit(X[[0, 1, 70]]).labels_.max() == 2


def test_callbacks_hear_of_every_stage():
    class Listener(Callback):
        def __init__(self):
            self.heard = []

        def on_fit_begin(self, model, stages):
            self.heard.append(dict(stages))

        def on_epoch_end(self, model, record):
            self.heard.append(record["stage"])

        def on_fit_end(self, model):
            self.heard.append("end")

    listener = Listener()
    SelfExpressiveClustering(3, callbacks=[listener], random_state=0, verbose=1).fit(subspaces()[0])
    stages = ["rows", "coefficients", "affinity", "eigenvectors", "k-means"]
    assert listener.heard == [dict.fromkeys(stages, 1), *stages, "end"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge": 0.0}, "ridge must be a finite number > 0, or None, got 0.0"),
        ({"n_neighbors": 0}, "n_neighbors must be an integer >= 1, or None, got 0"),
        ({"n_components": 0}, "n_components must be an integer >= 1, or None, got 0"),
        ({"scaling": "l2"}, "scaling must be one of"),
        ({"unit_rows": 1}, "unit_rows must be True or False"),
        (
            {"eigen_solver": "amg"},
            "eigen_solver must be one of 'arpack', 'lobpcg', 'chebyshev', or None, got 'amg'",
        ),
        ({"n_init": 0}, "n_init must be an integer >= 1, or None"),
        ({"device": "tpu9"}, "device must be 'auto' or a torch device"),
        ({"features": "scattering"}, "of images, but X has flat rows"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SelfExpressiveClustering(3, **options).fit(subspaces()[0])


def test_overflow_is_refused():
    with pytest.raises(ValueError, match="overflows float32"):
        SelfExpressiveClustering(3, unit_rows=False).fit(1e30 * subspaces()[0])


PREDICTED = """
import numpy as np
from desc_ext.models import SelfExpressiveClustering
z = np.random.default_rng(0).normal(size=(20_000, 10))
labels = weight = z[:, 0]
model = SelfExpressiveClustering(100, n_init=1, random_state=0).fit(z[:500])
"""


def test_prediction_holds_no_difference_of_all_rows_to_all_centres():
    """20,000 × 100 × 101 differences would be 800 MB, and their squares as much again."""
    assert extra_memory(PREDICTED, "model.predict(z)", "0") < 150 * 2**20


@pytest.mark.parametrize("expression", ["ridge", "omp", "elastic-net", "low-rank"])
def test_two_rows_are_two_clusters(expression):
    """The random walk on two rows alternates between them (eigenvalues 1 and −1): as many rows as clusters, one in each."""
    X = np.array([[1.0, 0.2, 0.1], [0.3, 1.0, -0.2]])
    model = SelfExpressiveClustering(2, expression=expression, random_state=0).fit(X)
    assert sorted(model.labels_) == [0, 1]
    np.testing.assert_array_equal(model.predict(X), model.labels_)
