"""The built documentation, which ``make docs`` names by DESC_EXT_SITE: nothing is left undone, and search needs no server."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from helpers.browser import open_page

pytestmark = pytest.mark.skipif("DESC_EXT_SITE" not in os.environ, reason="make docs runs these")
SITE = Path(os.environ.get("DESC_EXT_SITE", "")).resolve()
ROOT = Path(__file__).resolve().parents[1]
# Marks that the hooks and the Markdown extensions put something in the place of.
LEFT = re.compile(
    r"<!-- (?:methods|options|results|speed)|\{options\}|:(?:func|class|meth|data|mod):`|\$`|::: desc_ext"
)


def text_of(page: Path) -> str:
    """The page without the code that it shows, which may contain anything."""
    return re.sub(r"<(pre|code)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_every_page_is_there_with_nothing_left_undone():
    sources = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    missing = [source for source in sources if not (SITE / source).with_suffix(".html").exists()]
    assert not missing
    left = {str(page.relative_to(SITE)): LEFT.findall(text_of(page)) for page in SITE.rglob("*.html")}
    assert not {page: found for page, found in left.items() if found}


def test_tutorials_show_what_they_draw():
    sources = [path for path in (ROOT / "docs" / "tutorials").glob("*.md") if path.stem != "index"]
    assert len(sources) >= 6
    for source in sources:
        page = (SITE / "tutorials" / source.name).with_suffix(".html").read_text(encoding="utf-8")
        picture = f"{source.stem}-1.png"
        assert f'src="{picture}"' in page
        assert (SITE / "tutorials" / picture).stat().st_size > 5000


def test_formulas_are_mathml_and_drawings_are_drawn():
    for name, inside in (
        ("methods/desc", "<math"),
        ("operators/projection", "<math"),
        ("architecture", "<svg role="),
    ):
        assert inside in (SITE / f"{name}.html").read_text(encoding="utf-8")


def test_search_works_on_files_without_a_network(tmp_path):
    nowhere = "--host-resolver-rules=MAP * ~NOTFOUND"
    page, console = open_page(SITE / "index.html", tmp_path, nowhere, query="?q=segment_gram")
    results = re.findall(r'<a href="([^"]+)" class="md-search-result__link"', page)
    assert any("operators/assignment.html" in link or "api/ops.html" in link for link in results), page[
        -2000:
    ]
    assert console == ""
