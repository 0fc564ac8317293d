"""The state of a running fit, and the evaluation of all rows at the end of an epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from desc_ext.engine.networks import ClusteringNetwork
from desc_ext.engine.rows import Rows
from desc_ext.engine.stored_values import Values

__all__ = ["Evaluation", "FitState"]

OptionsT = TypeVar("OptionsT")
NetworkT = TypeVar("NetworkT", bound=ClusteringNetwork)


@dataclass
class Evaluation:
    """All rows under the network at the end of an epoch; constant during the next one."""

    z: Values  # codes [n, p]
    labels: Tensor  # int64 [n]
    target: Values | None = None  # [n, K], what the clustering loss aims at
    sample_weight: Tensor | None = None  # H [n]
    anchor: Values | None = None  # [n, K], the anchor's targets; rows of zeros have none
    record: dict[str, Any] = field(default_factory=dict)  # what it adds to the history


@dataclass
class FitState(Generic[OptionsT, NetworkT]):
    """The moving parts of one call of ``fit``: all that a checkpoint has to hold."""

    options: OptionsT  # the estimator with a value for every option
    rows: Rows
    network: NetworkT
    seed: int
    order: torch.Generator  # draws the mini-batches (CPU)
    noise: torch.Generator  # draws corruption and augmentation of the input (on the device)
    stage: str = ""  # its name; empty before the first one
    epoch: int = 0  # epochs finished in this stage
    stopped: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    initial_labels: Tensor | None = None  # int64 [n]
    certainty: Tensor | None = None  # of these labels, float64 [n], where there is an anchor
    average: NetworkT | None = None  # the slow-moving average of the network, where there is one
    optimizer: torch.optim.Optimizer | None = None  # of this stage
    saved_optimizer: dict[int, dict[str, Tensor]] | None = None  # read from a checkpoint, not yet in use
    further_data: dict[str, Any] = field(default_factory=dict)  # identifies data beside X, for checkpoints

    def enter(self, stage: str) -> None:
        """Goes to the beginning of the stage of that name."""
        self.stage, self.epoch, self.stopped = stage, 0, False

    @property
    def first_labels(self) -> Tensor:
        """``initial_labels``, which are known from the end of pretraining on."""
        assert self.initial_labels is not None
        return self.initial_labels
