"""LRSC and DSC-Net beside the numbers of LRSC's paper (tables 1 to 3), and LRSC without its parts (table 3).

External data are 20 Newsgroups for BBC, the other 10 groups for 10 groups of 20 Newsgroups, and MNIST's test part for
Fashion-MNIST (the paper: miniImageNet), whose images are resized to 32×32 as in the paper. Both methods see the same rows:
of images their scattering features, the default, where a line does not say pixels. Fitting never sees a label of the rows
that it clusters. The options come from external data (lrsc_defaults.py); the spectral step and its neighbours were chosen
among many variants by 20 Newsgroups-b, external here, and digits.

    OMP_NUM_THREADS=1 python benchmarks/papers/lrsc.py --data bbc-news 20newsgroups-a --seeds 5 --jobs 2
    python benchmarks/papers/lrsc.py --data fashion-mnist:1000 fashion-mnist:5000 --seeds 5 --device cuda
    python benchmarks/papers/lrsc.py --ablation --data bbc-news --seeds 5
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from runs import Method, Place, load_part, main, parser

from desc_ext.data import Dataset, load_dataset
from desc_ext.features import resized_images
from desc_ext.models import LRSC, DSCNet

EXTERNAL = {"bbc-news": "20newsgroups", "20newsgroups-a": "20newsgroups-b", "fashion-mnist": "mnist-test"}
# LRSC's network, and DSC-Net's in LRSC's tables: one linear layer, or of images four convolutions of kernel 3.
NETWORK = {"hidden_sizes": (), "image_network": "strided"}
OFF = {"task_level": False, "model_level": False, "self_supervision": False}


def lrsc(**options):
    def fit(data: Dataset, seed: int, place: Place) -> LRSC:
        external = data.external.images, data.external.labels
        model = LRSC(len(data.class_names), external=external, random_state=seed, **place, **options)
        return model.fit(data.images)

    return fit


def dsc_net(**options):
    def fit(data: Dataset, seed: int, place: Place) -> DSCNet:
        model = DSCNet(len(data.class_names), random_state=seed, **place, **options)
        return model.fit(data.images)

    return fit


METHODS = {
    "dsc-net": Method("DSC-Net-L2", dsc_net()),
    "lrsc": Method("LRSC-L2", lrsc()),
    "dsc-net-pixels": Method("DSC-Net-L2, pixels", dsc_net(**NETWORK)),
    "lrsc-pixels": Method("LRSC-L2, pixels", lrsc(**NETWORK)),
    "dsc-net-l1": Method("DSC-Net-L1", dsc_net(penalty="l1")),
    "lrsc-l1": Method("LRSC-L1", lrsc(penalty="l1")),
    "dsc-net-paper": Method("DSC-Net-L2, preset paper", dsc_net(preset="paper", **NETWORK)),
    "lrsc-paper": Method("LRSC-L2, preset paper", lrsc(preset="paper")),
    "closed-form": Method('LRSC-L2, self_expression="closed-form"', lrsc(self_expression="closed-form")),
    "without": Method("LRSC-L2 without its three parts", lrsc(**OFF)),
    "task": Method("· with the task level", lrsc(**OFF | {"task_level": True})),
    "task-model": Method("· with task and model level", lrsc(self_supervision=False)),
    "supervision": Method("· with self-supervision alone", lrsc(**OFF | {"self_supervision": True})),
}
ABLATION = ["without", "task", "task-model", "supervision", "lrsc"]
PUBLISHED = {
    "bbc-news": [
        ("the paper: DSC-Net-L2", 0.879, 0.727, 0.725), ("the paper: LRSC-L2", 0.929, 0.804, 0.836),
        ("the paper: with the task level", 0.918, 0.784, 0.812),
        ("the paper: with task and model level", 0.927, 0.792, 0.830),
    ],
    "20newsgroups-a": [
        ("the paper, other groups: DSC-Net-L2", 0.352, 0.283, 0.122),
        ("the paper, other groups: LRSC-L2", 0.406, 0.315, 0.161),
    ],
    "fashion-mnist:1000": [
        ("the paper: DSC-Net-L2", 0.536, 0.594, 0.406), ("the paper: LRSC-L2", 0.607, 0.627, 0.439),
    ],
    "fashion-mnist:5000": [
        ("the paper: DSC-Net-L2", 0.563, 0.558, 0.372), ("the paper: LRSC-L2", 0.636, 0.682, 0.516),
    ],
}  # fmt: skip


def load(name: str) -> Dataset:
    """The rows to cluster, with their external data."""
    known = name.partition(":")[0]
    if known != "fashion-mnist":
        return load_dataset(name, external=EXTERNAL[name])
    data = load_part(name)
    images = resized_images(data.images, (32, 32))
    rows = np.ascontiguousarray(images.reshape(len(images), -1))
    return replace(data, X=rows, image_shape=(32, 32), external=load_dataset(EXTERNAL[known]))


if __name__ == "__main__":
    options = parser(__doc__, METHODS, ["bbc-news", "20newsgroups-a"], ["dsc-net", "lrsc"])
    options.add_argument("--ablation", action="store_true", help="the methods of the paper's table 3")
    arguments = options.parse_args()
    if arguments.ablation:
        arguments.methods = ABLATION
    main(arguments, METHODS, PUBLISHED, "LRSC and DSC-Net", __doc__.split("\n\n")[1], load)
