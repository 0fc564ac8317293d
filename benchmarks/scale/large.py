"""k-subspaces of rows that do not fit in memory, from the command line: peak memory, and rows a second.

Writes a union of 100 subspaces of dimension 6 in 64 columns, float32, with noise and 5% outliers, fits it and predicts its
clusters, each a process of its own; beside them the plain reading of the file and predict of rows in memory. With --peers,
the Python of an environment that has FAISS and scikit-learn, a pass beside their k-means with as many multiply-adds: as many
centroids as the subspaces have directions.

    python benchmarks/scale/large.py
    python benchmarks/scale/large.py --rows 1000000 --folder /tmp
    python benchmarks/scale/large.py --peers .venv-peers/bin/python   # which make bench-peers sets up
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
CLUSTERS, DIMENSION, COLUMNS = 100, 6, 64
NOISE, OUTLIERS = 0.05, 0.05  # deviation of an entry; share of the rows
BLOCK, IN_MEMORY = 100_000, 1_000_000  # rows
ROUNDS = 7  # of a pass and its peers, in turns
PREDICT = """
import json, sys, time
import numpy as np
from desc_ext.models import KSubspaces
model, part = KSubspaces.load(sys.argv[1]), np.load(sys.argv[2], mmap_mode="r")[-int(sys.argv[3]) :]
kinds = {"file": part, "memory": np.array(part)}  # the part of the map is read from its file, block by block
model.predict(part[:20_000])
seconds, cpu = {"file": [], "memory": []}, {"file": [], "memory": []}
for _ in range(5):
    for kind, X in kinds.items():
        started, begun = time.perf_counter(), time.process_time()
        model.predict(X)
        seconds[kind].append(time.perf_counter() - started)
        cpu[kind].append(time.process_time() - begun)
