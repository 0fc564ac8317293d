"""Errors and warnings of the command line: one sentence each, in its words, said once by the processes of torchrun."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterator
from typing import Any

import typer
from rich.console import Console

from desc_ext.cli.catalogue import in_flags

__all__ = ["plain_errors"]

_FIRST_SPEAKS = 20  # seconds; when one process has ended, torchrun ends the others


@contextlib.contextmanager
def plain_errors(same_in_all: bool = False) -> Iterator[None]:
    """Turns an error the user can mend into one sentence and exit code 2, Ctrl-C into exit code 130.

    Args:
        same_in_all: all processes of torchrun meet the error, as one of the options: the first one says it.
    """
    rank = _rank()
    errors = Console(stderr=True, highlight=False, soft_wrap=True, quiet=same_in_all and rank > 0)
    who = f"process {rank}: " if rank else ""

    def show(message: Any, category: type[Warning], *args: Any, **options: Any) -> None:
        from desc_ext.data import DataNote

        if rank:  # all processes read the same data
            return
        kind = "note" if issubclass(category, DataNote) else "warning"
        errors.print(f"{kind}: {in_flags(str(message))}", markup=False)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        if errors.quiet:
            time.sleep(_FIRST_SPEAKS)
        # bad data, bad options, folders that cannot be read or written, losses that grow without bound
        errors.print(f"{who}error: {_sentence(error)}", markup=False)
        raise typer.Exit(2) from error
    except RuntimeError as error:
        if _is_of_group(error):
            errors.print(
                f"{who}error: another process of the fit ended, and says why before or after this. Where an epoch was "
                "finished, its checkpoint is kept: start the same command again with --resume, or let torchrun do so, "
                "--max-restarts 3",
                markup=False,
            )
            raise typer.Exit(2) from error
        if not _is_of_device(error):
            raise
        message = f"{_sentence(error)}; choose another with --set device=cpu, or smaller batches or data"
        errors.print(f"{who}error: the device cannot do this: {message}", markup=False)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        errors.print("interrupted")
        raise typer.Exit(130) from None


def _rank() -> int:
    """Of this process among those that torchrun has started, else 0."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def _sentence(error: BaseException) -> str:
    if (
        isinstance(error, OSError)
        and error.strerror
        and error.filename is not None
        and error.filename2 is None
    ):
        reason = error.strerror[0].lower() + error.strerror[1:]
        hint = "; name another, or ask for the right to use it" if isinstance(error, PermissionError) else ""
        return f"{os.fspath(error.filename)}: {reason}{hint}"
    return in_flags(" ".join(str(error).split())) or type(error).__name__


def _is_of_device(error: RuntimeError) -> bool:
    """Whether torch says that its device lacks memory, or has failed."""
    import torch  # which raised it

    return isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError))


def _is_of_group(error: RuntimeError) -> bool:
    from desc_ext.cli.torchrun import is_of_group

    return is_of_group(error)
