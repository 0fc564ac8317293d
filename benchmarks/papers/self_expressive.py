"""Self-expressive clustering beside k-means and k-subspaces, on pixels and on scattering features, of known data sets.

Every method runs with its defaults and fitting never sees a label; the features are computed once for all methods and
seeds. Prints the table of each data set and writes it to results/self_expressive.md, where the tables of other data
sets stay.

    OMP_NUM_THREADS=2 python benchmarks/papers/self_expressive.py --data digits mnist --seeds 5
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from desc_ext.data import load_dataset
from desc_ext.features import Scattering2D
from desc_ext.metrics import clustering_scores
from desc_ext.models import KSubspaces, SelfExpressiveClustering

RESULT = Path(__file__).parent / "results" / "self_expressive.md"
Method = Callable[[np.ndarray, int, int], np.ndarray]
METHODS: dict[str, Method] = {
    "k-means (n_init=10), unit rows": lambda X, k, seed: KMeans(k, n_init=10, random_state=seed).fit_predict(
        normalize(X)
    ),
    "k-subspaces": lambda X, k, seed: KSubspaces(k, random_state=seed).fit_predict(X),
    "self-expressive": lambda X, k, seed: SelfExpressiveClustering(k, random_state=seed).fit_predict(X),
    "self-expressive, ridge=10": lambda X, k, seed: SelfExpressiveClustering(
        k, ridge=10, random_state=seed
    ).fit_predict(X),
}


def table(X: np.ndarray, y: np.ndarray, seeds: range, features: str) -> list[str]:
    """Lines of mean ± standard deviation over the seeds."""
    lines = []
    for name, cluster in METHODS.items():
        rows = []
        for seed in seeds:
            begin = time.perf_counter()
            labels = cluster(X, len(np.unique(y)), seed)
            seconds = time.perf_counter() - begin
            scores = clustering_scores(y, labels)
            rows.append([scores["acc"], scores["nmi"], scores["ari"], seconds])
        mean, std = np.mean(rows, 0), np.std(rows, 0)
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean[:3], std, strict=False)]
        lines.append(
            f"| {features} | {name} | " + " | ".join([*cells, f"{mean[3]:.1f} ± {std[3]:.1f}"]) + " |"
        )
        print(lines[-1], flush=True)
    return lines


def write(name: str, section: str) -> None:
    """Puts the section of a data set into the file, in place of the one there."""
    before = RESULT.read_text().split("\n## ")[1:] if RESULT.exists() else []
    sections = {part.split(",")[0]: part.strip() for part in before} | {name: section.strip()}
    head = (
        "# Self-expressive clustering beside k-means and k-subspaces\n\nEvery method with its defaults but for what its name "
        "says; no label is seen "
        "in fitting. Scattering: `Scattering2D(500)`, whose seconds stand below each table and are not in it. Seconds "
        "were taken on a machine that other programs used.\n"
    )
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text("\n".join([head, *(f"## {sections[key]}\n" for key in sorted(sections))]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", nargs="+", default=["digits"], help="names of known data sets of images")
    parser.add_argument("--seeds", type=int, default=5, help="random_state = 0 … SEEDS − 1")
    arguments = parser.parse_args()
    n_threads = torch.get_num_threads()
    for name in arguments.data:
        dataset, seeds = load_dataset(name), range(arguments.seeds)
        print(name)
        lines = ["| rows | method | ACC | NMI | ARI | seconds |", "| --- | --- | --- | --- | --- | --- |"]
        with threadpool_limits(n_threads):
            begin = time.perf_counter()
            features = Scattering2D(500).fit_transform(dataset.images)
            seconds = time.perf_counter() - begin
            lines += table(np.asarray(dataset.X), dataset.labels, seeds, "pixels")
            lines += table(features, dataset.labels, seeds, "scattering")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        title = (
            f"{name}, {len(dataset.X):,} images of {' × '.join(map(str, dataset.image_shape))}: mean ± std over "
            f"{arguments.seeds} seeds; threads: {n_threads}"
        )
        command = f"python benchmarks/papers/self_expressive.py --data {name} --seeds {arguments.seeds}"
        made = (
            f"Scattering features: {seconds:.0f} s, pixels to {features.shape[1]} components. Peak memory of the whole "
            f"run: {peak:.1f} GiB. Made by `OMP_NUM_THREADS={n_threads} {command}`."
        )
        write(name, "\n".join([title, "", *lines, "", made]))


if __name__ == "__main__":
    main()
