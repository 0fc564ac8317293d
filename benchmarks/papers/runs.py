"""What the scripts beside this file share: methods run on data sets, every run a process of its own, and their table.

A script names its methods, functions of (data set, seed, place) that return a fitted estimator, and calls :func:`main`.
The place is what the estimator is told of ``device`` and ``dtype``. Results are gathered as JSON lines, one a run, in
OUT/SCRIPT.jsonl: what is there already is not run again, so a stopped script goes on where it was. After every run the
table, results/SCRIPT.md, is written from all lines.

    python benchmarks/papers/SCRIPT.py --data digits mnist-test --seeds 5 --device cuda --jobs 4
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from desc_ext.data import Dataset, load_dataset
from desc_ext.metrics import clustering_scores

__all__ = ["Method", "Place", "Published", "load_part", "main", "parser"]

HERE = Path(__file__).parent
Place = Mapping[str, str]  # the estimators' arguments device and dtype
SCORES = ("acc", "nmi", "ari")
Published = Mapping[str, Sequence[tuple[str, float | None, float | None, float | None]]]


@dataclass(frozen=True)
class Method:
    """A line of the table: its name there, and what fits it; the estimator returned has ``labels_`` [n]."""

    name: str
    fit: Callable[[Dataset, int, Place], Any]
    # other labels [n] of the fitted estimator, by what they are: lines below its own
    also: Callable[[Any, Dataset, int], Mapping[str, np.ndarray]] | None = None


def load_part(name: str) -> Dataset:
    """A known data set, or with NAME:N its first N rows."""
    name, _, rows = name.partition(":")
    dataset = load_dataset(name)
    if not rows:
        return dataset
    n = int(rows)
    labels = None if dataset.labels is None else dataset.labels[:n]
    return replace(dataset, name=f"{name}:{n}", X=dataset.X[:n], labels=labels)


def parser(
    description: str,
    methods: Mapping[str, Method],
    data: list[str],
    chosen: list[str] | None = None,
    first_seed: int = 0,
) -> argparse.ArgumentParser:
    """The options that all scripts have; ``data`` and ``chosen`` methods are the defaults."""
    result = argparse.ArgumentParser(description=description.split("\n\n")[0])
    result.add_argument(
        "--data", nargs="+", default=data, help="known data sets; NAME:N takes the first N rows"
    )
    result.add_argument("--seeds", type=int, default=5, help="how many values of random_state")
    result.add_argument("--first-seed", type=int, default=first_seed, help="the smallest of them")
    result.add_argument("--methods", nargs="+", choices=methods, default=chosen or list(methods))
    result.add_argument("--device", default="auto", help="cpu, cuda, or auto: CUDA where there is one")
    result.add_argument(
        "--dtype", default="float32", help="of the estimators: float32, float64 or mixed_bfloat16"
    )
    result.add_argument("--jobs", type=int, default=1, help="runs at a time")
    result.add_argument(
        "--out", type=Path, default=HERE / "results", help="folder of the raw results, JSON lines"
    )
    result.add_argument("--commit", default=None, help="what to name as the commit; default: git's own word")
    # one run, in this process: what --jobs starts
    result.add_argument("--one", nargs=3, metavar=("DATA", "METHOD", "SEED"), help=argparse.SUPPRESS)
    return result


def main(
    arguments: argparse.Namespace,
    methods: Mapping[str, Method],
    published: Published,
    title: str,
    notes: str = "",
    load: Callable[[str], Dataset] = load_part,
) -> None:
    """Runs what the arguments of :func:`parser` ask for, and writes the table.

    Args:
        methods: name in ``--methods`` to method.
        published: data set to lines (name, ACC, NMI, ARI) that stand below its table; None where there is no number.
        title: heading of the table.
        notes: a paragraph below the title.
        load: makes a data set of a name in ``--data``.

    Raises:
        SystemExit: a run failed, and the others were finished first; or, before any run, the results hold runs of these
            data with another dtype.
    """
    place = {"device": arguments.device, "dtype": arguments.dtype}
    if arguments.one:
        data, method, seed = arguments.one
        print(json.dumps(_one(methods[method], load(data), int(seed), place)))
        return
    script = Path(sys.argv[0]).resolve()
    lines = arguments.out / f"{script.stem}.jsonl"
    arguments.out.mkdir(parents=True, exist_ok=True)
    done = _read(lines)
    others = {run["dtype"] for run in done if run["data"] in arguments.data} - {arguments.dtype}
    if others:  # a line of the table is a mean of equal runs
        raise SystemExit(
            f"{lines} holds runs of {' '.join(arguments.data)} with --dtype {' and '.join(sorted(others))}, got "
            f"--dtype {arguments.dtype}; name another folder by --out, or that dtype"
        )
    wanted = [
        (data, method, seed)
        for data in arguments.data
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        for method in arguments.methods
    ]
    left = [run for run in wanted if run not in {_key(record) for record in done}]
    if len(left) < len(wanted):
        print(f"{len(wanted) - len(left)} of {len(wanted)} runs are in {lines} already", flush=True)
    commit = arguments.commit or _commit()
    failed = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        waiting = {pool.submit(_process, script, run, place): run for run in left}
        for future in _ended(pool, waiting):
            data, method, seed = run = waiting[future]
            result, trouble = future.result()
            if result is None:
                failed.append(run)
                print(f"{data}, {method}, seed {seed} failed:\n{trouble}", file=sys.stderr, flush=True)
                continue
            record = {
                "data": data,
                "method": method,
                "seed": seed,
                "jobs": arguments.jobs,
                "commit": commit,
                **result,
            }
            _append(lines, json.dumps(record))
            done.append(record)
            print(" ".join(f"{key}={_short(value)}" for key, value in record.items()), flush=True)
            _write(script, done, methods, published, title, notes)
    _write(script, done, methods, published, title, notes)
    if failed:
        raise SystemExit(f"{len(failed)} of {len(left)} runs failed; the same command runs them again")


def _ended(pool: ThreadPoolExecutor, waiting: Mapping[Future, Any]) -> Iterator[Future]:
    try:
        yield from as_completed(waiting)
    except BaseException:  # Ctrl-C: start no more of them
        pool.shutdown(cancel_futures=True)
        raise


def _one(method: Method, dataset: Dataset, seed: int, place: Place) -> dict[str, Any]:
    """Scores of the last epoch, and of the start where the estimator keeps it."""
    begin = time.perf_counter()
    model = method.fit(dataset, seed, place)
    seconds = time.perf_counter() - begin
    result: dict[str, Any] = dict(clustering_scores(dataset.labels, model.labels_))
    if hasattr(model, "initial_labels_"):
        start = clustering_scores(dataset.labels, model.initial_labels_)
        result |= {f"start_{name}": start[name] for name in SCORES}
    if method.also is not None:
        others = method.also(model, dataset, seed)
        result["also"] = {
            name: dict(clustering_scores(dataset.labels, labels)) for name, labels in others.items()
        }
    on_gpu = torch.cuda.is_available() and place["device"] != "cpu"
    return result | {
        "n_iter": int(getattr(model, "n_iter_", 0)),
        "seconds": seconds,
        "rows": len(dataset.X),
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "dtype": place["dtype"],
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


def _process(script: Path, run: tuple[str, str, int], place: Place) -> tuple[dict[str, Any] | None, str]:
    """The result of a run in a process of its own, or None and what it wrote on its standard error."""
    options = [f"--{name}={value}" for name, value in place.items()]
    command = [sys.executable, str(script), *options, "--one", *map(str, run)]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        return None, ended.stderr[-4000:] or f"exit code {ended.returncode}"
    return json.loads(ended.stdout.splitlines()[-1]), ""


def _read(lines: Path) -> list[dict[str, Any]]:
    if not lines.exists():
        return []
    records = []
    for line in lines.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:  # cut off when the script was stopped
            continue
    return records


def _append(lines: Path, line: str) -> None:
    before = lines.read_text() if lines.exists() else ""
    cut_off = bool(before) and not before.endswith("\n")
    with open(lines, "a") as file:
        file.write("\n" * cut_off + line + "\n")


def _key(record: Mapping[str, Any]) -> tuple[str, str, int]:
    return record["data"], record["method"], record["seed"]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(HERE), *arguments], capture_output=True, text=True
        ).stdout.strip()

    # the tables themselves change while their scripts run
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/desc_ext", ":/csrc")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (", changed" if changed else "")


def _write(
    script: Path,
    done: list[dict[str, Any]],
    methods: Mapping[str, Method],
    published: Published,
    title: str,
    notes: str,
) -> None:
    """The table of all gathered runs: a section a data set, a line a method."""
    parts = [f"# {title}", *([notes] if notes else [])]
    for data in dict.fromkeys(record["data"] for record in done):
        records = [record for record in done if record["data"] == data]
        lines = [
            "| method | ACC | NMI | ARI | epochs | seconds | seeds |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for key, method in methods.items():
            runs = [record for record in records if record["method"] == key]
            if not runs:
                continue
            epochs, seconds = (np.mean([record[name] for record in runs]) for name in ("n_iter", "seconds"))
            cells = [*_cells(runs, ""), f"{epochs:.0f}", f"{seconds:.1f}", str(len(runs))]
            lines.append(f"| {method.name} | " + " | ".join(cells) + " |")
            started = [record for record in runs if "start_acc" in record]
            if started:
                lines.append("| · its start | " + " | ".join(_cells(started, "start_")) + " | | | |")
            others = [record["also"] for record in runs if "also" in record]
            for name in dict.fromkeys(name for found in others for name in found):
                cells = _cells([found[name] for found in others if name in found], "")
                lines.append(f"| · {name} | " + " | ".join(cells) + " | | | |")
        for name, *numbers in published.get(data, ()):
            cells = ["–" if number is None else f"{number:.3f}" for number in numbers]
            lines.append(f"| {name} | " + " | ".join(cells) + " | | | |")
        parts += [f"## {data}, {records[0]['rows']:,} rows", "\n".join(lines), _made(script, data, records)]
    path = HERE / "results" / f"{script.stem}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n\n".join(parts) + "\n")


def _cells(runs: list[dict[str, Any]], prefix: str) -> list[str]:
    values = np.array([[record[prefix + name] for name in SCORES] for record in runs])
    pairs = zip(values.mean(0), values.std(0), strict=True)
    return [f"{mean:.3f} ± {std:.3f}" if len(runs) > 1 else f"{mean:.3f}" for mean, std in pairs]


def _made(script: Path, data: str, records: list[dict[str, Any]]) -> str:
    """One paragraph: the command, and where its runs ran."""
    found = {
        key: ", ".join(dict.fromkeys(str(record[key]) for record in records))
        for key in ("device", "dtype", "threads", "jobs", "torch", "commit")
    }
    seeds = sorted({record["seed"] for record in records})
    options = f" --first-seed {seeds[0]}" if seeds[0] else ""
    options += "" if found["dtype"] == "float32" else f" --dtype {found['dtype']}"
    chosen = " ".join(dict.fromkeys(record["method"] for record in records))
    return (
        "Mean ± standard deviation over the seeds, last epoch. Made by "
        f"`python benchmarks/papers/{script.name} --data {data} --seeds {len(seeds)}{options} --methods {chosen}`; "
        f"device: {found['device']}; threads: {found['threads']}; runs at a time: {found['jobs']}; "
        f"torch {found['torch']}; commit: {found['commit']}."
    )
