"""Fits of several processes: rows a second of one, two, ... on this machine, and a model of what many GPUs would need.

Measures a pass of k-subspaces and an epoch of DESC's refinement, each process with one thread, against one process with one
thread in the same run. The model is a sum of computing and of messages, with rates that are given to it, not measured.

    python benchmarks/scale/processes.py --processes 1 2 --save
    python benchmarks/scale/processes.py --model
    python benchmarks/scale/processes.py --model --flops 40e12 --inside 300e9 --between 25e9
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
COLUMNS, DIMENSION = 64, 6
REPEATS = 7  # passes, and epochs, of which the median is taken
# What is modelled: DESC with fully connected layers for rows of 784 columns, and k-subspaces of as many.
ROWS, WIDTHS, CODE, CLUSTERS, SUBSPACE = 50_000_000, (784, 1000, 1000, 2000), 80, 10, 8
BATCHES = (1024, 16_384)
LATENCY = 20e-6  # seconds of a message


def write_rows(path: Path, n: int, n_clusters: int) -> None:
    """A union of subspaces with noise."""
    random = np.random.default_rng(0)
    bases = np.linalg.qr(random.normal(size=(n_clusters, COLUMNS, DIMENSION)))[0].astype(np.float32)
    X = np.lib.format.open_memmap(path, "w+", np.float32, (n, COLUMNS))
    for start in range(0, n, 50_000):
        size = min(50_000, n - start)
        within = random.normal(size=(size, DIMENSION)).astype(np.float32)
        noise = 0.05 * random.normal(size=(size, COLUMNS)).astype(np.float32)
        X[start : start + size] = (
            np.einsum("nd,npd->np", within, bases[random.integers(n_clusters, size=size)]) + noise
        )


def fit(path: Path, model: str, n_clusters: int) -> float:
    """Seconds of a pass, or of an epoch of refinement: the median."""
    import torch.distributed as dist

    from desc_ext.data import stored_rows
    from desc_ext.models import DESC, KSubspaces

    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if several:
        dist.init_process_group("gloo")
    shared = {"random_state": 0, "distributed": several}
    if model == "k-subspaces":
        fitted = KSubspaces(n_clusters, subspace_dim=DIMENSION, n_init=1, max_iter=REPEATS, **shared)
        fitted._keeps_embedding = False
        fitted.fit(stored_rows(path))
    else:
        rows = np.load(path)
        start = np.arange(len(rows)) % n_clusters
        options = {"pretrain_epochs": 0, "max_epochs": REPEATS, "init": start, "batch_size": 1024}
        fitted = DESC(n_clusters, **options, **shared).fit(rows)
    seconds = [record["seconds"] for record in fitted.history_ if record["stage"] == "refine"]
    if several:
        dist.destroy_process_group()
    return statistics.median(seconds)


def measure(n_rows: int, counts: list[int]) -> str:
    """A table of the rates of ``counts`` processes."""
    lines = [
        f"{platform.machine()}, {os.cpu_count()} cores, one thread a process. A pass of k-subspaces (100 subspaces of",
        f"dimension {DIMENSION}) over {n_rows:,} × {COLUMNS} float32 on disk; an epoch of DESC (10 subspaces, mini-batches",
        f"of 1,024) over {n_rows // 10:,} × {COLUMNS} in memory; medians of {REPEATS}.",
        "",
        "| | processes | rows a second | beside one |",
        "| --- | ---: | ---: | ---: |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for model, n_clusters, n in (("k-subspaces", 100, n_rows), ("desc", 10, n_rows // 10)):
            path, one = Path(folder) / f"{model}.npy", 0.0
            write_rows(path, n, n_clusters)
            for count in counts:
                rate = n / _run(count, path, model, n_clusters)
                one = one or rate
                lines.append(f"| {model} | {count} | {rate:,.0f} | {rate / one:.2f} |")
                print(lines[-1], flush=True)
    return "\n".join(lines)


def _run(count: int, path: Path, model: str, n_clusters: int) -> float:
    command = [sys.executable]
    if count > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command += [__file__, "--fit", str(path), model, str(n_clusters)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    return json.loads(done.stdout.strip().splitlines()[-1])["seconds"]


# ---------------------------------------------------------------------- the model
def modelled(flops: float, inside: float, between: float) -> str:
    """Seconds of a step and of a pass for 1, 8 and 64 processes of 8 a machine.

    A ring sends 2 (N − 1)/N times what it reduces through every link, and (N − 1)/N times what it gathers. Of more than
    one machine the slowest link counts.
    """
    weights = 2 * sum(a * b for a, b in itertools.pairwise((*WIDTHS, CODE)))  # encoder and decoder
    lines = [
        f"MODELLED, not measured: {flops:.3g} FLOP/s a GPU, {inside:.3g} B/s within a machine of 8, {between:.3g} B/s",
        f"between machines, {LATENCY * 1e6:.0f} µs a message.",
        "",
        f"DESC, W = {weights:,} weights, codes of p = {CODE}, {ROWS:,} rows. A step computes 6 m W/N FLOP and sends",
        "2 (N − 1)/N · 4 W bytes of gradients and 3 (N − 1)/N · 4 m p of codes and their gradients.",
        "",
        "| GPUs | mini-batch m | computing ms | messages ms | epoch s | efficiency |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for batch in BATCHES:
        for n in (1, 8, 64):
            link, share = (inside if n <= 8 else between), (n - 1) / n
            computing = 6 * batch * weights / n / flops
            sent = share * 4 * (2 * weights + 3 * batch * CODE)
            messages = sent / link + (3 * LATENCY if n > 1 else 0)
            step = computing + messages
            lines.append(
                f"| {n} | {batch:,} | {1e3 * computing:.2f} | {1e3 * messages:.2f} | {step * ROWS / batch:,.0f} "
                f"| {computing / step:.0%} |"
            )
    p, kd = WIDTHS[0], CLUSTERS * SUBSPACE
    lines += [
        "",
        f"KSubspaces, K = {CLUSTERS} subspaces of dimension d = {SUBSPACE}, n = {ROWS:,} rows of p = {p}. A pass computes",
        "n p (2 K d + 2 p)/N FLOP and sends 2 (N − 1)/N · 8 K p² bytes of Gram matrices and (N − 1)/N · 5 n of labels and",
        "residuals.",
        "",
        "| GPUs | computing s | messages s | efficiency |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for n in (1, 8, 64):
        link, share = (inside if n <= 8 else between), (n - 1) / n
        computing = ROWS * p * (2 * kd + 2 * p) / n / flops
        messages = share * (2 * 8 * CLUSTERS * p * p + 5 * ROWS) / link + (3 * LATENCY if n > 1 else 0)
        lines.append(f"| {n} | {computing:.3f} | {messages:.3f} | {computing / (computing + messages):.0%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=500_000, help="of k-subspaces; a tenth of DESC")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--save", action="store_true", help="write results/processes.md")
    parser.add_argument("--model", action="store_true", help="print the model alone")
    parser.add_argument("--flops", type=float, default=20e12, help="a second that a GPU sustains")
    parser.add_argument("--inside", type=float, default=200e9, help="bytes a second within a machine")
    parser.add_argument("--between", type=float, default=20e9, help="bytes a second between machines")
    parser.add_argument("--fit", nargs=3, metavar=("FILE", "MODEL", "K"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.fit:
        seconds = fit(Path(asked.fit[0]), asked.fit[1], int(asked.fit[2]))
        if int(os.environ.get("RANK", 0)) == 0:
            print(json.dumps({"seconds": seconds}))
        return
    model = modelled(asked.flops, asked.inside, asked.between)
    if asked.model:
        print(model)
        return
    table = measure(asked.rows, asked.processes)
    if asked.save:
        head = "# Fits of several processes\n\nWritten by `python benchmarks/scale/processes.py --processes "
        head += f"{' '.join(map(str, asked.processes))} --rows {asked.rows} --save`.\n\n"
        (RESULTS / "processes.md").write_text(f"{head}{table}\n\n{model}\n")


if __name__ == "__main__":
    main()
