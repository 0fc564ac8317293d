"""What this machine is, and what it can do at most."""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import desc_ext
from desc_ext.bench.timing import Clock, sample

__all__ = ["Roofline", "busy", "cpp_compiler", "describe", "measure_roofline"]

REPEATS = 5


@dataclass(frozen=True)
class Roofline:
    """Of a device, measured with as many threads as what is compared with it."""

    gigaflops: float
    """GFLOP/s of torch's square matrix product in one dtype: the roof of what computes."""
    gigabytes: float
    """GB/s read and written by a copy of an array that no cache holds: the roof of what moves."""


def measure_roofline(
    clock: Clock, dtype: torch.dtype, side: int | None = None, size: int | None = None
) -> Roofline:
    """Best of several: a roof is what is possible, not what is usual.

    Args:
        side: rows and columns of the matrices; None: 8,192 on a GPU, else 1,536.
        size: bytes of the array that is copied; None: 1 GiB on a GPU, else 256 MiB.
    """
    side, size = side or (8192 if clock.on_gpu else 1536), size or (1 << 30 if clock.on_gpu else 1 << 28)

    def best(call: Any) -> float:
        if not clock.on_gpu:  # by the clock that candidates are timed by
            repeats: dict[Any, int] = {}
            return min(sample(call, repeats) for _ in range(REPEATS))
        return min(clock.seconds(lambda: call, cold=False) for _ in range(REPEATS))

    factor = torch.randn(side, side, device=clock.device).to(dtype)
    product = 2 * side**3 / best(partial(torch.mm, factor, factor)) / 1e9
    source = torch.ones(size, dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    return Roofline(product, 2 * size / best(partial(target.copy_, source)) / 1e9)


def cpp_compiler() -> str | None:
    """The C++ compiler that torch.compile would take, or None."""
    return shutil.which(os.environ.get("CXX") or ("clang++" if platform.system() == "Darwin" else "g++"))


def describe(device: torch.device) -> dict[str, Any]:
    """Processor, cores, instruction set of the kernels, device and versions, as a dictionary fit for JSON."""
    assert desc_ext.library_path  # which loads the operators
    build = json.loads(torch.ops.desc_ext.build_info())
    return {
        "cpu": _cpu_name(),
        "cores": _usable_cores(),
        "threads": torch.get_num_threads(),
        "instruction_set": build["in_use"],
        "compiler": build["compiler"],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "desc_ext": desc_ext.__version__,
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def busy() -> str | None:
    """What other processes do to the measurements, where they keep so many cores busy that torch's threads wait for them."""
    n_threads, cores = torch.get_num_threads(), _usable_cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if n_threads == 1 or load + n_threads < cores + 1:
        return None
    return (
        f"other processes load {cores} cores by {load:.1f}: threads wait for each other, which falls on some candidates "
        "more than on others. Measure again when the machine is idle, or with --threads 1"
    )


def _cpu_name() -> str:
    """As the system names the processor; its architecture where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _usable_cores() -> int:
    """That this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
