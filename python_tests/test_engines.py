"""The examples for engines of large tables, each on its local engine; `make test-engines` installs them."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from helpers import REPOSITORY
from sklearn.datasets import load_digits

from desc_ext.models import KSubspaces


@pytest.mark.timeout(280)
@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_an_engine_gives_every_row_the_cluster_of_predict(engine, tmp_path):
    pytest.importorskip({"ray": "ray.data", "dask": "dask.dataframe"}[engine])
    digits = load_digits(as_frame=True).data.astype(np.float32)
    model = KSubspaces(10, subspace_dim=4, n_init=2, random_state=0).fit(digits[:600])
    model.save(tmp_path / "model")
    (tmp_path / "rows").mkdir()
    rows = digits.assign(number=np.arange(len(digits)))
    for part in range(3):
        rows[part::3].to_parquet(tmp_path / "rows" / f"part-{part}.parquet", index=False)
    script = REPOSITORY / "examples" / f"predict_with_{engine}.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path / "model", tmp_path / "rows", tmp_path / "out"], capture_output=True,
        text=True, timeout=260, env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = pd.read_parquet(tmp_path / "out").sort_values("number")
    assert found["number"].tolist() == list(range(len(digits)))
    np.testing.assert_array_equal(found["cluster"], model.predict(digits))
