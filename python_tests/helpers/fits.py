"""Fits before their first epoch, for tests that look at single stages, losses and mini-batches."""

from __future__ import annotations

from typing import Any


def begun(model, X, stage: str) -> tuple[Any, Any]:
    """The state of a fit of ``model`` to ``X`` at the beginning of a stage, and that stage."""
    state = model.begin(X)
    found = next(one for one in model.stages(state) if one.name == stage)
    state.enter(stage)
    state.optimizer = found.optimizer()
    return state, found
