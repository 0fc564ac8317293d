"""k-subspaces beside k-means on known data sets (`desc-ext datasets`), by default scikit-learn's digits.

Every method runs with its defaults and fitting never sees a label. Prints the table of each data set and writes it to
results/k_subspaces.md, where the tables of other data sets stay.

    OMP_NUM_THREADS=1 python benchmarks/papers/k_subspaces.py --data digits mnist-test --seeds 5
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from desc_ext.data import load_dataset
from desc_ext.metrics import clustering_scores
from desc_ext.models import KSubspaces

RESULT = Path(__file__).parent / "results" / "k_subspaces.md"
Method = Callable[[np.ndarray, int, int], np.ndarray]
METHODS: dict[str, Method] = {
    "k-means (n_init=20)": lambda X, k, seed: KMeans(k, n_init=20, random_state=seed).fit_predict(X),
    "k-means (n_init=20), unit rows": lambda X, k, seed: KMeans(k, n_init=20, random_state=seed).fit_predict(
        normalize(X)
    ),
    "k-subspaces": lambda X, k, seed: KSubspaces(k, random_state=seed).fit_predict(X),
    'k-subspaces, init="k-means"': lambda X, k, seed: KSubspaces(
        k, init="k-means", random_state=seed
    ).fit_predict(X),
    "k-subspaces by mini-batches": lambda X, k, seed: by_mini_batches(X, k, seed),
}


def by_mini_batches(X: np.ndarray, n_clusters: int, seed: int, size: int = 1000, n_passes: int = 5):
    """Labels after ``n_passes`` passes of ``partial_fit``; wide rows in their 100 leading directions, as in fit."""
    if X.shape[1] > 100:
        gram = X.T.astype(np.float64) @ X
        X = X @ np.linalg.eigh(gram)[1][:, -100:].astype(X.dtype)
    model, random = KSubspaces(n_clusters, random_state=seed), np.random.default_rng(seed)
    for _ in range(n_passes):
        order = random.permutation(len(X))
        for start in range(0, len(X), size):
            model.partial_fit(X[order[start : start + size]])
    return model.predict(X)


def table(X: np.ndarray, y: np.ndarray, seeds: range) -> list[str]:
    """Lines of mean ± standard deviation over the seeds."""
    lines = ["| method | ACC | NMI | ARI | seconds |", "| --- | --- | --- | --- | --- |"]
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
        lines.append(f"| {name} | " + " | ".join([*cells, f"{mean[3]:.1f} ± {std[3]:.1f}"]) + " |")
        print(lines[-1], flush=True)
    return lines


def write(name: str, section: str) -> None:
    """Puts the section of a data set into the file, in place of the one there."""
    before = RESULT.read_text().split("\n## ")[1:] if RESULT.exists() else []
    sections = {part.split(",")[0]: part.strip() for part in before} | {name: section.strip()}
    head = (
        "# k-subspaces beside k-means\n\nEvery method with its defaults, on the rows as they are; no label is seen in "
        "fitting. k-subspaces takes d = 8 and clusters unit rows, of wide data within the 100 leading directions; by "
        "mini-batches: 5 passes of 1,000 rows. Seconds were taken on a machine that other programs used.\n"
    )
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text("\n".join([head, *(f"## {sections[key]}\n" for key in sorted(sections))]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", nargs="+", default=["digits"], help="names of known data sets")
    parser.add_argument("--seeds", type=int, default=5, help="random_state = 0 … SEEDS − 1")
    arguments = parser.parse_args()
    for name in arguments.data:
        dataset = load_dataset(name)
        n_threads = torch.get_num_threads()
        print(name)
        with threadpool_limits(n_threads):
            lines = table(np.asarray(dataset.X), dataset.labels, range(arguments.seeds))
        title = (
            f"{name}, {len(dataset.X):,} rows of {dataset.X.shape[1]}: mean ± std over {arguments.seeds} seeds; "
            f"threads: {n_threads}"
        )
        command = f"python benchmarks/papers/k_subspaces.py --data {name} --seeds {arguments.seeds}"
        made = f"Made by `OMP_NUM_THREADS={n_threads} {command}`."
        write(name, "\n".join([title, "", *lines, "", made]))


if __name__ == "__main__":
    main()
