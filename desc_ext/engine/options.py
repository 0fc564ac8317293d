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

from typing_extensions import dataclass_transform

from desc_ext.engine.documentation import options_text
from desc_ext.engine.fields import OptionField, OptionInfo

__all__ = ["Option", "estimator", "option", "option_fields", "plain", "preset_names"]

T = TypeVar("T")
E = TypeVar("E", bound=type)

if TYPE_CHECKING:

    class Option(Generic[T]):
        """An option of type ``T`` whose default, None, means the value of the preset."""

        def __get__(self, model: Any, owner: Any = None) -> T: ...

        def __set__(self, model: Any, value: T | None) -> None: ...

else:
    Option = typing.Optional


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
        formerly: an earlier name, which is taken with a FutureWarning.
        kw_only: whether the argument may only be given by its name.
    """
    info = OptionInfo(meaning, at_least, above, at_most, below, where, wanted, of_run, formerly)
    return dataclasses.field(default=default, kw_only=kw_only, metadata={"option": info})


@dataclass_transform(kw_only_default=True, field_specifiers=(option,))
def estimator(cls: E) -> E:
    """Makes the constructor of an estimator from its fields, and puts their table in place of {options} in its docstring.

    The class's ``presets`` maps the names of presets to the values that options of the type ``Option[...]`` take where
    they are None.

    Raises:
        TypeError: the presets name an unknown option, or not the same options.
    """
    dataclasses.dataclass(kw_only=True, eq=False, repr=False)(cls)
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    cls.__init__.__annotations__ = {name: hints[name] for name in names} | {"return": None}  # type: ignore[misc]
    _check_presets(cls, names)
    _take_former_names(cls)
    if cls.__doc__ is not None:
        cls.__doc__ = cls.__doc__.replace("{options}", options_text(cls, option_fields(cls)))
    return cls


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


def _take_former_names(cls: type) -> None:
    former = {
        info.formerly: field.name
        for field in dataclasses.fields(cls)
        if (info := _info(field)).formerly is not None
    }
    if not former:
        return
    plain_init = cls.__init__  # type: ignore[misc]

    @functools.wraps(plain_init)
    def __init__(self: Any, *args: Any, **options: Any) -> None:
        for old, new in former.items():
            if old in options:
                warnings.warn(
                    f"{cls.__name__}: {old} is called {new} now, and the old name will go; use {new}",
                    FutureWarning,
                    stacklevel=2,
                )
                options[new] = options.pop(old)
        plain_init(self, *args, **options)

    cls.__init__ = __init__  # type: ignore[misc]


def _info(field: dataclasses.Field[Any]) -> OptionInfo:
    return field.metadata.get("option") or OptionInfo(field.name)


_FIELDS: dict[type, dict[str, OptionField]] = {}


def option_fields(cls: type) -> dict[str, OptionField]:
    """The options of an estimator class, name → field, in the order of its signature."""
    if cls not in _FIELDS:
        hints = typing.get_type_hints(cls)
        _FIELDS[cls] = {
            field.name: OptionField(field.name, hints[field.name], field.default, _info(field))
            for field in dataclasses.fields(cls)
        }
    return _FIELDS[cls]


def preset_names(cls: type) -> list[str]:
    """Options whose default is the preset's, in the order of the signature."""
    presets: Mapping[str, Mapping[str, Any]] = cls.presets  # type: ignore[attr-defined]
    first = next(iter(presets.values()), {})
    return [name for name in option_fields(cls) if name in first]


def plain(value: Any) -> Any:
    """The same value in types that JSON writes and reads back unchanged, tuples as lists."""
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else str(value)
