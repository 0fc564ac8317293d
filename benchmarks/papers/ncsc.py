"""NCSC with both presets on known data sets (`desc-ext datasets`), beside the numbers of its paper's tables 1 and 2.

The network is the paper's: three convolutions for MNIST, residual blocks for Fashion-MNIST. Fitting never sees a label,
and scores are those of the last epoch. Prints the table and writes it to results/ncsc_DATA.md.

    OMP_NUM_THREADS=1 python benchmarks/papers/ncsc.py --data digits --seeds 3
    python benchmarks/papers/ncsc.py --data mnist --seeds 1
    python benchmarks/papers/ncsc.py --data fashion-mnist --seeds 1 --presets robust
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans

from desc_ext.data import load_dataset
from desc_ext.metrics import clustering_scores
from desc_ext.models import NCSC
from desc_ext.models.start import one_thread

RESULTS = Path(__file__).parent / "results"
PAPER = {"mnist": (0.9409, 0.8612, 0.8752), "fashion-mnist": (0.7214, 0.6860, 0.5917)}


def scores(y: np.ndarray, labels: np.ndarray) -> list[float]:
    found = clustering_scores(y, labels)
    return [found["acc"], found["nmi"], found["ari"]]


def line(name: str, rows: list[list[float]]) -> str:
    mean, std = np.mean(rows, 0), np.std(rows, 0)
    cells = [f"{mean[i]:.3f} ± {std[i]:.3f}" if len(rows) > 1 else f"{mean[i]:.3f}" for i in range(3)]
    return f"| {name} | " + " | ".join([*cells, f"{mean[3]:.0f}" if len(mean) > 3 else ""]) + " |"


def run(presets: list[str], seeds: range, X: np.ndarray, y: np.ndarray, network: str) -> list[str]:
    """The table's lines: mean ± standard deviation over the seeds."""
    lines = ["| method | ACC | NMI | ARI | seconds |", "| --- | --- | --- | --- | --- |"]
    for preset in presets:
        rows, starts, codes = [], [], []
        for seed in seeds:
            begin = time.perf_counter()
            model = NCSC(len(np.unique(y)), preset=preset, image_network=network, random_state=seed).fit(X)
            rows.append([*scores(y, model.labels_), time.perf_counter() - begin])
            starts.append(scores(y, model.initial_labels_))
            if preset == "robust":
                with one_thread():
                    labels = KMeans(len(np.unique(y)), n_init=5, random_state=seed).fit_predict(
                        model.embedding_
                    )
                codes.append(scores(y, labels))
        collapsed = ", collapsed" if model.history_[-1]["collapsed"] else ""
        lines += [line(f"NCSC, preset {preset}{collapsed}", rows), line("· before its last stage", starts)]
        lines += [line("k-means (n_init=5) on its codes", codes)] if codes else []
        print("\n".join(lines[-3:]), flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", default="digits", help="name of a known data set of images")
    parser.add_argument("--seeds", type=int, default=3, help="random_state = 0 … SEEDS − 1")
    parser.add_argument("--presets", nargs="+", choices=NCSC._presets, default=list(NCSC._presets))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="NCSC collapsed")  # the table says so
    seeds, dataset = range(arguments.seeds), load_dataset(arguments.data)
    network = "residual" if arguments.data.startswith("fashion") else "conv"
    lines = run(arguments.presets, seeds, dataset.images, dataset.labels, network)
    if dataset.name in PAPER:
        lines.append(line("the paper", [list(PAPER[dataset.name])]))
    title = (
        f"{dataset.name}, {len(dataset.X):,} images, {network} network: mean ± std over {len(seeds)} seeds, last "
        f"epoch; threads: {torch.get_num_threads()}"
    )
    chosen = "" if arguments.presets == list(NCSC._presets) else " --presets " + " ".join(arguments.presets)
    command = f"`python benchmarks/papers/ncsc.py --data {dataset.name} --seeds {len(seeds)}{chosen}`"
    RESULTS.mkdir(exist_ok=True)
    text = "\n".join([title, "", *lines, "", f"Made by {command}.", ""])
    (RESULTS / f"ncsc_{dataset.name}.md").write_text(text)
    print("\n" + text)


if __name__ == "__main__":
    main()
