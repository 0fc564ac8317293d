"""What the parts of the refinement that all methods share give: DCEC's preset robust, one part left out at a time.

The data are those that defaults are chosen on. Every variant begins at the same clusters, those of the closed form; its line
"its start" says how good they are. Fitting never sees a label, and scores are those of the last epoch. Writes
results/refinement.md.

    python benchmarks/papers/refinement.py --data digits --seeds 2 --device cpu
"""

from __future__ import annotations

from functools import partial

import numpy as np
import runs

from desc_ext.data import Dataset
from desc_ext.models import DCEC

VARIANTS: dict[str, tuple[str, dict]] = {
    "robust": ("DCEC, preset robust", {}),
    "larger-share": ("the share of the start falls from 1 to .5", {"anchor_share": 1.0}),
    "smaller-share": ("the share of the start falls from .5 to .25", {}),
    "no-augmentation": ("· so, images as they are", {"augment": "none"}),
    "all-rows-first": ("· so, all rows in the warm-up", {"certain_share": 1.0}),
    "no-warm-up": ("· so, no warm-up", {"warmup_epochs": 0}),
    "no-average": ("· so, the network itself for its average", {"average_decay": 0.0}),
    "no-start": ("no share of the start after the warm-up", {"anchor_share": 0.0}),
    "constant-rate": ("· so, constant learning rate", {"schedule": "constant"}),
    "no-anchor": ("no anchor at all: IDEC's loss from this start", {"anchor_weight": 0.0}),
    "k-means": ("· so, begun at k-means on the codes", {"init": "k-means"}),
}
_SHARE = {"anchor_share": 0.5}  # of all but the first: what a part gives is larger there


def fit(options: dict, dataset: Dataset, seed: int, place: runs.Place) -> DCEC:
    model = DCEC(len(np.unique(dataset.labels)), random_state=seed, **place, **options)
    return model.fit(dataset.images)


METHODS = {
    key: runs.Method(name, partial(fit, options if key == "robust" else _SHARE | options))
    for key, (name, options) in VARIANTS.items()
}

if __name__ == "__main__":
    parser = runs.parser(__doc__, METHODS, ["digits", "mnist:3000"])
    runs.main(
        parser.parse_args(),
        METHODS,
        {},
        "The refinement that all methods share, part by part",
        'DCEC, preset robust, with parts left out one at a time where the share of the start falls from .5 to .25 ("so"), on '
        "data that defaults are chosen on: no results to report. "
        "Augmentation is what adds to the start, the anchor and its average are what keep it.",
    )
