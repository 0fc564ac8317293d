"""DESC and EDESC as published, beside k-means on rows and on codes; choice.py has them with their defaults.

Fitting never sees a label, and scores are those of the last epoch. Prints the table and writes it to results/desc_DATA.md.

    python benchmarks/papers/desc.py --data digits --seeds 5
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans

from desc_ext.data import load_dataset
from desc_ext.metrics import clustering_scores
from desc_ext.models import DESC, EDESC, AutoencoderKMeans

RESULTS = Path(__file__).parent / "results"
METHODS: dict[str, tuple[str, Callable]] = {
    "kmeans": ("k-means (n_init=20)", lambda k, seed: KMeans(k, n_init=20, random_state=seed)),
    "ae": ("autoencoder + k-means", lambda k, seed: AutoencoderKMeans(k, random_state=seed)),
    "desc-paper": ("DESC, preset paper", lambda k, seed: DESC(k, preset="paper", random_state=seed)),
    "edesc-paper": ("EDESC, preset paper", lambda k, seed: EDESC(k, preset="paper", random_state=seed)),
}


def run(methods: list[str], seeds: range, X: np.ndarray, y: np.ndarray) -> list[str]:
    """The table's lines: mean ± standard deviation over the seeds."""
    lines = ["| method | ACC | NMI | ARI | seconds |", "| --- | --- | --- | --- | --- |"]
    for name, build in map(METHODS.get, methods):
        rows, starts = [], []
        for seed in seeds:
            begin = time.perf_counter()
            model = build(len(np.unique(y)), seed).fit(X)
            seconds = time.perf_counter() - begin
            rows.append([*_scores(y, model.labels_), seconds])
            if hasattr(model, "bases_"):
                starts.append(_scores(y, model.initial_labels_))
        lines.append(_line(name, rows))
        if starts:
            lines.append(_line(f"· its start ({model.resolved_params_['init']})", starts))
        print(lines[-2 if starts else -1], flush=True)
    return lines


def _scores(y: np.ndarray, labels: np.ndarray) -> list[float]:
    scores = clustering_scores(y, labels)
    return [scores["acc"], scores["nmi"], scores["ari"]]


def _line(name: str, rows: list[list[float]]) -> str:
    mean, std = np.mean(rows, 0), np.std(rows, 0)
    cells = [f"{mean[i]:.3f} ± {std[i]:.3f}" for i in range(3)]
    cells.append(f"{mean[3]:.1f}" if len(mean) > 3 else "")
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", default="digits", help="name of a known data set")
    parser.add_argument("--seeds", type=int, default=5, help="random_state = 0 … SEEDS − 1")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    warnings.filterwarnings("ignore", message="no row was ever confident")  # the preset "paper", by design
    # k-means sees the rows as they are: DESC's scaling (column means, one factor) keeps distance ratios
    dataset = load_dataset(arguments.data)
    lines = run(arguments.methods, seeds, dataset.X, dataset.labels)
    title = (
        f"{dataset.name}, {len(dataset.X):,} rows: mean ± std over {len(seeds)} seeds, last epoch; "
        f"threads: {torch.get_num_threads()}"
    )
    chosen = "" if arguments.methods == list(METHODS) else " --methods " + " ".join(arguments.methods)
    command = f"`python benchmarks/papers/desc.py --data {dataset.name} --seeds {len(seeds)}{chosen}`"
    text = "\n".join([title, "", *lines, "", f"Made by {command}.", ""])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"desc_{dataset.name}.md").write_text(text)
    print("\n" + text)


if __name__ == "__main__":
    main()
