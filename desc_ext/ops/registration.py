"""What torch has to know of an operator beside its kernels: the shapes of its results and its gradient.

The kernels may stand in more than one namespace: those of the installed library in ``torch.ops.desc_ext``, and in tests
the same CUDA kernels, executed on the CPU, in one of their own. What is registered here goes to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from desc_ext.ops.transforms import at_work, transformable

__all__ = [
    "active_namespace",
    "fake_grads",
    "first_result",
    "grad_or_none",
    "kernels",
    "refuse_second_derivative",
    "register",
    "register_namespace",
    "save_inputs",
    "use_namespace",
]

_current = torch.ops.desc_ext
_functions: dict[str, dict[str, Callable]] = {}  # of each namespace, for transforms
_direct: dict[str, SimpleNamespace] = {}  # of each namespace, without the dispatcher's part for autograd


def active_namespace():
    """The namespace that the public functions take their operators from: the operators themselves where torch.compile
    looks on, and otherwise functions that do the same in half the time."""
    if torch.compiler.is_compiling() or at_work():
        return _as_transforms_need(_current)
    return _direct[_current.name]


def kernels() -> Any:
    """The namespace of torch.ops with the operators themselves, for tests."""
    return _current


def _as_transforms_need(kernels: Any) -> Any:
    return SimpleNamespace(**_functions[kernels.name]) if at_work() else kernels


@contextmanager
def use_namespace(namespace: str) -> Iterator[None]:
    """Lets the public functions call ``torch.ops.<namespace>`` for a while, in all threads: for tests."""
    global _current
    before, _current = _current, getattr(torch.ops, namespace)
    try:
        yield
    finally:
        _current = before


def refuse_second_derivative(name: str) -> Callable:
    """A backward function that raises: a derivative that is not written is not to be taken for 0."""

    def backward(ctx, *grads):
        raise RuntimeError(
            f"{name} has no second derivative; take desc_ext.reference for gradients of gradients"
        )

    return backward


def _below_autograd(operator: Any) -> Callable:
    """The operator for callers that see to gradients themselves."""
    kernel = operator.default._op

    def call(*inputs):
        with torch._C._AutoDispatchBelowAutograd():
            return kernel(*inputs)

    return call


def _differentiable(
    name: str, below: SimpleNamespace, kernels: Any, setup: Callable, gradient: Callable
) -> Callable:
    """An operator as a torch.autograd.Function. What torch.library.register_autograd makes of it is the same in Python, but
    goes through the dispatcher twice and builds its class anew in every call."""
    forward = getattr(below, name)

    def run_forward(ctx, *inputs):
        output = forward(*inputs)
        setup(ctx, inputs, output)
        return output

    def run_backward(ctx, *grads):
        # a graph of the gradient is wanted: the operator itself, which refuses
        return gradient(kernels if torch.is_grad_enabled() else below, ctx, *grads)

    members = {"forward": staticmethod(run_forward), "backward": staticmethod(run_backward)}
    function: Any = type(f"{name}_function", (torch.autograd.Function,), members)
    apply = function.apply

    def call(*inputs):
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs):
            return apply(*inputs)
        return forward(*inputs)

    return call


def _refusing(second: Callable) -> Callable:
    """(values, sources) -> the values, as a function of the sources whose derivative ``second`` refuses."""

    def run_forward(ctx, count, *tensors):
        return tuple(tensor.detach() for tensor in tensors[:count])

    members = {"forward": staticmethod(run_forward), "backward": staticmethod(second)}
    function: Any = type("refused", (torch.autograd.Function,), members)
    return lambda values, sources: function.apply(len(values), *values, *sources)


class _Context(SimpleNamespace):
    """What setup and gradient of an operator see in place of autograd's context, where only its first result is returned."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *outputs: Tensor) -> None:
        """None of them is returned."""


def _unbatched(
    name: str, below: SimpleNamespace, setup: Callable, gradient: Callable, second: Callable
) -> Callable:
    """The first result of an operator over a batch, for tensors without the batch dimension: it is put on and taken off
    where autograd does not look, which would add two steps to the graph each time."""
    forward, refuse = getattr(below, name), _refusing(second)

    def over_one(inputs):
        return [value.unsqueeze(0) if isinstance(value, Tensor) else value for value in inputs]

    def run_forward(ctx, *sources):
        inputs, context = over_one(sources), _Context()
        output = forward(*inputs)
        setup(context, inputs, output)
        # inputs as they were given, and through autograd alone: it frees them after the backward pass, a hook of saved
        # tensors may put them elsewhere, and the second derivative can be refused of them
        given = {id(value): source for value, source in zip(inputs, sources, strict=True)}
        saved = vars(context).pop("saved_tensors")
        ctx.are_given, ctx.options = [id(tensor) in given for tensor in saved], vars(context)
        ctx.save_for_backward(*(given.get(id(tensor), tensor) for tensor in saved))
        ctx.others = 0 if isinstance(output, Tensor) else len(output) - 1
        return (output if ctx.others == 0 else output[0]).squeeze(0)

    def run_backward(ctx, grad):
        saved, given = ctx.saved_tensors, ctx.are_given
        context = _Context(
            saved_tensors=[x.unsqueeze(0) if own else x for x, own in zip(saved, given, strict=True)],
            needs_input_grad=ctx.needs_input_grad,
            **ctx.options,
        )
        grads = gradient(below, context, grad.unsqueeze(0), *[None] * ctx.others)
        grads = (grads,) if isinstance(grads, Tensor) else grads
        grads = [None if value is None else value.squeeze(0) for value in grads]
        if torch.is_grad_enabled():  # a graph of the gradient is wanted
            found = [i for i, value in enumerate(grads) if value is not None]
            sources = [grad, *(x for x, own in zip(saved, given, strict=True) if own)]
            for i, value in zip(found, refuse([grads[i] for i in found], sources), strict=True):
                grads[i] = value
        return tuple(grads)

    members = {"forward": staticmethod(run_forward), "backward": staticmethod(run_backward)}
    function: Any = type(f"{name}_of_one", (torch.autograd.Function,), members)
    apply = function.apply

    def call(rows, options):
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*rows):
            return apply(*rows, *options)
        output = forward(*[tensor.unsqueeze(0) for tensor in rows], *options)
        return (output[0] if type(output) is tuple else output).squeeze(0)

    return call


