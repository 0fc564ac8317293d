"""Stages: the parts of a fit as data, and the loop that goes through them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from desc_ext.engine.callbacks import Recorder
from desc_ext.engine.checkpoint import Checkpoint, restore_optimizer
from desc_ext.engine.processes import processes
from desc_ext.engine.state import Evaluation, FitState

__all__ = ["WEIGHTED", "BatchLosses", "Losses", "Stage", "run_stages", "total_loss", "train_on_batches"]

Losses = dict[str, tuple[float, Tensor]]  # name → (weight, mean over the rows of a mini-batch)
WEIGHTED = (
    "weighted_"  # begins the history's names of terms times their weights, of which the loss is the sum
)
BatchLosses = tuple[Losses, dict[str, Tensor]]  # losses, and metrics that only the history sees


@dataclass(frozen=True)
class Stage:
    """A part of a fit: epochs of one optimizer on one kind of loss.

    Attributes:
        name: in history, callbacks and checkpoints.
        epochs: at most.
        optimizer: makes the optimizer.
        batches: draws the row numbers (int64) of the mini-batches of an epoch.
        terms: losses and metrics of the mini-batch of row numbers, given the evaluation of the last epoch.
        has_clusters: whether all rows are evaluated before the first and after every epoch.
        tol, warmup_epochs: with clusters, the stage ends when a smaller share of labels than ``tol`` changes in an epoch,
            but never in the warm-up.
        train_epoch: replaces the single pass over ``batches``: trains an epoch and returns the means of its losses.
        after_step: is called after every step of the optimizer.
        rate: share of the learning rates that an epoch trains with, given the share [0, 1) of the stage that has passed.
        before: is called before the first epoch, and before the first one of a resumed fit.
        after: is called once, after the last epoch.
    """

    name: str
    epochs: int
    optimizer: Callable[[], torch.optim.Optimizer]
    batches: Callable[[], Iterable[Tensor]]
    terms: Callable[[Tensor, Evaluation | None], BatchLosses]
    has_clusters: bool = False
    tol: float = 0.0
    warmup_epochs: int = 0
    train_epoch: Callable[[Stage, Evaluation | None], dict[str, float]] | None = None
    after_step: Callable[[], None] | None = None
    rate: Callable[[float], float] | None = None
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None


class Trainable(Protocol):
    """What the loop calls of an estimator."""

    def _evaluate(self, state: Any) -> Evaluation: ...

    def _reseed_empty(self, state: Any, evaluation: Evaluation) -> int: ...


def run_stages(
    model: Trainable,
    state: FitState,
    stages: list[Stage],
    recorder: Recorder,
    checkpoint: Checkpoint,
) -> Evaluation:
    """Trains all stages, from the beginning or from where the checkpoint left ``state``; the last evaluation.

    Raises:
        FloatingPointError: a loss became NaN or infinite.
    """
    names = [stage.name for stage in stages]
    if not state.stage:
        state.enter(names[0])
    for stage in stages[names.index(state.stage) :]:
        if stage.name != state.stage:
            state.enter(stage.name)
        evaluation = _run_stage(model, state, stage, recorder, checkpoint)
    return evaluation or _evaluate(model, state)


def _run_stage(
    model: Trainable, state: FitState, stage: Stage, recorder: Recorder, checkpoint: Checkpoint
) -> Evaluation | None:
    recorder.enter(stage.name)
    state.optimizer = stage.optimizer()
    restore_optimizer(state)
    rates = [group["lr"] for group in state.optimizer.param_groups]
    if stage.before is not None:
        stage.before()
    evaluation = _evaluate(model, state) if stage.has_clusters else None
    train = stage.train_epoch or (lambda stage, evaluation: train_on_batches(state, stage, evaluation))
    while state.epoch < stage.epochs and not state.stopped:
        started = time.perf_counter()
        if stage.rate is not None:
            for group, rate in zip(state.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * stage.rate(state.epoch / stage.epochs)
        losses = train(stage, evaluation)
        state.epoch += 1
        _require_finite(model, state, losses["loss"])
        record: dict[str, Any] = {"stage": stage.name, "epoch": state.epoch}
        stop = False
        if evaluation is not None:
            # all else of it, which may be large, is not needed beside the next one
            before, evaluation = evaluation.labels, None
            evaluation, further = _evaluate_and_reseed(model, state)
            change = float((evaluation.labels != before).double().mean())
            losses |= evaluation.record | {"label_change": change} | further
            stop = change < stage.tol and state.epoch > stage.warmup_epochs
        stop |= recorder.record(record | {"seconds": time.perf_counter() - started} | losses)
        state.stopped = processes().from_first(partial(bool, stop))
        if processes().first:
            checkpoint.write(state)
    if stage.after is not None:
        stage.after()
    return evaluation


def train_on_batches(state: FitState, stage: Stage, evaluation: Evaluation | None) -> dict[str, float]:
    """One pass over mini-batches; the means over their rows of every loss, without and with its weight, and metric."""
    optimizer, sums = state.optimizer, dict[str, Tensor]()
    assert optimizer is not None
    batches = list(stage.batches())
    n = sum(map(len, batches))
    for index in batches:
        losses, metrics = stage.terms(index, evaluation)
        loss = total_loss(losses)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        processes().average_gradients(p for group in optimizer.param_groups for p in group["params"])
        optimizer.step()
        if stage.after_step is not None:
            stage.after_step()
        found = {"loss": loss} | {name: value for name, (_, value) in losses.items()} | metrics
        if len(losses) > 1:
            found |= {WEIGHTED + name: weight * value for name, (weight, value) in losses.items()}
        for name, value in found.items():
            share = value.detach().double() * (len(index) / n)
            sums[name] = sums[name] + share if name in sums else share
    return processes().average({name: float(value) for name, value in sums.items()})


def total_loss(losses: Losses) -> Tensor:
    """The weighted sum of losses."""
    return torch.as_tensor(sum(weight * value for weight, value in losses.values()))


def _evaluate(model: Trainable, state: FitState) -> Evaluation:
    for network in (state.network, state.average):
        if network is not None:
            processes().synchronise(network)
    return model._evaluate(state)


def _evaluate_and_reseed(model: Trainable, state: FitState) -> tuple[Evaluation, dict[str, Any]]:
    evaluation, n_reseeded = _evaluate(model, state), 0
    n_clusters = state.options.n_clusters
    for _ in range(n_clusters):  # a re-seeded cluster may empty another one
        with torch.no_grad():
            reseeded = model._reseed_empty(state, evaluation)
        if not reseeded:
            break
        n_reseeded += reseeded
        evaluation = _evaluate(model, state)
    sizes = torch.bincount(evaluation.labels, minlength=n_clusters).tolist()
    return evaluation, {"n_reseeded": n_reseeded, "cluster_sizes": sizes}


def _require_finite(model: Trainable, state: FitState, loss: float) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"{type(model).__name__}: the loss became {loss} in {state.stage} epoch {state.epoch}; lower the learning "
            "rate, or set scaling so that inputs are of order 1"
        )
