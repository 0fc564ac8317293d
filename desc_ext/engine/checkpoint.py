"""Checkpoints of a running fit: enough to go on with the same bits as if it had never stopped."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from desc_ext.engine.options import with_later_options
from desc_ext.engine.state import FitState
from desc_ext.engine.state_folder import CONFIG_FILE, check_tensors, read_state_folder, write_state_folder

__all__ = ["Checkpoint", "refuse_other_fit", "restore_optimizer"]

_AVERAGE = "average."
_OF_START = ("initial_labels", "certainty")  # what is known from the end of pretraining on, [n] each
_PROGRESS = {"epoch": int, "stopped": bool, "history": list}  # entries of a checkpoint, and their types


class Checkpoint:
    """The folder that receives the state of a fit at the end of every epoch.

    Args:
        folder: None writes nothing.
        method: whose fit it is.
        work_per_write: seconds of a fit for each second of writing: large states are written less often.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None, method: str, work_per_write: float = 0.0
    ) -> None:
        self.folder, self.method, self.work_per_write = folder, method, work_per_write
        self._next_write = 0.0  # by time.perf_counter
        self._digest: str | None = None

    def exists(self) -> bool:
        """Whether the folder holds a checkpoint."""
        return self.folder is not None and (Path(self.folder) / CONFIG_FILE).exists()

    def write(self, state: FitState) -> None:
        """Replaces the checkpoint by ``state``, which is at the end of an epoch."""
        started = time.perf_counter()
        if self.folder is None or started < self._next_write:
            return
        assert state.optimizer is not None
        state.optimizer.zero_grad(set_to_none=True)  # while copies of everything are in memory
        tensors: dict[str, Tensor] = {f"network.{k}": v for k, v in state.network.state_dict().items()}
        for index, moments in state.optimizer.state_dict()["state"].items():
            for key, value in moments.items():
                tensors[f"optimizer.{index}.{key}"] = value
        tensors["random.order"], tensors["random.noise"] = state.order.get_state(), state.noise.get_state()
        if state.average is not None:
            tensors |= {_AVERAGE + name: value for name, value in state.average.state_dict().items()}
        for name in _OF_START:
            if getattr(state, name) is not None:
                tensors[name] = getattr(state, name)
        config = self._identity(state) | {
            "stage": state.stage,
            "epoch": state.epoch,
            "stopped": state.stopped,
            "averaged": state.average is not None,
            "history": state.history,
        }
        try:
            write_state_folder(self.folder, "checkpoint", config, tensors)
        except OSError as error:
            raise OSError(
                f"the checkpoint could not be written to {self.folder}: {error}; make room there, or fit without a checkpoint"
            ) from error
        ended = time.perf_counter()
        self._next_write = ended + self.work_per_write * (ended - started)

    def _identity(self, state: FitState) -> dict[str, Any]:
        """What must not differ between the fit that stopped and the one that goes on."""
        return {
            "method": self.method,
            "options": state.options._saved_params() | state.further_data,
            "seed": state.seed,
            "data_shape": list(state.rows.X.shape),
            "data_digest": self._digest_of(state),
            "device_type": state.rows.device.type,
        }

    def _digest_of(self, state: FitState) -> str:
        """Of the rows as they are read; taken once."""
        if self._digest is None:
            self._digest = state.rows.digest()
        return self._digest

    def read(self, state: FitState, stages: Sequence[str]) -> None:
        """Puts ``state`` where the checkpoint left it; ``stages`` are the names of the stages in their order.

        Raises:
            ValueError: the checkpoint belongs to another method, other options, another seed or other data
                (each difference is named), or a part of it is damaged.
        """
        assert self.folder is not None
        config, tensors = read_state_folder(self.folder, "checkpoint", state.rows.device)
        if isinstance(config.get("options"), dict):
            resolved = with_later_options(type(state.options), config["options"])
            # as JSON holds them
            config["options"] = {
                name: list(value) if isinstance(value, tuple) else value for name, value in resolved.items()
            }
        wanted = self._identity(state)
        if (
            "data_digest" not in config
        ):  # written before it was kept: offsets and scales of the columns must do
            del wanted["data_digest"]
        refuse_other_fit(self.folder, config, wanted)
        path = Path(self.folder) / config["tensor_file"]
        if config.get("stage") not in stages:
            raise ValueError(
                f"{Path(self.folder) / CONFIG_FILE} is damaged: no stage {config.get('stage')!r}"
            )
        for key, kind in _PROGRESS.items():
            if type(config.get(key)) is not kind or (kind is int and config[key] < 0):
                raise ValueError(
                    f"{Path(self.folder) / CONFIG_FILE} is damaged: {key} is {config.get(key)!r}"
                )
        network = {f"network.{k}": v for k, v in state.network.state_dict().items()}
        needed: dict[str, Sequence[int]] = {name: value.shape for name, value in network.items()}
        needed |= {
            "random.order": state.order.get_state().shape,
            "random.noise": state.noise.get_state().shape,
        }
        if config.get("averaged"):
            needed |= {_AVERAGE + name: value.shape for name, value in state.network.state_dict().items()}
        if stages.index(config["stage"]) > stages.index("pretrain"):
            needed["initial_labels"] = [len(state.rows)]
        check_tensors(path, {name: t for name, t in tensors.items() if name in needed}, needed)
        # several processes sum the statistics of the columns in another order
        least = 1e-9 * network["network.scale"]
        for name in ("network.offset", "network.scale"):
            if not ((tensors[name] - network[name]).abs() <= least).all():
                raise ValueError(
                    f"{self.folder} is the checkpoint of a fit to other data: the column {name[8:]}s differ; pass the "
                    "same X, or another checkpoint folder"
                )
        state.network.load_state_dict({name[8:]: tensors[name] for name in network})
        state.rows.offset, state.rows.scale = state.network.offset, state.network.scale
        state.order.set_state(tensors["random.order"].cpu())
        state.noise.set_state(tensors["random.noise"].cpu())
        if config.get("averaged"):
            state.average = copy.deepcopy(state.network)
            state.average.load_state_dict({name[8:]: tensors[_AVERAGE + name[8:]] for name in network})
        for name in _OF_START:
            setattr(state, name, tensors.get(name))
        state.saved_optimizer = _moments(tensors)
        state.stage, state.epoch, state.stopped = config["stage"], config["epoch"], config["stopped"]
        state.history.extend(config["history"])


