"""How the options of LRSC and DSC-Net were chosen, which their papers do not give: on external data alone.

The external data are treated as rows to cluster, with their labels, and another part of them as their external data:
20 Newsgroups' second ten groups, of which 1,500 messages of five groups are clustered and the five others are
external; and MNIST's test part, of which 1,000 images of the even digits (all-images: all 4,926) are clustered and 2,000
of the odd ones are external. No row of a reported result of these two methods takes part, nor its labels. One option
changes at a time; it becomes the default when it gains on both data sets together, and the comparison goes on from there.
The last to change were "scattering", of images, and with it the weight of the contrast, now 0.01; other lines are of pixels
and of 0.1.

    OMP_NUM_THREADS=1 python benchmarks/papers/lrsc_defaults.py --seeds 3 --jobs 2
    OMP_NUM_THREADS=1 python benchmarks/papers/lrsc_defaults.py --methods default contrast-.3 contrast-1
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from lrsc import NETWORK, OFF
from runs import Method, Place, main, parser

from desc_ext.data import Dataset, load_dataset
from desc_ext.models import LRSC, DSCNet

SCATTERING = {"image_network": None, "features": "scattering"}
BEFORE = NETWORK | {"contrast_weight": 0.1}
FIRST_SEED = 100  # results are reported for the seeds from 0 on
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "contrast-0": {"self_supervision": False},
    "contrast-.01": {"contrast_weight": 0.01},
    "contrast-.3": {"contrast_weight": 0.3},
    "contrast-1": {"contrast_weight": 1.0},
    "distillation-0": {"model_level": False},
    "distillation-.01": {"distillation_weight": 0.01},
    "distillation-.1": {"distillation_weight": 0.1},
    "distillation-1": {"distillation_weight": 1.0},
    "teacher-autoencoder": {"teacher": "autoencoder"},
    "teacher-epochs-5": {"teacher_epochs": 5},
    "task-off": {"task_level": False},
    "meta-epochs-30": {"meta_epochs": 30},
    "ridge-.1": {"coefficient_weight": 0.05},
    "ridge-10": {"coefficient_weight": 5.0},
    "expression-.1": {"fidelity_weight": 0.1, "coefficient_weight": 0.05},
    "expression-10": {"fidelity_weight": 10.0, "coefficient_weight": 5.0},
    "vectors-K": {"extra_components": 0},
    "encoder-1e-3": {"autoencoder_learning_rate": 1e-3},
    "encoder-1e-5": {"autoencoder_learning_rate": 1e-5},
    "start-constant": {"coefficient_init": "constant"},
    "k-20": {"n_neighbors": 20},
    "k-100": {"n_neighbors": 100},
    "k-all": {"n_neighbors": 0},
    "scaling-uncentred": {"scaling": "uncentred"},
    "pretrain-20": {"pretrain_epochs": 20},
    "steps-10": {"max_steps": 10},
    "steps-100": {"max_steps": 100},
    "scattering": SCATTERING,
    "scattering-none": SCATTERING | OFF,
    "scattering-task-off": SCATTERING | {"task_level": False},
    "scattering-distillation-0": SCATTERING | {"model_level": False},
    "scattering-contrast-0": SCATTERING | {"self_supervision": False},
    "scattering-contrast-.01": SCATTERING | {"contrast_weight": 0.01},
}
PENALTY_L1 = {f"l1-{weight}": {"penalty": "l1", "coefficient_weight": weight} for weight in (0.01, 0.03, 0.1)}
# of DSC-Net alone: the weights of its code for single data sets, and those of the preset "robust"
PAPER = {f"paper-{weight}": {"preset": "paper", "fidelity_weight": weight} for weight in (150.0, 30.0, 0.2)}
EXPRESSION = {
    f"expression-{weight}": {"fidelity_weight": weight, "coefficient_weight": weight / 2}
    for weight in (0.01, 0.1, 10.0)
}

NEIGHBOURS = {f"k-{k}": {"n_neighbors": k} for k in (5, 20, 100, 0)} | {"vectors-K": {"extra_components": 0}}


def lrsc(options: dict[str, Any]):
    def fit(data: Dataset, seed: int, place: Place) -> LRSC:
        other = data.external
        unlabelled = options.get("teacher") == "autoencoder"
        external = other.images if unlabelled else (other.images, other.labels)
        model = LRSC(5, external=external, random_state=FIRST_SEED + seed, **place, **BEFORE | options)
        return model.fit(data.images)

    return fit


def dsc_net(options: dict[str, Any]):
    def fit(data: Dataset, seed: int, place: Place) -> DSCNet:
        model = DSCNet(5, random_state=FIRST_SEED + seed, **place, **NETWORK | options)
        return model.fit(data.images)

    return fit


METHODS = {name: Method(f"LRSC: {name}", lrsc(options)) for name, options in (VARIANTS | PENALTY_L1).items()}
METHODS["none"] = Method("LRSC without its three parts", lrsc(OFF))
METHODS |= {
    f"dsc-{name}": Method(f"DSC-Net: {name}", dsc_net(options))
    for name, options in (
        {"default": {}, "scattering": SCATTERING} | PAPER | EXPRESSION | NEIGHBOURS | PENALTY_L1
    ).items()
}


def load(name: str) -> Dataset:
    """Rows of classes with even numbers, and of those with odd numbers as their external data."""
    known, n, n_external = {
        "texts": ("20newsgroups-b", 1500, None),
        "images": ("mnist-test", 1000, 2000),
        "all-images": ("mnist-test", None, 2000),
    }[name]
    data = load_dataset(known)
    even = np.random.default_rng(0).permutation(np.flatnonzero(data.labels % 2 == 0))[:n]
    odd = np.flatnonzero(data.labels % 2 == 1)[:n_external]
    other = replace(data, name=f"{name}, odd", X=data.X[odd], labels=data.labels[odd])
    return replace(data, name=name, X=data.X[even], labels=data.labels[even], external=other)


if __name__ == "__main__":
    options = parser(__doc__, METHODS, ["texts", "images"])
    main(
        options.parse_args(), METHODS, {}, "Options of LRSC and DSC-Net, chosen on external data",
        __doc__.split("\n\n")[1], load,
    )  # fmt: skip
