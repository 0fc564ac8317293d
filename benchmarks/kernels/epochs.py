"""What epochs of DESC, NCSC and ASC2D spend their time on: the operators of this package, and those of torch.

    python benchmarks/kernels/epochs.py

Images of Fashion-MNIST, defaults but for the numbers of epochs, from given clusters (SelfExpressiveClustering's). torch's
profiler counts the time in every operator without the operators that it calls; what Python does between them is not counted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from desc_ext.data import load_dataset
from desc_ext.engine import Callback
from desc_ext.models import ASC2D, DESC, NCSC, SelfExpressiveClustering

METHODS = {
    "DESC": (DESC, {"warmup_epochs": 1, "max_epochs": 2}),
    "NCSC": (NCSC, {"expression_epochs": 2, "start_epochs": 2, "max_epochs": 2}),
    "ASC2D": (ASC2D, {"warmup_epochs": 1, "max_rounds": 2}),
}
RESULTS = Path(__file__).parent / "results" / "epochs.md"
_LISTED = 0.03  # an operator of a smaller share is not named


class Profile(Callback):
    """Seconds in every operator, stage by stage, between the ends of the stage's first epoch and its last: what comes
    before and after, such as the search for the start, belongs to no epoch."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = {}
        self._running: tuple[str, profile] | None = None

    def on_epoch_end(self, model, record):
        if self._running is None:
            self._running = record["stage"], profile(activities=[ProfilerActivity.CPU])
            self._running[1].__enter__()
        else:
            self._finish()

    def _finish(self) -> None:
        stage, running = self._running
        self._running = None
        running.__exit__(None, None, None)
        self.seconds[stage] = {event.key: event.self_cpu_time_total / 1e6 for event in running.key_averages()}


def line(method: str, stage: str, seconds: dict[str, float]) -> str:
    total = sum(seconds.values())
    ours = sum(time for name, time in seconds.items() if name.startswith("desc_ext"))
    largest = sorted(seconds, key=lambda name: -seconds[name])
    named = ", ".join(
        f"{name} {seconds[name] / total:.0%}" for name in largest if seconds[name] > _LISTED * total
    )
    return f"| {method} | {stage} | {total:.1f} | {ours / total:.1%} | {named} |"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000)
    rows = parser.parse_args(arguments).rows
    torch.set_num_threads(1)
    data = load_dataset("fashion-mnist")
    X = data.X[:rows].reshape(-1, *data.image_shape)
    labels = SelfExpressiveClustering(10, random_state=0).fit(X).labels_
    table = []
    for method, (estimator, options) in METHODS.items():
        found = Profile()
        estimator(10, init=labels, random_state=0, pretrain_epochs=2, callbacks=[found], **options).fit(X)
        for stage, seconds in found.seconds.items():
            table.append(line(method, stage, seconds))
            print(table[-1], flush=True)
    RESULTS.write_text(
        "# What an epoch spends its time on\n\n"
        f"One epoch of every stage on {rows:,} images of Fashion-MNIST, with defaults: seconds in operators by torch's "
        f"profiler, the share of desc_ext's, and all operators of more than {_LISTED:.0%}.\n\n"
        "| method | stage | seconds | desc_ext | operators |\n| --- | --- | --- | --- | --- |\n"
        + "\n".join(table)
        + "\n\n"
        f"Made by `python benchmarks/kernels/epochs.py`; 1 thread, torch {torch.__version__}.\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
