"""What is run on the page *Conditional normalization*.

Forecasting fire from maps and weather is in :mod:`normviz.experiments.conditional_normalization.forecasters`, painting
in :mod:`normviz.experiments.conditional_normalization.painters`.
"""

from __future__ import annotations

from collections.abc import Iterator

from normviz.experiments.conditional_normalization.forecasters import forecast_fire
from normviz.experiments.conditional_normalization.knobs import Knobs
from normviz.experiments.conditional_normalization.painters import paint_layouts
from normviz.frame import Frame
from normviz.training import resolve_device

__all__ = ["frames"]


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train every arm and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    first = knobs.shown_arms().names[0]
    yield from (Frame(0, first, seed) for seed in knobs.seed_range())
    yield from {"fire": forecast_fire, "paint": paint_layouts}[knobs.task](knobs, where)
