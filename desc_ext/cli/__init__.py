"""The command line, ``desc-ext``."""

from desc_ext.cli.app import app, main

__all__ = ["app", "main"]
