"""The pictures of speed show what the committed tables say, losses included."""

from __future__ import annotations

import sys

import pytest
from helpers import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "kernels"))
import pictures


def row(shape, candidate, ms, part="forward"):
    return {"operator": "f", "part": part, "shape": shape, "candidate": candidate, "milliseconds": str(ms)}


def test_ratios_are_those_to_the_best_peer_at_every_shape():
    rows = [
        row("1", "desc_ext", 2.0),
        row("1", "eager", 8.0),
        row("1", "compiled", 6.0),
        row("1", "product alone", 1.0),
    ]
    rows += [row("2", "desc_ext", 2.0), row("2", "eager", 1.0), row("1", "desc_ext", 5.0, "both")]
    rows += [row("1", "eager", 5.0, "both"), row("1", "linear", 1.0, "both"), row("3", "desc_ext", 1.0)]
    assert pictures.ratios(rows) == {"f, forward": [3.0, 0.5], "f, full": [1.0]}


@pytest.mark.parametrize("draw", [pictures.cpu, pictures.gpu])
def test_every_panel_counts_its_losses(draw, monkeypatch):
    monkeypatch.setattr(pictures, "date", lambda *_: "2026-01-01")  # a source archive has no history
    figure = draw()
    assert len(figure.axes) == 2
    for axes in figure.axes:
        drawn = [x for points in axes.collections for x, _ in points.get_offsets()]
        slower = sum(x < 1 for x in drawn)
        assert axes.get_title(loc="left").endswith(f"slower at {slower} of {len(drawn)}")
        assert slower > 0  # they are not hidden
