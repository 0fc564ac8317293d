"""Folders of tensors that survive a crash: saved models and checkpoints.

A state folder holds ``config.json`` and one safetensors file that ``config.json`` names together with
its SHA-256 digest. The tensors are written first and ``config.json`` is then replaced in one step, so at
every moment the folder is either the old state or the new one, never a mixture.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialise_tensors
from torch import Tensor

from desc_ext.durable import json_object, replace_file

__all__ = [
    "check_tensors",
    "read_state_config",
    "read_state_folder",
    "write_state_folder",
]

# 2: options have the names of version 0.2
FORMAT_VERSION = 2
CONFIG_FILE = "config.json"


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
    replace_file(folder / file, content)
    replace_file(folder / CONFIG_FILE, json.dumps({**header, **config}, indent=1).encode())
    for old in folder.glob(
        f"{kind}-*.safetensors*"
    ):  # older states, and parts of states whose writing was cut short
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
    config = json_object(path)
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
    if not _names_a_file(config["tensor_file"]):
        raise ValueError(f"{path} is damaged: tensor_file is {config['tensor_file']!r}, wanted a file's name")
    shapes = config["shapes"]
    if not isinstance(shapes, dict) or not all(isinstance(shape, list) for shape in shapes.values()):
        raise ValueError(f"{path} is damaged: shapes must be lists of numbers by tensor")
    return config


def _names_a_file(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & {"/", "\0"}


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
