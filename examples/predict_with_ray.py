"""Clusters of Parquet files by Ray Data, on one machine or a cluster of them.

    pip install "ray[data]"
    python examples/predict_with_ray.py results/ rows/ clustered/

results/ is what `desc-ext fit --out` or an estimator's save wrote; every worker loads it once.
"""

from __future__ import annotations

import sys

import ray

from desc_ext.models import BatchPredictor


def main(model: str, source: str, out: str) -> None:
    rows = ray.data.read_parquet(source)
    workers = ray.data.ActorPoolStrategy(min_size=1, max_size=8)
    clustered = rows.map_batches(
        BatchPredictor,
        fn_constructor_args=(model,),
        batch_format="pandas",
        batch_size=65_536,
        compute=workers,
    )
    clustered.write_parquet(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
