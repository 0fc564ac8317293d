"""The command line for tests: in this process, and as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from desc_ext import cli

SMALL = [
    "--set", "hidden_sizes=32", "--set", "pretrain_epochs=2", "--set", "n_init=1", "--set", "warmup_epochs=1",
]  # fmt: skip
# What every fit writes; examples.png, affinity.png and classes.png come with images, affinities and known classes.
RESULTS = {
    "labels.npy", "labels.csv", "embedding.npy", "model", "input", "config.json", "history.csv", "metrics.json",
    "report.html", "embedding.png", "curves.png", "cluster_sizes.png",
}  # fmt: skip
# One thread: tests that run beside each other would otherwise wait for each other's threads.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
ENVIRONMENT["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{ENVIRONMENT['PATH']}"


def run(*arguments) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of desc-ext in this process."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def start(*arguments, environment=None, **options) -> subprocess.Popen:
    """desc-ext as a process, which Ctrl-C reaches."""
    command = ["desc-ext", *map(str, arguments)]
    pipe = subprocess.PIPE

    def heed_interrupts():
        # A shell starts its background jobs, and with them these tests, with Ctrl-C ignored.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        command, env=ENVIRONMENT | (environment or {}), stdout=pipe, stderr=pipe, text=True,
        preexec_fn=heed_interrupts, **options,
    )  # fmt: skip
