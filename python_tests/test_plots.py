"""Pictures: what is drawn is read back from the figures and from the files' pixels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from desc_ext import plots
from desc_ext.models import DESC
from desc_ext.plots.images import drawn_image, tones


@pytest.fixture
def blobs():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 60)
    return 12 * np.eye(3, 8)[labels] + rng.normal(size=(180, 8)), labels


def history():
    pretrain = [{"stage": "pretrain", "epoch": i, "loss": 2.0 / i, "seconds": 1.0} for i in range(1, 5)]
    refine = [
        {
            "stage": "refine", "epoch": i, "loss": 1.0 / i, "basis": 0.5 / i, "cluster_sizes": [1, 2],
            "acc": 0.1 * i, "nmi": 0.2, "ari": 0.3,
        }
        for i in range(1, 4)
    ]  # fmt: skip
    return pretrain + refine


def lines_of(axes) -> dict:
    return {line.get_label().split(" (")[0]: line.get_ydata() for line in axes.get_lines()}


def test_projection_keeps_clusters_apart_and_names_its_rows(blobs):
    X, labels = blobs
    points, rows, axes = plots.project_to_plane(X, max_points=100)
    assert axes == ("t-SNE 1", "t-SNE 2")
    assert points.shape == (100, 2)
    assert len(np.unique(rows)) == 100
    assert (np.diff(rows) > 0).all()
    distances = ((points[:, None] - points[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    same = labels[rows][distances.argmin(1)] == labels[rows]
    assert same.mean() == 1  # 12 standard deviations apart: a neighbour of another cluster would be a fault
    again, _, _ = plots.project_to_plane(X, max_points=100)
    np.testing.assert_array_equal(points, again)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 3), (30, 1), (30, 2), (6, 3)])
def test_projection_of_little_data(shape):
    X = np.random.default_rng(0).normal(size=shape)
    points, rows, _ = plots.project_to_plane(X)
    assert points.shape == (shape[0], 2)
    assert np.isfinite(points).all()
    assert rows.tolist() == list(range(shape[0]))


def degenerate() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 32)).astype(np.float32)
    one = np.zeros((20_000, 32), np.float32)
    one[::50, 7] = 1 + rng.random(400)
    outlier = X.copy()
    outlier[0] = 1e30
    return {
        "a single column": X[:, :1],
        "denormal numbers": X * np.float32(1e-45) * 4,
        "the smallest numbers": (X > 0).astype(np.float64) * 5e-324,
        "the largest numbers": np.sign(X).astype(np.float64) * 1.7e308,
        "one column that is not zero": one,
        "nothing but zeros": np.zeros((100, 5)),
        "equal rows": np.full((100, 5), 3.7),
        "three different rows": X[np.arange(300) % 3],
        "an outlier": outlier,
        "no row": np.zeros((0, 4)),
        "no finite row": np.full((9, 4), np.nan),
    }


@pytest.mark.parametrize("name", degenerate())
def test_t_sne_is_never_given_what_it_cannot_take(name, monkeypatch):
    """It ends the process where distances are not numbers, so what it is given is looked at here."""
    import sklearn.manifold

    class Watched(sklearn.manifold.TSNE):
        def fit_transform(self, X, y=None):
            assert np.isfinite(X).all()
            assert np.float32(X[:, 0]).std() > 0.1
            assert np.abs(X).max() < 1e6
            assert len(np.unique(np.float32(X), axis=0)) >= 12
            return super().fit_transform(X)

    monkeypatch.setattr(sklearn.manifold, "TSNE", Watched)
    X = degenerate()[name]
    points, rows, axes = plots.project_to_plane(X, max_points=300)
    assert points.shape == (len(rows), 2)
    assert np.isfinite(points).all()
    assert np.abs(points).max(initial=0) < 1e6
    values = len(np.unique(X[rows], axis=0))
    assert len(np.unique(points, axis=0)) <= values
    scaled = np.nan_to_num(X.astype(float))
    scaled /= np.abs(scaled).max(initial=0) or 1
    if values < 12 or np.linalg.matrix_rank(scaled) < 3:
        assert axes[0] in ("principal component 1", "(no further direction)")


def test_equal_rows_are_one_point():
    X = np.random.default_rng(0).normal(size=(40, 6))
    points, _, axes = plots.project_to_plane(np.concatenate([X, X, X[:1].repeat(100, 0)]))
    assert axes[0] == "t-SNE 1"
    np.testing.assert_array_equal(points[:40], points[40:80])
    assert len(np.unique(points, axis=0)) == 40


def test_projection_leaves_out_rows_that_are_not_finite(blobs):
    X = blobs[0].copy()
    X[3, 2] = np.nan
    assert 3 not in plots.project_to_plane(X)[1]


def test_embedding_draws_every_point_and_every_number(blobs):
    _, labels = blobs
    points = np.random.default_rng(0).normal(size=(180, 2)) + 10 * labels[:, None]
    axes = plots.embedding_figure(points, labels * 7, "title", "subtitle").axes[0]
    drawn = np.concatenate([collection.get_offsets() for collection in axes.collections])
    assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, points.tolist()))
    assert {text.get_text() for text in axes.texts if text.get_text()} == {"0", "7", "14", "subtitle"}
    assert axes.get_title(loc="left") == "title"


def test_curves_show_losses_by_stage_and_metrics():
    figure = plots.curves_figure(history(), "title")
    pretrain, refine, metrics = figure.axes
    np.testing.assert_allclose(lines_of(pretrain)["total"], [2, 1, 2 / 3, 0.5])
    np.testing.assert_allclose(lines_of(refine)["basis"], [0.5, 0.25, 0.5 / 3])
    np.testing.assert_allclose(lines_of(metrics)["ACC"], [0.1, 0.2, 0.3])
    for axes in figure.axes:
        assert axes.get_xlabel() == "epoch"
        assert axes.get_ylabel()
    assert set(lines_of(pretrain)) == {"total"}
    figure.draw_without_rendering()
    for axes in figure.axes:
        names, inside = axes.get_legend().get_window_extent(), axes.get_window_extent()
        assert names.y1 < inside.y0  # the names lie over no curve
        assert inside.height > 150
        assert names.x1 < figure.bbox.x1


@pytest.mark.filterwarnings("ignore:no row was ever confident")
def test_curves_show_the_terms_that_the_total_is_the_sum_of():
    X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    model = DESC(2, hidden_sizes=(8,), pretrain_epochs=1, max_epochs=3, n_init=1, random_state=0).fit(X)
    pretrain, refine, _ = plots.curves_figure(model.history_, "title").axes
    curves = lines_of(refine)
    assert set(curves) == {"total", "reconstruction", "basis", "clustering", "head", "anchor"}
    total = curves.pop("total")
    np.testing.assert_allclose(sum(curves.values()), total, rtol=1e-5)
    weight = model.resolved_params_["basis_weight"]
    np.testing.assert_allclose(curves["basis"], [weight * r["basis"] for r in model.history_[1:]], rtol=1e-6)
    # the stage of one epoch: its point in the middle of an axis with one number
    assert pretrain.get_xlim() == (0.5, 1.5)
    assert [tick for tick in pretrain.get_xticks() if 0.5 <= tick <= 1.5] == [1]


def test_titles_and_names_are_not_mathematics(tmp_path):
    title = "desc on price_$a_$b^.npy\n" + "x" * 200
    points = np.random.default_rng(0).normal(size=(20, 2))
    labels = np.arange(20) % 2
    figures = [
        plots.embedding_figure(points, labels, title, title),
        plots.embedding_figure(points, labels, "t", names=("$a_$b^", "$\\frac$")),
        plots.curves_figure([{"stage": "$a_$b^", "loss": 1.0, "$c_$d^": 0.5}], title),
        plots.sizes_figure(labels, 2, title),
        plots.affinity_figure(np.eye(20), np.sort(labels), title),
        plots.examples_figure(np.ones((20, 4)), labels, points[:, 0], (2, 2), title),
    ]
    for figure in figures:
        plots.save_figure(figure, tmp_path / "p.png")


def test_a_picture_that_cannot_be_drawn_is_a_warning_and_costs_no_other(tmp_path, blobs):
    X, labels = blobs

    def fail():
        raise RuntimeError("no ink")

    further = {"first.png": fail, "second.png": lambda: plots.sizes_figure(labels, 3, "t")}
    with pytest.warns(UserWarning, match=r"first.png could not be drawn: RuntimeError: no ink"):
        paths = plots.save_pictures(tmp_path, history(), X, labels, X[:, 0], X, 3, None, "h", further=further)
    names = {path.name for path in paths}
    assert names == {path.name for path in tmp_path.iterdir()} == {
        "embedding.png", "cluster_sizes.png", "curves.png", "second.png",
    }  # fmt: skip


def test_the_number_of_a_small_cluster_stands_beside_it():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(300, 2)), [[6, 6]] + 0.02 * rng.normal(size=(5, 2))])
    labels = np.repeat([0, 1], [300, 5])
    figure = plots.embedding_figure(points, labels, "title")
    figure.draw_without_rendering()
    large, small = (text for text in figure.axes[0].texts if text.get_text() in ("0", "1"))
    assert large.arrow_patch is None
    assert small.arrow_patch is not None
    members = figure.axes[0].transData.transform(points[labels == 1])
    box = small.get_window_extent()
    assert not any(box.contains(*point) for point in members)


def test_the_number_of_a_cluster_in_parts_does_not_hide_the_part_that_it_is_of():
    points = np.repeat([[-1.0, 0.0], [1.0, 0.0]], [20, 40], axis=0)
    figure = plots.embedding_figure(points, np.zeros(60, int), "title")
    figure.draw_without_rendering()
    [number] = (text for text in figure.axes[0].texts if text.get_text() == "0")
    assert number.arrow_patch is not None
    on_paper = figure.axes[0].transData.transform(points)
    box = number.get_window_extent()
    assert not any(box.contains(*point) for point in on_paper)
    away = np.hypot(*(on_paper - [(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2]).T) * 72 / figure.dpi
    assert away.min() < 45  # points


def test_the_even_share_does_not_cross_the_numbers():
    figure = plots.sizes_figure([0, 0, 1, 1], 2, "title")
    figure.draw_without_rendering()
    line, numbers = figure.axes[0].get_lines()[0], [t for t in figure.axes[0].texts if t.get_text() == "2"]
    assert len(numbers) == 2
    for number in numbers:
        assert number.get_zorder() > line.get_zorder()
        [halo] = number.get_path_effects()
        assert halo._gc["foreground"] == "white"
        assert halo._gc["linewidth"] >= 3


def test_curves_without_labels_or_epochs_and_with_nan():
    rows = [{k: v for k, v in record.items() if k not in ("acc", "nmi", "ari")} for record in history()]
    assert len(plots.curves_figure(rows, "title").axes) == 2
    rows[0]["loss"] = float("nan")
    np.testing.assert_allclose(lines_of(plots.curves_figure(rows, "t").axes[0])["total"], [1, 2 / 3, 0.5])
    assert plots.curves_figure([], "title").axes


def test_sizes_count_empty_clusters_too():
    axes = plots.sizes_figure([0, 0, 3, 3, 3, 1], 5, "title").axes[0]
    assert [bar.get_height() for bar in axes.patches] == [2, 1, 0, 3, 0]
    assert axes.get_lines()[0].get_ydata()[0] == pytest.approx(6 / 5)


def test_a_spectrum_shows_laplacian_eigenvalues_and_the_chosen_number():
    values = [1.0, 0.99, 0.7, 0.6]
    axes = plots.spectrum_figure(values, 2, [(2, 0.9), (3, 0.2)], "title").axes[0]
    first, further, *_ = axes.get_lines()
    np.testing.assert_allclose(first.get_xydata(), [(1, 0), (2, 0.01)], atol=1e-12)
    np.testing.assert_allclose(further.get_xydata(), [(3, 0.3), (4, 0.4)])
    assert [line.get_xdata()[0] for line in axes.get_lines()[2:]] == [2.5, 3.5]
    assert "2 clusters: 0.90\n3 clusters: 0.20" in axes.texts[0].get_text()
    assert not plots.spectrum_figure(values, 4, [], "title").axes[0].texts


def test_examples_go_from_most_to_least_certain():
    X = np.arange(40, dtype=np.float32).repeat(4).reshape(40, 4)  # row i is the image of constant i
    labels = np.arange(40) % 2
    figure = plots.examples_figure(X, labels, np.linspace(1, 0, 40), (2, 2), "title", columns=5)
    images = [image.get_array() for image in figure.axes[0].images]
    assert len(images) == 10
    for k in (0, 1):
        members = np.arange(k, 40, 2)[[0, 5, 10, 14, 19]]  # as 19/4 rounds
        # 0 is black and 39, the largest value shown, white
        tones = [int(image[1, 1, 0]) for image in images[5 * k : 5 * k + 5]]
        assert tones == [round(255 * member / 39) for member in members.tolist()]
        assert figure.axes[0].texts[k].get_text() == str(k)


def test_images_are_drawn_as_they_are():
    X = np.array([[0, 50, 100, 200], [10, 20, np.nan, 40]])
    black_white = tones(X, [0, 1])
    assert black_white == (0, 200)
    first, second = (drawn_image(row, (2, 2), black_white) for row in X)
    assert first[..., 0].tolist() == [[0, 64], [128, 255]]
    assert second[..., 0].tolist() == [[13, 26], [0, 51]]  # a dark image stays dark
    assert (first == first[..., :1]).all()  # grey
    assert tones(-X[:1], [0]) == (-200, 0)
    assert drawn_image(-X[0], (2, 2, 1), (-200, 0))[..., 1].tolist() == [[255, 191], [128, 0]]
    colours = np.array([255, 0, 51, 9])
    assert drawn_image(colours[:3], (1, 1, 3), (0, 255)).tolist() == [[[255, 0, 51]]]
    assert drawn_image(colours, (1, 1, 4), (0, 255)).tolist() == [[[255, 0, 51]]]
    assert drawn_image(colours, (2, 1, 2), (0, 255))[:, 0].tolist() == [[255] * 3, [51] * 3]
    assert not drawn_image(np.zeros(4), (2, 2), tones(np.zeros((1, 4)), [0])).any()


def test_colours_are_told_apart_and_beyond_ten_markers_differ():
    assert len(set(plots.cluster_colors(10))) == 10
    points = np.random.default_rng(0).normal(size=(24, 2))
    axes = plots.embedding_figure(points, np.arange(24) % 12, "title").axes[0]
    looks = {(tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in axes.collections}
    assert len(looks) == 12


def test_all_pictures_are_written_and_repeat_bit_for_bit(tmp_path, blobs):
    X, labels = blobs
    contents = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        paths = plots.save_pictures(folder, history(), X, labels, X[:, 0], X, 3, (2, 4), "desc on blobs")
        assert sorted(p.name for p in paths) == [
            "cluster_sizes.png", "curves.png", "embedding.png", "examples.png",
        ]  # fmt: skip
        contents.append([path.read_bytes() for path in sorted(paths)])
    assert contents[0] == contents[1]
    paths = plots.save_pictures(tmp_path, history(), X, labels, X[:, 0], X, 3, None, "desc on blobs")
    assert "examples.png" not in {path.name for path in paths}


def test_no_global_state_of_matplotlib_is_touched(tmp_path, blobs):
    import subprocess
    import sys

    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "from desc_ext import plots\n"
        f"plots.save_figure(plots.sizes_figure([0, 1], 2, 't'), {str(tmp_path / 'p.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert str(matplotlib.rcParams.copy()) == str(before)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_affinities_are_means_over_rows_of_a_cluster_without_the_diagonal():
    labels = np.repeat([0, 1, 5], [300, 290, 10])
    affinity = np.where(labels[:, None] == labels, 0.5, 0.1) + 100 * np.eye(600)
    axes = plots.affinity_figure(affinity, labels, "title").axes[0]
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape == (600, 600)
    off = ~np.eye(600, dtype=bool)
    np.testing.assert_allclose(shown[off], np.where(labels[:, None] == labels, 0.5, 0.1)[off])
    assert shown.max() < 1
    noise = np.random.default_rng(0).random((600, 600))
    means = np.asarray(plots.affinity_figure(noise, labels, "title").axes[0].images[0].get_array())
    assert np.unique(means).size <= 201**2 + 300
    np.testing.assert_allclose(means[0, 300], noise[:3, 300:303].mean())


def test_numbers_beside_affinities_do_not_overlap():
    labels = np.repeat(np.arange(60), [540, *[1] * 59])
    figure = plots.affinity_figure(np.ones((599, 599)), labels, "title")
    figure.draw_without_rendering()
    boxes = [tick.get_window_extent() for tick in figure.axes[0].get_yticklabels() if tick.get_text()]
    assert len(boxes) > 1
    assert all(not a.overlaps(b) for a, b in itertools.pairwise(boxes))
