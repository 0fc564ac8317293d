"""The report as HTML."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from desc_ext.cli.report.content import Report
from desc_ext.durable import replace_file
from desc_ext.messages import counted

__all__ = ["REPORT_FILE", "write_report"]

REPORT_FILE = "report.html"
_LARGEST_PICTURE = 3_000_000  # bytes; a larger one stays a file beside the report
# What is shown of the folder, and in words, for those who do not see it.
_PICTURES = {
    "embedding.png": ("By cluster", "Rows as points of a plane, coloured and numbered by cluster"),
    "classes.png": ("By known class", "The same points, coloured by known class"),
    "curves.png": ("The course of the fit", "Losses, shares and scores over the epochs of each stage"),
    "cluster_sizes.png": ("Sizes", "Bars: the rows of each cluster, beside the even share"),
    "affinity.png": (
        "Affinities",
        "Affinities between rows that are sorted by cluster: blocks on the diagonal",
    ),
    "spectrum.png": (
        "The spectrum of the graph",
        "Eigenvalues of the graph's Laplacian in order, and a line after as many as there are clusters",
    ),
}
_SEARCHED = {
    "spectrum.png": (
        "The spectrum in which the number of clusters was looked for",
        "Eigenvalues of the graph's Laplacian in order, and the largest gaps between them",
    )
}


def write_report(folder: Path, report: Report, metrics: dict[str, dict[str, float]], pictures: bool) -> None:
    """Writes report.html to ``folder``, with the pictures that are there if ``pictures``."""
    environment = Environment(
        loader=PackageLoader("desc_ext.cli.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "percent": _percent, "counted": counted}
    template = environment.get_template("report.html.j2")
    words = _PICTURES | (_SEARCHED if report.number else {})
    shown = _embedded(folder, words) if pictures else []
    html = template.render(report=report, metrics=metrics, pictures=shown, scores=_scores(metrics))
    replace_file(folder / REPORT_FILE, html.encode(errors="backslashreplace"))


def _embedded(folder: Path, words: dict[str, tuple[str, str]]) -> list[dict[str, Any]]:
    found = []
    for name, (title, alt) in words.items():
        path = folder / name
        if path.is_file() and path.stat().st_size <= _LARGEST_PICTURE:
            uri = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
            found.append({"name": name, "title": title, "alt": alt, "uri": uri})
    return found


def _scores(metrics: dict[str, dict[str, float]]) -> list[str]:
    """Which scores there are, the same of all methods."""
    first = next(iter(metrics.values()), {})
    return [name for name in ("acc", "nmi", "ari") if name in first]


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    value = round(value, digits) + 0.0  # zero has no sign
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:,.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
