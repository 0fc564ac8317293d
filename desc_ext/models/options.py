"""The named options of the estimators: which values each one takes, and how a preset fills the gaps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from desc_ext.device import resolve_device
from desc_ext.nn import MIXED

__all__ = [
    "FLAG", "Check", "check_options", "choice", "integer", "number", "optional", "plain", "require", "resolve_device",
    "resolve_options",
]  # fmt: skip

Check = tuple[Callable[[Any], bool], str]


def optional(check: Check) -> Check:
    return lambda value: value is None or check[0](value), f"{check[1]}, or None"


def integer(low: int) -> Check:
    def check(value: Any) -> bool:
        return isinstance(value, Integral) and not isinstance(value, bool) and value >= low

    return check, f"an integer >= {low}"


def number(low: float, high: float = math.inf, strict: bool = False) -> Check:
    def check(value: Any) -> bool:
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            return False
        return (low < value if strict else low <= value) and value <= high

    bound = f"{'>' if strict else '>='} {low}" + (f" and <= {high}" if high < math.inf else "")
    return check, f"a finite number {bound}"


def choice(*values: str) -> Check:
    return lambda value: isinstance(value, str) and value in values, "one of " + ", ".join(map(repr, values))


def _sizes(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(integer(1)[0](size) for size in value)


FLAG: Check = (lambda value: isinstance(value, bool), "True or False")

_COMMON: dict[str, Check] = {
    "n_clusters": integer(1),
    "dtype": choice("float32", "float64"),
    "verbose": (lambda value: value in (0, 1), "0 or 1"),
}

CHECKS: dict[str, Check] = {
    "scaling": choice("global", "standard", "minmax", "uncentred", "none"),
    "hidden_sizes": (_sizes, "a tuple of integers >= 1"),
    "latent_dim": (lambda v: v is None or integer(1)[0](v), "an integer >= 1"),
    "subspace_dim": integer(1),
    "unit_codes": FLAG,
    "corruption": (lambda v: number(0)[0](v) and v < 1, "a number >= 0 and < 1"),
    "reconstruction": choice("mean", "sum"),
    "start": choice("kmeans", "k_subspaces", "input_k_subspaces"),
    "n_init": integer(1),
    "objective": choice("projection", "kl"),
    "smoothing": number(0, strict=True),  # 0 would divide 0 by 0 where H_i = 0
    "smoothing_scale": choice("absolute", "relative"),
    "within": choice("unit", "orthonormal"),
    "basis_weight": number(0),
    "clustering_weight": number(0),
    "hard_weight": choice("off", "norm", "one_plus"),
    "confidence": number(0, 1),
    "head_target": choice("own", "labels"),
    "head_weight": number(0),
    "head_trains_encoder": FLAG,
    "warmup_epochs": integer(0),
    "pretrain_epochs": integer(0),
    "epochs": integer(0),
    "batch_size": integer(1),
    "pretrain_learning_rate": number(0, strict=True),
    "learning_rate": number(0, strict=True),
    "tol": number(0, 1),
}


def resolve_options(
    model: Any, presets: Mapping[str, Mapping[str, Any]], checks: Mapping[str, Check] = CHECKS
) -> dict[str, Any]:
    """The preset of ``model`` with the model's own arguments (those that are not None) put over it.

    Raises:
        ValueError: an unknown preset, a value that its option does not take, or resume without a checkpoint.
    """
    name = model.__class__.__name__
    options = check_options(model, {"preset": choice(*presets), "dtype": choice("float32", "float64", MIXED)})
    require_checkpoint(model)
    for option, default in presets[model.preset].items():
        value = getattr(model, option)
        value = default if value is None else value
        require(name, option, value, checks[option])
        options[option] = plain(value)
    return options


def require_checkpoint(model: Any) -> None:
    if model.resume and model.checkpoint is None:
        raise ValueError(
            f"{model.__class__.__name__}: resume=True needs checkpoint, the folder to continue from; got None"
        )


def check_options(model: Any, checks: Mapping[str, Check]) -> dict[str, Any]:
    """What every estimator takes (n_clusters, dtype, verbose) and the options in ``checks``, as plain values.

    Raises:
        ValueError: a value that its option does not take.
    """
    options = {}
    for option, check in {**_COMMON, **checks}.items():
        value = getattr(model, option)
        require(model.__class__.__name__, option, value, check)
        options[option] = plain(value)
    del options["verbose"]
    return options


def require(name: str, option: str, value: Any, check: Check) -> None:
    if not check[0](value):
        raise ValueError(f"{name}: {option} must be {check[1]}, got {value!r}")


def plain(value: Any) -> Any:
    """The same value in types that JSON writes and reads back unchanged."""
    if isinstance(value, (tuple, list)):
        return [int(size) for size in value]
    if isinstance(value, (bool, str)) or value is None:
        return value
    return int(value) if isinstance(value, Integral) else float(value)
