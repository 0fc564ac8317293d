"""ASC2D with both presets, and DCEC, on known data sets (`desc-ext datasets`), beside the numbers of ASC2D's table 3.

Fitting never sees a label, and scores are those of the last epoch. Writes results/asc2d.md. With --ablation the methods are
ASC2D without one of its terms each, as in the paper's tables 5 (no discriminator) and 6 (no ℓ1,2 norm).

    python benchmarks/papers/asc2d.py --seeds 5 --dtype mixed_bfloat16 --device cuda --jobs 10
    python benchmarks/papers/asc2d.py --data mnist-test --seeds 5 --dtype mixed_bfloat16 --device cuda --jobs 10 --ablation
"""

from __future__ import annotations

from functools import partial

import numpy as np
import runs

from desc_ext.data import Dataset
from desc_ext.models import ASC2D, DCEC

PUBLISHED = {
    "mnist-test": [
        ("ASC2D, the paper", 0.980, 0.969, None),
        ("· without the discriminator", 0.965, 0.953, None),
        ("· without the ℓ1,2 norm", 0.970, 0.954, None),
    ],
    "fashion-mnist-test": [
        ("ASC2D, the paper, all 70,000 images", 0.703, 0.716, None),
        ("· without the discriminator", 0.688, 0.665, None),
        ("· without the ℓ1,2 norm", 0.689, 0.695, None),
    ],
}
TERMS = {
    "adversarial": "the discriminator",
    "specificity": "the ℓ1,2 norm",
    "self_supervision": "L_S",
    "consistency": "L_C",
    "reconstruction": "L_AE",
}


def fit_asc2d(options: dict, dataset: Dataset, seed: int, place: runs.Place) -> ASC2D:
    model = ASC2D(len(np.unique(dataset.labels)), random_state=seed, **place, **options)
    return model.fit(dataset.images)


def fit_dcec(dataset: Dataset, seed: int, place: runs.Place) -> DCEC:
    n_clusters = len(np.unique(dataset.labels))
    return DCEC(n_clusters, preset="paper", random_state=seed, **place).fit(dataset.images)


METHODS = {"dcec": runs.Method("DCEC", fit_dcec)}
for preset in ASC2D.presets:
    METHODS[preset] = runs.Method(f"ASC2D, preset {preset}", partial(fit_asc2d, {"preset": preset}))
    for term, name in TERMS.items():
        METHODS[f"{preset}-without-{term}"] = runs.Method(
            f"· {preset} without {name}", partial(fit_asc2d, {"preset": preset, f"{term}_weight": 0.0})
        )

if __name__ == "__main__":
    parser = runs.parser(__doc__, METHODS, ["mnist-test", "fashion-mnist-test"], ["dcec", *ASC2D.presets])
    parser.add_argument(
        "--ablation",
        choices=ASC2D.presets,
        nargs="?",
        const="robust",
        help="run this preset (robust) without one of its terms each, in place of --methods",
    )
    arguments = parser.parse_args()
    if arguments.ablation:
        arguments.methods = [name for name in METHODS if name.startswith(arguments.ablation)]
    runs.main(
        arguments,
        METHODS,
        PUBLISHED,
        "ASC2D and DCEC",
        "An epoch is a round of 140 mini-batches; a start is k-means on the codes of the pretrained autoencoder. The rows of "
        "preset robust are of version 0.1, whose preset had neither today's start nor its refinement: "
        "[the table of all methods](choice.md) has today's.",
    )
