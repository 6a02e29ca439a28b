"""The best learning rate of every optimizer, and the log seen through it: each optimizer as one arm.

The charts show each optimizer at the rate with the lowest mean final loss over all seeds. A claim must not choose on
the numbers that it judges: there the rate of a seed is the best of the *other* seeds (:func:`at_best`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from normviz.experiments.optimizer_spectra.knobs import Knobs, split_member
from normviz.frame import Log, LogView
from normviz.measures import Measure

__all__ = ["TAIL", "at_best", "best_log", "chosen_members", "criterion", "final_losses", "members_by_arm"]

TAIL = 3
"""Last values of the criterion that are averaged for a final loss."""


def criterion(knobs: Knobs) -> str:
    """The scalar by which learning rates are chosen: validation loss, or the loss itself where nothing is held out."""
    return "loss" if knobs.task == "regression" else "validation_loss"


def final_losses(log: Log, knobs: Knobs) -> dict[str, dict[int, float]]:
    """For each member, the mean of the last three values of the criterion by seed; infinite where it diverged."""
    table = log.scalars(criterion(knobs))
    losses: dict[str, dict[int, float]] = {}
    recent: dict[tuple[str, int], list[float]] = {}
    for arm, seed, value in zip(
        table["arm"].tolist(), table["seed"].tolist(), table["value"].tolist(), strict=True
    ):
        recent.setdefault((arm, seed), []).append(value)
    for (arm, seed), values in recent.items():
        losses.setdefault(arm, {})[seed] = sum(values[-TAIL:]) / len(values[-TAIL:])
    for arm, seed in log.diverged:
        losses.setdefault(arm, {})[seed] = math.inf
    return losses


def members_by_arm(log: Log) -> dict[str, list[str]]:
    """The members of each optimizer, by ascending learning rate."""
    members: dict[str, list[str]] = {}
    for member in sorted(log.arms, key=lambda m: split_member(m)[1]):
        members.setdefault(split_member(member)[0], []).append(member)
    return members


class _Choice:
    """Chosen members in one state of a log, for the charts and for the judgement of each seed, and views of them."""

    def __init__(self, log: Log, knobs: Knobs) -> None:
        self.key = (len(log), knobs.key())
        self._losses = final_losses(log, knobs)
        self._members = members_by_arm(log)
        self._views: dict[tuple[str, ...], LogView] = {}

    def members(self, without: int | None = None) -> dict[str, str]:
        """By optimizer, the member with the lowest mean over the seeds but one; the middle one if none is finite."""
        chosen = {}
        for name, members in self._members.items():
            means = {m: _mean(self._losses[m], without) for m in members if m in self._losses}
            best = min(means, key=lambda m: means[m], default=members[0])
            middle = members[len(members) // 2]
            chosen[name] = best if math.isfinite(means.get(best, math.inf)) else middle
        return chosen

    def view(self, log: Log, chosen: Mapping[str, str]) -> LogView:
        """The log with these members under their optimizers' names."""
        key = tuple(chosen.values())
        if key not in self._views:
            self._views[key] = log.view({member: name for name, member in chosen.items()})
        return self._views[key]


_made: WeakKeyDictionary[Log, _Choice] = WeakKeyDictionary()


def _choice(log: Log, knobs: Knobs) -> _Choice:
    made = _made.get(log)
    if made is None or made.key != (len(log), knobs.key()):
        made = _made[log] = _Choice(log, knobs)
    return made


def chosen_members(log: Log, knobs: Knobs, *, without: int | None = None) -> dict[str, str]:
    """For each optimizer the member with the lowest final loss so far, by the optimizer's name.

    The choice is made on the mean over seeds of :func:`final_losses`; before anything is measured it is the middle of
    the grid. What is chosen changes while a run goes on.

    Args:
        log: the frames.
        knobs: the setting.
        without: a seed that has no part in the choice; it has one where it is the only seed.
    """
    return _choice(log, knobs).members(without)


def best_log(log: Log, knobs: Knobs) -> LogView:
    """The log with each optimizer as one arm: its best member (:func:`chosen_members`) under the optimizer's name."""
    choice = _choice(log, knobs)
    return choice.view(log, choice.members())


def at_best(measure: Measure) -> Measure:
    """A measure of optimizers, each at its best learning rate, which is chosen without the seed that is judged.

    For every seed the log is seen through the members that are best on average over the *other* seeds, so that no
    optimizer gains from a choice among its own noisy final losses. A run of one seed has only that one to choose by.

    Args:
        measure: of a log whose arms are the optimizers' names.
    """

    def compute(log: Log, knobs: Knobs) -> dict[int, float]:
        choice, wanted = _choice(log, knobs), measure.arm_names(knobs)
        by_choice: dict[tuple[str | None, ...], dict[int, float]] = {}
        found: dict[int, float] = {}
        for seed in knobs.seed_range():
            chosen = choice.members(seed)
            key = tuple(chosen.get(arm) for arm in wanted)
            if key not in by_choice:
                by_choice[key] = measure(choice.view(log, chosen), knobs)
            found[seed] = by_choice[key][seed]
        return found

    return Measure(compute)


def _mean(values: Mapping[int, float], without: int | None = None) -> float:
    kept = [value for seed, value in values.items() if seed != without] or list(values.values())
    return sum(kept) / len(kept)
