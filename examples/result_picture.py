"""A result in one picture: images of every cluster, and its accuracy beside the baselines'.

make demo && python examples/result_picture.py demo-output docs/result.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb

from desc_ext.data import load_dataset
from desc_ext.metrics import matched_clusters

SHOWN = 24  # images of each cluster, drawn at random
RIGHT, WRONG, OTHERS = "#1b6ca8", "#e4572e", "#b8bfc6"
NAMES = {"desc": "DESC", "k-means": "k-means", "ae-kmeans": "autoencoder + k-means"}


def draw_clusters(axes: plt.Axes, images: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> None:
    """A row of images for each cluster; those of another class than most of it are in another colour."""
    side, random = images.shape[1], np.random.default_rng(0)
    clusters = matched_clusters(classes, labels)  # of classes 0, 1, ...
    picture = np.ones((len(clusters) * (side + 2), SHOWN * (side + 2), 3))
    for row, cluster in enumerate(clusters):
        chosen = random.choice(np.flatnonzero(labels == cluster), SHOWN, replace=False)
        for column, i in enumerate(chosen):
            colour = to_rgb(RIGHT if classes[i] == row else WRONG)
            ink = images[i][..., None] / images.max()
            y, x = row * (side + 2) + 1, column * (side + 2) + 1
            picture[y : y + side, x : x + side] = 1 - ink * (1 - np.array(colour))
    axes.imshow(picture, interpolation="nearest", aspect="equal")
    axes.set_axis_off()
    axes.set_title(
        f"{SHOWN} images of each cluster, drawn at random; those of another class in red", loc="left"
    )


def draw_scores(axes: plt.Axes, metrics: dict[str, dict[str, float]]) -> None:
    names = sorted(metrics, key=lambda name: metrics[name]["acc"])
    values = [metrics[name]["acc"] for name in names]
    bars = axes.barh(
        [NAMES[name] for name in names],
        values,
        height=0.55,
        color=[RIGHT if name == "desc" else OTHERS for name in names],
    )
    axes.bar_label(bars, [f"{value:.3f}" for value in values], padding=4)
    axes.set_xlim(0, 1.12)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_title("clustering accuracy (ACC)", loc="left")


def main(result: Path, out: Path) -> None:
    dataset, labels = load_dataset("digits"), np.load(result / "labels.npy")
    metrics = json.loads((result / "metrics.json").read_text())
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(13, 4.4), width_ratios=[2.3, 1], layout="constrained", facecolor="white"
    )
    draw_clusters(left, dataset.images, dataset.labels, labels)
    draw_scores(right, metrics)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
