"""The built documentation, which ``make docs`` names by DESC_EXT_SITE: nothing is left undone, and search needs no server."""

from __future__ import annotations

import colorsys
import os
import re
from pathlib import Path

import numpy as np
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


def test_pictures_lead_to_themselves_in_full_size():
    pages = [page for page in SITE.rglob("*.html") if "<img " in page.read_text(encoding="utf-8")]
    assert {"bench.html", "index.html", "projection.html", "images.html"} <= {page.name for page in pages}
    for page in pages:
        found = re.findall(
            r'(?:<a href="([^"]+)">)?<img [^>]*src="([^"]+\.png)"', page.read_text(encoding="utf-8")
        )
        assert found
        assert all(link == picture for link, picture in found), page
        assert all((page.parent / picture).exists() for _, picture in found), page


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


def colour(value: str) -> tuple[np.ndarray, float]:
    """Red, green, blue and opacity of #rrggbb, #rrggbbaa or hsla()."""
    if value.startswith("#"):
        digits = value[1:] if len(value) > 5 else "".join(2 * digit for digit in value[1:])
        numbers = [int(digits[i : i + 2], 16) / 255 for i in range(0, len(digits), 2)]
        return np.array(numbers[:3]), numbers[3] if len(numbers) > 3 else 1.0
    hue, saturation, light, opacity = map(float, re.findall(r"[\d.]+", value))
    return np.array(colorsys.hls_to_rgb(hue / 360, light / 100, saturation / 100)), opacity


def contrast(front: str, back: str) -> float:
    """WCAG's ratio of the luminances of two colours, the first one over the second."""
    below, (above, opacity) = colour(back)[0], colour(front)
    shown = [opacity * above + (1 - opacity) * below, below]
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in shown]
    light, dark = sorted((c @ [0.2126, 0.7152, 0.0722] + 0.05 for c in linear), reverse=True)
    return light / dark


@pytest.mark.parametrize("scheme", ["default", "slate"])
def test_code_and_its_links_can_be_told_from_what_they_lie_on(scheme):
    styles = [
        *(SITE / "assets" / "stylesheets").glob("main.*.css"),
        *(SITE / "assets" / "stylesheets").glob("palette.*.css"),
    ]
    text = "".join(path.read_text() for path in [*styles, SITE / "assets" / "site.css"])
    values = {}
    for selectors, rules in re.findall(
        r"([^{}]+)\{([^{}]*)\}", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    ):
        for selector in selectors.split(","):
            attributes = dict(re.findall(r"\[data-md-color-(scheme|primary)=?\"?([\w-]*)\"?\]", selector))
            if re.sub(r"\[.*?\]", "", selector).strip() not in ("", ":root") or ":not" in selector:
                continue
            if attributes.get("scheme") in (None, "", scheme) and attributes.get("primary") in (
                None,
                "",
                "indigo",
            ):
                values |= dict(re.findall(r"(--[\w-]+):\s*([^;]+)", rules))

    def of(name: str) -> str:
        value = values[name].strip()
        while found := re.search(r"var\((--[\w-]+)\)", value):
            value = value.replace(found[0], values[found[1]].strip())
        return value

    back = of("--md-code-bg-color")
    found = {
        name: contrast(of(name), back) for name in values if re.fullmatch(r"--md-code-hl-\w+-color", name)
    }
    assert len(found) >= 12
    found["links"] = contrast(of("--md-typeset-a-color"), back)
    assert min(found.values()) >= 4.5, sorted(found.items(), key=lambda item: item[1])
