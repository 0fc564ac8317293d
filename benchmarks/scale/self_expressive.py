"""Time and memory of SelfExpressiveClustering against the number of rows, of all of them and of landmarks.

The rows are a union of 20 subspaces of dimension 6 in 64 dimensions with noise, in float32. Every fit is a process of its
own; peak memory is the whole process's, the rows in it. Writes results/self_expressive.md, where other lines stay.

    OMP_NUM_THREADS=2 python benchmarks/scale/self_expressive.py --rows 100000 300000
    OMP_NUM_THREADS=2 python benchmarks/scale/self_expressive.py --rows 300000 1000000 --landmarks 20000
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score

from desc_ext.models import SelfExpressiveClustering

RESULT = Path(__file__).parent / "results" / "self_expressive.md"
N_CLUSTERS, DIM, WIDTH, NOISE = 20, 6, 64, 0.1
STAGES = ("coefficients", "affinity", "eigenvectors", "k-means", "other rows")
HEAD = f"""# SelfExpressiveClustering against the number of rows

{N_CLUSTERS} subspaces of dimension {DIM} in {WIDTH} dimensions, noise {NOISE} in every direction, float32; seconds by
stage and all in all, those of processors in it, peak memory of the whole process, adjusted Rand index. Other programs used
the machine meanwhile. Made by
`OMP_NUM_THREADS=N python benchmarks/scale/self_expressive.py --rows ... [--landmarks ...]`.

| rows | landmarks | threads | {" | ".join(STAGES)} | all | of processors | peak GiB | ARI |
| ---: | ---: | ---: | {" | ".join(["---:"] * len(STAGES))} | ---: | ---: | ---: | ---: |
"""


def subspaces(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n, 64] and the subspace of each."""
    rng = np.random.default_rng(0)
    bases = np.linalg.qr(rng.normal(size=(N_CLUSTERS, WIDTH, DIM)))[0].astype(np.float32)
    cluster, X = rng.integers(N_CLUSTERS, size=n), np.empty((n, WIDTH), dtype=np.float32)
    for start in range(0, n, 2**14):
        part = cluster[start : start + 2**14]
        inside = rng.normal(size=(len(part), 1, DIM)).astype(np.float32) @ bases[part].mT
        X[start : start + 2**14] = inside[:, 0] + NOISE * rng.normal(size=(len(part), WIDTH))
    return X, cluster


def one(n: int, landmarks: int) -> str:
    """The line of a fit."""
    X, cluster = subspaces(n)
    begin, at_work = time.perf_counter(), time.process_time()
    model = SelfExpressiveClustering(N_CLUSTERS, landmarks=landmarks, device="cpu", random_state=0).fit(X)
    whole, at_work = time.perf_counter() - begin, time.process_time() - at_work
    seconds = {record["stage"]: record["seconds"] for record in model.history_}
    stages = " | ".join(f"{seconds[name]:.0f}" if name in seconds else "" for name in STAGES)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    of_all = "all" if model.landmarks_ is None else f"{landmarks:,}"
    ari = adjusted_rand_score(cluster, model.labels_)
    threads = torch.get_num_threads()
    return (
        f"| {n:,} | {of_all} | {threads} | {stages} | {whole:.0f} | {at_work:.0f} | {peak:.2f} | {ari:.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", nargs="+", type=int, default=[20_000])
    parser.add_argument("--landmarks", type=int, default=None, help="default: all rows")
    parser.add_argument("--one", nargs=2, type=int, metavar=("ROWS", "LANDMARKS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(*arguments.one)))
        return
    for n in arguments.rows:
        command = [sys.executable, __file__, "--one", str(n), str(arguments.landmarks or n)]
        line = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        )
        print(line, flush=True)
        before = RESULT.read_text().splitlines() if RESULT.exists() else []
        kept = {order(old): old for old in before if old[2:3].isdigit()} | {order(line): line}
        RESULT.write_text(HEAD + "\n".join(kept[key] for key in sorted(kept)) + "\n")


def order(line: str) -> tuple[int, ...]:
    """Rows, landmarks (0 for all) and threads of a line of the table."""
    return tuple(int(cell.replace(",", "").replace("all", "0")) for cell in line.strip("| ").split(" | ")[:3])


if __name__ == "__main__":
    main()
