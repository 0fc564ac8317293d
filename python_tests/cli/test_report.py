"""report.html: what it says is compared with the results, and a browser reads it."""

from __future__ import annotations

import base64
import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.browser import Page, open_page
from helpers.commands import SMALL, run
from PIL import Image
from sklearn.datasets import load_digits, load_wine
from sklearn.metrics import silhouette_samples

from desc_ext import data
from desc_ext.cli.report.clusters import confusion, describe_clusters
from desc_ext.cli.report.details import add_details
from desc_ext.cli.report.render import _number, _percent
from desc_ext.cli.run import Run

HOSTILE = '<script>alert(1)</script> & "quotes" </td> {{ 7 * 7 }}'


@pytest.fixture(scope="module")
def digits_report(tmp_path_factory):
    """A report on images, with classes and baselines, from the command line."""
    folder = tmp_path_factory.mktemp("report") / "o"
    arguments = ["--clusters", 10, "--epochs", 2, "--baselines", "--out", folder, *SMALL]
    code, _, errors = run("fit", "digits", *arguments)
    assert code == 0, errors
    return folder


def report_on(dataset, folder, monkeypatch, pictures=False, **options) -> Page:
    """The report on a fit of k-subspaces to a data set."""
    monkeypatch.setattr(sys, "argv", ["desc-ext", "fit", HOSTILE])
    fitted = Run(
        folder, "k-subspaces", {"random_state": 0, "n_init": 2, "subspace_dim": 1} | options, dataset
    )
    fitted.fit()
    fitted.write_report(pictures)
    return Page((folder / "report.html").read_text())


def texts_dataset() -> data.Dataset:
    rng = np.random.default_rng(0)
    words = {0: ["goal", "match", "league"], 1: ["bank", "market", "shares"], 2: ["film", "actor", "award"]}
    labels = np.arange(90) % 3
    texts = [" ".join(rng.choice([*words[k], "today", "says"], 12)) + f" {HOSTILE}" for k in labels]
    X = np.eye(3, 8)[labels].astype(np.float32) + 0.01 * rng.random((90, 8), dtype=np.float32)
    return data.Dataset("texts", X, labels, ("sport", "business", HOSTILE), of_text=True, texts=texts)


def test_a_browser_reads_it_without_errors_and_without_the_network(digits_report, tmp_path):
    html, console = open_page(digits_report / "report.html", tmp_path / "profile")
    assert console == ""
    page = Page(html)
    sources = [value for _, names in page.elements for key, value in names.items() if key in ("src", "href")]
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert not any(tag == "script" for tag, _ in page.elements)
    assert "url(" not in (digits_report / "report.html").read_text()
    for tag, names in page.elements:
        if tag == "img":
            assert names["alt"]
            assert base64.b64decode(names["src"].partition(",")[2]).startswith(b"\x89PNG")
    assert set(page.tables) == {"scores", "clusters", "confusion", "options"}


@pytest.mark.parametrize("options", [["--window-size=390,800"], ["--blink-settings=preferredColorScheme=0"]])
def test_a_browser_reads_it_on_a_phone_and_in_the_dark(digits_report, tmp_path, options):
    """What it looks like is for the eye; that it is drawn, and dark where that is wanted, for this test."""
    picture = tmp_path / "page.png"
    open_page(digits_report / "report.html", tmp_path / "profile", *options, f"--screenshot={picture}")
    from matplotlib.image import imread

    pixels = imread(picture)[..., :3]
    assert (np.median(pixels) < 0.3) == ("Color" in options[0])
    assert pixels.std() > 0.02


def test_it_says_what_the_results_say(digits_report):
    page = Page((digits_report / "report.html").read_text())
    metrics = json.loads((digits_report / "metrics.json").read_text())
    for method, *cells in page.tables["scores"][1:]:
        assert cells[:3] == [f"{metrics[method][key]:.3f}" for key in ("acc", "nmi", "ari")]
    assert len(page.tables["scores"]) == 4  # the baselines too
    labels, classes = np.load(digits_report / "labels.npy"), load_digits().target
    for row in page.tables["clusters"][1:]:
        k, size = int(row[0]), int(row[1].replace(",", ""))
        counts = np.bincount(classes[labels == k], minlength=10)
        assert size == counts.sum()
        assert row[5].startswith(f"{counts.argmax()} (") if size else row[5] == ""
    header, *rows = page.tables["confusion"]
    for k, *cells in rows:
        expected = [int(((labels == int(k)) & (classes == int(name))).sum()) for name in header[1:]]
        assert [int(cell) for cell in cells] == expected
    diagonal = sum(int(row[1 + i]) for i, row in enumerate(rows))
    assert diagonal / len(labels) == pytest.approx(metrics["desc"]["acc"])
    changed = {name: (value, default) for name, value, default in page.tables["options"][1:]}
    assert changed["max_epochs"] == ("2", "None")
    assert "batch_size" not in changed
    strips = [names for tag, names in page.elements if tag == "img" and names.get("class") == "strip"]
    assert len(strips) == len(np.unique(labels))


