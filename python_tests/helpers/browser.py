"""A headless browser for tests, and the parts of the page that it has read."""

from __future__ import annotations

import os
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

_VOID = {"meta", "link", "img", "br", "input", "hr"}


def browser() -> str:
    """The path of a Chromium; without one the test is skipped, or fails where DESC_EXT_REQUIRE_BROWSER is set."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path is not None:
            return path
    if os.environ.get("DESC_EXT_REQUIRE_BROWSER"):
        pytest.fail("DESC_EXT_REQUIRE_BROWSER is set, and there is no chromium")
    pytest.skip("there is no chromium here")


def open_page(path: Path, profile: Path, *options: str, query: str = "") -> tuple[str, str]:
    """The page as the browser has built it, and what it wrote to its console; ``query`` follows its address."""
    command = [
        browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}",
        "--enable-logging=stderr", "--virtual-time-budget=2000", *options, "--dump-dom", path.as_uri() + query,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


class Page(HTMLParser):
    """Texts of the cells by table, of the items by list, and the attributes of every element of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.lists: list[list[str]] = []
        self.text = ""
        self._table: list[list[str]] = []
        self._cell = self._hidden = False
        self._open: list[str] = []
        self.feed(html)
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "table":
            self._table = self.tables[attributes.get("id", f"table {len(self.tables)}")] = []
        elif tag == "ul":
            self.lists.append([])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")
            self._cell = True
        self._hidden = tag in ("style", "script") or self._hidden

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag in ("td", "th"):
            self._cell = False
        self._hidden = self._hidden and tag not in ("style", "script")

    def handle_data(self, data: str) -> None:
        if self._cell:
            self._table[-1][-1] += data.strip()
        if self._open and self._open[-1] == "li":
            self.lists[-1].append(data)
        if not self._hidden:
            self.text += " " + " ".join(data.split())
