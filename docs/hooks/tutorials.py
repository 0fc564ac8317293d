"""Tutorials: notebooks written in Markdown (Jupytext), run when the site is built, with what they print and draw.

A picture becomes a file of the site beside the page. A tutorial that fails ends the build.
"""

from __future__ import annotations

import base64
import os
import re
from typing import Any

import jupytext
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

__all__ = ["executed", "is_tutorial"]

_SECONDS = 300  # that a block may take
_CONFIG = Config({"KernelManager": {"transport": "ipc"}})  # no port, on which others could listen
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def is_tutorial(site_path: str) -> bool:
    """Whether a page of the site is run."""
    return site_path.startswith("tutorials/") and not site_path.endswith("index.md")


def executed(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The Markdown of a tutorial with the output of every block below it; pictures are added to ``files``."""
    notebook = jupytext.reads(markdown, "md")
    client = NotebookClient(notebook, kernel_name="python3", timeout=_SECONDS, config=_CONFIG)
    try:
        client.execute(env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore::FutureWarning"})
    except CellExecutionError as error:
        raise PluginError(
            f"docs/{page.file.src_uri}: a block failed\n{_COLOURS.sub('', str(error))}"
        ) from error
    parts, n_pictures = [], 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        text = "".join(_COLOURS.sub("", _text(output)) for output in cell.outputs).rstrip()
        if text:
            parts.append(f"```text\n{text}\n```")
        for output in cell.outputs:
            if "image/png" not in output.get("data", {}):
                continue
            n_pictures += 1
            name = f"{page.file.src_uri.removesuffix('.md')}-{n_pictures}.png"
            content = base64.b64decode(output["data"]["image/png"])
            files.append(File.generated(config, name, content=content))
            parts.append(f"![what the lines above draw]({os.path.basename(name)})")
    return "\n\n".join(parts)


def _text(output: Any) -> str:
    """What a block printed, or the value of its last line; no progress and warnings, which go to the other stream."""
    if output.output_type == "stream":
        return output.text if output.name == "stdout" else ""
    data = output.get("data", {})
    return "" if "image/png" in data else data.get("text/plain", "") + "\n"