median = {kind: (float(np.median(seconds[kind])), float(np.median(cpu[kind]))) for kind in kinds}
print(json.dumps({"rows": len(part), **median}))
"""

PASS = """
import json, sys
import numpy as np
from desc_ext.models import KSubspaces
X, K, d = np.load(sys.argv[1], mmap_mode="r")[-int(sys.argv[2]) :], int(sys.argv[3]), int(sys.argv[4])
model = KSubspaces(K, subspace_dim=d, n_init=2, max_iter=5, device="cpu", random_state=0).fit(X)
seconds = [record["seconds"] for record in model.history_ if record["stage"] == "refine"]
print(json.dumps({"KSubspaces": float(np.median(seconds[1:]))}))
"""


def write(path: Path, classes: Path, n: int, n_clusters: int = CLUSTERS) -> None:
    """Rows, block by block, and the subspace of each; outliers are of class -1."""
    random = np.random.default_rng(0)
    bases = np.linalg.qr(random.normal(size=(n_clusters, COLUMNS, DIMENSION)))[0].astype(np.float32)
    labels = np.lib.format.open_memmap(classes, "w+", np.int8, (n,))
    with open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n, COLUMNS)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n, BLOCK):
            size = min(BLOCK, n - start)
            y = random.integers(n_clusters, size=size)
            within = random.normal(size=(size, DIMENSION)).astype(np.float32)
            X = np.einsum("npd,nd->np", bases[y], within, optimize=True)
            X += NOISE * random.normal(size=X.shape).astype(np.float32)
            outlier = random.random(size) < OUTLIERS
            X[outlier] = random.normal(size=(int(outlier.sum()), COLUMNS)) / np.sqrt(COLUMNS / DIMENSION)
            file.write(X.data)
            labels[start : start + size] = np.where(outlier, -1, y)


def seconds_of_reading(path: Path) -> float:
    started, buffer = time.perf_counter(), bytearray(2**22)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - started


def measured(command: list[str], threads: int) -> tuple[float, float, str]:
    """Seconds, peak memory in MiB and output of a command; of its own peak alone, as the kernel counts for a child."""
    started = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - started, usage.ru_maxrss / 1024, output


def accuracy(labels: np.ndarray, classes: np.ndarray) -> float:
    """Of the rows of subspaces; over at most a million of them."""
    from desc_ext.metrics import clustering_accuracy

    inliers = np.flatnonzero(classes >= 0)[:IN_MEMORY]
    return clustering_accuracy(classes[inliers], labels[inliers])


def beside_peers(path: Path, n: int, threads: int, peers: Path) -> dict[str, float]:
    """Rows a second of a pass over the last ``n`` rows: medians over rounds, in each of which every method has its turn."""
    n_directions = CLUSTERS * DIMENSION
    own = [sys.executable, "-c", PASS, str(path), str(n), str(CLUSTERS), str(DIMENSION)]
    script = Path(__file__).parent / "kmeans_peers.py"
    others = [str(peers), str(script), str(path), str(n), str(n_directions), str(threads)]
    rounds = [
        {
            name: n / seconds
            for command in (own, others)
            for name, seconds in found_by(command, threads).items()
        }
        for _ in range(ROUNDS)
    ]
    return {name: float(np.median([found[name] for found in rounds])) for name in rounds[0]}


def found_by(command: list[str], threads: int) -> dict[str, float]:
    return json.loads(measured(command, threads)[2])


def measure(n: int, iterations: int, threads: int, folder: Path, peers: Path | None) -> dict[str, float]:
    rows, classes, out, again = folder / "x.npy", folder / "y.npy", folder / "out", folder / "again.npy"
    write(rows, classes, n)
    cli = [sys.executable, "-m", "desc_ext"]
    options = ["n_init=10", f"max_iter={iterations}", f"subspace_dim={DIMENSION}", "device=cpu"]
    fit = ["fit", rows, "--model", "k-subspaces", "--clusters", CLUSTERS, "--out", out, "--no-embedding"]
    command = [*cli, *map(str, fit), *(word for option in options for word in ("--set", option))]
    found = {"rows": float(n), "threads": float(threads), "read_seconds": seconds_of_reading(rows)}
    found["fit_seconds"], found["fit_mib"], _ = measured(command, threads)
    with open(out / "history.csv", newline="") as file:
        passes = [float(line["seconds"]) for line in csv.DictReader(file) if line["stage"] == "refine"]
    # the first has the pass of the first labels too
    found["pass_rows_a_second"] = n / float(np.median(passes[1:]))
    found["acc"] = accuracy(np.load(out / "labels.npy"), np.load(classes))
    command = [*cli, "predict", str(out), str(rows), "--out", str(again)]
    found["predict_seconds"], found["predict_mib"], _ = measured(command, threads)
    if not np.array_equal(np.load(again), np.load(out / "labels.npy")):
        raise SystemExit("predict gave other labels than the fit")
    # in one process, in turns: loading does not count, and other work on the machine slows both
    command = [sys.executable, "-c", PREDICT, str(out / "model"), str(rows), str(min(IN_MEMORY, n))]
    result = found_by(command, threads)
    for kind in ("file", "memory"):
        found[f"{kind}_rows_a_second"], found[f"{kind}_rows_a_cpu_second"] = (
            result["rows"] / seconds for seconds in result[kind]
        )
    if peers:
        found |= beside_peers(rows, min(IN_MEMORY, n), threads, peers)
    return found


def report(found: dict[str, float]) -> list[str]:
    size, part = found["rows"] * COLUMNS * 4, min(IN_MEMORY, int(found["rows"]))
    what = f"{found['rows']:,.0f} × {COLUMNS} float32 ({size / 1e9:.2f} GB)"
    predicted, of_cpu = (
        [found[f"{kind}_rows_{unit}"] for kind in ("file", "memory")] for unit in ("a_second", "a_cpu_second")
    )
    return [
        f"{what}, {found['threads']:.0f} threads, {platform.machine()}",
        "",
        "| | |",
        "| --- | ---: |",
        f"| desc-ext fit: peak memory | {found['fit_mib']:,.0f} MiB |",
        f"| desc-ext fit: seconds, with results | {found['fit_seconds']:,.0f} |",
        f"| a pass of the fit | {found['pass_rows_a_second']:,.0f} rows a second |",
        f"| ACC of the rows of subspaces | {found['acc']:.3f} |",
        f"| desc-ext predict: peak memory | {found['predict_mib']:,.0f} MiB |",
        f"| desc-ext predict: seconds | {found['predict_seconds']:,.0f} |",
        f"| predict of {part:,} rows on disk | {predicted[0]:,.0f} rows a second, {of_cpu[0]:,.0f} a second of a core |",
        f"| predict of them in memory | {predicted[1]:,.0f} rows a second, {of_cpu[1]:,.0f} a second of a core |",
        f"| on disk beside in memory | {predicted[0] / predicted[1]:.0%}, {of_cpu[0] / of_cpu[1]:.0%} of a core |",
        f"| plain reading of the file | {found['rows'] / found['read_seconds']:,.0f} rows a second |",
        *peer_lines(found, part),
    ]


def peer_lines(found: dict[str, float], part: int) -> list[str]:
    if "FAISS" not in found:
        return []
    names = {
        "KSubspaces": f"a pass over {part:,} rows on disk, {CLUSTERS} subspaces of dimension {DIMENSION}",
        "FAISS": f"FAISS k-means, an iteration over them in memory, {CLUSTERS * DIMENSION} centroids",
        "MiniBatchKMeans": f"MiniBatchKMeans.partial_fit, blocks of them on disk, {CLUSTERS * DIMENSION} centroids",
    }
    return [f"| {words} | {found[name]:,.0f} rows a second |" for name, words in names.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--iterations", type=int, default=3, help="of the continuation on all rows, at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--folder", type=Path, help="where the rows are written, and removed; the system's temporary one"
    )
    parser.add_argument("--peers", type=Path, help="the Python of an environment with FAISS and scikit-learn")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/large.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="desc-ext-large-", dir=arguments.folder) as folder:
        asked = arguments.rows, arguments.iterations, arguments.threads, Path(folder), arguments.peers
        lines = report(measure(*asked))
    print("\n".join(lines))
    if arguments.save:
        head = [
            "# k-subspaces of rows on disk",
            "",
            "Written by `python benchmarks/scale/large.py --save`.",
            "",
        ]
        (RESULTS / "large.md").write_text("\n".join([*head, *lines, ""]))


if __name__ == "__main__":
    main()
