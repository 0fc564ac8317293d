"""What a fit is asked by a file: the config.json of a result, or one written by hand as JSON or TOML."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from desc_ext.cli.catalogue import FLAG_OF
from desc_ext.cli.errors import plain_errors

__all__ = ["READING", "as_defaults", "naming_the_file", "read_options_file", "with_settings"]

_SETTINGS = "desc_ext.settings"  # where the context keeps those of the file
_FILE = "desc_ext.options_file"
_ASKED = ("model", "options", "reading")
READING = {
    "labels": "labels",
    "columns": "columns",
    "drop": "drop",
    "id": "id_column",
    "array": "array",
    "text": "text",
    "image_size": "size",
    "header": "header",
    "external_labels": "external_labels",
}
"""How data are read, as ``load_dataset`` and ``config.json`` call it: the parameter of the command that says it."""
_SEVERAL = ("columns", "drop")
_OF_A_RESULT = ("data", "parameters", "versions", "threads")


def read_options_file(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The flags (by the command's parameters) and the settings (NAME to VALUE as ``--set`` takes it) of a file.

    Args:
        path: .toml, or JSON, with ``model``, a name, ``options``, names and values as in ``config.json``, and ``reading``,
            how the data are read, by the names of :data:`READING`.

    Raises:
        ValueError: it is not of that form. OSError: it cannot be read.
    """
    content = _content(path)
    unknown = [key for key in content if key not in (*_ASKED, *_OF_A_RESULT)]
    if unknown:
        raise ValueError(
            f"{path}: unknown key '{unknown[0]}'; wanted model, options with names and values (desc-ext options MODEL), and "
            "reading, how the data are read"
        )
    model, options = content.get("model"), content.get("options", {})
    if not isinstance(model, (str, type(None))) or not isinstance(options, dict):
        raise ValueError(f"{path}: wanted model, a name, and options, names with values")
    flags = {"model": model} if model else {}
    flags |= {
        FLAG_OF[name]: "auto" if (name, value) == ("n_clusters", None) else _written(value)
        for name, value in options.items()
        if name in FLAG_OF
    }
    flags |= _reading_flags(path, content.get("reading", {}))
    return flags, {name: _written(value) for name, value in options.items() if name not in FLAG_OF}


def as_defaults(context: typer.Context, path: Path | None) -> Path | None:
    """Callback of an eager option: what the file says of flags stands where the command line says nothing."""
    if path is not None:
        with plain_errors(same_in_all=True):
            flags, context.meta[_SETTINGS] = read_options_file(path)  # once: it may be a pipe
            context.default_map = {**(context.default_map or {}), **flags}
            context.meta[_FILE] = path
    return path


@contextlib.contextmanager
def naming_the_file(context: typer.Context) -> Iterator[None]:
    """Adds to an error of data which options of reading are the file's, so that they are looked for there."""
    try:
        yield
    except ValueError as error:
        of_file = [
            name
            for name, parameter in READING.items()
            if (source := context.get_parameter_source(parameter)) and source.name == "DEFAULT_MAP"
        ]
        if not of_file:
            raise
        raise ValueError(
            f"{error} ({context.meta[_FILE]} says under reading: {', '.join(of_file)}; the command line goes first)"
        ) from error


def with_settings(context: typer.Context, settings: list[str]) -> list[str]:
    """NAME=VALUE of the file that :func:`as_defaults` read, and those of ``settings``, which stand in place of the file's."""
    given = {text.partition("=")[0].strip() for text in settings}
    of_file: dict[str, str] = context.meta.get(_SETTINGS, {})
    return [f"{name}={value}" for name, value in of_file.items() if name not in given] + settings


def _reading_flags(path: Path, reading: Any) -> dict[str, Any]:
    """Parameters of the command, with values as it takes them."""
    if not isinstance(reading, dict):
        raise ValueError(f"{path}: wanted reading, names with values")
    flags: dict[str, Any] = {}
    for name, value in reading.items():
        if name not in READING:
            raise ValueError(f"{path}: unknown key '{name}' of reading; known are {', '.join(READING)}")
        if value is None:
            continue
        parts = value if isinstance(value, list) else [value]
        kinds = (bool,) if name == "header" else (str, int)
        wanted = "true or false" if name == "header" else "names or numbers"
        if not parts or not all(type(part) in kinds for part in parts):
            raise ValueError(f"{path}: reading.{name} must be {wanted}; got {json.dumps(value)}")
        if name in _SEVERAL:
            flags[READING[name]] = [str(part) for part in parts]
        elif name == "image_size":
            flags[READING[name]] = "x".join(map(str, parts))
        elif isinstance(value, list):
            raise ValueError(f"{path}: reading.{name} must be one value; got {json.dumps(value)}")
        else:
            flags[READING[name]] = value if name == "header" else str(value)
    return flags


def _content(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    try:
        content = _toml(path, text) if path.suffix.lower() == ".toml" else json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: wanted model and options, got a {type(content).__name__}")
    return content


def _toml(path: Path, text: str) -> dict[str, Any]:
    try:
        import tomllib  # from Python 3.11 on
    except ImportError:
        raise ValueError("this Python is too old to read TOML; write the same as JSON") from None
    return tomllib.loads(text)


def _written(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "()"
    return "none" if value is None else str(value)
