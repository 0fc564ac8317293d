"""What is known of an option: type, bounds and meaning, and whether a value is one of its values."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin

import numpy as np

__all__ = ["OptionField", "OptionInfo", "check_value", "wanted"]

_SHOWN = 100  # characters of a refused value, which may be a list of all labels


@dataclasses.dataclass(frozen=True)
class OptionInfo:
    """What is known of an option beside its type and default."""

    meaning: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    where: Callable[[Any], Any] | None = None
    wanted: str | None = None
    of_run: bool = False
    formerly: str | None = None
    earlier: Any = None


@dataclasses.dataclass(frozen=True)
class OptionField:
    """An option as its estimator has it: name, type, default and :class:`OptionInfo`."""

    name: str
    hint: Any
    default: Any
    info: OptionInfo
    of_preset: bool  # whether it is of the type Option[...], so that None means the preset's value

    @functools.cached_property
    def alternatives(self) -> tuple[Any, ...]:
        """The types that a value may have, without None."""
        union = get_origin(self.hint) in (typing.Union, types.UnionType)
        parts = get_args(self.hint) if union else (self.hint,)
        return tuple(part for part in parts if part is not type(None))

    @property
    def takes_none(self) -> bool:
        """Whether None is one of its values."""
        return type(None) in get_args(self.hint)


def check_value(owner: str, field: OptionField, value: Any) -> None:
    """Raises ValueError where ``value`` is none that the option ``field`` of the estimator called ``owner`` takes."""
    checks = [_check(kind, field.info) for kind in field.alternatives]
    if any(accepts(value) for accepts, _ in checks) or (value is None and field.takes_none):
        return
    got = repr(value)
    if len(got) > _SHOWN:
        got = f"a {type(value).__name__} {got[:_SHOWN]}..."
    if np.ndarray in field.alternatives and not isinstance(value, str):
        got += f": convert it, np.asarray({field.name})"
    raise ValueError(f"{owner}: {field.name} must be {wanted(field, field.alternatives)}, got {got}")


def wanted(field: OptionField, kinds: Sequence[Any]) -> str:
    """In words, the values of the types ``kinds`` that an option takes."""
    text = field.info.wanted or " or ".join(_check(kind, field.info)[1] for kind in kinds)
    return f"{text}, or None" if field.takes_none and not field.of_preset else text


def _check(kind: Any, info: OptionInfo) -> tuple[Callable[[Any], bool], str]:
    """Whether a value is of the type ``kind`` and within bounds, and that in words."""
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        accepts = lambda value: isinstance(value, (str, Integral, np.bool_)) and value in choices  # noqa: E731
        return _with(accepts, info), "one of " + ", ".join(map(repr, choices))
    if kind is bool:
        return lambda value: isinstance(value, (bool, np.bool_)), "True or False"
    if kind is int:
        return _with(functools.partial(_is_integer, info), info), f"an integer{_bounds(info)}"
    if kind is float:
        return _with(functools.partial(_is_number, info), info), f"a finite number{_bounds(info)}"
    if kind is np.ndarray:
        return lambda value: isinstance(value, np.ndarray), "a NumPy array of labels [n_samples]"
    if get_origin(kind) is tuple:
        item = functools.partial(_is_integer, info)
        accepts = lambda value: isinstance(value, (tuple, list)) and all(map(item, value))  # noqa: E731
        return _with(accepts, info), f"a tuple of integers{_bounds(info)}"
    return lambda value: True, getattr(kind, "__name__", str(kind))


def _with(accepts: Callable[[Any], bool], info: OptionInfo) -> Callable[[Any], bool]:
    if info.where is None:
        return accepts
    where = info.where
    return lambda value: accepts(value) and bool(where(value))


def _is_integer(info: OptionInfo, value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and _within(info, value)


def _is_number(info: OptionInfo, value: Any) -> bool:
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and math.isfinite(value) and _within(info, value)


def _within(info: OptionInfo, value: Any) -> bool:
    return (
        (info.at_least is None or value >= info.at_least)
        and (info.above is None or value > info.above)
        and (info.at_most is None or value <= info.at_most)
        and (info.below is None or value < info.below)
    )


def _bounds(info: OptionInfo) -> str:
    signs = {">=": info.at_least, ">": info.above, "<=": info.at_most, "<": info.below}
    parts = [f"{sign} {bound:g}" for sign, bound in signs.items() if bound is not None]
    return f" {' and '.join(parts)}" if parts else ""
