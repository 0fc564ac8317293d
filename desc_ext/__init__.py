"""Deep subspace clustering: compiled operators (ops), estimators (models), a command line (desc-ext)."""

from desc_ext import _library

__version__ = "0.1.0"

library_path = _library.load(__version__, list(__path__))

from desc_ext import ops  # noqa: E402  (registers gradients for the operators that were just loaded)

__all__ = ["__version__", "library_path", "ops"]