def test_images_are_no_negatives(tmp_path, monkeypatch):
    X = np.array([[0, 0, 0, 100], [0, 0, 0, 50], [200, 200, 0, 200]] * 5, dtype=np.float32)
    dataset = data.Dataset("pixels", X, image_shape=(2, 2))
    clusters, _ = describe_clusters(np.zeros(15, np.int64), -np.arange(15.0), X, 1, None)
    assert add_details(clusters, dataset, np.zeros(15, np.int64), -np.arange(15.0), True) == "images"
    with Image.open(io.BytesIO(base64.b64decode(clusters[0].picture.partition(",")[2]))) as strip:
        pixels = np.asarray(strip)
    assert pixels.shape == (2, 10 * 3 - 1, 3)  # a column of white between two images
    assert pixels[:, :2, 0].tolist() == [[0, 0], [0, 128]]  # the first row, beside the largest value, 200


def test_what_comes_from_the_user_is_text(tmp_path, monkeypatch):
    page = report_on(texts_dataset(), tmp_path / "o", monkeypatch, n_clusters=3)
    assert not any(tag == "script" for tag, _ in page.elements)
    assert "<script>alert(1)</script>" in page.text  # as letters
    assert "{{ 7 * 7 }}" in page.text


def test_texts_are_shown_by_their_words(tmp_path, monkeypatch):
    dataset = texts_dataset()
    page = report_on(dataset, tmp_path / "o", monkeypatch, n_clusters=3)
    labels = np.load(tmp_path / "o" / "labels.npy")
    of_class = ({"goal", "match", "league"}, {"bank", "market", "shares"}, {"film", "actor", "award"})
    assert len(page.lists) == 3
    for k, terms in enumerate(page.lists):
        majority = np.bincount(dataset.labels[labels == k]).argmax()
        assert set(terms) & set.union(*of_class) == of_class[majority]
    assert sum(tag == "blockquote" for tag, _ in page.elements) == 9


def test_tables_are_shown_by_the_columns_that_differ(tmp_path, monkeypatch):
    wine = load_wine()
    names = tuple(wine.feature_names)
    classes = np.array([wine.target_names[i] for i in wine.target])
    dataset = data.Dataset("wine", wine.data.astype(np.float32), classes, columns=names)
    page = report_on(dataset, tmp_path / "o", monkeypatch, n_clusters=2)
    labels = np.load(tmp_path / "o" / "labels.npy")
    standard = (wine.data - wine.data.mean(0)) / wine.data.std(0)
    profiles = [rows for key, rows in page.tables.items() if key.startswith("table")]
    for k, rows in enumerate(profiles):
        differences = standard[labels == k].mean(0)
        order = np.argsort(-np.abs(differences))[:6]
        assert [row[0] for row in rows[1:]] == [names[i] for i in order]
        assert [float(row[2]) for row in rows[1:]] == pytest.approx(differences[order], abs=0.01)
    assert len(profiles) == 2


def test_silhouettes_and_confidence_are_means_over_the_clusters():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    embedding = np.eye(3)[labels] + 0.3 * rng.normal(size=(300, 3))
    confidence = rng.random(300)
    clusters, left_out = describe_clusters(labels, confidence, embedding, 4, None)
    values = silhouette_samples(embedding, labels)
    assert left_out == 0
    for k, cluster in enumerate(clusters[:3]):
        assert cluster.silhouette == pytest.approx(values[labels == k].mean())
        assert cluster.confidence == pytest.approx(confidence[labels == k].mean())
    assert (clusters[3].size, clusters[3].silhouette, clusters[3].confidence) == (0, None, None)


