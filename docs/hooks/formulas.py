"""Formulas in LaTeX, as GitHub takes them, become MathML, which browsers draw without a script.

In a line ``$`x^2`$``; on lines of their own between ```` ```math ```` and ```` ``` ````.
"""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

__all__ = ["FENCE", "FormulaExtension"]

_BEFORE_CODE = 195  # priority: code between backticks has 190


def _block(source: str, *_: Any, **__: Any) -> str:
    lines = " ".join(source.split())
    return f'<div class="formula">{convert(lines, display="block")}</div>'


FENCE = {"name": "math", "class": "math", "format": _block}


class _Inline(InlineProcessor):
    def handleMatch(self, m: Any, data: str) -> tuple[Any, int, int]:
        # Not as an element: Markdown's later steps would look for emphasis in its texts.
        holder = ElementTree.Element("span", {"class": "formula"})
        holder.text = self.md.htmlStash.store(convert(m.group(1)))
        return holder, m.start(0), m.end(0)


class FormulaExtension(Extension):
    """The inline form; the other one is a fence of pymdownx.superfences, :data:`FENCE`."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.inlinePatterns.register(_Inline(r"\$`([^`]+)`\$", md), "formula", _BEFORE_CODE)
