"""Runs every operator and all its gradients on a few small shapes, in a process of its own: for compute-sanitizer.

python -m helpers.every_operator cuda  (in the folder python_tests)
"""

from __future__ import annotations

import sys

import torch

from desc_ext import ops
from helpers.operators import CASES, inputs

# Tails in every direction, several tiles of columns, subspaces in two chunks, rows too short for 16-byte loads.
SHAPES = [(7, 3, 2, 1), (133, 20, 37, 5), (130, 33, 3, 13)]


def main(device: str) -> None:
    for case in CASES:
        for shape in SHAPES:
            for dtype in (torch.float32, torch.float64, torch.bfloat16):
                tensors = {name: value.to(device) for name, value in inputs(shape, dtype).items()}
                result = case.run(ops, tensors)
                gradients = (
                    case.gradients(ops, tensors, torch.ones_like(result)) if case.differentiable else {}
                )
                for value in (result, *gradients.values()):
                    assert value.cpu().isfinite().all(), f"{case.id} at {shape} in {dtype}"
        print(case.id)


if __name__ == "__main__":
    main(sys.argv[1])
