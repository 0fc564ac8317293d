"""The methods and their options as the command line tells them, before torch is loaded: from ``methods.json``."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from desc_ext.messages import counted

__all__ = [
    "FLAG_OF",
    "MEASURED",
    "METHODS_FILE",
    "check_operator",
    "closest",
    "describe",
    "describe_all",
    "in_flags",
    "method_names",
    "methods_table",
    "options_table",
]

# Options of estimators that are flags of the command line, by the names of its parameters.
FLAG_OF = {
    "n_clusters": "clusters",
    "random_state": "seed",
    "preset": "preset",
    "features": "features",
    "external": "external",
}

# Those whose names are no words of English, so that they need no "=" beside them to be known as options.
_OWN_WORDS = ("n_clusters", "random_state")
# Neither within a word or path nor in quotes, where names are those of a file.
_BEFORE, _AFTER = r"(?<![\w.'\"/-])", r"(?![\w'\"/-]|\.\w)"
# Kinds of random_state that no flag can be.
_SEEDS_OF_PYTHON = ", np.random.RandomState, np.random.default_rng() or None"
_VALUE = r"'[^']*'|\"[^\"]*\"|[\w.-]*\w"

# What desc-ext bench measures, by the numbers of a shape; a test compares it with desc_ext.bench.problems.
MEASURED = {
    "n,p,K,d": (
        "projection_residual", "nearest_subspace", "weighted_projection_loss", "projection_energy",
        "subspace_soft_assignment",
    ),
    "n,p,K": ("student_t_assignment",),
    "K,p,d": ("block_orthogonality_penalty",),
    "n,p": (
        "coefficient_topk", "affinity_row_max", "self_expression_residual", "laplacian_energy", "info_nce",
        "collaborative_loss", "squared_l12_norm", "segment_gram",
    ),
}  # fmt: skip

METHODS_FILE = Path(__file__).with_name("methods.json")


@functools.cache
def describe_all() -> dict[str, dict[str, Any]]:
    """All methods: name → class, summary, predicts, images, presets, preset (the default one), options."""
    return json.loads(METHODS_FILE.read_text(encoding="utf-8"))


def method_names() -> list[str]:
    """The names that ``--model`` takes."""
    return list(describe_all())


def describe(name: str) -> dict[str, Any]:
    """What :func:`describe_all` has of the method ``name``.

    Raises:
        ValueError: there is none of that name; the message lists those that are.
    """
    methods = describe_all()
    if name not in methods:
        raise ValueError(
            f"there is no model '{name}'; models are {', '.join(methods)}{closest(name, methods)}"
        )
    return methods[name]


def check_operator(name: str) -> None:
    """Raises ValueError where ``desc-ext bench`` measures no operator ``name``; the message lists those that it does."""
    names = [operator for operators in MEASURED.values() for operator in operators]
    if name not in names:
        raise ValueError(
            f"there is no operator '{name}' to measure; operators are {', '.join(names)}{closest(name, names)}"
        )


def in_flags(message: str) -> str:
    """A message of an estimator in the words of the command line.

    ``n_clusters=500`` becomes ``--clusters 500``, ``n_samples=300`` becomes ``300 rows``, "set image_shape=..." becomes
    "give --set image_shape=...", and a class in front of the message the name that ``--model`` takes.
    """
    classes = {method["class"]: name for name, method in describe_all().items()}
    owner, colon, rest = message.partition(": ")
    if colon and owner in classes:
        message = f"{classes[owner]}: {rest}"
    message = re.sub(rf"{_BEFORE}n_samples=(\d+)", lambda found: counted(int(found[1]), "row"), message)
    message = re.sub(rf"{_BEFORE}(give|name) n_clusters{_AFTER}", r"\1 --clusters N", message)
    message = message.replace(_SEEDS_OF_PYTHON, "")
    message = re.sub(rf"{_BEFORE}set ({'|'.join(_other_options())})=", r"give --set \1=", message)
    for option, flag in FLAG_OF.items():
        message = re.sub(rf"{_BEFORE}{option}=({_VALUE})", functools.partial(_given, flag), message)
        if option in _OWN_WORDS:
            message = re.sub(rf"{_BEFORE}{option}{_AFTER}", f"--{flag}", message)
        else:
            message = re.sub(rf"(^|: ){option} must{_AFTER}", rf"\1--{flag} must", message)
    return message


@functools.cache
def _other_options() -> list[str]:
    """Names of options that have no flag, of all methods."""
    names = {option["name"] for method in describe_all().values() for option in method["options"]}
    return sorted(names - FLAG_OF.keys())


def _given(flag: str, found: re.Match[str]) -> str:
    """The flag with the value that Python wrote."""
    value = found[1].strip("'\"")
    return f"--{flag} {('auto' if flag == 'clusters' else 'none') if value == 'None' else value}"


def closest(name: str, names: Iterable[str]) -> str:
    """A hint at the one of ``names`` that is most like ``name``, if one is."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def methods_table() -> Table:
    """What each method is, after which paper, and what it can do."""
    table = Table(title="methods of fit --model", title_justify="left")
    table.add_column("model", no_wrap=True)
    table.add_column("method and paper", overflow="fold")
    table.add_column("clusters of new rows")
    table.add_column("network of images")
    for name, method in describe_all().items():
        network = "convolutional" if method["images"] else "none of its own: their pixels are rows"
        table.add_row(name, method["summary"], "yes" if method["predicts"] else "no", network)
    return table


def options_table(name: str) -> Table:
    """Every option of a method that the command line takes: values, default under each preset, meaning, flag."""
    method = describe(name)
    presets = method["presets"]
    table = Table(title=f"options of {name}", title_justify="left", show_lines=True)
    table.add_column("option", no_wrap=True)
    table.add_column("given by", no_wrap=True)
    for preset in presets or ["default"]:
        usual = " (default)" if preset == method["preset"] and len(presets) > 1 else ""
        table.add_column(f"{preset}{usual}", overflow="fold", max_width=16)
    table.add_column("values", overflow="fold", max_width=34)
    table.add_column("meaning", overflow="fold", min_width=30)
    for option in method["options"]:
        of_presets = option["presets"] or {}
        values = [_word(of_presets.get(preset, option["default"])) for preset in presets or ["default"]]
        texts = (option["name"], option["flag"] or "--set", *values, option["values"], option["meaning"])
        table.add_row(*map(Text, texts))  # no text is markup: brackets are brackets
    return table


def _word(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, list):
        return ",".join(map(_word, value)) or "()"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
