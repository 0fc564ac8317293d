"""Sets of results that replace each other as a whole.

A new set is written to a hidden folder beside the old one, every file of it to the disk. Then that folder is renamed: from
here on the new set counts. The old files go, the new ones are moved into place, ``config.json`` last. A run that is cut
short in between leaves the rest of that to the next command (:func:`finish_swap`); old and new files never lie side by side.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from desc_ext.durable import sync_folder

__all__ = ["HIDDEN", "finish_swap", "new_set", "swap_is_pending"]

_WRITING, _READY, _MOVING = HIDDEN = (".results-writing", ".results-ready", ".results-moving")
_LAST = "config.json"


@contextlib.contextmanager
def new_set(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """A hidden folder to write a new set to, which replaces what is called ``names`` in ``folder`` at the end.

    An error while it is written leaves the old set as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finish_swap(folder, names)
    writing = folder / _WRITING
    shutil.rmtree(writing, ignore_errors=True)  # of a run that was killed
    writing.mkdir()
    try:
        yield writing
        sync_folder(writing)
        os.rename(writing, folder / _READY)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    finish_swap(folder, names)


def swap_is_pending(folder: Path) -> bool:
    """Whether a whole new set waits to be moved into place."""
    return any(is_folder(folder / name) for name in (_READY, _MOVING))


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder, and no link to one elsewhere."""
    return path.is_dir() and not path.is_symlink()


def finish_swap(folder: Path, names: Sequence[str]) -> None:
    """Moves a new set that is whole into place, from wherever an earlier attempt stopped."""
    ready, moving = folder / _READY, folder / _MOVING
    if is_folder(ready):
        sync_folder(folder)
        for name in (_LAST, *names):
            remove(folder / name)
        sync_folder(folder)
        os.rename(ready, moving)
        sync_folder(folder)
    if is_folder(moving):
        for path in sorted(moving.iterdir(), key=lambda path: path.name == _LAST):
            os.rename(path, folder / path.name)
        sync_folder(folder)
        moving.rmdir()


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
