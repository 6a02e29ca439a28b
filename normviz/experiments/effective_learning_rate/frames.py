"""What is trained on the page *Effective learning rate*.

Memorisation with resets, the equivalence and the stationary control are in
:mod:`normviz.experiments.effective_learning_rate.supervised`, the games in
:mod:`normviz.experiments.effective_learning_rate.games`.
"""

from __future__ import annotations

from collections.abc import Iterator

from normviz.experiments.effective_learning_rate.games import play
from normviz.experiments.effective_learning_rate.knobs import Knobs
from normviz.experiments.effective_learning_rate.supervised import learn
from normviz.frame import Frame
from normviz.training import resolve_device

__all__ = ["frames"]


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train every arm and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    for arm in knobs.shown_arms():
        yield from (Frame(0, arm, seed) for seed in knobs.seed_range())
    yield from (play if knobs.task == "games" else learn)(knobs, where)
