"""What runs on the page *Evolving layers*: a comparison of layers, or the search for new ones."""

from __future__ import annotations

from collections.abc import Iterator

from normviz.experiments.evolving_layers.compare import compare
from normviz.experiments.evolving_layers.knobs import Knobs
from normviz.experiments.evolving_layers.search import search
from normviz.frame import Frame
from normviz.training import resolve_device

__all__ = ["frames"]


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Run the mode that is set and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    yield from compare(knobs, where) if knobs.mode == "compare" else search(knobs, where)
