"""benchmarks/papers/runs.py: every run a process, results that survive a stop, the table made of them."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import runs
from sklearn.cluster import KMeans

METHODS = {{"k": runs.Method("k-means", lambda data, seed, place: KMeans(10, random_state=seed).fit(data.X))}}
if __name__ == "__main__":
    arguments = runs.parser("Scores.", METHODS, ["digits:300"]).parse_args()
    runs.main(arguments, METHODS, {{}}, "Scores")
"""


@pytest.fixture
def runs(repository, tmp_path, monkeypatch):
    path = repository / "benchmarks" / "papers" / "runs.py"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    spec = importlib.util.spec_from_file_location("runs", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "runs", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "scores.py")])
    return module


def test_a_run_is_a_process(runs, repository, tmp_path):
    script = tmp_path / "scores.py"
    script.write_text(SCRIPT.format(folder=str(repository / "benchmarks" / "papers")))
    result, _ = runs._process(script, ("digits:300", "k", 3), {"device": "cpu", "dtype": "float64"})
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    from desc_ext.data import load_dataset

    digits = load_dataset("digits")
    expected = KMeans(10, random_state=3).fit(digits.X[:300]).labels_
    assert result["ari"] == pytest.approx(adjusted_rand_score(digits.labels[:300], expected))
    assert (result["rows"], result["device"], result["dtype"]) == (300, "CPU", "float64")


def test_results_are_gathered_and_not_made_again(runs, tmp_path, monkeypatch, capsys):
    scores = {("a", 0): 0.5, ("a", 1): None, ("b", 0): 0.25, ("b", 1): 0.75}
    asked = []

    def process(_script, run, place):
        asked.append(run)
        acc = scores[run[1:]]
        common = {"nmi": 0.5, "ari": 0.25, "n_iter": 3, "seconds": 1.5, "rows": 7}
        where = {"device": "CPU", "threads": 1, "torch": "2", "dtype": place["dtype"]}
        return (None, "it does not work") if acc is None else ({"acc": acc, **common, **where}, "")

    monkeypatch.setattr(runs, "_process", process)
    methods = {name: runs.Method(name.upper(), None) for name in "ab"}
    published = {"data": [("somebody", 0.5, None, 0.25)]}

    def main(*options):
        options = ["--seeds", "2", "--out", str(tmp_path), "--commit", "abc", "--dtype", "float64", *options]
        arguments = runs.parser("Scores.", methods, ["data"]).parse_args(options)
        runs.main(arguments, methods, published, "The title", "The notes.")

    with pytest.raises(SystemExit, match="1 of 4 runs failed"):
        main("--jobs", "2")
    assert "data, a, seed 1 failed:\nit does not work" in capsys.readouterr().err
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    assert {(r["method"], r["seed"], r["commit"]) for r in map(json.loads, lines)} == {
        ("a", 0, "abc"), ("b", 0, "abc"), ("b", 1, "abc"),
    }  # fmt: skip
    with open(tmp_path / "scores.jsonl", "a") as file:
        file.write('{"data": "data", "meth')  # stopped while it wrote
    scores["a", 1], asked[:] = 0.75, []
    main()
    assert asked == [("data", "a", 1)]
    main()
    assert len(asked) == 1
    assert "4 of 4 runs are in" in capsys.readouterr().out
    with pytest.raises(
        SystemExit, match=r"holds runs of data with --dtype float64, got --dtype float32; name .* --out"
    ):
        main("--dtype", "float32")
    assert len(asked) == 1
    text = (tmp_path / "results" / "scores.md").read_text()
    assert "| A | 0.625 ± 0.125 | 0.500 ± 0.000 | 0.250 ± 0.000 | 3 | 1.5 | 2 |" in text
    assert "| B | 0.500 ± 0.250 |" in text
    assert "| somebody | 0.500 | – | 0.250 |" in text
    for part in (
        "# The title",
        "The notes.",
        "## data, 7 rows",
        "--seeds 2 --dtype float64 --methods",
        "commit: abc",
    ):
        assert part in text


def test_the_first_rows_of_a_data_set(runs):
    part = runs.load_part("digits:30")
    assert (part.name, part.X.shape, part.labels.shape, part.images.shape) == (
        "digits:30", (30, 64), (30,), (30, 8, 8),
    )  # fmt: skip
