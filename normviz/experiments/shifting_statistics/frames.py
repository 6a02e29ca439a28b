"""What is run on the page *Shifting statistics*.

A trained network on a corrupted stream is in :mod:`normviz.experiments.shifting_statistics.shifted_stream`, all
corruptions in :mod:`normviz.experiments.shifting_statistics.corruption_grid`, tasks in a row in
:mod:`normviz.experiments.shifting_statistics.tasks_in_row`.
"""

from __future__ import annotations

from collections.abc import Iterator

from normviz.experiments.shifting_statistics.corruption_grid import run_grid
from normviz.experiments.shifting_statistics.knobs import Knobs
from normviz.experiments.shifting_statistics.shifted_stream import meet_stream
from normviz.experiments.shifting_statistics.tasks_in_row import learn_tasks
from normviz.frame import Frame
from normviz.training import resolve_device

__all__ = ["frames"]


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Run every arm and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    first = knobs.shown_arms().names[0]
    yield from (Frame(0, first, seed) for seed in knobs.seed_range())
    run = {"stream": meet_stream, "grid": run_grid, "tasks": learn_tasks}[knobs.task]
    yield from run(knobs, where)
