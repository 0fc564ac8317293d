"""Episodes of meta-learning: small clustering tasks drawn from external data, and first-order MAML over them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from desc_ext.models.external import External

__all__ = ["draw_episode", "meta_gradient"]

Loss = Callable[[nn.Module], dict[str, tuple[float, Tensor]]]


def draw_episode(
    external: External, n_classes: int, size: int, generator: torch.Generator
) -> tuple[int, Tensor, Tensor]:
    """A half of the external data, and the row numbers (int64) of a training and a test split, disjoint.

    Both splits together are at most ``size`` rows of at most ``n_classes`` classes, drawn at random from that half alone:
    teacher features of the two halves come from different teachers and have no common distances. Of unlabelled data, any
    rows of the half are drawn.
    """
    half = int(torch.randint(2, (), generator=generator))
    rows = external.halves[half]
    if external.labels is not None:
        classes = torch.randperm(external.n_classes, generator=generator)[:n_classes]
        of_task = rows[torch.isin(external.labels[rows], classes)]
        rows = of_task if len(of_task) >= 4 else rows  # classes that this half has next to nothing of
    chosen = rows[torch.randperm(len(rows), generator=generator)[:size]]
    train, test = chosen.tensor_split(2)
    return half, train, test


def meta_gradient(
    model: nn.Module, tasks: list[tuple[Loss, Loss]], inner_steps: int, inner_learning_rate: float
) -> dict[str, Tensor]:
    """Sets the gradients of ``model``'s parameters θ to those of first-order MAML; returns the mean of each loss term.

    A task is two losses, of its training and of its test split: functions of a model that return name → (weight, value).
    θ_i is θ after ``inner_steps`` gradient steps on the first; the gradient of θ is the mean over the tasks of the second's
    gradient at θ_i, and the terms are those of the second at θ_i.
    """
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    learner = copy.deepcopy(model)
    adapted = list(learner.parameters())
    means: dict[str, Tensor] = {}
    for train, test in tasks:
        with torch.no_grad():
            for own, start in zip(adapted, parameters, strict=True):
                own.copy_(start)
        for _ in range(inner_steps):
            gradients = torch.autograd.grad(_total(train(learner)), adapted)
            with torch.no_grad():
                for own, gradient in zip(adapted, gradients, strict=True):
                    own.sub_(gradient, alpha=inner_learning_rate)
        terms = test(learner)
        loss = _total(terms)
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, adapted), strict=True):
            parameter.grad.add_(gradient, alpha=1 / len(tasks))
        for name, value in {"loss": loss, **{name: value for name, (_, value) in terms.items()}}.items():
            means[name] = means.get(name, 0.0) + value.detach().double() / len(tasks)
    return means


def _total(terms: dict[str, tuple[float, Tensor]]) -> Tensor:
    return sum(weight * value for weight, value in terms.values())
