"""Deep subspace clustering: compiled operators (ops), estimators (models), a command line (desc-ext).

``import desc_ext`` alone is quick: torch, the operators and the sub-packages are loaded when they are first asked for.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    library_path: Path
    """The compiled library; asking for it loads the operators into ``torch.ops.desc_ext``."""

if "OMP_WAIT_POLICY" not in os.environ:
    # Torch's OpenMP threads spin for milliseconds wherever they wait for each other: beside one busy process a fit took
    # ten times as long. Some 30 µs are enough on an idle machine. It is read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.2.0"
"""The version of the package, which is that of the compiled library."""

__all__ = [
    "__version__",
    "cli",
    "data",
    "engine",
    "features",
    "library_path",
    "metrics",
    "models",
    "nn",
    "ops",
    "plots",
]


def __getattr__(name: str) -> Any:
    """Sub-packages, and the path of the compiled library, which is then loaded into ``torch.ops.desc_ext``."""
    if name == "library_path":
        from desc_ext import _library

        globals()[name] = _library.load(__version__, list(__path__))
        return globals()[name]
    if name in __all__:
        return importlib.import_module(f"desc_ext.{name}")
    raise AttributeError(f"module 'desc_ext' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