def first_result(name: str, rows: tuple[Tensor, ...], *options: Any) -> Tensor:
    """The first result of an operator over a batch of ``rows`` [b, n, ..], or of rows [n, ..] without that dimension."""
    if rows[0].dim() == 2 and not torch.compiler.is_compiling() and not at_work():
        return _direct[_current.name].unbatched[name](rows, options)
    batch = rows if rows[0].dim() == 3 else [tensor.unsqueeze(0) for tensor in rows]
    output = getattr(active_namespace(), name)(*batch, *options)
    result = output if isinstance(output, Tensor) else output[0]
    return result if rows[0].dim() == 3 else result.squeeze(0)


@dataclass(frozen=True)
class _Operator:
    name: str
    fake: Callable
    setup: Callable | None
    backward: Callable | None
    backward_fake: Callable | None

    def register(self, namespace: str) -> None:
        qualified, kernels = f"{namespace}::{self.name}", getattr(torch.ops, namespace)
        functions = _functions.setdefault(namespace, {})
        direct = _direct.setdefault(namespace, SimpleNamespace(unbatched={}))
        below = SimpleNamespace(**{self.name: _below_autograd(getattr(kernels, self.name))})
        torch.library.register_fake(qualified, self.fake)
        gradient, backward = self.backward, None
        if gradient is not None:
            assert self.setup is not None

            def backward(ctx, *grads):
                return gradient(_as_transforms_need(kernels), ctx, *grads)

            second = refuse_second_derivative(f"{qualified}_backward")
            torch.library.register_autograd(qualified, backward, setup_context=self.setup)
            torch.library.register_fake(f"{qualified}_backward", self.backward_fake)
            torch.library.register_autograd(f"{qualified}_backward", second)
            name = f"{self.name}_backward"
            functions[name] = transformable(self.name, getattr(kernels, name), None, second)
            setattr(below, name, _below_autograd(getattr(kernels, name)))
            call = _differentiable(self.name, below, kernels, self.setup, gradient)
            direct.unbatched[self.name] = _unbatched(self.name, below, self.setup, gradient, second)
        else:
            call = getattr(below, self.name)
        setattr(direct, self.name, call)
        functions[self.name] = transformable(self.name, getattr(kernels, self.name), self.setup, backward)


_operators: list[_Operator] = []
_namespaces = ["desc_ext"]


def register(
    name: str,
    *,
    fake: Callable,
    setup: Callable | None = None,
    backward: Callable | None = None,
    backward_fake: Callable | None = None,
) -> None:
    """Registers the operator ``name`` and, where it has a gradient, ``name_backward``, which has none itself.

    Args:
        fake: (*inputs) -> empty tensors of the shapes and dtypes of the results.
        setup: (ctx, inputs, output), saves what the gradient needs.
        backward: (operators, ctx, *grads) -> gradients; ``operators`` is the namespace that the forward pass ran in.
        backward_fake: as ``fake``, for ``name_backward``.
    """
    operator = _Operator(name, fake, setup, backward, backward_fake)
    _operators.append(operator)
    for namespace in _namespaces:
        operator.register(namespace)


def register_namespace(namespace: str) -> None:
    """Registers the same for all operators of ``torch.ops.<namespace>``, whose schemas are those of ``desc_ext``."""
    if namespace in _namespaces:
        return
    _namespaces.append(namespace)
    for operator in _operators:
        operator.register(namespace)


# torch drops trailing arguments that have their default value, also from needs_input_grad: never unpack it whole
# where the schema has defaults.
def save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))


def grad_or_none(needed: bool, grad: Tensor) -> Tensor | None:
    """A backward operator returns an empty tensor for a gradient that is not needed; autograd wants None."""
    return grad if needed else None


def fake_grads(first: Tensor, need_first: bool, second: Tensor, need_second: bool) -> tuple[Tensor, Tensor]:
    """The shapes of two gradients, empty where not needed."""

    def fake(tensor, needed):
        if not needed:
            return tensor.new_empty((0,))
        return torch.empty_like(tensor, memory_format=torch.contiguous_format)

    return fake(first, need_first), fake(second, need_second)
