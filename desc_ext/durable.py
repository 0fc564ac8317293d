"""Files that are whole or not there, whatever happens while they are written: a full disk, a kill, a loss of power."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["json_object", "replace_file", "replacing", "sync_folder"]

_PART = ".part"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` in one step at the end; after an error nothing has changed."""
    part = path.with_name(path.name + _PART)
    try:
        part.unlink(
            missing_ok=True
        )  # a link of that name may lead out of the folder, and would be written through
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        if isinstance(error, OSError) and str(error.filename) == str(part):
            error.filename = str(path)  # the one that the user knows
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    sync_folder(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Puts ``content`` in place of the file ``path`` in one step."""
    with replacing(path) as file:
        file.write(content)


def json_object(path: Path) -> dict[str, Any]:
    """The object in the JSON file ``path``.

    Raises:
        ValueError: it holds no such object; the message names it.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: wanted a JSON object, got {type(found).__name__}")
    return found


def sync_folder(folder: Path) -> None:
    """Makes the names in ``folder`` last: what was renamed there is renamed after a loss of power too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no folders
            raise
    finally:
        os.close(descriptor)
