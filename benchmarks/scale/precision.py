"""Seconds of an epoch with dtype="float32" and "mixed_bfloat16", and how much memory a fit adds, on the images of MNIST-test.

Fits of one epoch a stage, float32 and mixed in turn; medians over the rounds.

    python benchmarks/scale/precision.py
    python benchmarks/scale/precision.py --threads 1 --methods asc2d
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from pathlib import Path

import torch

from desc_ext.data import load_dataset
from desc_ext.models import MODELS

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))
from harness import ROUNDS, peak_extra

RESULTS = Path(__file__).parent / "results"
DTYPES = ("float32", "mixed_bfloat16")
SHORT = {"pretrain_epochs": 1, "n_init": 1}
EPOCH, ROUND = SHORT | {"max_epochs": 1}, SHORT | {"max_rounds": 1, "update_interval": 40}
METHODS = {
    "desc": ("fully connected, 500-500-1000", EPOCH | {"warmup_epochs": 0}),
    "dcec": ("convolutions, 32-64-128", ROUND),
    "asc2d": ("the same, and a discriminator", ROUND),
    "ncsc": (
        "convolutions, 10-20-30",
        EPOCH | {"expression_epochs": 1, "start_epochs": 1, "classifier_epochs": 1},
    ),
}


def measure(method: str, rounds: int) -> list[dict]:
    """A row a stage: its name, and by dtype the median seconds; the memory is that of the whole fit."""
    images = load_dataset("mnist-test").images
    options = METHODS[method][1] | {"random_state": 0, "device": "cpu"}

    def fit(dtype: str) -> dict[str, float]:
        with warnings.catch_warnings():
            # of collapses and rows that are never certain: an epoch is no fit
            warnings.simplefilter("ignore")
            model = MODELS[method](10, dtype=dtype, **options).fit(images)
        return {record["stage"]: record["seconds"] for record in model.history_}

    memory = {dtype: peak_extra(lambda dtype=dtype: fit(dtype)) for dtype in DTYPES}
    found = {dtype: [] for dtype in DTYPES}
    for _ in range(rounds):
        for dtype in DTYPES:
            found[dtype].append(fit(dtype))
    return [
        {
            "method": method,
            "stage": stage,
            "seconds": [statistics.median(took[stage] for took in found[dtype]) for dtype in DTYPES],
            "memory": [memory[dtype] for dtype in DTYPES],
        }
        for stage in found["float32"][0]
    ]


def matrix_unit() -> str:
    """Whether the processor multiplies matrices of bfloat16."""
    return "AMX" if "amx_bf16" in Path("/proc/cpuinfo").read_text() else "no AMX"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lines = [
        "# Mixed precision",
        "",
        "Written by `python benchmarks/scale/precision.py`: MNIST-test, 10,000 × 784; seconds an epoch (of refinement in "
        f"DCEC and ASC2D: 40 mini-batches), medians of {arguments.rounds} in turn; MiB that a whole fit adds. "
        f"{arguments.threads} threads, {matrix_unit()}, torch {torch.__version__}.",
        "",
        "| method | network | stage | float32: s | mixed_bfloat16: s | ratio | MiB | MiB, mixed |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for method in arguments.methods:
        for row in measure(method, arguments.rounds):
            exact, mixed = row["seconds"]
            cells = [
                method,
                METHODS[method][0],
                row["stage"],
                f"{exact:.3g}",
                f"{mixed:.3g}",
                f"{exact / mixed:.2f}",
            ]
            lines.append("| " + " | ".join([*cells, *(f"{mib:.0f}" for mib in row["memory"])]) + " |")
            print(lines[-1], flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "precision.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
