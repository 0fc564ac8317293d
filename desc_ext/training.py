"""What surrounds a training loop: callbacks, and folders of tensors that survive a crash.

A state folder holds ``config.json`` and one safetensors file that ``config.json`` names together with
its SHA-256 digest. The tensors are written first and ``config.json`` is then replaced in one step, so at
every moment the folder is either the old state or the new one, never a mixture.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialise_tensors
from torch import Tensor

from desc_ext.metrics import clustering_scores

__all__ = [
    "Callback",
    "Evaluate",
    "ProgressBar",
    "adam",
    "check_tensors",
    "read_state_config",
    "read_state_folder",
    "without_denormals",
    "write_state_folder",
]

# 0.9 to this power takes a moment of this size to about the smallest normal float32
_STEPS_TO_DENORMALS, _VANISHED = 128, 1e-30
FORMAT_VERSION = 1
CONFIG_FILE = "config.json"


class Callback:
    """Hooks that an estimator calls while it fits. Subclass it and override what you need."""

    def on_fit_begin(self, model: Any, stages: Mapping[str, int]) -> None:
        """Called once before the first epoch; ``stages`` maps "pretrain" and "refine" to their epochs."""

    def on_epoch_end(self, model: Any, record: dict[str, Any]) -> bool | None:
        """Called after every epoch with its history record; keys may be added to it.

        In the "refine" stage ``model.labels_`` and ``model.embedding_`` are those of this epoch's end.
        A true return value ends the current stage after this epoch.
        """

    def on_fit_end(self, model: Any) -> None:
        """Called once when fitting ends, also when it ends by an error or Ctrl-C."""


class Evaluate(Callback):
    """Adds "acc", "nmi" and "ari" to the record of every refinement epoch.

    ``labels`` [n] (integers) are the true classes of the training rows. They are only compared with the
    clusters: nothing of the fit depends on them.
    """

    def __init__(self, labels: Any) -> None:
        self.labels = labels

    def on_epoch_end(self, model: Any, record: dict[str, Any]) -> None:
        if record["stage"] == "refine":
            scores = clustering_scores(np.asarray(self.labels), model.labels_)
            record.update({name: float(scores[name]) for name in ("acc", "nmi", "ari")})


class ProgressBar(Callback):
    """A rich progress bar on standard error: stage, loss, number of non-empty clusters, time left.

    Silent where standard error is no terminal.
    """

    def __init__(self) -> None:
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}

    def on_fit_begin(self, model: Any, stages: Mapping[str, int]) -> None:
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._tasks = {
            stage: self._progress.add_task(stage, total=n_epochs, note="")
            for stage, n_epochs in stages.items()
            if n_epochs
        }
        self._progress.start()

    def on_epoch_end(self, model: Any, record: dict[str, Any]) -> None:
        if self._progress is None:
            return
        note = f"loss {record['loss']:.4g}" if "loss" in record else ""
        if "cluster_sizes" in record:
            note += f"  clusters {sum(size > 0 for size in record['cluster_sizes'])}"
        self._progress.update(self._tasks[record["stage"]], completed=record["epoch"], note=note)

    def on_fit_end(self, model: Any) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_progress": None, "_tasks": {}}  # a live terminal cannot be pickled with the model


def _replace_file(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_state_folder(
    folder: str | os.PathLike[str],
    kind: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Writes ``config`` and ``tensors`` to ``folder`` (made if missing) in one atomic step.

    Args:
        folder: where to write; an older state of the same kind there is replaced.
        kind: "model" or "checkpoint", checked when reading.
        config: what JSON can hold.
        tensors: named tensors, any device; stored contiguous. Their file's name carries their digest, so
            the file of the old state stays until ``config.json`` no longer names it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = serialise_tensors({key: t.detach().cpu().contiguous() for key, t in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    file = f"{kind}-{digest[:12]}.safetensors"
    header = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "tensor_file": file,
        "sha256": digest,
        "shapes": {key: list(t.shape) for key, t in tensors.items()},
    }
    _replace_file(folder / file, content)
    _replace_file(folder / CONFIG_FILE, json.dumps({**header, **config}, indent=1).encode())
    for old in folder.glob(f"{kind}-*.safetensors"):
        if old.name != file:
            old.unlink()


def read_state_folder(
    folder: str | os.PathLike[str], kind: str, device: torch.device | str = "cpu"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads what :func:`write_state_folder` wrote and checks every part of it.

    Raises:
        FileNotFoundError: the folder or one of its files is missing; the message names it.
        ValueError: a file is damaged, of another kind or of a newer format; the message names the file.
    """
    folder = Path(folder)
    config = read_state_config(folder, kind)
    path = folder / config["tensor_file"]
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no file {path.name}, which its {CONFIG_FILE} names")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != config["sha256"]:
        raise ValueError(
            f"{path} is damaged: its SHA-256 digest is not the one in {CONFIG_FILE} "
            f"({len(content)} bytes found); copy or write the folder again"
        )
    try:
        tensors = parse_tensors(content)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    check_tensors(path, tensors, config["shapes"])
    return config, {key: tensor.to(device) for key, tensor in tensors.items()}


def read_state_config(folder: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """The checked ``config.json`` of a state folder, without its tensors; errors as for :func:`read_state_folder`."""
    folder = Path(folder)
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no {kind} folder: it has no {CONFIG_FILE}")
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is damaged: wanted a JSON object, got {type(config).__name__}")
    missing = {"format_version", "kind", "tensor_file", "sha256", "shapes"} - set(config)
    if missing:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}")
    if config["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {config['format_version']}, this desc_ext reads version "
            f"{FORMAT_VERSION}; use the version of desc_ext that wrote it"
        )
    if config["kind"] != kind:
        raise ValueError(f"{path} describes a {config['kind']}, wanted a {kind}")
    return config


def adam(parameters: Iterable[Tensor] | Iterable[dict[str, Any]], learning_rate: float) -> torch.optim.Adam:
    """Adam over tensors or groups of them, in one pass over each with its gradient and moments.

    Torch's default makes a dozen passes on the CPU: with dense layers and small mini-batches, a third of the training time.
    """
    return without_denormals(torch.optim.Adam(parameters, learning_rate, fused=True))


def without_denormals(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """``optimizer``, which from now on sets first moments that have all but vanished, below 1e-30, to 0.

    The weights of a unit that no longer answers have gradients of 0. Their moments decay by a constant factor a step and,
    after some 800, stay among the denormal numbers, on which a CPU computes a hundred times as long as on others.
    """
    steps = count(1)

    def after_step(optimizer: torch.optim.Optimizer, _args: Any, _options: Any) -> None:
        if next(steps) % _STEPS_TO_DENORMALS:
            return
        for state in optimizer.state.values():
            for name in state.keys() & {"exp_avg", "momentum_buffer"}:
                moment = state[name]
                if moment is not None and moment.device.type == "cpu":
                    torch.hardshrink(moment, _VANISHED, out=moment)

    optimizer.register_step_post_hook(after_step)
    return optimizer


def check_tensors(path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raises ValueError naming the first tensor of ``path`` that is missing, superfluous or misshapen."""
    for key, shape in shapes.items():
        if key not in tensors:
            raise ValueError(f"{path} is damaged: tensor {key!r} is missing")
        if list(tensors[key].shape) != list(shape):
            raise ValueError(
                f"{path} is damaged: tensor {key!r} has shape {list(tensors[key].shape)}, "
                f"wanted {list(shape)}"
            )
    for key in tensors:
        if key not in shapes:
            raise ValueError(f"{path} is damaged: tensor {key!r} is not part of it")
