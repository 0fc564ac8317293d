"""Tables of the pages: methods and options from the installed package, results from committed tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from desc_ext.cli.catalogue import describe
from desc_ext.engine.documentation import summary
from desc_ext.engine.options import option_fields
from desc_ext.models import MODELS

__all__ = ["options", "results", "speed", "table"]

_RESULTS = Path(__file__).resolve().parents[2] / "benchmarks"
_CHOICE = _RESULTS / "papers" / "results" / "choice.md"


def table(kind: str, name: str | None) -> str:
    """The Markdown table that a comment in a page asks for."""
    if kind == "methods":
        return _methods()
    assert name is not None
    return {"options": options, "results": results, "speed": speed}[kind](name)


def _methods() -> str:
    lines = ["| class | `--model` | method | clusters of new rows |", "| --- | --- | --- | --- |"]
    for name, cls in MODELS.items():
        predicts = "yes" if hasattr(cls, "predict") else "no"
        lines.append(f"| [`{cls.__name__}`]({name}.md) | `{name}` | {summary(cls)} | {predicts} |")
    return "\n".join(lines)


def options(name: str) -> str:
    """Every option of a method with its values, the value of each preset, and its meaning."""
    method = describe(name)
    presets = method["presets"]
    lines = [
        "| " + " | ".join(["option", *(presets or ["default"]), "meaning and values"]) + " |",
        "| " + " | ".join(["---"] * (len(presets or [1]) + 2)) + " |",
    ]
    for option in method["options"]:
        values = [(option["presets"] or {}).get(preset, option["default"]) for preset in presets or [""]]
        flag = f" `{option['flag']}`" if option["flag"] else ""
        meaning = f"{_plain(option['meaning'])}. *{_plain(option['values'])}*"
        cells = [f"`{option['name']}`{flag}", *(f"`{_word(value)}`" for value in values), meaning]
        lines.append(f"| {' | '.join(cells)} |")
    listed = {option["name"] for option in method["options"]}
    for field in option_fields(MODELS[name]).values():
        if field.name not in listed:  # of a run, in Python alone
            values = [f"`{_word(field.default)}`"] * len(presets or [1])
            lines.append(f"| `{field.name}` | {' | '.join(values)} | {_plain(field.info.meaning)} |")
    return "\n".join(lines)


def results(name: str) -> str:
    """The lines of a method, and of its start, in the table of all methods with their defaults."""
    text = _CHOICE.read_text(encoding="utf-8")
    lines = [
        "| data | ACC | NMI | ARI | its start: ACC / NMI | epochs | seconds | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for title, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE):
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if "|" in line
        ]
        for row, after in zip(rows, [*rows[1:], [""]], strict=True):
            if row[0] == name:
                acc, nmi, ari, epochs, seconds, seeds = row[1:7]
                start = f"{after[1]} / {after[2]}" if after[0].startswith("· its start") else ""
                lines.append(
                    f"| {title} | {acc} | {nmi} | {ari} | {start} | {epochs} | {seconds} | {seeds} |"
                )
    if len(lines) == 2:
        raise ValueError(f"{_CHOICE.name} has no line of {name}")
    return "\n".join(lines)


def speed(family: str) -> str:
    """The last table of a family's measurements: how much faster than its best peer."""
    text = (_RESULTS / "kernels" / "results" / f"{family}.md").read_text(encoding="utf-8")
    _, found, rest = text.partition("Against the best peer at each shape:\n\n")
    if not found:
        raise ValueError(f"{family}.md has no table of its best peers")
    conditions = re.search(r"^Written by `make bench`\. (.*?);", text, re.MULTILINE)
    assert conditions is not None
    return (
        f"Against the best peer at each of several shapes, {conditions[1]} (`make bench`, "
        f"[all shapes](../results/kernels/{family}.md)); full is forward and backward:\n\n{rest.strip()}"
    )


def _word(value: Any) -> str:
    """A value as it is written in Python."""
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(_word, value)) + ("," if len(value) == 1 else "") + ")"
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _plain(text: str) -> str:
    """A docstring's text for a cell: no bars, no roles."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    return re.sub(r"([|*])", r"\\\1", text).replace("<", "&lt;")
