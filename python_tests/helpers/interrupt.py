"""A callback that interrupts a fit, for the tests of going on from a checkpoint."""

from __future__ import annotations

from desc_ext.engine.callbacks import Callback


class Interrupt(Callback):
    """Ctrl-C in the middle: after the given epoch has been recorded, before its checkpoint is written."""

    def __init__(self, stage: str, epoch: int) -> None:
        self.stage, self.epoch, self.ended = stage, epoch, False

    def on_epoch_end(self, model, record):
        if (record["stage"], record["epoch"]) == (self.stage, self.epoch):
            raise KeyboardInterrupt

    def on_fit_end(self, model):
        self.ended = True