def _moments(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            # Adam keeps its step counters on the CPU
            found.setdefault(int(index), {})[key] = value.cpu() if key == "step" else value
    return found


def refuse_other_fit(folder: Any, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises ValueError naming each entry of ``wanted`` that differs in ``found``, the configuration of a checkpoint."""
    differences = []
    for key, value in wanted.items():
        other = found.get(key)
        if key == "options" and isinstance(other, dict):
            differences += [
                f"{name}: {other[name]!r} there, {option!r} here"
                if name in other
                else f"{name}: unknown to the version of desc_ext that wrote it, {option!r} here"
                for name, option in value.items()
                if other.get(name) != option
            ]
        elif key == "data_digest" and other != value:
            differences.append("data: the values in X differ")
        elif other != value:
            differences.append(f"{key}: {other!r} there, {value!r} here")
    if differences:
        raise ValueError(
            f"cannot resume from {folder}, it is the checkpoint of another fit ({'; '.join(differences)}); "
            "use the same arguments and data, or another checkpoint folder"
        )


def restore_optimizer(state: FitState) -> None:
    """Gives the optimizer of ``state`` what was read from a checkpoint, once."""
    optimizer = state.optimizer
    if state.saved_optimizer and optimizer is not None:
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state.saved_optimizer, "param_groups": groups})
        # a fused step goes through a parameter and its moments as they lie in memory, without a look at their strides
        for parameter, moments in optimizer.state.items():
            for name, value in moments.items():
                if name != "step" and value is not None:
                    moments[name] = torch.empty_like(parameter).copy_(value)
    state.saved_optimizer = None
