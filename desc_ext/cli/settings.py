"""The options of a method from the words of the command line."""

from __future__ import annotations

import types
import typing
from typing import Any

import numpy as np

from desc_ext.cli.catalogue import FLAG_OF, closest, describe
from desc_ext.engine.estimator import Estimator
from desc_ext.engine.options import option_fields
from desc_ext.models import MODELS

__all__ = ["check_options", "estimator_options", "find_model", "parse_setting"]

# Options of the estimators that have a flag of their own, or belong to the run.
FLAGS = {option: f"--{flag}" for option, flag in FLAG_OF.items()}
OF_THE_RUN = ("callbacks", "checkpoint", "distributed", "resume", "verbose")
# What --epochs sets: the length of the stage with clusters, in the method's own units, or of the only one.
LENGTHS = ("max_epochs", "max_rounds", "max_steps", "max_iter", "pretrain_epochs")


def find_model(name: str) -> type[Estimator]:
    """The estimator class called ``name``.

    Raises:
        ValueError: for a name that is not known; the message lists those that are.
    """
    describe(name)
    return MODELS[name]


def estimator_options(
    name: str, estimator_class: type[Estimator], settings: list[str], chosen: dict[str, Any]
) -> dict[str, Any]:
    """Constructor arguments from the command line's flags and its ``--set NAME=VALUE``.

    Args:
        settings: the texts NAME=VALUE, each value read as the type of that argument.
        chosen: what the flags say; None for a flag that was not given.

    Raises:
        ValueError: for a name that the estimator does not have, or a value of the wrong type.
    """
    fields = option_fields(estimator_class)
    names = [name for name in fields if name not in (*FLAGS, *OF_THE_RUN)]
    options = {key: value for key, value in chosen.items() if value is not None}
    options |= _clusters(name, options.pop("clusters"), fields["n_clusters"].hint)
    if "features" in options:
        options["features"] = parse_setting("--features", options["features"], fields["features"].hint)
    if "epochs" in options:
        length = next((option for option in LENGTHS if option in fields), "epochs")
        options[length] = options.pop("epochs")
    for key in options.keys() - fields.keys():
        raise ValueError(f"{name} has no option {key}: leave out {FLAGS.get(key, '--' + key)}")
    for text in settings:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            raise ValueError(f"--set wants NAME=VALUE; got '{text}'")
        if key in FLAGS:
            raise ValueError(f"'{key}' is set by {FLAGS[key]}, not by --set")
        if key not in names:
            raise ValueError(
                f"{name} has no option '{key}'{closest(key, names)}; its options are {', '.join(names)}"
            )
        if key in options:
            raise ValueError(f"{key} is set twice")
        options[key] = parse_setting(key, value.strip(), fields[key].hint)
    return options


def _clusters(name: str, text: str, hint: Any) -> dict[str, int | None]:
    if text == "auto":
        if type(None) not in _alternatives(hint):
            raise ValueError(
                f"{name} needs the number of clusters; only self-expressive takes --clusters auto"
            )
        return {"n_clusters": None}
    if not text.lstrip("-").isdecimal():
        raise ValueError(f"--clusters: wanted a whole number, or auto; got {text!r}")
    return {"n_clusters": int(text)}


def check_options(estimator_class: type[Estimator], options: dict[str, Any]) -> None:
    """Refuses what can be refused before there are data: an option's value, a device that is not there.

    Raises:
        ValueError: for the first of them; the message names it.
    """
    estimator_class(**options)._resolve_options()


def parse_setting(name: str, text: str, hint: Any) -> Any:
    """Reads ``text`` as the type ``hint``: numbers, booleans, None, words, and tuples such as 500,500,1000.

    Raises:
        ValueError: when the text is none of the types that the hint allows.
    """
    for kind in _alternatives(hint):
        try:
            return _parse(text, kind)
        except ValueError:
            continue
    raise ValueError(f"{name}={text}: wanted {_spell(hint)}")


def _alternatives(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [part for option in typing.get_args(hint) for part in _alternatives(option)]
        # The narrower type first: a choice may be called "none", 5 is an int where a float is allowed too, and str takes
        # anything.
        order = {type(None): 1, bool: 2, int: 3, float: 4, str: 9}
        return sorted(
            parts, key=lambda kind: 0 if typing.get_origin(kind) is typing.Literal else order.get(kind, 5)
        )
    return [hint]


def _parse(text: str, kind: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    lower = text.lower()
    if kind is type(None):
        if lower in ("none", "null"):
            return None
        raise ValueError
    if kind is bool:
        if lower in ("true", "yes", "on", "1"):
            return True
        if lower in ("false", "no", "off", "0"):
            return False
        raise ValueError
    if kind in (int, float, str):
        return kind(text)
    if origin is typing.Literal:
        named = {str(value): value for value in arguments}
        if text in named:
            return named[text]
        raise ValueError
    if origin is tuple:
        parts = [part.strip() for part in text.strip("()[]").split(",") if part.strip()]
        return tuple(parse_setting("item", part, arguments[0]) for part in parts)
    raise ValueError


def _spell(hint: Any) -> str:
    names = {
        type(None): "none",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a word",
    }
    spelled = []
    for kind in sorted(_alternatives(hint), key=lambda kind: kind is type(None)):
        if typing.get_origin(kind) is typing.Literal:
            spelled.append(", ".join(map(str, typing.get_args(kind))))
        elif kind is not np.ndarray:  # no text is one
            spelled.append(names.get(kind, "numbers such as 500,500,1000"))
    return " or ".join(dict.fromkeys(spelled))
