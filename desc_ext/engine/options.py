"""Options: fields of an estimator, each written once with its type, its bounds and its meaning.

An estimator is a class under :func:`estimator`, whose annotated fields are its constructor's arguments. From the fields
come the signature, the checks of values, the tables in docstrings and on the command line, and what is saved.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
import warnings
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from typing_extensions import dataclass_transform

from desc_ext.engine.documentation import options_text
from desc_ext.engine.fields import OptionField, OptionInfo, check_value

__all__ = [
    "LABELS",
    "Option",
    "estimator",
    "option",
    "option_fields",
    "plain",
    "preset_names",
    "under_new_names",
    "with_later_options",
]

T = TypeVar("T")
E = TypeVar("E", bound=type)

LABELS = "labels"  # stands for an array that is not saved
_OF_PRESET = "the default is the preset's value"

if TYPE_CHECKING:

    class Option(Generic[T]):
        """An option of type ``T`` whose default, None, means the value of the preset."""

        def __get__(self, model: Any, owner: Any = None) -> T: ...

        def __set__(self, model: Any, value: T | None) -> None: ...

else:

    class Option:
        """At run time ``Optional[T]``, with a mark by which :func:`estimator` finds options that lack a preset's value."""

        def __class_getitem__(cls, kind: Any) -> Any:
            return typing.Annotated[typing.Optional[kind], _OF_PRESET]  # noqa: UP045


def option(
    meaning: str,
    *,
    default: Any = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    where: Callable[[Any], Any] | None = None,
    wanted: str | None = None,
    of_run: bool = False,
    formerly: str | None = None,
    earlier: Any = None,
    kw_only: bool = True,
) -> Any:
    """A field of an estimator.

    Args:
        meaning: one sentence for the tables of options.
        default: of the constructor's argument; None with a type ``Option[...]`` means the preset's value.
        at_least, above, at_most, below: bounds of a number, or of each number of a tuple.
        where: a further condition on the value, which ``wanted`` then puts into words for the error.
        wanted: the values that are taken, in words, where type and bounds do not say it.
        of_run: whether it belongs to the run (device, callbacks ...) and not to the method: it is then no part of
            ``resolved_params_``.
        formerly: an earlier name, which the constructor takes with a FutureWarning and saved folders without one.
        earlier: its value in models and checkpoints that were saved before it was there; None: the preset's, or the default.
        kw_only: whether the argument may only be given by its name.
    """
    info = OptionInfo(meaning, at_least, above, at_most, below, where, wanted, of_run, formerly, earlier)
    return dataclasses.field(default=default, kw_only=kw_only, metadata={"option": info})


@dataclass_transform(kw_only_default=True, field_specifiers=(option,))
def estimator(cls: E) -> E:
    """Makes the constructor of an estimator from its fields, and puts their table in place of ``{options}`` in its docstring.

    The class's ``presets`` maps the names of presets to the values that options of the type ``Option[...]`` take where
    they are None.

    Raises:
        TypeError: an annotated field is neither a ClassVar nor an :func:`option`; the presets name an unknown option, not
            the same options, not all of the type ``Option[...]``, or a value that its option does not take; or the
            default of ``preset`` is none of them.
    """
    text = cls.__doc__ or f"{cls.__name__}.\n\n    {{options}}\n    "
    cls.__doc__ = text  # without one, a dataclass writes its signature there
    dataclasses.dataclass(kw_only=True, eq=False, repr=False)(cls)
    _refuse_plain_fields(cls)
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    cls.__init__.__annotations__ = {name: hints[name] for name in names} | {"return": None}  # type: ignore[misc]
    _check_presets(cls, names)
    _take_former_names(cls)
    table = options_text(cls.presets, preset_names(cls), option_fields(cls))  # type: ignore[attr-defined]
    cls.__doc__ = text.replace("{options}", table)
    return cls


def _refuse_plain_fields(cls: type) -> None:
    plain_fields = [field.name for field in dataclasses.fields(cls) if "option" not in field.metadata]
    if plain_fields:
        raise TypeError(
            f"{cls.__name__}: {', '.join(plain_fields)} would be an option without a meaning; declare it with option(...), "
            "or annotate it as a ClassVar where it is none"
        )


