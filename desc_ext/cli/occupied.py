"""Whether a folder may take the results of a run: what can be refused before data are loaded."""

from __future__ import annotations

from pathlib import Path

from desc_ext.cli.lock import LOCK_FILE
from desc_ext.cli.results import RESULTS
from desc_ext.cli.swap import HIDDEN, finish_swap
from desc_ext.engine.options import option_fields
from desc_ext.models import MODELS

__all__ = ["check_folder", "holds_checkpoint", "keeps_checkpoints"]

_OURS = {LOCK_FILE, HIDDEN[0]}  # what a run that was killed may leave beside its checkpoint


def keeps_checkpoints(model: str) -> bool:
    """Whether a fit of the method can be resumed. One without a network is short, and keeps none."""
    return "checkpoint" in option_fields(MODELS[model])


def holds_checkpoint(folder: Path) -> bool:
    """Whether ``folder`` holds the checkpoint of an interrupted run."""
    return all((folder / "checkpoint" / name).is_file() for name in ("run.json", "state/config.json"))


def check_folder(folder: Path, model: str, resume: bool, overwrite: bool) -> None:
    """Raises ValueError where ``folder`` is in the way of a run, or has nothing to resume."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder for results")
    for name in ("checkpoint", "checkpoint/state"):
        if (folder / name).is_symlink():
            raise ValueError(
                f"{folder / name} is a link to {(folder / name).resolve()}, where nothing is written; remove it"
            )
    if folder.is_dir():
        finish_swap(folder, RESULTS)
    if resume:
        _check_resume(folder, model)
    elif folder.is_dir() and not overwrite and any(not _is_left_over(path) for path in folder.iterdir()):
        raise ValueError(_why_not_empty(folder))


def _is_left_over(path: Path) -> bool:
    """Whether a run that was killed before its first checkpoint left it."""
    if path.name == "checkpoint" and not holds_checkpoint(path.parent):
        return (path / "run.json").is_file()
    return path.name in _OURS


def _check_resume(folder: Path, model: str) -> None:
    if not keeps_checkpoints(model):
        raise ValueError(f"{model} keeps no checkpoints, so there is nothing to resume; leave out --resume")
    if not holds_checkpoint(folder):
        finished = (folder / "metrics.json").is_file()
        why = "its run has finished" if finished else "it holds no checkpoint"
        raise ValueError(f"there is nothing to resume in {folder}: {why}; leave out --resume")


def _why_not_empty(folder: Path) -> str:
    if holds_checkpoint(folder):
        return f"{folder} holds an interrupted run: go on with --resume, or start anew with --overwrite"
    if (folder / "config.json").is_file() and (folder / "model").is_dir():
        return f"{folder} holds results already: replace them with --overwrite, or choose another --out"
    return f"{folder} is not empty: choose another --out, or write there with --overwrite"
