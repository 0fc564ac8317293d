"""The engine of the estimators: options, the state of a fit, stages, checkpoints, saving; and callbacks for users."""

from desc_ext.engine.callbacks import Callback, Evaluate, ProgressBar

__all__ = ["Callback", "Evaluate", "ProgressBar"]
