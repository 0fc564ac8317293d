"""Self-expressive clustering beside k-means and k-subspaces, on pixels, their principal components and scattering features.

Every method runs with its defaults and fitting never sees a label; the features are computed once for all methods and
seeds. Prints the table of each data set and writes it to results/self_expressive.md, where the lines of other data sets
and features stay.

    OMP_NUM_THREADS=2 python benchmarks/papers/self_expressive.py --data digits mnist --seeds 5
    OMP_NUM_THREADS=2 python benchmarks/papers/self_expressive.py --data mnist --features PCA
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
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from desc_ext.data import Dataset, load_dataset
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
FEATURES: dict[str, Callable[[Dataset], np.ndarray]] = {
    "pixels": lambda dataset: np.asarray(dataset.X),
    "PCA": lambda dataset: PCA(min(500, dataset.X.shape[1]), random_state=0).fit_transform(dataset.X),
    "scattering": lambda dataset: Scattering2D(500).fit_transform(dataset.images),
}
HEAD = """# Self-expressive clustering beside k-means and k-subspaces

Every method with its defaults but for what its name says; no label is seen in fitting. PCA: of the pixels, 500 components
at most; scattering: `Scattering2D(500)`. The seconds of features stand below each table and are not in it. Seconds were
taken on a machine that other programs used.
"""
TABLE = ["| rows | method | ACC | NMI | ARI | seconds |", "| --- | --- | --- | --- | --- | --- |"]


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


def write(dataset: Dataset, title: str, found: dict[str, tuple[list[str], str]]) -> None:
    """Puts the lines of features, and what is said of them, into the section of a data set, in place of those there."""
    parts = RESULT.read_text().split("\n## ")[1:] if RESULT.exists() else []
    sections = {part.split(",")[0]: part.strip() for part in parts}
    before = sections.get(dataset.name, "").splitlines()
    lines, notes = list(TABLE), []
    for name in FEATURES:
        rows = [line for line in before if line.startswith(f"| {name} |")]
        note = "".join(line for line in before if line.startswith(f"{name}: "))
        rows, note = found.get(name, (rows, note))
        lines, notes = lines + rows, notes + [note] * bool(note)
    sections[dataset.name] = "\n".join([title, "", *lines, "", "\n\n".join(notes)])
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text("\n".join([HEAD, *(f"## {sections[key]}\n" for key in sorted(sections))]))


def measure(dataset: Dataset, name: str, n_seeds: int) -> tuple[list[str], str]:
    """The lines of one kind of features, and what is said of them."""
    n_threads = torch.get_num_threads()
    with threadpool_limits(n_threads):
        begin = time.perf_counter()
        X = FEATURES[name](dataset)
        seconds = time.perf_counter() - begin
        lines = table(X, dataset.labels, range(n_seeds), name)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    command = (
        f"benchmarks/papers/self_expressive.py --data {dataset.name} --features {name} --seeds {n_seeds}"
    )
    return lines, (
        f"{name}: {X.shape[1]} columns, {seconds:.0f} s; {n_seeds} seeds; peak memory of the whole run {peak:.1f} GiB. Made "
        f"by `OMP_NUM_THREADS={n_threads} python {command}`."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", nargs="+", default=["digits"], help="names of known data sets of images")
    parser.add_argument("--features", nargs="+", choices=FEATURES, default=list(FEATURES))
    parser.add_argument("--seeds", type=int, default=5, help="random_state = 0 … SEEDS − 1")
    arguments = parser.parse_args()
    for data in arguments.data:
        dataset = load_dataset(data)
        print(data)
        shape = " × ".join(map(str, dataset.image_shape))
        title = f"{data}, {len(dataset.X):,} images of {shape}: mean ± std over the seeds"
        for name in arguments.features:
            write(dataset, title, {name: measure(dataset, name, arguments.seeds)})


if __name__ == "__main__":
    main()
