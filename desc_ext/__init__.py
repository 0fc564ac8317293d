"""Deep subspace clustering: compiled operators (ops), estimators (models), a command line (desc-ext)."""

import importlib
import os
from types import ModuleType

if "OMP_WAIT_POLICY" not in os.environ:
    # Torch's OpenMP threads spin for milliseconds wherever they wait for each other: beside one busy process a fit took
    # ten times as long. Some 30 µs are enough on an idle machine. It is read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from desc_ext import _library

__version__ = "0.2.0"

library_path = _library.load(__version__, list(__path__))

from desc_ext import ops  # noqa: E402  (registers gradients for the operators that were just loaded)

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


def __getattr__(name: str) -> ModuleType:
    """Sub-packages, imported when they are first asked for: ``desc_ext.models`` after ``import desc_ext``."""
    if name in __all__:
        return importlib.import_module(f"desc_ext.{name}")
    raise AttributeError(f"module 'desc_ext' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
