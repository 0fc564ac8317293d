"""Docstrings for the API pages: roles become links, and options are listed on the page of their method."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from griffe import Alias, Extension, Module, Object

__all__ = ["Docstrings"]

_API = Path(__file__).resolve().parents[1] / "api"
_ROLE = re.compile(r":(?P<kind>\w+):`~?(?P<target>[\w.]+)`")


class Docstrings(Extension):
    """Rewrites the docstrings of the package before they are parsed."""

    def __init__(self) -> None:
        pages = "\n".join(path.read_text(encoding="utf-8") for path in sorted(_API.glob("*.md")))
        self._documented = {name.rpartition(".")[2]: name for name in re.findall(r"^::: (\S+)", pages, re.M)}

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        self._rewrite(pkg)

    def _rewrite(self, owner: Object | Alias) -> None:
        if owner.docstring is not None:
            owner.docstring.value = self._text(owner)
        for name, member in list(owner.members.items()):
            if member.is_alias:
                continue
            if owner.is_class and member.is_attribute and str(member.value).startswith("option("):
                del owner.members[name]  # a field of an estimator: it is in the table of options
            else:
                self._rewrite(member)

    def _text(self, owner: Object | Alias) -> str:
        assert owner.docstring is not None
        text = owner.docstring.value
        if "{options}" in text and "method" in owner.members:
            name = str(owner.members["method"].value).strip("\"'")
            text = text.replace("{options}", f"Its arguments are [the options of the method][method-{name}].")
        return _ROLE.sub(self._link, text)

    def _link(self, found: re.Match[str]) -> str:
        name = found["target"].rpartition(".")[2]
        path = self._documented.get(name)
        return f"[`{name}`][{path}]" if path else f"`{name}`"
