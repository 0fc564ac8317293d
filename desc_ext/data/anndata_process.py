"""Reads an AnnData file; see isolated.py. HDF5 can be led into a loop without end by a damaged one.

Asked are "array" (X, layers/NAME, obsm/NAME), "labels" and "id" (columns of obs) and "largest", the bytes that the rows
may have. The rows go to FOLDER/rows.npy; found.json has "arrays" and "obs" (what there is to ask for), "names" of the columns
(None where they have none), "ids", "labels", and "too_large", the bytes of a sparse array that has too many.
"""

from __future__ import annotations

import json
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np


def main(path: str, folder: str, asked: dict[str, Any]) -> None:
    data = anndata.read_h5ad(path)
    arrays = ["X"] * (data.X is not None)
    arrays += [*(f"layers/{name}" for name in data.layers), *(f"obsm/{name}" for name in data.obsm)]
    found: dict[str, Any] = {"arrays": arrays, "obs": list(data.obs.columns)}
    if asked["array"] in arrays:
        group, _, name = asked["array"].partition("/")
        rows = data.X if group == "X" else getattr(data, group)[name]
        found["names"] = None if group == "obsm" else data.var_names.tolist()
        if hasattr(rows, "toarray"):
            size = rows.shape[0] * rows.shape[1] * rows.dtype.itemsize
            found["too_large"] = size if size > asked["largest"] else None
            rows = None if found["too_large"] else rows.toarray()
        if rows is not None:
            np.save(Path(folder) / "rows.npy", np.asarray(rows), allow_pickle=False)
    if asked["labels"] in data.obs:
        found["labels"] = data.obs[asked["labels"]].astype(object).tolist()
    names = data.obs_names if asked["id"] is None else data.obs.get(asked["id"])
    found["ids"] = None if names is None else [str(name) for name in names]
    (Path(folder) / "found.json").write_text(json.dumps(found, default=_plain))


def _plain(value: Any) -> Any:
    """A value of NumPy as Python's, others, such as dates, as words."""
    return value.item() if isinstance(value, np.generic) else str(value)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[4]),) * 2)
    warnings.simplefilter("ignore")
    try:
        main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
    except Exception as error:  # whatever the bytes of a damaged file lead h5py to
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
