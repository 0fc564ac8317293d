"""Formats whose libraries a damaged file can lead to end the process, or never to end: they are read in one of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from desc_ext.data.messages import DataError

__all__ = ["read_apart"]

_FOLDER = Path(__file__).parent
# Of processor time: what a damaged file may waste, and what a whole one needs at most.
_SECONDS, _SECONDS_PER_BYTE = 30, 1e-7


@contextmanager
def read_apart(program: str, path: Path, kind: str, **asked: Any) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What the ``program`` beside this file has read of ``path``: the folder with its arrays, and what it says of them.

    The program is called with the file, the folder, and what is ``asked`` as JSON; it writes found.json at the end. Arrays
    that are mapped from the folder stay when it goes.

    Raises:
        DataError: it failed, crashed or took too long; ``kind`` says what the file should be.
    """
    seconds = int(_SECONDS + _SECONDS_PER_BYTE * path.stat().st_size)
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            str(_FOLDER / program),
            str(path.absolute()),
            folder,
            json.dumps(asked),
            str(seconds),
        ]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines()
            reason = said[-1] if done.returncode == 1 and said else "it is damaged"
            raise DataError(f"{path} cannot be read as {kind}: {reason}")
        yield Path(folder), json.loads((Path(folder) / "found.json").read_text())
