"""The operators under ``torch.func`` and in forward mode, where what torch.library registers does not suffice.

``torch.library.register_autograd`` makes functions that ``torch.func.grad``, ``vjp`` and ``jacrev`` refuse, and lets
tangents of forward mode fall to 0 without a word. Only while such a transform is at work, operators are called through the
functions of this module, which are made of the same formulas; everything else calls them directly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["at_work", "transformable"]


def at_work() -> bool:
    """Whether a transform of ``torch.func`` or a level of forward mode is active in this thread."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def transformable(
    name: str,
    operator: Callable[..., Any],
    setup: Callable | None,
    backward: Callable | None,
) -> Callable[..., Any]:
    """``operator`` as a function that ``torch.func`` can differentiate in reverse, and map over by a loop.

    Args:
        name: of the public function, for messages.
        operator: takes tensors and plain values, returns a tensor or a tuple of them.
        setup: (ctx, inputs, output), saves what ``backward`` needs.
        backward: (ctx, *grads) -> gradients; None where there is no derivative to take.
    """

    def loop(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        def of_item(i: int) -> Any:
            return apply(
                *(x if dim is None else x.select(dim, i) for x, dim in zip(inputs, in_dims, strict=True))
            )

        results = [of_item(i) for i in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = tuple(map(torch.stack, zip(*results, strict=True)))
        return stacked, (0,) * len(stacked)

    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise RuntimeError(
            f"{name} has no derivative in forward mode (torch.func.jvp, jacfwd, hessian, dual tensors); take torch.func.vjp "
            f"or jacrev, or the plain formula desc_ext.reference.{name}"
        )

    def no_derivative(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"{name} has no derivative")

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if setup is not None:
            setup(ctx, inputs, output)

    members = {
        "forward": staticmethod(lambda *inputs: operator(*inputs)),
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(backward or no_derivative),
        "jvp": staticmethod(jvp),
        "vmap": staticmethod(loop),
    }
    function: Any = type(f"Transformable_{name}", (torch.autograd.Function,), members)

    def apply(*inputs: Any) -> Any:
        return function.apply(*inputs)

    return apply
