"""What runs on the page *Schedule refinement*: a first run that records, then every schedule from the same start.

Both runs have the positions 0, …, T on one axis, so that norms, schedules and losses lie over each other: the first
run's line grows to its end before the others begin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from normviz.experiments.schedule_refinement.first_run import FirstRun
from normviz.experiments.schedule_refinement.knobs import ARMS, FIRST_RUN, Knobs
from normviz.experiments.schedule_refinement.sweep import ScheduleArm, Sweep
from normviz.frame import Frame, Value
from normviz.training import Trainee, interleave, resolve_device

__all__ = ["frames"]


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Record, refine and train again, and yield what the page shows; see :class:`Knobs` for what can be set."""
    place = resolve_device(device)
    yield from (Frame(0, FIRST_RUN, seed) for seed in knobs.seed_range())
    recording = [FirstRun(knobs, seed, place) for seed in knobs.seed_range()]
    lost: set[int] = set()
    for frame in _run(recording, knobs):
        if frame.kind == "diverged":
            lost.add(frame.seed)
        yield frame
    arms: list[ScheduleArm] = []
    for first in recording:
        kinds = [kind for kind in knobs.kinds() if kind != "refined" or first.seed not in lost]
        if first.seed not in lost:
            yield Frame(knobs.steps, FIRST_RUN, first.seed, first.what_was_recorded())
        elif "refined" in knobs.kinds():
            why = "there are no norms to refine from: the first run diverged"
            yield Frame.diverged(0, ARMS["refined"], first.seed, why, lost=("best", "base"))
        if kinds:
            norms = () if first.seed in lost else first.norms
            sweep = Sweep(knobs, kinds, norms, first.seed, place)
            arms += [ScheduleArm(kind, sweep) for kind in kinds]
    yield from _run(arms, knobs)


def _run(trainees: list[FirstRun] | list[ScheduleArm], knobs: Knobs) -> Iterator[Frame]:
    """All trainees side by side; frames without values are left out."""
    told: list[Trainee] = list(trainees)
    for frame in interleave(
        told,
        until=knobs.steps,
        evaluate=_measured,
        eval_every=knobs.eval_every(),
        evaluate_all_first=True,
    ):
        if frame.values:
            yield frame


def _measured(trainee: Trainee, at: int) -> Mapping[str, Value]:
    if isinstance(trainee, ScheduleArm):
        return trainee.measured(at)
    assert isinstance(trainee, FirstRun)
    return trainee.measured()
