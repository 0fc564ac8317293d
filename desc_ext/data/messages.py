"""What is said of data: the error of data that cannot be read, and notes of what was read otherwise than it may look."""

from __future__ import annotations

from desc_ext.messages import warn_user

__all__ = ["DataError", "DataNote", "note"]


class DataError(ValueError):
    """Data that cannot be found or read; the message is one sentence for the user."""


class DataNote(UserWarning):
    """What was read otherwise than it may look, such as a column that was left out; one sentence for the user."""


def note(message: str) -> None:
    """Tells the user something about the data, as a warning of the category :class:`DataNote`."""
    warn_user(message, DataNote)
