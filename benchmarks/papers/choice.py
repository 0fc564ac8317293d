"""All methods with their defaults, beside scikit-learn's, on data of several kinds: which one to use.

No method sees a label, and none has an option set but the number of clusters. Images are given as images, texts as the
tf-idf directions that ``load_dataset`` makes of them. scikit-learn's methods are given the rows as they are, at unit length
where that is usual for them (k-means of texts and images by angle). ClustPy's deep methods have their own defaults, and rows
that are centred and scaled as ours are; ClustPy is installed in an environment of its own, beside this package.

    OMP_NUM_THREADS=2 python benchmarks/papers/choice.py --data digits bbc-news --seeds 5
    OMP_NUM_THREADS=2 python benchmarks/papers/choice.py --data mnist-test --seeds 2 --methods self-expressive k-means
    OMP_NUM_THREADS=2 python benchmarks/papers/choice.py --methods clustpy-dec clustpy-idec clustpy-dcn
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from runs import Method, Place, main, parser
from sklearn.cluster import KMeans, SpectralClustering
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from desc_ext.data import Dataset
from desc_ext.models import MODELS

# The graph of scikit-learn's spectral clustering and the covariances of its mixture, as their guides have them.
_NEIGHBORS, _MIXTURE_COLUMNS = 10, 50


def _rows(dataset: Dataset) -> np.ndarray:
    return normalize(np.asarray(dataset.X, dtype=np.float32))


def _labels(labels: np.ndarray) -> Any:
    return SimpleNamespace(labels_=labels)


def _kmeans(dataset: Dataset, seed: int, place: Place) -> Any:
    k = len(np.unique(dataset.labels))
    with threadpool_limits(1, user_api="openmp"):
        return KMeans(k, n_init=20, random_state=seed).fit(_rows(dataset))


def _mixture(dataset: Dataset, seed: int, place: Place) -> Any:
    k, rows = len(np.unique(dataset.labels)), _rows(dataset)
    reduced = PCA(min(_MIXTURE_COLUMNS, *rows.shape), random_state=seed).fit_transform(rows)
    return _labels(GaussianMixture(k, random_state=seed).fit_predict(reduced))


def _spectral(dataset: Dataset, seed: int, place: Place) -> Any:
    k = len(np.unique(dataset.labels))
    options = {"affinity": "nearest_neighbors", "n_neighbors": _NEIGHBORS, "assign_labels": "kmeans"}
    return SpectralClustering(k, random_state=seed, **options).fit(_rows(dataset))


def _clustpy(name: str) -> Method:
    def fit(dataset: Dataset, seed: int, place: Place) -> Any:
        from clustpy import deep

        rows = np.asarray(dataset.X, dtype=np.float32).reshape(len(dataset.X), -1)
        rows = (rows - rows.mean(0)) / (rows - rows.mean(0)).std()
        return getattr(deep, name)(len(np.unique(dataset.labels)), random_state=seed).fit(rows)

    return Method(f"{name} (ClustPy)", fit)


def _ours(name: str) -> Method:
    def fit(dataset: Dataset, seed: int, place: Place) -> Any:
        model = MODELS[name](len(np.unique(dataset.labels)), random_state=seed, **place)
        return model.fit(dataset.X if dataset.image_shape is None else dataset.images)

    return Method(name, fit)


METHODS = {
    "k-means": Method("k-means, unit rows (scikit-learn)", _kmeans),
    "mixture": Method("Gaussian mixture, 50 principal components (scikit-learn)", _mixture),
    "spectral": Method("spectral clustering, 10 nearest neighbours (scikit-learn)", _spectral),
} | {name: _ours(name) for name in MODELS}
PEERS = {f"clustpy-{name.lower()}": _clustpy(name) for name in ("DEC", "IDEC", "DCN")}


if __name__ == "__main__":
    options = parser(__doc__, METHODS | PEERS, ["digits"], list(METHODS))
    main(
        options.parse_args(),
        METHODS | PEERS,
        {},
        "Which method: all of them with their defaults",
        "Every method with its defaults and the number of clusters; no label is seen in fitting. The start is what a "
        "method's refinement begins with. Up to four runs shared two cores, so seconds are upper bounds.",
    )
