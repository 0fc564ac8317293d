"""Arrays in archives of several kinds, and stacks of images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import io, sparse

from desc_ext.data import DataError, load_dataset

X = np.random.default_rng(0).normal(size=(6, 3))
Y = np.array([2, 1, 2, 3, 1, 2])


def test_archives_of_several_arrays(tmp_path):
    """As Keras keeps its data sets."""
    np.savez(tmp_path / "k.npz", x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2])
    with pytest.raises(
        DataError, match=r"several arrays .x_train, y_train, x_test, y_test.*--array x_train --labels"
    ):
        load_dataset(tmp_path / "k.npz")
    found = load_dataset(tmp_path / "k.npz", array="x_test", labels="y_test")
    np.testing.assert_array_equal(found.X, X[:2])
    np.testing.assert_array_equal(found.labels, Y[:2])
    with pytest.raises(DataError, match=r"no array 'x' \(--array\); it has x_train"):
        load_dataset(tmp_path / "k.npz", array="x")


def test_matlab(tmp_path):
    """As the benchmarks of subspace clustering come: rows in fea, classes in gnd."""
    io.savemat(tmp_path / "m.mat", {"fea": X, "gnd": Y[:, None], "note": "some words"})
    found = load_dataset(tmp_path / "m.mat", array="fea", labels="gnd")
    np.testing.assert_array_equal(found.X, X)
    np.testing.assert_array_equal(found.labels, Y)
    np.testing.assert_array_equal(load_dataset(tmp_path / "m.mat").X, X)
    io.savemat(tmp_path / "columns.mat", {"X": X.T, "gnd": Y})
    with pytest.raises(DataError, match=r"one a column; .* transpose"):
        load_dataset(tmp_path / "columns.mat", labels="gnd")
    io.savemat(tmp_path / "sparse.mat", {"fea": sparse.csc_matrix(X), "gnd": Y})
    with pytest.raises(DataError, match=r"'fea' is a sparse array, .* TruncatedSVD"):
        load_dataset(tmp_path / "sparse.mat", labels="gnd")
    (tmp_path / "hdf.mat").write_bytes(
        b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM" + bytes(384)
    )
    with pytest.raises(DataError, match=r"format 7.3 .* '-v7'"):
        load_dataset(tmp_path / "hdf.mat")
    io.savemat(tmp_path / "old.mat", {"fea": X}, format="4")
    with pytest.raises(DataError, match=r"format 4; .* '-v7'"):
        load_dataset(tmp_path / "old.mat")


def test_a_sparse_array_says_what_to_do(tmp_path):
    sparse.save_npz(tmp_path / "s.npz", sparse.csr_array(X))
    with pytest.raises(DataError, match=r"sparse array \(scipy\.sparse\.save_npz\).*TruncatedSVD"):
        load_dataset(tmp_path / "s.npz")


def test_python_objects_are_refused_in_words_of_ours(tmp_path):
    np.save(tmp_path / "o.npy", np.array([[1, "a"], [2, None]], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "o.npz", X=np.array([[1, "a"], [2, None]], dtype=object))
    for name in ("o.npy", "o.npz"):
        with pytest.raises(
            DataError, match="Python objects, which are not loaded because they may run any code"
        ) as error:
            load_dataset(tmp_path / name)
        assert "allow_pickle" not in str(error.value)


@pytest.mark.filterwarnings("ignore:The 'future.infer_string' option")
@pytest.mark.parametrize("as_sparse", [False, True])
def test_anndata(tmp_path, as_sparse):
    import anndata
    import pandas as pd

    cells, genes = [f"cell{i}" for i in range(6)], ["g1", "g2", "g3"]
    with pd.option_context("future.infer_string", False):  # anndata writes no strings of pandas' newer kind
        kinds = pd.Categorical.from_codes(Y - 1, list("123"))
        batches = pd.Categorical.from_codes([-1, 0, 1, 0, 1, 0], list("pq"))
        anndata.AnnData(
            sparse.csr_matrix(X) if as_sparse else X,
            pd.DataFrame({"kind": kinds, "batch": batches}, index=cells),
            pd.DataFrame(index=genes),
            layers={"half": X / 2},
            obsm={"X_pca": X[:, :2]},
        ).write_h5ad(tmp_path / "d.h5ad")
    found = load_dataset(tmp_path / "d.h5ad", labels="kind")
    np.testing.assert_array_equal(found.X, X)
    assert (found.labels.tolist(), found.ids.tolist(), found.columns) == (
        Y.astype(str).tolist(),
        cells,
        ("g1", "g2", "g3"),
    )
    np.testing.assert_array_equal(load_dataset(tmp_path / "d.h5ad", array="layers/half").X, X / 2)
    np.testing.assert_array_equal(load_dataset(tmp_path / "d.h5ad", array="obsm/X_pca").X, X[:, :2])
    np.testing.assert_array_equal(load_dataset(tmp_path / "d.h5ad", drop=["g2"]).X, X[:, [0, 2]])
    np.testing.assert_array_equal(load_dataset(tmp_path / "d.h5ad", columns=["g3,g1"]).X, X[:, [2, 0]])
    of_layer = load_dataset(tmp_path / "d.h5ad", array="layers/half").preparation
    np.testing.assert_array_equal(load_dataset(tmp_path / "d.h5ad", preparation=of_layer).X, X / 2)
    with pytest.raises(DataError, match=r"no array 'X_umap' .*; it has X, layers/half, obsm/X_pca"):
        load_dataset(tmp_path / "d.h5ad", array="X_umap")
    with pytest.raises(DataError, match=r"no column 'sort' in obs \(--labels\); it has kind, batch"):
        load_dataset(tmp_path / "d.h5ad", labels="sort")
    with pytest.raises(DataError, match="missing in 1 of 6 rows"):
        load_dataset(tmp_path / "d.h5ad", labels="batch")


@pytest.mark.parametrize(
    ("shape", "images", "image_shape"),
    [
        ((4, 3, 5, 6), (4, 3, 5, 6), (5, 6, 3)),
        ((4, 5, 6, 3), (4, 3, 5, 6), (5, 6, 3)),
        ((4, 1, 5, 6), (4, 1, 5, 6), (5, 6, 1)),
        ((4, 5, 6, 1), (4, 1, 5, 6), (5, 6, 1)),
        ((4, 4, 32, 32), (4, 4, 32, 32), (32, 32, 4)),
    ],
)
def test_channels_first_and_last_are_one_data_set(tmp_path, shape, images, image_shape):
    values = np.random.default_rng(1).integers(0, 256, images, dtype=np.uint8)
    stored = values if shape == images else values.transpose(0, 2, 3, 1)
    np.save(tmp_path / "s.npy", stored)
    found = load_dataset(tmp_path / "s.npy")
    assert found.image_shape == image_shape
    np.testing.assert_allclose(found.images, values / 255, rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 3, 5, 3), (4, 5, 6, 7)])
def test_a_stack_whose_channels_are_not_clear_is_refused(tmp_path, shape):
    np.save(tmp_path / "s.npy", np.zeros(shape))
    with pytest.raises(DataError, match=r"(both|none) of its axes 1 and 3 could be the channels"):
        load_dataset(tmp_path / "s.npy")


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("x.npy", {"columns": ["0"]}, "--columns means nothing"),
        ("x.npy", {"id": "0"}, "--id means nothing"),
        ("x.npy", {"array": "X"}, "--array means nothing"),
        ("x.npz", {"image_size": (3, 3)}, "--image-size means nothing"),
        ("x.csv", {"array": "X"}, "--array means nothing"),
        ("x.csv", {"image_size": (3, 3)}, "--image-size means nothing"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, name, option, message):
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", X=X)
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / name, **option)
