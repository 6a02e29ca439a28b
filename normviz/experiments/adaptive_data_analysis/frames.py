"""What runs on the page *Adaptive data analysis*: analysts who ask, mechanisms that answer, side by side.

No network is trained: a step is a block of questions. Between two blocks each analyst reports what the mechanism says
about the best classifier so far, beside its accuracy on fresh data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from normviz.experiments.adaptive_data_analysis.askers import build_asker
from normviz.experiments.adaptive_data_analysis.hill_climb import DigitsWorld, HillClimb
from normviz.experiments.adaptive_data_analysis.holdout_curve import HoldoutCurve, draw_curves
from normviz.experiments.adaptive_data_analysis.knobs import REPORTS, Knobs
from normviz.experiments.adaptive_data_analysis.sign_analyst import SignAnalyst
from normviz.experiments.adaptive_data_analysis.worlds import NoiseWorld, UniverseWorld
from normviz.frame import Frame, Value
from normviz.training import Trainee, interleave, resolve_device

__all__ = ["frames"]


class Analyst(Trainee, Protocol):
    """A trainee that asks in blocks and has something to tell when it gets no answer any more."""

    note: str | None

    def block_size(self, at: int) -> int:
        """Questions of the block that begins at this position."""

    def evaluate(self, at: int) -> Mapping[str, Value]:
        """What is reported and what is true."""


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Let every analyst ask and yield what the page shows; see :class:`Knobs` for what can be set."""
    resolve_device(device)
    first = knobs.shown_arms().names[0]
    yield from (Frame(0, first, seed) for seed in knobs.seed_range())
    analysts = [analyst for seed in knobs.seed_range() for analyst in _analysts(knobs, seed)]
    by_member = {(analyst.arm, analyst.seed): analyst for analyst in analysts}
    told: set[str] = set()
    asked = interleave(
        analysts,
        until=knobs.total_steps(),
        evaluate=lambda trainee, at: by_member[trainee.arm, trainee.seed].evaluate(at),
        eval_every=knobs.stride(),
        stride=lambda trainee: knobs.stride(),  # noqa: ARG005
        progress=knobs.progress(),
    )
    for frame in asked:
        if frame.values:
            yield frame
        analyst = by_member[frame.arm, frame.seed]
        if analyst.note and analyst.seed == knobs.first_seed and analyst.arm not in told:
            told.add(analyst.arm)
            yield Frame(frame.step, frame.arm, frame.seed, {}, analyst.note)


def _analysts(knobs: Knobs, seed: int) -> list[Analyst]:
    """All mechanisms of a seed, over the same data."""
    kinds = knobs.kinds()
    if knobs.task == "holdout":
        curves = draw_curves(knobs, seed, kinds)
        return [HoldoutCurve(kind, knobs, curves, seed) for kind in kinds]
    if knobs.task == "climb":
        digits = DigitsWorld(seed)
        return [
            HillClimb(
                kind, knobs, digits, build_asker(kind, knobs, digits.parts, seed, knobs.queries, 1), seed
            )
            for kind in kinds
        ]
    world = (NoiseWorld if knobs.task == "noise" else UniverseWorld)(knobs.rows, knobs.signal, seed)
    return [
        SignAnalyst(
            kind, knobs, world, build_asker(kind, knobs, world.parts, seed, knobs.queries, REPORTS), seed
        )
        for kind in kinds
    ]
