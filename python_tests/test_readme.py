"""README.md: its examples run, its table of methods is the one that the classes give, the files it names are there.

``python python_tests/test_readme.py`` writes the table anew.
"""

from __future__ import annotations

import re
from pathlib import Path

import desc_ext  # noqa: F401  isort: skip  (before torch)

import pytest
from helpers.pages import run_python

from desc_ext.engine.documentation import methods_table
from desc_ext.models import MODELS

README = Path(__file__).resolve().parents[1] / "README.md"
TABLE = re.compile(r"(<!-- methods: .*? -->\n)(.*?)(<!-- end of methods -->)", re.DOTALL)


def test_the_table_of_methods_is_made_from_the_classes():
    assert TABLE.search(README.read_text())[2].strip() == methods_table(MODELS)


@pytest.mark.slow
def test_python_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = run_python(README)
    acc = float(re.search(r"'acc': (?:np\.float64\()?([\d.]+)", capsys.readouterr().out)[1])
    assert acc > 0.84  # what the table says of DESC on the digits
    assert namespace["proba"].shape == (1797, 10)
    assert (tmp_path / "digits-model" / "config.json").exists()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/cuda.md", "emulator/README.md"])
def test_files_that_are_named_are_there(name):
    text = (README.parent / name).read_text()
    folders = "benchmarks|csrc|desc_ext|docs|emulator|python_tests"
    named = set(re.findall(rf"(?<![\w/.])(?:{folders})/[\w/]+\.\w+", text))
    assert named
    places = (README.parent, README.parent / "emulator" / "include")
    missing = [path for path in named if not any((place / path).exists() for place in places)]
    missing = [path for path in missing if "FAMILY" not in path]
    assert not missing


def main() -> None:
    README.write_text(
        TABLE.sub(lambda found: f"{found[1]}{methods_table(MODELS)}\n{found[3]}", README.read_text())
    )


if __name__ == "__main__":
    main()
