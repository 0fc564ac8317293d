"""Pages written in Markdown, and the code that they show."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from helpers.commands import ENVIRONMENT

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """(language, code) of the code blocks of ``page`` that are written in one of ``languages``, in their order."""
    return [found for found in _BLOCK.findall(page.read_text(encoding="utf-8")) if found[0] in languages]


def run_python(page: Path) -> dict[str, Any]:
    """Runs the Python blocks of ``page`` one after the other, as one program; returns its names."""
    namespace: dict[str, Any] = {}
    for _, code in blocks(page, "python"):
        exec(compile(code, page.name, "exec", dont_inherit=True), namespace)
    return namespace


def run_shell(page: Path, folder: Path) -> str:
    """Runs the bash blocks of ``page`` in ``folder``, one after the other; returns what they print.

    Raises AssertionError where one fails.
    """
    script = "\n".join(code for _, code in blocks(page, "bash"))
    done = subprocess.run(
        ["bash", "-eu", "-c", script],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
