"""What the report says, as plain values: what was run, what came out, what each cluster consists of."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import desc_ext
from desc_ext.algorithms.cluster_number import ClusterNumber
from desc_ext.cli.pictures import numbered_classes, rows_name
from desc_ext.cli.report.clusters import Cluster, Confusion, confusion, describe_clusters
from desc_ext.cli.report.details import add_details
from desc_ext.cli.settings import OF_THE_RUN
from desc_ext.data import Dataset
from desc_ext.engine.documentation import summary
from desc_ext.engine.options import option_fields, plain

__all__ = ["Report", "describe_run"]

# Of what, where the method itself has none.
_ITERATIONS = {"self-expressive": "iterations of k-means"}


@dataclass(frozen=True)
class Report:
    """Everything that the template shows.

    Attributes:
        command: the command line that was given.
        options: those that differ from their defaults: name, value, default.
        facts: what was clustered by what, as pairs of words and values.
        versions: of what computed it.
        clusters: those with the most rows in detail, in the order of their numbers.
        n_left_out: clusters that are not among them.
        confusion: known classes by cluster, or None.
        confidence: what the confidence of a row is.
        number: where the number of clusters was found: how, and whether it is certain; else "".
        details: what each cluster is described by: "images", "texts", "columns" or "".
    """

    title: str
    method: str
    summary: str
    command: str
    finished: str
    options: Sequence[tuple[str, str, str]]
    facts: Sequence[tuple[str, str]]
    versions: Sequence[tuple[str, str]]
    clusters: Sequence[Cluster]
    n_left_out: int
    confusion: Confusion | None
    confidence: str
    rows_name: str
    number: str
    details: str


def describe_run(estimator: Any, dataset: Dataset, seconds: float, pictures: bool) -> Report:
    """The report on a fitted estimator.

    Args:
        dataset: what it was fitted to.
        seconds: that the fit took.
        pictures: whether clusters of images are to be shown by images.
    """
    classes = None if dataset.labels is None else numbered_classes(dataset)
    confidence, n_clusters = estimator.confidence(), estimator.resolved_params_["n_clusters"]
    clusters, n_left_out = describe_clusters(
        estimator.labels_, confidence, estimator.embedding_, n_clusters, classes
    )
    details = add_details(clusters, dataset, estimator.labels_, confidence, pictures)
    return Report(
        title=f"{estimator.method} on {dataset.name}",
        method=estimator.method,
        summary=summary(type(estimator)),
        command=shlex.join(["desc-ext", *sys.argv[1:]]),
        finished=time.strftime("%Y-%m-%d %H:%M"),
        options=_changed_options(estimator),
        facts=_facts(estimator, dataset, seconds),
        versions=[
            ("desc_ext", desc_ext.__version__),
            ("torch", str(torch.__version__)),
            ("NumPy", np.__version__),
            ("Python", platform.python_version()),
            ("threads", str(torch.get_num_threads())),
        ],
        clusters=clusters,
        n_left_out=n_left_out,
        confusion=None if classes is None else confusion(estimator.labels_, n_clusters, *classes),
        confidence=_meaning_of_confidence(estimator),
        rows_name=rows_name(estimator.method),
        number=_number_found(estimator),
        details=details,
    )


def _facts(estimator: Any, dataset: Dataset, seconds: float) -> list[tuple[str, str]]:
    shape = dataset.image_shape
    facts = [
        ("method", estimator.method),
        ("data", dataset.name),
        ("read from", dataset.source),
        ("rows", f"{len(dataset.X):,}"),
        ("columns", f"{dataset.X.shape[1]:,}"),
        ("images of", "" if shape is None else " × ".join(map(str, shape))),
        (
            "clusters",
            _clusters(estimator.resolved_params_["n_clusters"], len(np.unique(estimator.labels_))),
        ),
        ("preset", str(getattr(estimator, "preset", ""))),
        ("seed", str(estimator.random_state)),
        (_ITERATIONS.get(estimator.method, "iterations"), f"{estimator.n_iter_:,}"),
        ("seconds", f"{seconds:,.1f}"),
    ]
    return [(name, value) for name, value in facts if value]


def _clusters(number: int, used: int) -> str:
    return (
        f"{number:,}"
        if used == number
        else f"{number:,}, of which {used:,} ha{'s' if used == 1 else 've'} rows"
    )


def _number_found(estimator: Any) -> str:
    candidates = getattr(estimator, "cluster_candidates_", None)
    if not candidates:
        return ""
    said = ClusterNumber(tuple(candidates)).described
    return f"{said[0].upper()}{said[1:]}."


def _changed_options(estimator: Any) -> list[tuple[str, str, str]]:
    """Options that were given and are not the default of their preset: name, value, default."""
    cls, given = type(estimator), estimator.get_params(deep=False)
    preset = cls.presets.get(given.get("preset"), {})
    shown_elsewhere = {*OF_THE_RUN, "n_clusters", "random_state", "external"}
    changed = []
    for name, field in option_fields(cls).items():
        value, default = plain(given[name]), plain(preset.get(name, field.default))
        if name not in shown_elsewhere and value != default and not (name in preset and value is None):
            changed.append((name, _word(value), _word(default)))
    return changed


def _word(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _meaning_of_confidence(estimator: Any) -> str:
    """From the first sentence of the method's own words."""
    text = " ".join((type(estimator).confidence.__doc__ or "").split())
    return text.partition("larger is more: ")[2].rstrip(".")
