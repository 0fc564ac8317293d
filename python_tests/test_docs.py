"""The documentation: every public name is in it, its examples run, its links and the files it names are there.

``make docs`` builds it; nothing here needs what that does.
"""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import desc_ext  # isort: skip  (before torch)

import pytest
import torch
from helpers.pages import blocks, run_python, run_shell

from desc_ext.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md"))
PUBLIC = ["cli", "data", "engine", "features", "metrics", "models", "nn", "ops", "plots"]
# Pages whose Python is run; the examples of the others need files of the reader's.
RUN = ["index", "quickstart", "features", "external", "saving"]
RUN += [f"operators/{path.stem}" for path in sorted((DOCS / "operators").glob("*.md"))]
TUTORIALS = sorted(path.stem for path in (DOCS / "tutorials").glob("*.md") if path.stem != "index")


def documented() -> list[str]:
    text = "\n".join(path.read_text() for path in sorted((DOCS / "api").glob("*.md")))
    return re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)


def resolved(name: str) -> object:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise AttributeError(name)


def test_the_public_modules_are_those_of_the_package():
    names = [name for name in desc_ext.__all__ if name not in ("__version__", "library_path")]
    assert names == PUBLIC


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_documented_once(module):
    public = {f"desc_ext.{module}.{name}" for name in importlib.import_module(f"desc_ext.{module}").__all__}
    there = documented()
    assert public <= set(there), f"not in docs/api: {sorted(public - set(there))}"
    assert [name for name in public if there.count(name) != 1] == []


def test_what_is_documented_is_there_and_has_a_docstring():
    for name in documented():
        found = resolved(name)  # an AttributeError names what is gone
        if callable(found) and not isinstance(found, type(desc_ext.cli.app)):
            assert found.__doc__, name


def test_names_of_the_package_itself_are_on_the_first_page():
    members = re.findall(r"members: \[(.*?)\]", (DOCS / "api" / "index.md").read_text())[0]
    assert members.split(", ") == sorted(set(desc_ext.__all__) - set(PUBLIC))


@pytest.mark.parametrize("name", MODELS)
def test_every_method_has_a_page_with_its_options_and_results(name):
    text = (DOCS / "methods" / f"{name}.md").read_text()
    assert text.startswith(f"# {MODELS[name].__name__} {{ #method-{name} }}\n")
    for part in ("## Formula", "```math", f"<!-- options: {name} -->", f"<!-- results: {name} -->"):
        assert part in text
    assert "\n## Departures from the paper\n" in text or "\n## Choices that are this package's\n" in text
    assert f"methods/{name}.md" in (ROOT / "mkdocs.yml").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_links_lead_to_files(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^()\s#]+)[^()\s]*\)", text)
    # Of files as they lie in the repository, where the pages are read too; the site's hook knows where it puts them.
    missing = [link for link in links if not re.match(r"[a-z]+:", link) and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_files_of_the_repository_that_are_named_are_there(page):
    named = set(
        re.findall(
            r"(?<![\w/.])(?:benchmarks|csrc|desc_ext|emulator|python_tests)/[\w/]+\.\w+", page.read_text()
        )
    )
    assert not [name for name in named if "FAMILY" not in name and not (ROOT / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_no_page_is_longer_than_one_reads(page):
    assert len(page.read_text().splitlines()) <= 200


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = DOCS / f"{page}.md"
    assert blocks(path, "python")
    names = run_python(path)
    if page == "quickstart":
        assert names["scores"]["acc"] > 0.93  # the table has .947
        assert names["proba"].shape == (5, 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
@pytest.mark.filterwarnings("ignore:SelfExpressiveClustering. the number of clusters is uncertain")
def test_a_tutorial_runs_and_ends_with_a_picture(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")  # show does nothing
    names = run_python(DOCS / "tutorials" / f"{name}.md")
    assert blocks(DOCS / "tutorials" / f"{name}.md", "python")[-1][1].endswith("plt.show()\n")
    assert len(pyplot.get_fignums()) == 1
    pyplot.close("all")
    assert not list(tmp_path.iterdir())
    if name == "operators":  # what its texts say
        for wanted, found in zip(names["wanted"], names["found"], strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
        (_, before), (_, after) = names["before"], names["after"]
        assert after.mean() < 0.5 * before.mean()


def test_tutorials_are_all_in_their_table():
    table = (DOCS / "tutorials" / "index.md").read_text()
    assert sorted(re.findall(r"^\| \[.*?\]\((\w+)\.md\)", table, re.MULTILINE)) == TUTORIALS


@pytest.mark.slow
def test_commands_of_the_quickstart_run(tmp_path):
    output = run_shell(DOCS / "quickstart.md", tmp_path)
    assert output.count("self-expressive") >= 3
    assert (
        len(re.findall(r"self-expressive +│ 0\.94", output)) == 3
    )  # the page says .947 of digits, with either seed
    assert (tmp_path / "result" / "report.html").exists()
    assert len((tmp_path / "clusters.csv").read_text().splitlines()) == 21  # a header and 20 rows


def test_operators_are_each_on_their_page():
    pages = {path.stem: path.read_text() for path in (DOCS / "operators").glob("*.md")}
    first = pages.pop("index")
    for name in desc_ext.ops.__all__:
        if name != "CollaborativeLoss":
            assert f"`{name}`" in first, name
            assert sum(f"`{name}(" in text for text in pages.values()) == 1, name


def test_the_tests_that_the_page_on_determinism_names_are_there():
    rows = re.findall(r"^\| .* \| (`.*) \|$", (DOCS / "determinism.md").read_text(), re.MULTILINE)
    named = [
        (file, test)
        for row in rows
        for file, tests in re.findall(r"`([\w/]+\.py)`: ((?:`test_\w+`(?:, )?)+)", row)
        for test in re.findall(r"\w+", tests)
    ]
    assert len(named) >= 13
    for file, test in named:
        assert f"def {test}(" in (ROOT / "python_tests" / file).read_text(), (file, test)


def test_a_result_is_one_item_of_the_reference():
    """Lines of Returns at the depth of the first one would each be an item of their own there."""
    sections = 0
    for file in sorted((ROOT / "desc_ext").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            text = ast.get_docstring(node) if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else None
            for first, rest in re.findall(
                r"^(?:Returns|Yields):\n( +)\S.*\n((?: +\S.*(?:\n|\Z))*)", text or "", re.MULTILINE
            ):
                sections += 1
                depths = [len(line) - len(line.lstrip()) for line in rest.splitlines()]
                assert all(depth > len(first) for depth in depths), f"{file}: {node.name}"
    assert sections > 20
