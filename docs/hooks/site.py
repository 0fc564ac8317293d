"""What mkdocs does not do by itself: pages that lie elsewhere in the repository, their links, tables, diagrams, formulas.

Comments in the pages name what is put in their place:

- ``<!-- methods -->``: the table of methods; ``<!-- options: NAME -->``: the options of one;
- ``<!-- results: NAME -->``: its lines in ``benchmarks/papers/results/choice.md``;
- ``<!-- speed: FAMILY -->``: operators beside their best peers, from ``benchmarks/kernels/results``.

``![text](diagrams/NAME.svg)`` becomes the drawing itself, which then follows the page's light or dark colours. Other pictures
become links to themselves: on a phone they are too small to read.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))  # mkdocs loads a hook as a file, not as a part of a package

import formulas  # noqa: E402
import tables  # noqa: E402
import tutorials  # noqa: E402

# Pages of the site that are files elsewhere: where they lie in the repository, and in the site.
ELSEWHERE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "emulator/README.md": "emulator.md",
    "benchmarks/kernels/cuda_resources.md": "results/kernels/cuda_resources.md",
} | {
    f"benchmarks/{kind}/results/{path.name}": f"results/{kind}/{path.name}"
    for kind in ("kernels", "papers", "scale")
    for path in sorted((ROOT / "benchmarks" / kind / "results").glob("*.*"))
    if path.suffix in (".md", ".png")
}
_IN_REPOSITORY = {page: path for path, page in ELSEWHERE.items()}
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s#]+)(?P<anchor>#[^()\s]*)?\)")
_CODE = re.compile(r"(^```.*?^```|``.*?``|`[^`\n]*`)", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!-- (?P<kind>methods|options|results|speed)(?:: (?P<name>[\w-]+))? -->")
_FOREIGN = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*>"
    r"|<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?(?:https?:)?//[^>]*>"
)
_FOREIGN_STYLE = re.compile(r"(?:@import|url\()\s*[\"']?(?:https?:)?//")


def on_config(config: Any) -> Any:
    """Adds the Markdown extension for formulas."""
    config.markdown_extensions.append(formulas.FormulaExtension())
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [formulas.FENCE]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that lie elsewhere."""
    for path, page in ELSEWHERE.items():
        if (ROOT / path).exists():
            files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Runs tutorials; puts links, drawings and tables in place, outside of code."""
    site_path = page.file.src_uri
    if tutorials.is_tutorial(site_path):
        markdown = tutorials.executed(markdown, page, config, files)
    if site_path.startswith("results/") or site_path == "changelog.md":
        page.meta["search"] = {"boost": 0.1}  # they repeat every name of the other pages
    parts = _CODE.split(markdown)
    # Every second part is code. A link's text may hold code, so links are looked for with code put aside.
    kept: list[str] = []

    def aside(code: str) -> str:
        kept.append(code)
        return f"\x02{len(kept) - 1}\x03"

    text = "".join(aside(part) if index % 2 else part for index, part in enumerate(parts))
    text = _LINK.sub(lambda found: _linked(found, site_path), text)
    text = _COMMENT.sub(lambda found: tables.table(found["kind"], found["name"]), text)
    text = text.replace(" ± ", "\u00a0±\u00a0")  # which stay on one line
    return re.sub("\x02(\\d+)\x03", lambda found: kept[int(found[1])], text)


def _linked(found: re.Match[str], site_path: str) -> str:
    target, anchor, text = found["target"], found["anchor"] or "", found["text"]
    if re.match(r"[a-z]+:", target):
        return found[0]
    source = _IN_REPOSITORY.get(site_path, f"docs/{site_path}")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if path.startswith("docs/diagrams/"):
        return _drawing(ROOT / path, text)
    if path in ELSEWHERE or path.startswith("docs/"):
        page = ELSEWHERE.get(path, path.removeprefix("docs/"))
    elif path == "README.md":
        page = "index.md"
    elif (ROOT / path).exists():  # a file of the repository that the site does not hold
        return text if "\x02" in text else f"`{text}`"
    else:
        raise PluginError(f"{source}: there is no {path}, which it links to")
    relative = posixpath.relpath(page, posixpath.dirname(site_path) or ".")
    if found["image"]:
        return f"[![{text}]({relative})]({relative})"
    return f"[{text}]({relative}{anchor})"


def _drawing(path: Path, text: str) -> str:
    svg = re.sub(r"<!--.*?-->|\n\s*", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    label = f'<svg role="img" aria-label="{text}" class="diagram"'
    return f"<div class='diagram'>{svg.replace('<svg', label, 1)}</div>"


def on_post_build(config: Any) -> None:
    """Refuses a site that would ask another host for a script, a style, a font or an image."""
    site = Path(config.site_dir)
    foreign = [
        f"{path.relative_to(site)}: {found[0][:120]}"
        for pattern, kind in ((_FOREIGN, "*.html"), (_FOREIGN_STYLE, "*.css"))
        for path in sorted(site.rglob(kind))
        for found in pattern.finditer(path.read_text(encoding="utf-8"))
    ]
    if foreign:
        raise PluginError("the site asks other hosts:\n" + "\n".join(foreign[:10]))
