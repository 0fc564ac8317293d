"""Texts made from the fields of estimators: tables of options, and the table of methods."""

from __future__ import annotations

import importlib.metadata
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from desc_ext.engine.fields import OptionField

__all__ = ["method_page", "options_text", "summary"]

_WIDTH = 118
_DOCS = Path(__file__).resolve().parents[2] / "docs"


def options_text(
    presets: Mapping[str, Mapping[str, Any]], names: Sequence[str], fields: Mapping[str, OptionField]
) -> str:
    """What a docstring says of the options ``fields``: a table of those ``names`` that presets set, a list of the others."""
    of_presets = {name: fields[name] for name in names}
    others = {name: field for name, field in fields.items() if name not in of_presets}
    parts = []
    if of_presets:
        which = "preset" if len(presets) == 1 else "chosen preset"
        parts += [f"Every option is a keyword argument; None takes the value of the {which}.", ""]
        parts += _table(presets, of_presets)
        parts += [""]
    parts.append("Args:")
    for name, field in others.items():
        text = f"{name}: {_meaning(field)}. Default: {_written(field.default)}."
        parts += textwrap.wrap(text, _WIDTH - 4, initial_indent="    ", subsequent_indent="        ")
    return "\n".join(parts[:1] + [f"    {line}".rstrip() for line in parts[1:]])


def _table(presets: Mapping[str, Mapping[str, Any]], fields: Mapping[str, OptionField]) -> list[str]:
    columns = [["option", *fields]]
    for preset, values in presets.items():
        columns.append([preset, *(_written(values[name]) for name in fields)])
    widths = [max(map(len, column)) for column in columns]
    meaning_width = max(30, _WIDTH - 4 - sum(widths) - len(widths))
    rule = " ".join("=" * width for width in [*widths, meaning_width])
    lines = [rule, _row(["option", *presets, "meaning"], widths), rule]
    for number, field in enumerate(fields.values(), start=1):
        first, *more = textwrap.wrap(_meaning(field), meaning_width)
        lines.append(_row([*(column[number] for column in columns), first], widths))
        lines += [_row([*("" for _ in columns), text], widths) for text in more]
    return [*lines, rule]


def _row(cells: list[str], widths: list[int]) -> str:
    return " ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)), cells[-1]])


def _meaning(field: OptionField) -> str:
    """The meaning of an option, with its choices where the meaning does not name them all."""
    choices = [
        choice for kind in field.alternatives if get_origin(kind) is Literal for choice in get_args(kind)
    ]
    if len(choices) > 1 and not all(str(choice) in field.info.meaning for choice in choices):
        return f"{field.info.meaning}: {', '.join(map(_written, choices))}"
    return field.info.meaning


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "()"
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:g}" if isinstance(value, float) else str(value)


def summary(cls: type) -> str:
    """The first sentence of a class's docstring."""
    text = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
    return text.rstrip(".")


def method_page(method: str) -> str:
    """The address of a method's page of the documentation.

    It is that of the site which the installed package names as its documentation; else that of the file in the checkout
    that the package runs from; "" where there is neither.
    """
    try:
        urls = importlib.metadata.metadata("desc-ext").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        urls = []
    named = dict(url.split(", ", 1) for url in urls)
    if "Documentation" in named:
        return f"{named['Documentation'].rstrip('/')}/methods/{method}.html"
    page = _DOCS / "methods" / f"{method}.md"
    return page.as_uri() if page.is_file() else ""
