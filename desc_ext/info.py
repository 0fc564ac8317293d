"""What this installation is made of and can do: ``python -m desc_ext.info`` or ``desc-ext info``."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from typing import Any

import torch
import torch.distributed as dist

import desc_ext
from desc_ext.data import KNOWN, data_folders, find_folder

__all__ = ["collect_info", "format_info"]

_PACKAGES = ("numpy", "scipy", "scikit-learn", "pyarrow")


def collect_info(data_dir: str | os.PathLike[str] | None = None) -> dict:
    """Versions, the compiled library, CUDA, threads and data folders, as a dictionary fit for JSON.

    Keys: ``desc_ext``, ``python``, ``torch``, ``numpy``, ``scipy``, ``scikit-learn``, ``pyarrow`` (versions); ``library``
    (path), ``compiler``, ``instruction_sets`` (compiled), ``in_use`` (the one chosen for this processor);
    ``cuda_architectures`` (of the compiled kernels), ``cuda_device`` (name, or None), ``cuda_devices`` (how many);
    ``threads``; ``process_backends`` (of torch.distributed, by which several processes can fit together);
    ``data`` (name of a data set to the folder it was found in, or None).
    """
    library = desc_ext.library_path  # which loads the operators
    build = json.loads(torch.ops.desc_ext.build_info())
    return {
        "desc_ext": desc_ext.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        **{package: version(package) for package in _PACKAGES},
        "library": str(library),
        "compiler": build["compiler"],
        "instruction_sets": build["instruction_sets"],
        "in_use": build["in_use"],
        "cuda_architectures": build["cuda_architectures"],
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda_devices": torch.cuda.device_count(),
        "threads": torch.get_num_threads(),
        "process_backends": _process_backends(),
        "data": {
            name: "scikit-learn" if not known.folders else _text(find_folder(known, data_dir))
            for name, known in KNOWN.items()
        },
    }


def _process_backends() -> list[str]:
    if not dist.is_available():
        return []
    found = {"gloo": dist.is_gloo_available(), "nccl": dist.is_nccl_available() and torch.cuda.is_available()}
    return [name for name, available in found.items() if available]


def _text(folder: Any) -> str | None:
    return None if folder is None else str(folder)


def format_info(data_dir: str | os.PathLike[str] | None = None) -> str:
    """The same as lines of text, with the folders that were searched for data."""
    info = collect_info(data_dir)
    architectures = ", ".join(info["cuda_architectures"])
    cuda = f"yes, compiled for {architectures}" if architectures else "no (this build has no CUDA kernels)"
    rows = [(name, info[name]) for name in ("desc_ext", "python", "torch", *_PACKAGES, "library", "compiler")]
    rows += [
        ("instruction sets", f"{', '.join(info['instruction_sets'])} (in use: {info['in_use']})"),
        ("CUDA", cuda),
        ("CUDA device", info["cuda_device"] or "none that torch can use"),
        ("CUDA devices", str(info["cuda_devices"])),
        ("threads", str(info["threads"])),
        (
            "fits of several processes",
            ", ".join(info["process_backends"]) or "no (torch has no backend for them)",
        ),
    ]
    rows += [(f"data: {name}", folder or "not found") for name, folder in info["data"].items()]
    rows += [("data searched in", ", ".join(map(str, data_folders(data_dir))))]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


if __name__ == "__main__":
    print(format_info())
