"""One run at a time in a folder of results."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

__all__ = ["LOCK_FILE", "locked"]

LOCK_FILE = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds ``folder``, which is made if missing, for this process.

    The lock is the operating system's: it ends with the process that holds it, however that ends. What is made here and
    still empty at the end is removed again.

    Raises:
        ValueError: another process holds it, or ``folder`` is a file.
        OSError: nothing can be written there.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder for results")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    descriptor = _acquire(path)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_who()).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is released: who waits for this file sees that it is gone
        os.close(descriptor)
        with contextlib.suppress(OSError):
            for created in made:
                created.rmdir()


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644
        )  # a link may lead to any file
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise ValueError(
                f"{path.parent} is in use by {holder}: wait until it has ended, or choose another --out"
            ) from None
        except OSError as error:
            warnings.warn(
                f"{path.parent} cannot be locked ({error}): start no second run there", stacklevel=4
            )
        if _is_still(path, descriptor):
            return descriptor
        os.close(descriptor)  # its last holder has removed it in between


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _who() -> dict[str, object]:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"process": os.getpid(), "command": command, "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _holder(descriptor: int) -> str:
    try:
        who = json.loads(os.pread(descriptor, 100_000, 0))
        return f"process {who['process']} (since {who['since']}: {who['command']})"
    except (ValueError, KeyError, TypeError):  # it has not yet said who it is
        return "another process"
