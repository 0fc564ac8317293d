"""Checkpoints of a running fit: enough to go on with the same bits as if it had never stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from desc_ext.training import check_tensors, read_state_folder, write_state_folder

if TYPE_CHECKING:
    from desc_ext.models.base import Fit

__all__ = ["read_checkpoint", "restore_optimizer", "write_checkpoint"]


def write_checkpoint(
    folder: str | os.PathLike[str], method: str, fit: Fit, optimizer: torch.optim.Optimizer
) -> None:
    """Replaces the checkpoint in ``folder`` by the state at the end of an epoch."""
    tensors: dict[str, Tensor] = {f"network.{k}": v for k, v in fit.network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer.{index}.{key}"] = value
    tensors["random.order"], tensors["random.noise"] = fit.order.get_state(), fit.noise.get_state()
    if fit.initial_labels is not None:
        tensors["initial_labels"] = fit.initial_labels
    config = {
        **_identity(method, fit),
        "stage": fit.stage,
        "epoch": fit.epoch,
        "stopped": fit.stopped,
        "history": fit.history,
    }
    write_state_folder(folder, "checkpoint", config, tensors)


def _identity(method: str, fit: Fit) -> dict[str, Any]:
    """What must not differ between the fit that stopped and the one that goes on."""
    return {
        "method": method,
        "options": fit.options,
        "seed": fit.seed,
        "data_shape": list(fit.rows.X.shape),
        "device_type": fit.rows.device.type,
    }


def read_checkpoint(folder: str | os.PathLike[str], method: str, fit: Fit) -> None:
    """Puts ``fit`` into the state that the checkpoint in ``folder`` holds.

    Raises:
        ValueError: the checkpoint belongs to another method, other options, another seed or other data
            (each difference is named), or a part of it is damaged.
    """
    config, tensors = read_state_folder(folder, "checkpoint", fit.rows.device)
    _refuse_other_fit(folder, config, _identity(method, fit))
    network = {f"network.{k}": v for k, v in fit.network.state_dict().items()}
    path = Path(folder) / config["tensor_file"]
    needed = {name: value.shape for name, value in network.items()}
    needed |= {"random.order": fit.order.get_state().shape, "random.noise": fit.noise.get_state().shape}
    if config.get("stage") not in fit.without_clusters:
        needed["initial_labels"] = [len(fit.rows)]
    check_tensors(path, {name: t for name, t in tensors.items() if name in needed}, needed)
    for name in ("network.offset", "network.scale"):
        if not torch.equal(tensors[name], network[name]):
            raise ValueError(
                f"{folder} is the checkpoint of a fit to other data: the column {name[8:]}s differ; pass the "
                "same X, or another checkpoint folder"
            )
    fit.network.load_state_dict({name[8:]: tensors[name] for name in network})
    fit.order.set_state(tensors["random.order"].cpu())
    fit.noise.set_state(tensors["random.noise"].cpu())
    fit.initial_labels = tensors.get("initial_labels")
    fit.optimizer_state = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            # Adam keeps its step counters on the CPU
            fit.optimizer_state.setdefault(int(index), {})[key] = value.cpu() if key == "step" else value
    fit.stage, fit.epoch, fit.stopped = config["stage"], config["epoch"], config["stopped"]
    fit.history.extend(config["history"])


def _refuse_other_fit(folder: Any, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    differences = []
    for key, value in wanted.items():
        other = found.get(key)
        if key == "options" and isinstance(other, dict):
            differences += [
                f"{name}: {other.get(name)!r} there, {option!r} here"
                for name, option in value.items()
                if other.get(name) != option
            ]
        elif other != value:
            differences.append(f"{key}: {other!r} there, {value!r} here")
    if differences:
        raise ValueError(
            f"cannot resume from {folder}, it is the checkpoint of another fit ({'; '.join(differences)}); "
            "use the same arguments and data, or another checkpoint folder"
        )


def restore_optimizer(optimizer: torch.optim.Optimizer, fit: Fit) -> None:
    """Gives ``optimizer`` the state that was read from a checkpoint, once."""
    if fit.optimizer_state:
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": fit.optimizer_state, "param_groups": groups})
        # a fused step goes through a parameter and its moments as they lie in memory, without a look at their strides
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                if name != "step" and value is not None:
                    state[name] = torch.empty_like(parameter).copy_(value)
    fit.optimizer_state = None
