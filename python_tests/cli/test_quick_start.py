"""What the command line says of itself, quickly: without torch."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from helpers.commands import ENVIRONMENT, run

from desc_ext.cli import methods
from desc_ext.cli.catalogue import METHODS_FILE, describe_all, method_names
from desc_ext.cli.settings import OF_THE_RUN, parse_setting
from desc_ext.engine.options import option_fields
from desc_ext.models import MODELS

QUICK = [
    ["--help"],
    ["--version"],
    ["models"],
    ["options", "desc"],
    ["fit", "--help"],
    ["options", "nothing"],
    ["bench", "--help"],
    ["bench", "nothing"],
]
WATCH = """
import sys
sys.argv[0] = "desc-ext"
from desc_ext.cli import main
try:
    main()
finally:
    slow = {"torch", "numpy", "scipy", "sklearn", "matplotlib", "pandas", "pyarrow"} & set(sys.modules)
    print("imported:", *sorted(slow), file=sys.stderr)
"""


def child(code, *arguments, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT | environment, timeout=60)


@pytest.mark.parametrize("arguments", QUICK, ids=" ".join)
def test_answers_come_without_torch(arguments):
    started = time.monotonic()
    done = child(WATCH, *arguments)
    assert done.stderr.splitlines()[-1].split() == ["imported:"], done.stderr
    assert time.monotonic() - started < 10  # 0.15 to 0.35 s where the machine is idle


def test_completion_names_the_methods_without_torch():
    for words in ("desc-ext fit x --model ", "desc-ext options "):
        environment = {"_DESC_EXT_COMPLETE": "complete_bash", "COMP_WORDS": words}
        done = child(WATCH, **environment, COMP_CWORD=str(words.count(" ")))
        assert done.stdout.split() == method_names()
        assert done.stderr.splitlines()[-1].split() == ["imported:"]
    assert "--install-completion" in run("--help")[1]


def test_the_package_is_imported_without_torch_and_gives_everything_when_asked(tmp_path):
    done = child("import sys, desc_ext; print('torch' in sys.modules, 'numpy' in sys.modules)")
    assert done.stdout == "False False\n"
    for line in (
        "from desc_ext import ops; print(ops.projection_energy.__name__)",
        "import desc_ext.ops; print(bool(__import__('torch').ops.desc_ext.build_info()))",
        "import desc_ext; print(desc_ext.ops.__name__, desc_ext.library_path.is_file())",
        "from desc_ext import library_path; import torch; print(bool(torch.ops.desc_ext.build_info()))",
        "from desc_ext import *; print(models.DESC, ops, library_path)",
        "import desc_ext.models, desc_ext; print(desc_ext.models.DESC)",
    ):
        done = child(line)
        assert (done.returncode, bool(done.stdout), done.stderr) == (0, True, ""), line


def test_the_file_of_methods_says_what_the_fields_say():
    """python -m desc_ext.cli.methods writes it anew."""
    assert json.loads(METHODS_FILE.read_text()) == json.loads(json.dumps(methods.describe_classes()))
    assert list(describe_all()) == list(MODELS)


def test_the_file_of_methods_is_written_by_its_module(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "METHODS_FILE", tmp_path / "methods.json")
    methods.main()
    assert (tmp_path / "methods.json").read_bytes() == METHODS_FILE.read_bytes()


def test_models_are_listed_with_what_they_can_do():
    code, output, _ = run("models")
    assert code == 0
    rows = {line.split()[1]: line for line in output.splitlines() if line.startswith("│ ") and line[2] != " "}
    assert set(rows) == set(MODELS)
    for name, cls in MODELS.items():
        assert (" yes " if hasattr(cls, "predict") else " no ") in rows[name]
    assert " convolutional " in rows["dcec"]
    assert " convolutional " not in rows["ae-kmeans"]
    assert "(Zou et al.)" in output


@pytest.mark.parametrize("name", MODELS)
def test_every_option_is_listed_with_its_flag_and_its_defaults(name):
    code, output, _ = run("options", name)
    assert code == 0
    lines = [line.split("│")[1:-1] for line in output.splitlines() if line.startswith("│")]
    rows = {cells[0].strip(): [cell.strip() for cell in cells] for cells in lines if cells[0].strip()}
    cls = MODELS[name]
    assert set(rows) == {option for option in option_fields(cls) if option not in OF_THE_RUN}
    assert rows["n_clusters"][1] == "--clusters"
    assert rows["dtype"][1] == "--set"
    for number, (_, values) in enumerate(cls.presets.items()):
        for option in ("batch_size", "learning_rate", "tol"):
            if option in values:
                assert float(rows[option][2 + number]) == values[option]


def test_values_are_spelt_as_the_command_line_takes_them():
    _, output, _ = run("options", "desc")
    assert "true or false" in output or "True" not in output
    assert "500,500,1000" in output
    assert "[n, H, W]" in output  # no markup has eaten it
    code, _, errors = run("options", "dek")
    assert (code, "there is no model 'dek'" in errors, "did you mean dec?" in errors) == (2, True, True)


@pytest.mark.parametrize("example", ["28,28", "3,32,32"])
def test_values_of_an_image_shape_are_such_shapes(example):
    [option] = (one for one in describe_all()["k-subspaces"]["options"] if one["name"] == "image_shape")
    assert option["values"] == "integers such as 28,28 or 3,32,32, or none"
    shape = parse_setting("image_shape", example, option_fields(MODELS["k-subspaces"])["image_shape"].hint)
    assert shape == tuple(map(int, example.split(",")))


def test_help_of_model_names_every_method():
    _, output, _ = run("fit", "--help")
    assert all(name in output for name in MODELS)
