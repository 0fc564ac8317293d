"""NCSC with both presets on known data sets (`desc-ext datasets`), beside the numbers of its paper's tables 1 and 2.

The network is the paper's: three convolutions for MNIST, residual blocks for Fashion-MNIST; scattering features meet the
fully connected one. Fitting never sees a label, and scores are those of the last epoch. What each stage adds stands
below: the start's clusters, the classifier that was taught them, the one that stage 2 leaves (the line itself is what
stage 3 leaves), and k-means on the codes.

    OMP_NUM_THREADS=1 python benchmarks/papers/ncsc.py --data digits --seeds 3
    python benchmarks/papers/ncsc.py --data mnist fashion-mnist --seeds 5 --methods robust paper --device cuda --jobs 4
    python benchmarks/papers/ncsc.py --data mnist:5000 --seeds 3 --methods scattering
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import runs
from sklearn.cluster import KMeans

from desc_ext.algorithms.kmeans import one_thread
from desc_ext.data import Dataset
from desc_ext.engine.callbacks import Callback
from desc_ext.models import NCSC

_ITS_STAGES = {"start": "its classifier, taught the start", "classifier": "after stage 2"}


class StageLabels(Callback):
    """The labels that each stage with clusters leaves behind."""

    def __init__(self) -> None:
        self.labels: dict[str, np.ndarray] = {}

    def on_epoch_end(self, model: Any, record: dict[str, Any]) -> None:
        if "cluster_sizes" in record:
            self.labels[record["stage"]] = model.labels_


def fit(**options: Any) -> Callable[[Dataset, int, runs.Place], NCSC]:
    def fitted(dataset: Dataset, seed: int, place: runs.Place) -> NCSC:
        network = "residual" if dataset.name.startswith("fashion") else "conv"
        callbacks = [StageLabels()]
        arguments = {**options, **place, "image_network": network, "random_state": seed}
        model = NCSC(len(np.unique(dataset.labels)), callbacks=callbacks, **arguments)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="NCSC collapsed")  # the scores say so
            return model.fit(dataset.images)

    return fitted


def stages(model: NCSC, dataset: Dataset, seed: int) -> dict[str, np.ndarray]:
    labels = {
        name: model.callbacks[0].labels[stage]
        for stage, name in _ITS_STAGES.items()
        if stage in model.callbacks[0].labels
    }
    with one_thread():
        codes = KMeans(model.n_clusters, n_init=5, random_state=seed).fit(model.embedding_)
    return labels | {"k-means (n_init=5) on its codes": codes.labels_}


METHODS = {
    "robust": runs.Method("NCSC, preset robust", fit(), stages),
    "random": runs.Method('NCSC, robust, init="random"', fit(init="random"), stages),
    "scattering": runs.Method("NCSC, robust, scattering features", fit(features="scattering"), stages),
    "paper": runs.Method("NCSC, preset paper", fit(preset="paper"), stages),
}
PUBLISHED = {
    "mnist": [("NCSC, its paper", 0.9409, 0.8612, 0.8752)],
    "fashion-mnist": [("NCSC, its paper", 0.7214, 0.6860, 0.5917)],
}


def main() -> None:
    arguments = runs.parser(__doc__, METHODS, ["digits"], ["robust", "scattering", "paper"]).parse_args()
    runs.main(arguments, METHODS, PUBLISHED, "NCSC beside its paper")


if __name__ == "__main__":
    main()
