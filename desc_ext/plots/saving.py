"""The pictures of a clustering, as files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from desc_ext.metrics import matched_clusters
from desc_ext.plots.clusters import examples_figure, sizes_figure
from desc_ext.plots.curves import curves_figure
from desc_ext.plots.embedding import embedding_figure
from desc_ext.plots.projection import project_to_plane
from desc_ext.plots.style import save_figure

__all__ = ["save_pictures"]

Makers = Mapping[str, Callable[[], Figure]]


def save_pictures(
    folder: str | Path,
    history: list[dict[str, Any]],
    X: Any,
    labels: ArrayLike,
    confidence: ArrayLike,
    embedding: ArrayLike | None,
    n_clusters: int,
    image_shape: tuple[int, ...] | None,
    heading: str,
    rows_name: str = "latent rows",
    classes: tuple[ArrayLike, tuple[str, ...]] | None = None,
    further: Makers | None = None,
) -> list[Path]:
    """Writes the pictures that there is something for; returns their paths. One that cannot be drawn is a warning.

    They are embedding.png, classes.png (the same points by known class), cluster_sizes.png, curves.png (of stages of
    several epochs), examples.png (of images), and what ``further`` makes.

    Args:
        history: see :func:`curves_figure`.
        X, labels, confidence, image_shape: see :func:`examples_figure`; no examples when the shape is None.
        embedding: [n, p], what embedding.png and classes.png show; None: there are no such pictures.
        heading: what was clustered by what, the first part of every title.
        rows_name: what the embedding's rows are, for its title.
        classes: known classes [n] as numbers, and their names.
        further: file name → function that draws it.
    """
    labels, folder = np.asarray(labels), Path(folder)
    projection = None

    def embedded(
        by: str, numbers: np.ndarray, names: tuple[str, ...] | None, color_of: np.ndarray | None = None
    ) -> Figure:
        nonlocal projection  # drawn by cluster and by class, computed once
        projection = projection or project_to_plane(np.asanyarray(embedding))
        method = "t-SNE" if projection.axes[0].startswith("t-SNE") else "principal components"
        shown = f"{len(projection.rows):,} of {len(labels):,} {rows_name}"
        return embedding_figure(
            projection.points, numbers[projection.rows], f"{heading}: {rows_name}",
            f"{method} of {shown}, {by}", projection.axes, names, color_of,
        )  # fmt: skip

    makers: dict[str, Callable[[], Figure]] = {}
    if embedding is not None:
        makers["embedding.png"] = lambda: embedded("coloured and numbered by cluster", labels, None)
    if classes is not None and embedding is not None:
        makers["classes.png"] = lambda: embedded(
            "coloured by known class",
            np.asarray(classes[0]),
            classes[1],
            matched_clusters(classes[0], labels),
        )
    makers["cluster_sizes.png"] = partial(sizes_figure, labels, n_clusters, f"{heading}: cluster sizes")
    if not history or len(history) > len({record.get("stage") for record in history}):
        makers["curves.png"] = partial(curves_figure, history, f"{heading}: training")
    if image_shape is not None:
        title = f"{heading}: examples of each cluster"
        makers["examples.png"] = partial(examples_figure, X, labels, confidence, image_shape, title)
    makers |= further or {}
    return [folder / name for name, make in makers.items() if _save(folder / name, make)]


def _save(path: Path, make: Callable[[], Figure]) -> bool:
    """Whether the picture could be drawn and written: none is worth the loss of the others, or of a result."""
    try:
        save_figure(make(), path)
    except Exception as error:
        warnings.warn(
            f"the picture {path.name} could not be drawn: {type(error).__name__}: {error}", stacklevel=3
        )
        return False
    return True
