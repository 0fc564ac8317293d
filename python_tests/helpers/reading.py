"""What every reader promises of any bytes at all: a data set that is whole, or a DataError. For tests that draw the bytes."""

from __future__ import annotations

import gzip
import io
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image
from scipy import io as scipy_io

from desc_ext.data import DataError, Dataset, load_dataset

X = np.random.default_rng(0).normal(size=(8, 3))
KINDS = list("uvuvuvuv")


def _written(write) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def samples() -> dict[str, bytes]:
    """A whole file of every kind, by a name with its suffix."""
    frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(kind=KINDS)
    lines = "".join(
        json.dumps({"text": f"ship {'sea' if k == 'u' else 'rain'}", "kind": k}) + "\n" for k in KINDS
    )
    pixels = np.arange(48, dtype=np.uint8).reshape(8, 6) * 5
    images = {
        kind: _written(lambda buffer, kind=kind: Image.fromarray(pixels).convert("RGB").save(buffer, kind))
        for kind in ("png", "jpeg", "tiff", "webp")
    }
    table = frame.to_csv(index=False)
    return {
        "t.csv": table.encode(),
        "t.csv.gz": gzip.compress(table.encode()),
        "t.csv.zst": pa.compress(table.encode(), codec="zstd", asbytes=True),
        "t.txt": _written(lambda buffer: np.savetxt(buffer, X, header="a b c")),
        "text.csv": pd.DataFrame(
            {"text": [f"ship {'sea wind' if k == 'u' else 'rain sky'}" for k in KINDS], "kind": KINDS}
        )
        .to_csv(index=False)
        .encode(),
        "t.jsonl": lines.encode(),
        "t.parquet": _written(frame.to_parquet),
        "t.feather": _written(frame.to_feather),
        "t.npy": _written(lambda buffer: np.save(buffer, X)),
        "t.npz": _written(lambda buffer: np.savez(buffer, X=X, kind=np.array(KINDS))),
        "packed.npz": _written(lambda buffer: np.savez_compressed(buffer, X=X, kind=np.array(KINDS))),
        "t.mat": _written(lambda buffer: scipy_io.savemat(buffer, {"X": X, "kind": np.arange(8)})),
        **{f"image.{kind}": content for kind, content in images.items()},
    }


def read(folder: Path, name: str, content: bytes) -> Dataset | None:
    """The data set of a file of these bytes, checked; None where it is refused.

    Raises:
        AssertionError: what was read is no data set, or the error does not name the file.
    """
    if name.startswith("image."):
        (folder / "images").mkdir(exist_ok=True)
        for old in (folder / "images").iterdir():
            old.unlink()
        path, file = folder / "images", folder / "images" / name
    else:
        path = file = folder / name
    file.write_bytes(content)
    labels = None if name.startswith(("image.", "t.npy", "t.txt")) else "kind"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = load_dataset(path, labels=labels, dimension=2)
    except DataError as error:
        if str(path) not in str(error):
            raise AssertionError(f"the error does not name {path}: {error}") from error
        return None
    assert found.X.ndim == 2
    assert found.X.dtype.kind in "fiu"
    assert found.X.size
    assert found.columns is None or len(found.columns) == found.X.shape[1]
    for one_a_row in (found.labels, found.ids, found.texts):
        assert one_a_row is None or len(one_a_row) == len(found.X)
    return found
