"""Deep methods on rows that do not fit in memory, from the command line: peak memory and seconds of one epoch a stage.

Writes a union of K subspaces of dimension 6 in 64 columns, float32, with noise and 5% outliers (as large.py does), and fits
it in a process of its own, without embedding, pictures and report.

    python benchmarks/scale/large_deep.py
    python benchmarks/scale/large_deep.py --rows 500000 --model idec
"""

from __future__ import annotations

import argparse
import csv
import platform
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np
from large import COLUMNS, DIMENSION, RESULTS, accuracy, measured, write


def measure(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """The lines of the table."""
    rows, classes, out, n = folder / "x.npy", folder / "y.npy", folder / "out", arguments.rows
    write(rows, classes, n, arguments.clusters)
    epochs = ["pretrain_epochs=1"]
    if arguments.model in ("desc", "edesc"):
        epochs += ["max_epochs=1", "warmup_epochs=0", f"subspace_dim={DIMENSION}"]
    elif arguments.model in ("dec", "idec"):
        epochs += ["max_rounds=1", "warmup_epochs=0"]
    options = [
        *epochs,
        f"hidden_sizes={arguments.hidden_sizes}",
        f"batch_size={arguments.batch_size}",
        "device=cpu",
    ]
    fit = [
        "fit",
        rows,
        "--model",
        arguments.model,
        "--clusters",
        arguments.clusters,
        "--out",
        out,
        "--no-embedding",
    ]
    command = [
        *map(str, fit),
        "--no-pictures",
        "--no-report",
        *(word for one in options for word in ("--set", one)),
    ]
    seconds, mib, _ = measured([sys.executable, "-m", "desc_ext", *command], arguments.threads)
    with open(out / "history.csv", newline="") as file:
        epochs_run = [(line["stage"], float(line["seconds"])) for line in csv.DictReader(file)]
    size = n * COLUMNS * 4
    options_said = " ".join(f"--set {one}" for one in options)
    return [
        f"`desc-ext fit x.npy --model {arguments.model} --clusters {arguments.clusters} --no-embedding --no-pictures "
        f"--no-report {options_said}`",
        "",
        f"{n:,} × {COLUMNS} float32 ({size / 1e9:.2f} GB), {arguments.threads} threads, {platform.machine()}",
        "",
        "| | |",
        "| --- | ---: |",
        f"| peak memory | {mib:,.0f} MiB |",
        f"| seconds, with results | {seconds:,.0f} |",
        *(f"| seconds of an epoch, {stage} | {took:,.0f} |" for stage, took in epochs_run),
        f"| ACC of the rows of subspaces | {accuracy(np.load(out / 'labels.npy'), np.load(classes)):.3f} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--model", default="desc", choices=("desc", "edesc", "dec", "idec", "ae-kmeans"))
    parser.add_argument("--clusters", type=int, default=10)
    parser.add_argument("--hidden-sizes", default="500,500,1000")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--folder", type=Path, help="where the rows are written, and removed; the system's temporary one"
    )
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/large_deep.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="desc-ext-large-", dir=arguments.folder) as folder:
        lines = measure(arguments, Path(folder))
    print("\n".join(lines))
    if arguments.save:
        given = shlex.join(word for word in sys.argv[1:] if word != "--save")
        head = [
            "# Deep methods on rows on disk",
            "",
            f"Written by `python benchmarks/scale/large_deep.py {given} --save`.",
            "",
        ]
        (RESULTS / "large_deep.md").write_text("\n".join([*head, *lines, ""]))


if __name__ == "__main__":
    main()
