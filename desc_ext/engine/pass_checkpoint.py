"""Checkpoints of k-subspaces of rows on disk: the bases after every pass over them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from desc_ext.algorithms.k_subspaces import Progress
from desc_ext.engine.checkpoint import refuse_other_fit
from desc_ext.engine.rows import Rows
from desc_ext.engine.state_folder import CONFIG_FILE, check_tensors, read_state_folder, write_state_folder

__all__ = ["PassCheckpoint"]

_ENTRIES = {
    "residual": float, "epoch": int, "n_reseeded": int, "stopped": bool, "history": list, "before": list,
}  # fmt: skip


class PassCheckpoint:
    """The folder that receives a :class:`Progress` after every iteration of a continuation on all rows.

    Args:
        folder: where it lies; made if missing.
        model: the fit: its method and options are part of what a checkpoint is of, and its history is kept.
        rows: the data; they are read once, for their digest.
        seed: of the fit.
    """

    def __init__(self, folder: str | os.PathLike[str], model: Any, rows: Rows, seed: int) -> None:
        self._folder, self._model, self._device = Path(folder), model, rows.device
        self._identity = {
            "method": model.method,
            "options": model.resolved_params_,
            "seed": seed,
            "data_shape": list(rows.X.shape),
            "data_digest": rows.digest(),
            "device_type": rows.device.type,
        }

    def write(self, progress: Progress) -> None:
        """Replaces the checkpoint in one step.

        Raises:
            OSError: it could not be written; the one before is as it was.
        """
        config = self._identity | {
            "residual": progress.residual,
            "epoch": progress.n_iter,
            "n_reseeded": progress.n_reseeded,
            "stopped": progress.ended,
            "before": list(progress.before),
            "history": self._model.history_,
        }
        try:
            write_state_folder(self._folder, "checkpoint", config, {"bases": progress.bases})
        except OSError as error:
            raise OSError(
                f"the checkpoint could not be written to {self._folder}: {error}; make room there, or fit without"
            ) from error

    def read(self, shape: Sequence[int]) -> Progress | None:
        """What was written, its history being put into that of the model; None where the folder holds no checkpoint.

        Args:
            shape: that the bases must have.

        Raises:
            ValueError: it belongs to another fit (each difference is named), or a part of it is damaged.
        """
        path = self._folder / CONFIG_FILE
        if not path.exists():
            return None
        config, tensors = read_state_folder(self._folder, "checkpoint", self._device)
        refuse_other_fit(self._folder, config, self._identity)
        for name, kind in _ENTRIES.items():
            if type(config.get(name)) is not kind:
                raise ValueError(f"{path} is damaged: {name} is {config.get(name)!r}")
        before = config["before"]
        if len(before) != 2 or not all(type(number) is int for number in before):
            raise ValueError(f"{path} is damaged: before is {before!r}")
        check_tensors(self._folder / config["tensor_file"], tensors, {"bases": shape})
        self._model.history_.extend(config["history"])
        return Progress(
            tensors["bases"], config["residual"], config["epoch"], config["n_reseeded"], config["stopped"],
            (before[0], before[1]),
        )  # fmt: skip
