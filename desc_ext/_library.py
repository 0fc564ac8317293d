"""Loads the compiled operators, or says exactly what is missing and how to mend it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

__all__ = ["MINIMUM_TORCH", "check_torch", "library_path", "load"]

MINIMUM_TORCH = (2, 11)
LIBRARY_NAME = "lib_desc_ext.dylib" if sys.platform == "darwin" else "lib_desc_ext.so"
_WANTED = "torch >= {}.{}".format(*MINIMUM_TORCH)
_TORCH_COMMAND = f'"{sys.executable}" -m pip install --upgrade "torch>={MINIMUM_TORCH[0]}.{MINIMUM_TORCH[1]}"'


def check_torch(version: str) -> str:
    """Imports torch and returns its version; ``version`` is that of desc_ext, for the message.

    Raises:
        ImportError: when torch is missing or older than :data:`MINIMUM_TORCH`.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":  # an installed but broken torch speaks for itself
            raise
        raise ImportError(
            f"desc_ext {version} needs {_WANTED}, and found no torch. Install it with: {_TORCH_COMMAND}"
        ) from error
    found = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if found is None or tuple(map(int, found.groups())) < MINIMUM_TORCH:
        raise ImportError(
            f"desc_ext {version} needs {_WANTED}, and found torch {torch.__version__}. "
            f"Mend it with: {_TORCH_COMMAND}"
        )
    return str(torch.__version__)


def library_path(folders: list[str]) -> Path | None:
    """The compiled library in the first of the package's ``folders`` that holds it."""
    # An editable install has two folders: the sources, and the one in site-packages with the compiled part.
    paths = (Path(folder) / LIBRARY_NAME for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def load(version: str, folders: list[str]) -> Path:
    """Checks torch, loads the operators into ``torch.ops.desc_ext`` and returns the library's path.

    Raises:
        ImportError: when torch is missing or too old, or the library is missing or cannot be loaded.
    """
    torch_version = check_torch(version)
    import torch

    rebuild = f'"{sys.executable}" -m pip install --force-reinstall --no-deps desc-ext'
    for source in (Path(folder).parent for folder in folders):
        if (source / "CMakeLists.txt").is_file():
            rebuild = f'"{sys.executable}" -m pip install --editable "{source}"'
    about = f"(found torch {torch_version}, needed {_WANTED})"
    path = library_path(folders)
    if path is None:
        raise ImportError(
            f"desc_ext {version}: the compiled operators, {LIBRARY_NAME}, are not in "
            f"{' or '.join(map(str, folders))} {about}. Build them with: {rebuild}"
        )
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise ImportError(
            f"desc_ext {version}: the compiled operators in {path} could not be loaded {about}: "
            f"{error.__cause__ or error}. Build them anew with: {rebuild}"
        ) from error
    return path
