"""Self-expressive clustering beside k-means, k-subspaces and other expressions, on rows and on scattering features.

Every method runs with its defaults but for what its name says, and fitting never sees a label; the features are computed
once for all methods and seeds. Prints the table of each data set and writes it to results/self_expressive.md, where the
lines of other data sets, features and methods stay.

    OMP_NUM_THREADS=2 python benchmarks/papers/self_expressive.py --data digits bbc-news orl coil20 --seeds 5
    OMP_NUM_THREADS=2 python benchmarks/papers/self_expressive.py --data mnist fashion-mnist --features scattering \
        --methods self-expressive "self-expressive, 20,000 landmarks" "self-expressive, 10,000 landmarks" --seeds 2

ORL and COIL20 are read from orl/orl.mat and coil20/coil20.mat (fea, gnd; DSC-Net's repository has them) in one of the
folders where known data sets are looked for.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from desc_ext.data import Dataset, load_dataset
from desc_ext.data.catalogue import data_folders
from desc_ext.features import Scattering2D
from desc_ext.metrics import clustering_scores
from desc_ext.models import KSubspaces, SelfExpressiveClustering

RESULT = Path(__file__).parent / "results" / "self_expressive.md"
Method = Callable[
    [np.ndarray, int, int, bool], np.ndarray
]  # rows, K, seed, whether they are features of images


def expressed(
    expression: str, X: np.ndarray, k: int, seed: int, images: bool, landmarks: int | None = None
) -> np.ndarray:
    given: dict[str, Any] = {"landmarks": landmarks}
    if images:  # whose features are computed once for all seeds: a shape says that rows are those of images
        given["image_shape"] = (1, X.shape[1])
    return SelfExpressiveClustering(k, expression=expression, random_state=seed, **given).fit_predict(X)


METHODS: dict[str, Method] = {
    "k-means (n_init=10), unit rows": lambda X, k, seed, images: KMeans(
        k, n_init=10, random_state=seed
    ).fit_predict(normalize(X)),
    "k-subspaces": lambda X, k, seed, images: KSubspaces(k, random_state=seed).fit_predict(X),
    "self-expressive": partial(expressed, "ridge"),
    "self-expressive, 20,000 landmarks": partial(expressed, "ridge", landmarks=20_000),
    "self-expressive, 10,000 landmarks": partial(expressed, "ridge", landmarks=10_000),
    "low-rank (LRR)": partial(expressed, "low-rank"),
    "elastic net (EnSC)": partial(expressed, "elastic-net"),
    "orthogonal matching pursuit (SSC-OMP)": partial(expressed, "omp"),
}
FEATURES: dict[str, Callable[[Dataset], np.ndarray]] = {
    "rows": lambda dataset: np.asarray(dataset.X),
    "scattering": lambda dataset: Scattering2D(500).fit_transform(dataset.images),
}
MAT_IMAGES = {"orl": (32, 32), "coil20": (32, 32)}
HEAD = """# Self-expressive clustering beside k-means, k-subspaces and other expressions

Every method with its defaults but for what its name says; no label is seen in fitting. Rows: pixels, or tf-idf directions of
texts; scattering: `Scattering2D(500)`. The seconds of features stand below each table and are not in it. Seconds were
taken on a machine that other programs used.
"""
TABLE = ["| rows | method | ACC | NMI | ARI | seconds |", "| --- | --- | --- | --- | --- | --- |"]


def load(name: str) -> Dataset:
    """A known data set, or one of :data:`MAT_IMAGES`."""
    if name not in MAT_IMAGES:
        return load_dataset(name)
    folder = next(base / name for base in data_folders(None) if (base / name / f"{name}.mat").is_file())
    found = load_dataset(str(folder / f"{name}.mat"), "gnd", array="fea")
    # columns first
    images = np.asarray(found.X).reshape(-1, *MAT_IMAGES[name][::-1]).transpose(0, 2, 1)
    return Dataset(name, images.reshape(len(images), -1), found.labels, None, MAT_IMAGES[name], found.source)


def table(X: np.ndarray, y: np.ndarray, seeds: range, features: str, methods: list[str]) -> list[str]:
    """Lines of mean ± standard deviation over the seeds."""
    lines = []
    for name in methods:
        rows = []
        for seed in seeds:
            begin = time.perf_counter()
            labels = METHODS[name](X, len(np.unique(y)), seed, features == "scattering")
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
        rows = {line.split(" | ")[1]: line for line in before if line.startswith(f"| {name} |")}
        new, note = found.get(name, ([], "".join(line for line in before if line.startswith(f"{name}: "))))
        rows |= {line.split(" | ")[1]: line for line in new}
        lines += [rows[method] for method in METHODS if method in rows]
        notes += [note] * bool(note)
    sections[dataset.name] = "\n".join([title, "", *lines, "", "\n\n".join(notes)])
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text("\n".join([HEAD, *(f"## {sections[key]}\n" for key in sorted(sections))]))


def measure(dataset: Dataset, name: str, n_seeds: int, methods: list[str]) -> tuple[list[str], str]:
    """The lines of one kind of features, and what is said of them."""
    n_threads = torch.get_num_threads()
    with threadpool_limits(n_threads):
        begin = time.perf_counter()
        X = FEATURES[name](dataset)
        seconds = time.perf_counter() - begin
        lines = table(X, dataset.labels, range(n_seeds), name, methods)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    command = (
        f"benchmarks/papers/self_expressive.py --data {dataset.name} --features {name} --seeds {n_seeds}"
    )
    if methods != list(METHODS):
        command += f" --methods {shlex.join(methods)}"
    return lines, (
        f"{name}: {X.shape[1]} columns, {seconds:.0f} s; {n_seeds} seeds; peak memory of the whole run {peak:.1f} GiB. Made "
        f"by `OMP_NUM_THREADS={n_threads} python {command}`."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", nargs="+", default=["digits"], help="known data sets, orl, coil20")
    parser.add_argument("--features", nargs="+", choices=FEATURES, default=list(FEATURES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5, help="random_state = 0 … SEEDS − 1")
    arguments = parser.parse_args()
    for data in arguments.data:
        dataset = load(data)
        print(data)
        of_images = dataset.image_shape is not None
        shape = f"images of {' × '.join(map(str, dataset.image_shape))}" if of_images else "texts"
        title = f"{data}, {len(dataset.X):,} {shape}: mean ± std over the seeds"
        for name in arguments.features:
            if of_images or name == "rows":
                found = measure(dataset, name, arguments.seeds, arguments.methods)
                write(dataset, title, {name: found})


if __name__ == "__main__":
    main()
