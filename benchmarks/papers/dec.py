"""DEC, IDEC and DCEC, with the settings of their code and with the preset robust, beside published numbers.

Fitting never sees a label, and scores are those of the last epoch. Writes results/dec.md.

    python benchmarks/papers/dec.py --data digits mnist-test --seeds 5
    python benchmarks/papers/dec.py --data mnist-test --seeds 5 --device cuda --jobs 4
"""

from __future__ import annotations

from functools import partial

import numpy as np
import runs

from desc_ext.data import Dataset
from desc_ext.models import MODELS

PUBLISHED = {
    "mnist-test": [
        ("DEC, as ASC2D's table 3 has it", 0.859, 0.827, None),
        ("IDEC, as ASC2D's table 3 has it", 0.846, 0.802, None),
    ]
}


def fit(model: str, preset: str, dataset: Dataset, seed: int, place: runs.Place):
    n_clusters = len(np.unique(dataset.labels))
    return MODELS[model](n_clusters, preset=preset, random_state=seed, **place).fit(dataset.images)


METHODS = {name: runs.Method(name.upper(), partial(fit, name, "paper")) for name in ("dec", "idec")}
METHODS |= {
    f"{name}-robust": runs.Method(f"{name.upper()}, preset robust", partial(fit, name, "robust"))
    for name in ("dec", "idec", "dcec")
}

if __name__ == "__main__":
    parser = runs.parser(__doc__, METHODS, ["digits", "mnist-test"])
    runs.main(
        parser.parse_args(),
        METHODS,
        PUBLISHED,
        "DEC, IDEC and DCEC",
        "Settings of the methods' own code (an epoch is a round of 140 mini-batches, a start is k-means on the codes of the "
        "pretrained autoencoder), and the preset robust (a pass over the rows; the closed form's clusters).",
    )
