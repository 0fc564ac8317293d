"""What the rows of each cluster are like: images, words of texts, columns of tables. Work and size are bounded."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np

from desc_ext.cli.report.clusters import Cluster
from desc_ext.data import Dataset, StoredRows

__all__ = ["add_details"]

_IMAGES = 10  # a cluster
_LARGEST_IMAGE = 64  # pixels a side in the report; larger ones are thinned out
_TEXTS = 5000  # that words are counted in
_LETTERS = 5000  # of each of them
_TERMS, _SAMPLES, _SAMPLE_LETTERS = 10, 3, 260
_COLUMNS = 6
_LEAST = 0.005  # of a difference that is not written as 0.00
_NUMBERS = 4_000_000  # that means and deviations are taken of


def add_details(
    clusters: list[Cluster], dataset: Dataset, labels: np.ndarray, confidence: np.ndarray, pictures: bool
) -> str:
    """Describes the clusters by what their rows are; returns what that is: "images", "texts", "columns" or ""."""
    if dataset.image_shape is not None:
        if pictures:
            _add_images(clusters, dataset, labels, confidence)
        return "images" if pictures else ""
    if dataset.texts is not None:
        _add_texts(clusters, dataset.texts, labels, confidence)
        return "texts"
    if dataset.of_text:  # their columns mean nothing to a reader
        return ""
    _add_profiles(clusters, dataset.X, dataset.columns, labels)
    return "columns"


def _members(labels: np.ndarray, confidence: np.ndarray, k: int, most: int) -> np.ndarray:
    """Rows of a cluster in even steps from the most to the least certain."""
    members = np.flatnonzero(labels == k)
    members = members[np.argsort(-confidence[members], kind="stable")]
    return members[
        np.unique(np.linspace(0, max(len(members) - 1, 0), most).round().astype(int))[: len(members)]
    ]


def _add_images(
    clusters: list[Cluster], dataset: Dataset, labels: np.ndarray, confidence: np.ndarray
) -> None:
    from desc_ext.plots.images import drawn_image, tones  # matplotlib takes its time

    shape = dataset.image_shape
    assert shape is not None
    step = -(-max(shape[:2]) // _LARGEST_IMAGE)
    shown = [_members(labels, confidence, cluster.number, _IMAGES) for cluster in clusters]
    black_white = tones(dataset.X, np.concatenate(shown))
    for cluster, rows in zip(clusters, shown, strict=True):
        if len(rows):
            images = [drawn_image(dataset.X[row], shape, black_white)[::step, ::step] for row in rows]
            cluster.picture, cluster.n_pictures = _strip(images), len(rows)


def _strip(images: list[np.ndarray]) -> str:
    from PIL import Image  # which matplotlib brings along

    gap = np.full((images[0].shape[0], max(1, images[0].shape[1] // 10), 3), 255, np.uint8)
    parts = [part for image in images for part in (image, gap)][:-1]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(parts, axis=1)).save(file, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _add_texts(
    clusters: list[Cluster], texts: Sequence[str], labels: np.ndarray, confidence: np.ndarray
) -> None:
    rows = np.arange(len(texts))
    if len(rows) > _TEXTS:
        rows = np.sort(np.random.default_rng(0).choice(rows, _TEXTS, replace=False))
    terms = _terms([texts[row][:_LETTERS] for row in rows.tolist()], labels[rows])
    for cluster in clusters:
        cluster.terms = terms.get(cluster.number, ())
        shown = _members(labels, confidence, cluster.number, _SAMPLES).tolist()
        cluster.samples = [_beginning(texts[row]) for row in shown]


def _terms(texts: list[str], labels: np.ndarray) -> dict[int, list[str]]:
    """Words of each cluster whose mean tf-idf is furthest above that of all texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    few = 2 if len(texts) < 200 else 5
    try:
        vectoriser = TfidfVectorizer(sublinear_tf=True, min_df=few, max_df=0.5, stop_words="english")
        found = vectoriser.fit_transform(texts)
    except ValueError:  # no word is in enough of the texts
        return {}
    words, overall = vectoriser.get_feature_names_out(), np.asarray(found.mean(axis=0)).ravel()
    terms = {}
    for k in np.unique(labels):
        above = np.asarray(found[labels == k].mean(axis=0)).ravel() - overall
        best = np.argsort(-above, kind="stable")[:_TERMS]
        terms[int(k)] = [str(words[i]) for i in best if above[i] > 0]
    return terms


def _beginning(text: str) -> str:
    text = " ".join(text[: 4 * _SAMPLE_LETTERS].split())
    return text if len(text) <= _SAMPLE_LETTERS else text[:_SAMPLE_LETTERS].rsplit(" ", 1)[0] + " …"


def _add_profiles(
    clusters: list[Cluster], X: np.ndarray | StoredRows, columns: Sequence[str] | None, labels: np.ndarray
) -> None:
    most = max(_NUMBERS // X.shape[1], 1000)
    if len(X) > most:
        rows = np.sort(np.random.default_rng(0).choice(len(X), most, replace=False))
        X, labels = X[rows], labels[rows]
    values = np.asarray(X, dtype=np.float64)
    names = columns or [f"column {i}" for i in range(X.shape[1])]
    means, deviations = values.mean(axis=0), values.std(axis=0)
    varying = deviations > 1e-12 * np.abs(means)
    for cluster in clusters:
        members = values[labels == cluster.number]
        if not len(members):
            continue
        own = members.mean(axis=0)
        differences = np.where(varying, (own - means) / np.where(varying, deviations, 1), 0)
        best = np.argsort(-np.abs(differences), kind="stable")[:_COLUMNS]
        cluster.profile = [
            (names[i], float(own[i]), float(differences[i])) for i in best if abs(differences[i]) >= _LEAST
        ]
