"""Deep subspace clustering: compiled operators (ops), estimators (models), a command line (desc-ext)."""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    # Torch's OpenMP threads spin for milliseconds wherever they wait for each other: beside one busy process a fit took
    # ten times as long. Some 30 µs are enough on an idle machine. It is read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from desc_ext import _library

__version__ = "0.1.0"

library_path = _library.load(__version__, list(__path__))

from desc_ext import ops  # noqa: E402  (registers gradients for the operators that were just loaded)

__all__ = ["__version__", "library_path", "ops"]