def test_many_rows_clusters_and_classes_stay_bounded(tmp_path):
    """A hundred thousand rows in 500 clusters: in seconds, and no larger than a picture."""
    rng = np.random.default_rng(0)
    n = 100_000
    labels, embedding = rng.integers(0, 500, n), rng.normal(size=(n, 5)).astype(np.float32)
    embedding[7] = np.nan
    clusters, left_out = describe_clusters(labels, rng.random(n), embedding, 500, None)
    assert (len(clusters), left_out) == (60, 440)
    assert confusion(labels, 500, labels, tuple(map(str, range(500)))) is None
    texts = ["word " * 100_000] * 50 + ["other words here"] * (n - 50)
    dataset = data.Dataset("d", embedding, texts=texts)
    assert add_details(clusters, dataset, labels, rng.random(n), True) == "texts"
    assert sum(len(sample) for cluster in clusters for sample in cluster.samples) < 100_000
    image = rng.random((60, 1000 * 1000), dtype=np.float32)
    dataset = data.Dataset("d", image, image_shape=(1000, 1000))
    few = np.arange(60) % 2
    clusters, _ = describe_clusters(few, np.ones(60), embedding[:60], 2, None)
    assert add_details(clusters, dataset, few, np.ones(60), True) == "images"
    assert max(len(cluster.picture) for cluster in clusters) < 200_000


@pytest.mark.parametrize("flag", ["--no-pictures", "--no-report"])
def test_pictures_and_report_can_be_left_out(tmp_path, flag):
    arguments = ["--model", "k-subspaces", "--set", "n_init=1", "--out", tmp_path / "o", flag]
    code, _, errors = run("fit", "digits", "--clusters", 3, *arguments)
    assert code == 0, errors
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert ("report.html" in names) == (flag == "--no-pictures")
    assert bool([name for name in names if name.endswith(".png")]) == (flag == "--no-report")
    if flag == "--no-pictures":
        assert "<img" not in (tmp_path / "o" / "report.html").read_text()


@pytest.fixture(scope="module")
def one_cluster(tmp_path_factory):
    """The folder of a fit of one cluster to a table, and what the command said."""
    folder = tmp_path_factory.mktemp("one")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(60, 4)))
    code, output, errors = run(
        "fit", folder / "x.npy", "--model", "self-expressive", "--clusters", 1, "--out", folder / "o"
    )
    assert code == 0, errors
    return folder / "o", output


def test_one_cluster_is_told_in_the_singular_and_without_an_empty_card(one_cluster):
    folder, output = one_cluster
    assert "60 rows of 4 columns, 1 cluster, seed 0" in output
    assert "\n1 cluster: 60 rows\n" in output
    page = Page((folder / "report.html").read_text())
    assert "1 clusters" not in page.text
    assert "of which" not in page.text
    assert "What the clusters consist of" not in page.text
    assert not [names for _, names in page.elements if names.get("class") == "card"]
    assert "iterations of k-means" in page.text
    assert page.tables["clusters"][1][1:3] == ["60", "100.0 %"]


def test_the_spectrum_is_said_to_be_searched_only_where_it_was(one_cluster):
    text = Page((one_cluster[0] / "report.html").read_text()).text
    assert "The spectrum of the graph (spectrum.png)" in text
    assert "was looked for" not in text


@pytest.mark.parametrize(
    ("value", "written"),
    [(-0.0004, "0.000"), (-0.0006, "-0.001"), (0.5, "0.500"), (1234.5, "1,234"), (None, "–")],
)
def test_numbers_that_are_rounded_to_zero_have_no_sign(value, written):
    assert _number(value) == written


@pytest.mark.parametrize(
    ("share", "written"), [(0.1, "10.0 %"), (0.093, "9.3 %"), (1, "100.0 %"), (0, "0.0 %")]
)
def test_shares_have_the_same_digits(share, written):
    assert _percent(share) == written


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([100, 100, 1, 0], "4 clusters: 100, 100, 1, 0 rows"),
        ([1], "1 cluster: 1 row"),
        ([*range(5, 26), 0, 1000], "23 clusters, 1 empty: 5 to 1,000 rows, median 16"),
    ],
)
def test_sizes_are_said_in_a_line(sizes, said):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    fitted = Run.__new__(Run)
    fitted._estimator = SimpleNamespace(labels_=labels, resolved_params_={"n_clusters": len(sizes)})
    assert fitted.sizes() == said


def test_a_report_that_fails_costs_nothing_else(tmp_path, monkeypatch):
    from desc_ext.cli import report

    def fail(*arguments):
        raise RuntimeError("no paper")

    monkeypatch.setattr(report, "describe_run", fail)
    arguments = ["--model", "k-subspaces", "--set", "n_init=1", "--no-pictures", "--out", tmp_path / "o"]
    code, output, errors = run("fit", "digits", "--clusters", 3, *arguments)
    assert code == 0
    assert "warning: the report could not be written: RuntimeError: no paper" in errors
    assert "labels.npy" in output
