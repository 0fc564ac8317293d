"""Words of messages, and warnings that name the line of the user's code."""

from __future__ import annotations

import sys
import warnings

__all__ = ["counted", "warn_user"]

_INSIDE = ("desc_ext.", "sklearn.", "torch.")


def counted(number: int, noun: str) -> str:
    """The number with its noun: 1 row, 2,000 rows."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the line that called this package, however deep inside it this is."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_INSIDE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
