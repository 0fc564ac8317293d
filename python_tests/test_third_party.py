"""THIRD_PARTY.md and the licences of data: every dependency and every data set is there, with the licence it states."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from desc_ext.data import KNOWN

ROOT = Path(__file__).resolve().parents[1]
# Packages without a licence expression: what stands in their metadata for it.
CLASSIFIERS = {
    "BSD-3-Clause": "BSD License",
    "Apache-2.0": "Apache Software License",
    "MIT": "MIT License",
    "PSF-2.0": "Python Software Foundation License",
}


def table_below(page: str, heading: str) -> list[list[str]]:
    """Cells of the rows of the first table below a heading."""
    part = (ROOT / page).read_text(encoding="utf-8").split(f"\n{heading}\n")[1]
    rows = re.search(r"(?:^\|.*\n)+", part, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


LICENCES = {row[0].split(" ")[0]: row[1] for row in table_below("THIRD_PARTY.md", "## Needed at run time")}


def test_every_dependency_is_named():
    wanted = {
        re.match(r"[\w-]+", line)[0].lower()
        for line in importlib.metadata.requires("desc-ext")
        if "extra ==" not in line or "h5ad" in line
    }
    assert set(LICENCES) == wanted


@pytest.mark.parametrize("name", LICENCES)
def test_the_licence_is_that_of_its_metadata(name):
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    expression = metadata["License-Expression"]
    if expression:
        assert LICENCES[name] in expression
    else:
        stated = [metadata["License"] or "", *(metadata.get_all("Classifier") or [])]
        assert any(CLASSIFIERS[LICENCES[name]] in text or text == LICENCES[name] for text in stated)


def test_files_of_others_are_there():
    for name, *_ in table_below("THIRD_PARTY.md", "## In the repository and the wheel"):
        for file in re.findall(r"`([^`]+)`", name):
            assert (ROOT / file).is_file(), file


def test_every_known_data_set_has_its_licence():
    found = {
        name: row[2] for row in table_below("docs/data.md", "### Licences") for name in re.findall(r"`([^`]+)`", row[0])
    }  # fmt: skip
    assert found == {name: known.licence for name, known in KNOWN.items()}
