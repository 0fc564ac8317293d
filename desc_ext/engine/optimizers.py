"""Optimizers of the training loops: one pass over each parameter, and no denormal numbers in the moments."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any, TypeVar

import torch
from torch import Tensor

OptimizerT = TypeVar("OptimizerT", bound=torch.optim.Optimizer)

__all__ = ["adam", "sgd", "without_denormals"]

# 0.9 to this power takes a moment of this size to about the smallest normal float32
_STEPS_TO_DENORMALS, _VANISHED = 128, 1e-30


def adam(parameters: Iterable[Any], learning_rate: float) -> torch.optim.Adam:
    """Adam over tensors or groups of them, in one pass over each with its gradient and moments.

    Torch's default makes a dozen passes on the CPU: with dense layers and small mini-batches, a third of the training time.
    """
    return without_denormals(torch.optim.Adam(parameters, learning_rate, fused=True))


def sgd(parameters: Iterable[Tensor], learning_rate: float, momentum: float) -> torch.optim.SGD:
    """Stochastic gradient descent with momentum, in one pass as :func:`adam`."""
    return without_denormals(torch.optim.SGD(parameters, learning_rate, momentum=momentum, fused=True))


def without_denormals(optimizer: OptimizerT) -> OptimizerT:
    """``optimizer``, which from now on sets first moments that have all but vanished, below 1e-30, to 0.

    The weights of a unit whose output is always 0 have gradients of 0. Their moments decay by a constant factor a step and,
    after some 800, stay among the denormal numbers, on which a CPU computes a hundred times as long as on others.
    """
    steps = count(1)

    def after_step(optimizer: torch.optim.Optimizer, _args: Any, _options: Any) -> None:
        if next(steps) % _STEPS_TO_DENORMALS:
            return
        for state in optimizer.state.values():
            for name in state.keys() & {"exp_avg", "momentum_buffer"}:
                moment = state[name]
                if moment is not None and moment.device.type == "cpu":
                    torch.hardshrink(moment, _VANISHED, out=moment)

    optimizer.register_step_post_hook(after_step)
    return optimizer
