"""Tries an installed desc_ext from a folder that is not the checkout: ``make test-wheel``, cibuildwheel.

It needs nothing but the wheel and what that brings along.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

import desc_ext  # isort: skip  (before torch)

import numpy as np
import torch

from desc_ext import ops, reference
from desc_ext.data import load_dataset
from desc_ext.metrics import clustering_scores
from desc_ext.models import DESC, SelfExpressiveClustering, load_model


def say(text: str) -> None:
    print(text, flush=True)


def check_distribution() -> None:
    """The package is the installed one, with its licences, types and one library for every Python."""
    folder = Path(desc_ext.__file__).resolve().parent
    assert Path(sys.prefix).resolve() in folder.parents, f"{folder} is not that of this environment"
    assert Path(desc_ext.library_path).parent == folder, desc_ext.library_path
    assert (folder / "py.typed").is_file()
    found = importlib.metadata.distribution("desc-ext")
    tags = [line for line in (found.read_text("WHEEL") or "").splitlines() if line.startswith("Tag: ")]
    assert tags
    assert all(tag.startswith("Tag: py3-none-") for tag in tags), tags
    assert found.version.partition("+")[0] == desc_ext.__version__
    names = {file.name for file in found.files or () if "licenses" in file.parts}
    assert {"LICENSE", "THIRD_PARTY.md"} <= names, names
    say(f"desc-ext {found.version}, {tags[0]}, Python {sys.version.split()[0]}, torch {torch.__version__}")


def check_operators() -> None:
    """Values are those of the definitions in plain torch, gradients those of differences."""
    random = torch.Generator().manual_seed(0)
    z, bases = (torch.randn(*shape, generator=random, dtype=torch.float64) for shape in ((7, 5), (3, 5, 2)))
    torch.testing.assert_close(ops.projection_residual(z, bases), reference.projection_residual(z, bases))
    z.requires_grad_()
    bases.requires_grad_()
    for function in (ops.projection_energy, ops.projection_residual):
        assert torch.autograd.gradcheck(function, (z, bases))
    assert torch.autograd.gradcheck(lambda z, s: ops.subspace_soft_assignment(z, s, 0.5), (z, bases))
    assert torch.autograd.gradcheck(ops.block_orthogonality_penalty, (bases,))


def check_estimators(folder: Path) -> None:
    """The digits are clustered, without a network and with one; a saved model is the same."""
    digits = load_dataset("digits")
    model = SelfExpressiveClustering(10, random_state=0).fit(digits.X)
    acc = clustering_scores(digits.labels, model.labels_)["acc"]
    assert acc > 0.9, acc
    deep = DESC(10, random_state=0, hidden_sizes=(64,), pretrain_epochs=2, max_epochs=2).fit(digits.X)
    deep.save(folder / "model")
    np.testing.assert_array_equal(
        load_model(folder / "model").predict(digits.X[:99]), deep.predict(digits.X[:99])
    )
    say(f"digits: ACC {acc:.3f}")


def check_command(folder: Path) -> None:
    """``desc-ext`` answers, fits with pictures and a report, and predicts."""
    command = Path(sys.prefix) / "bin" / "desc-ext"
    fit = ["fit", "digits", "--model", "k-subspaces", "--clusters", "10", "--out", "result"]
    for arguments in (["--help"], ["models"], fit, ["predict", "result", "digits", "--out", "labels.npy"]):
        done = subprocess.run([command, *arguments], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, (arguments, done.stderr)
    written = {path.name for path in (folder / "result").iterdir()}
    assert {"report.html", "examples.png", "embedding.png", "model"} <= written, written
    np.testing.assert_array_equal(np.load(folder / "labels.npy"), np.load(folder / "result" / "labels.npy"))


def main() -> None:
    check_distribution()
    check_operators()
    with tempfile.TemporaryDirectory() as folder:
        check_estimators(Path(folder))
        check_command(Path(folder))
    say("it works")


if __name__ == "__main__":
    main()
