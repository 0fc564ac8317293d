"""README.md: short, its examples run, its table of methods is that of classes and results, the files it names are there.

``python python_tests/test_readme.py`` writes the table anew.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import desc_ext  # noqa: F401  isort: skip  (before torch)

import numpy as np
import pytest
from helpers.pages import run_python

from desc_ext.models import MODELS

README = Path(__file__).resolve().parents[1] / "README.md"
RESULTS = README.parent / "benchmarks" / "papers" / "results" / "choice.jsonl"
TABLE = re.compile(r"(<!-- methods: .*? -->\n)(.*?)(<!-- end of methods -->)", re.DOTALL)


def methods_table() -> str:
    """Class, name on the command line, whether it predicts new rows, and what choice.md has of the digits."""
    runs = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    lines = ["| class | `--model` | predicts | ACC | seconds |", "| --- | --- | --- | --- | ---: |"]
    for name, cls in MODELS.items():
        found = [run for run in runs if (run["data"], run["method"]) == ("digits", name)]
        acc, seconds = (np.mean([run[key] for run in found]) for key in ("acc", "seconds"))
        predicts = "yes" if hasattr(cls, "predict") else "no"
        lines.append(
            f"| [{cls.__name__}](docs/methods/{name}.md) | `{name}` | {predicts} | {acc:.3f} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def test_the_table_of_methods_is_made_from_classes_and_results():
    assert TABLE.search(README.read_text())[2].strip() == methods_table()


def test_it_is_read_in_two_minutes():
    words = [
        word for word in README.read_text().split() if re.search(r"\w", word) and not word.startswith("<!--")
    ]
    assert len(words) <= 700


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
    README.write_text(TABLE.sub(lambda found: f"{found[1]}{methods_table()}\n{found[3]}", README.read_text()))


if __name__ == "__main__":
    main()
