"""Clusters of Parquet files by Dask, on the cores of one machine or a cluster of them.

    pip install "dask[dataframe]"
    python examples/predict_with_dask.py results/ rows/ clustered/

results/ is what `desc-ext fit --out` or an estimator's save wrote; every process loads it once.
"""

from __future__ import annotations

import sys

import dask.dataframe as dd

from desc_ext.models import BatchPredictor


def main(model: str, source: str, out: str) -> None:
    rows = dd.read_parquet(source)
    predictor = BatchPredictor(model)
    types = rows._meta.assign(**{predictor.output: 0})
    rows.map_partitions(predictor, meta=types).to_parquet(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
