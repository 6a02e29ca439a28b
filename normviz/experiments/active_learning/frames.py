"""What runs on the page *Active learning*: policies in training beside those that are not, or games about animals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from normviz.experiments.active_learning.animal_games import AnimalGames
from normviz.experiments.active_learning.contest import Contest
from normviz.experiments.active_learning.knobs import EXPERTS, EXPERTS_NAME, ROBUST, Knobs, arm_name
from normviz.experiments.active_learning.learners import Learner, Rival, build_trainee
from normviz.frame import Frame, Value
from normviz.training import interleave, resolve_device

__all__ = ["frames"]

Member = Learner | Rival | AnimalGames


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train or play, and yield what the page shows; see :class:`Knobs` for what can be set."""
    resolve_device(device)
    first = knobs.shown_arms().names[0]
    yield from (Frame(0, first, seed) for seed in knobs.seed_range())
    contests: dict[int, Contest] = {}
    members: list[Member] = []
    for seed in knobs.seed_range():
        if knobs.task == "animals":
            members += [AnimalGames(kind, knobs, seed) for kind in knobs.kinds()]
            continue
        contests[seed] = Contest(knobs, seed)
        members += [build_trainee(kind, contests[seed]) for kind in knobs.kinds() if kind != EXPERTS]
    by_name = {(member.arm, member.seed): member for member in members}
    shown = dict.fromkeys(contests, 0)
    running = interleave(
        members,
        until=knobs.total_steps(),
        evaluate=lambda trainee, at: by_name[trainee.arm, trainee.seed].evaluate(at),
        eval_every=knobs.stride(),
        stride=lambda trainee: by_name[trainee.arm, trainee.seed].stride,
        progress=knobs.progress(),
    )
    for frame in running:
        if frame.values or frame.event:
            yield frame
        if frame.arm != arm_name(ROBUST):
            continue
        contest = contests[frame.seed]
        at_end = frame.step >= knobs.total_steps()
        if len(contest.lhat["tested"]) > shown[frame.seed] or (at_end and contest.complete):
            shown[frame.seed] = len(contest.lhat["tested"])
            yield Frame(frame.step, EXPERTS_NAME, frame.seed, _experts(contest))


def _experts(contest: Contest) -> Mapping[str, Value]:
    """The experts' worst losses by class; NaN for those that are not trained yet."""
    values: dict[str, Value] = {}
    for name, key in (("tested", "worst"), ("attacked", "attacked_worst")):
        known = contest.lhat[name]
        values[key] = np.array([*known, *[np.nan] * (len(contest.radii) - len(known))])
    if contest.complete:
        values |= {"hard": contest.lhat["tested"][-1], "attacked_hard": contest.lhat["attacked"][-1]}
        values["easy"] = contest.lhat["attacked"][0]
    return values