def _check_presets(cls: type, names: list[str]) -> None:
    presets: Mapping[str, Mapping[str, Any]] = cls.presets  # type: ignore[attr-defined]
    first = next(iter(presets.values()), {})
    for preset, values in presets.items():
        unknown = set(values) - set(names)
        if unknown or set(values) != set(first):
            raise TypeError(
                f"{cls.__name__}: preset {preset!r} has values for {sorted(values)}, which must be options of the class "
                f"and the same in all presets; unknown are {sorted(unknown)}"
            )
    if not presets:
        return
    fields = option_fields(cls)
    missing = [name for name, field in fields.items() if field.of_preset and name not in first]
    if missing:
        raise TypeError(f"{cls.__name__}: the presets have no values for the options {', '.join(missing)}")
    for preset, values in presets.items():
        for name, value in values.items():
            try:
                check_value(cls.__name__, fields[name], value)
            except ValueError as error:
                raise TypeError(f"preset {preset!r} of {error}") from error
    default = fields["preset"].default if "preset" in fields else None
    if default not in presets:
        raise TypeError(
            f"{cls.__name__}: preset is {default!r} by default, but its presets are {', '.join(map(repr, presets))}; "
            f"declare preset: Literal[...] = option(..., default={next(iter(presets))!r})"
        )


def _take_former_names(cls: type) -> None:
    former = _former_names(cls)
    if not former:
        return
    plain_init = cls.__init__  # type: ignore[misc]

    @functools.wraps(plain_init)
    def __init__(self: Any, *args: Any, **options: Any) -> None:
        for old, new in former.items():
            if old in options:
                if new in options:
                    raise TypeError(f"{cls.__name__}: {old} is the former name of {new}; give one of them")
                warnings.warn(
                    f"{cls.__name__}: {old} is called {new} now, and the old name will go; use {new}",
                    FutureWarning,
                    stacklevel=2,
                )
                options[new] = options.pop(old)
        plain_init(self, *args, **options)

    cls.__init__ = __init__  # type: ignore[misc]


def _former_names(cls: type) -> dict[str, str]:
    return {
        info.formerly: field.name
        for field in dataclasses.fields(cls)
        if (info := field.metadata["option"]).formerly is not None
    }


def under_new_names(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Saved options of the estimator ``cls`` under the names that they have now."""
    former = _former_names(cls)
    return {former.get(name, name): value for name, value in values.items()}


def with_later_options(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Saved resolved options of the estimator ``cls``, and the value that each later option had in effect."""
    later = {name: field.info.earlier for name, field in option_fields(cls).items()}
    return {name: value for name, value in later.items() if value is not None} | under_new_names(cls, values)


_FIELDS: dict[type, dict[str, OptionField]] = {}


def option_fields(cls: type) -> dict[str, OptionField]:
    """The options of an estimator class, name → field, in the order of its signature."""
    if cls not in _FIELDS:
        _require_decorator(cls)
        hints, marked = typing.get_type_hints(cls), typing.get_type_hints(cls, include_extras=True)
        _FIELDS[cls] = {
            field.name: OptionField(
                field.name,
                hints[field.name],
                field.default,
                field.metadata["option"],
                _OF_PRESET in getattr(marked[field.name], "__metadata__", ()),
            )
            for field in dataclasses.fields(cls)
        }
    return _FIELDS[cls]


def _require_decorator(cls: type) -> None:
    for base in cls.__mro__:
        lost = [name for name, value in vars(base).items() if isinstance(value, dataclasses.Field)]
        if lost:
            raise TypeError(
                f"{base.__name__} declares the options {', '.join(lost)}, but is not under the decorator @estimator"
            )


def preset_names(cls: type) -> list[str]:
    """Options whose default is the preset's, in the order of the signature."""
    presets: Mapping[str, Mapping[str, Any]] = cls.presets  # type: ignore[attr-defined]
    first = next(iter(presets.values()), {})
    return [name for name in option_fields(cls) if name in first]


def plain(value: Any) -> Any:
    """The same value in types that JSON writes and reads back unchanged: tuples as lists, arrays as the word "labels"."""
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return LABELS
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else str(value)
