"""First-order MAML (Finn et al., ICML 2017) over tasks with a training and a test loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["TaskLoss", "meta_gradient"]

TaskLoss = Callable[[Any], dict[str, tuple[float, Tensor]]]  # of a model: name → (weight, value)


def meta_gradient(
    model: nn.Module,
    tasks: Sequence[tuple[TaskLoss, TaskLoss]],
    inner_steps: int,
    inner_learning_rate: float,
) -> dict[str, Tensor]:
    """Sets the gradients of ``model``'s parameters θ to those of first-order MAML; returns the mean of each loss term.

    A task is two losses, of its training and of its test split. θ_i is θ after ``inner_steps`` gradient steps on the
    first; the gradient of θ is the mean over the tasks of the second's gradient at θ_i, and the terms are those of the
    second at θ_i.
    """
    evaluator = _Evaluator(model)
    parameters = list(evaluator.parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    means: dict[str, Tensor] = {}
    for train, test in tasks:
        adapted = [parameter.detach().requires_grad_() for parameter in parameters]
        for _ in range(inner_steps):
            loss, _ = evaluator.at(adapted, train)
            gradients = torch.autograd.grad(loss, adapted)
            adapted = [
                torch.sub(own.detach(), gradient, alpha=inner_learning_rate).requires_grad_()
                for own, gradient in zip(adapted, gradients, strict=True)
            ]
        loss, terms = evaluator.at(adapted, test)
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, adapted), strict=True):
            assert parameter.grad is not None
            parameter.grad.add_(gradient, alpha=1 / len(tasks))
        for name, value in ({"loss": loss} | {name: value for name, (_, value) in terms.items()}).items():
            share = value.detach().double() / len(tasks)
            means[name] = means[name] + share if name in means else share
    return means


class _Evaluator(nn.Module):
    """Losses of a model at other parameters than its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._names = [name for name, _ in self.named_parameters()]

    def forward(self, loss: TaskLoss) -> dict[str, tuple[float, Tensor]]:
        return loss(self.model)

    def at(
        self, parameters: Sequence[Tensor], loss: TaskLoss
    ) -> tuple[Tensor, dict[str, tuple[float, Tensor]]]:
        """The weighted sum of the terms of ``loss``, and the terms."""
        terms = functional_call(self, dict(zip(self._names, parameters, strict=True)), (loss,))
        return torch.as_tensor(sum(weight * value for weight, value in terms.values())), terms
