"""A fit by several processes that torchrun has started: who writes, who only computes, what happens when one ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from desc_ext.cli.run import with_image_shape
from desc_ext.data import Dataset
from desc_ext.engine.options import option_fields
from desc_ext.engine.processes import Processes
from desc_ext.models import MODELS

__all__ = ["Launch", "check_launch", "is_of_group", "join_fit", "launched"]

# The first process looks for the start of a refinement while the others wait.
_LONGEST_WAIT = timedelta(hours=12)


@dataclass(frozen=True)
class Launch:
    """The processes of a run, and whether torchrun has started them again."""

    processes: Processes = field(default_factory=Processes)
    restarted: bool = False

    @property
    def together(self) -> bool:
        """Whether there are others."""
        return self.processes.size > 1


def check_launch(model: str) -> None:
    """Raises ValueError where torchrun has started several processes, and the method is fitted by one."""
    if _are_several() and "distributed" not in option_fields(MODELS[model]):
        raise ValueError(f"{model} is fitted by one process; start it without torchrun")


def _are_several() -> bool:
    return dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1


@contextlib.contextmanager
def launched() -> Iterator[Launch]:
    """The processes that torchrun has started, in a group of torch.distributed: NCCL where there are GPUs, else gloo."""
    if not _are_several():
        yield Launch()
        return
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, rank, size = next(dist.rendezvous("env://"))
    # torchrun may keep its store, where processes that are gone have left their addresses
    store = dist.PrefixStore(f"start-{restarts}", store)
    dist.init_process_group(
        "nccl" if gpus else "gloo", store=store, rank=rank, world_size=size, timeout=_LONGEST_WAIT
    )
    yield Launch(Processes(rank, size), restarts != "0")
    # not after an error: then the others may be in the middle of a message
    dist.destroy_process_group()


def join_fit(model: str, options: dict[str, Any], dataset: Dataset, checkpoint: Path, resume: bool) -> None:
    """The part of a process that is not the first: computes with it, and writes nothing.

    Args:
        checkpoint: the folder of the first one's checkpoints, which is read where ``resume`` is true.
    """
    options = options | {"distributed": True, "resume": resume, "checkpoint": checkpoint}
    estimator = MODELS[model](**with_image_shape(options, dataset))
    estimator._keeps_embedding = False  # of rows on disk the first process writes it
    estimator.fit(dataset.images)


def is_of_group(error: RuntimeError) -> bool:
    """Whether ``error`` says that a message to or from another process failed."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()
