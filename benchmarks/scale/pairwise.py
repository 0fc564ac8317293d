"""Time and peak memory of every operator over pairs of rows against n, beside eager torch up to where that runs out.

Each measurement is a process of its own, which may take LIMIT GiB: forward and backward of the losses, forward alone of
the selections. The features have 64 columns, predictions 10.

    python benchmarks/scale/pairwise.py
    python benchmarks/scale/pairwise.py --rows 1000 2000 --limit 4
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
KERNELS = Path(__file__).parents[1] / "kernels"
OPERATORS = [
    "collaborative_loss", "laplacian_energy", "info_nce", "affinity_row_max", "coefficient_topk",
    "self_expression_residual", "squared_l12_norm",
]  # fmt: skip
COLUMNS = 64


def measure(operator: str, candidate: str, n: int, threads: int, limit: float) -> dict[str, float]:
    """Seconds of the second call (the first one loads and warms up), and what a call adds to the memory, in MiB."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 2**30),) * 2)
    sys.path.insert(0, str(KERNELS))
    import bench_pairwise
    import harness
    import pair_peers
    import torch

    from desc_ext import ops
    from desc_ext.bench import peers

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    selections = {
        "affinity_row_max": ops.affinity_row_max,
        "coefficient_topk": lambda y: ops.coefficient_topk(y, 5),
    }
    if operator in selections:
        rows = [ops.ridge_self_expression(torch.randn(n, COLUMNS), 2.0)]
        ours = selections[operator]
    elif operator == "self_expression_residual":
        rows = [torch.randn(n, COLUMNS), torch.randn(n, n) / n]
        ours = pair_peers.residual(ops)
    else:
        rows, ours = bench_pairwise.arguments(operator, n, COLUMNS), bench_pairwise.OURS[operator]
    function = ours if candidate == "desc_ext" else pair_peers.EAGER[operator]
    if operator not in selections:
        rows = [row.requires_grad_() for row in rows]
        function = peers.full(function)
    extra = harness.peak_extra(lambda: function(*rows))
    started = time.perf_counter()
    function(*rows)
    return {"seconds": time.perf_counter() - started, "mib": extra}


def in_a_process(*arguments) -> dict[str, float] | None:
    command = [sys.executable, __file__, "--one", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if "allocate memory" in done.stderr or "MemoryError" in done.stderr or done.returncode < 0:
        return None
    raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")


def plot(rows: list[dict]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.1 * len(OPERATORS) / 2 + 1, 9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(4, 4)
    for axis in axes.flat:
        axis.set_visible(False)
    for i, operator in enumerate(OPERATORS):
        for j, (key, unit) in enumerate((("seconds", "seconds"), ("mib", "MiB"))):
            axis = axes[2 * (i // 4) + j][i % 4]
            axis.set_visible(True)
            for candidate, colour in (("desc_ext", "#0072B2"), ("eager", "#E69F00")):
                own = [r for r in rows if (r["operator"], r["candidate"]) == (operator, candidate) and r[key]]
                axis.plot(
                    [r["n"] for r in own],
                    [max(r[key], 1e-4) for r in own],
                    "o-",
                    color=colour,
                    label=candidate,
                )
            axis.set(xscale="log", yscale="log", ylabel=unit, xlabel="n")
            axis.set_title(operator, fontsize=9)
            axis.grid(alpha=0.3)
            axis.legend(fontsize=7)
    figure.savefig(RESULTS / "pairwise.png", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 2000, 5000, 10_000, 20_000, 50_000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=12.0, help="GiB that a process may take")
    parser.add_argument("--one", nargs=3, metavar=("OPERATOR", "CANDIDATE", "N"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        operator, candidate, n = arguments.one
        print(json.dumps(measure(operator, candidate, int(n), arguments.threads, arguments.limit)))
        return
    rows = []
    for operator in OPERATORS:
        for candidate in ("desc_ext", "eager"):
            for n in arguments.rows:
                limits = ("--threads", arguments.threads, "--limit", arguments.limit)
                found = in_a_process(operator, candidate, n, *limits)
                rows.append(
                    {"operator": operator, "candidate": candidate, "n": n, "seconds": None, "mib": None}
                )
                print(operator, candidate, n, found or f"more than {arguments.limit:g} GiB", flush=True)
                if found is None:
                    break
                rows[-1] |= found
    RESULTS.mkdir(exist_ok=True)
    lines = [
        "# Operators over pairs of rows against n",
        "",
        f"Written by `python benchmarks/scale/pairwise.py`: {arguments.threads} threads, float32, {COLUMNS} columns; one "
        f"call after a first; memory beside the arguments. Each process may take {arguments.limit:g} GiB.",
        "",
        "| operator | n | desc_ext: s | MiB | eager torch: s | MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for operator in OPERATORS:
        for n in arguments.rows:
            cells = []
            for candidate in ("desc_ext", "eager"):
                found = [
                    r for r in rows if (r["operator"], r["candidate"], r["n"]) == (operator, candidate, n)
                ]
                if found and found[0]["seconds"] is not None:
                    cells.append(f"{found[0]['seconds']:.3g} | {found[0]['mib']:.0f}")
                else:
                    cells.append("out of memory | –" if found else "– | –")
            if any("–" not in cell for cell in cells):
                lines.append(f"| {operator} | {n:,} | {' | '.join(cells)} |")
    (RESULTS / "pairwise.md").write_text("\n".join(lines) + "\n")
    plot(rows)


if __name__ == "__main__":
    main()
