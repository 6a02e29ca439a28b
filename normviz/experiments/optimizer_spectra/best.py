"""The best learning rate of every optimizer, and the log seen through it: each optimizer as one arm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from normviz.experiments.optimizer_spectra.knobs import Knobs, split_member
from normviz.frame import Log, LogView

__all__ = ["TAIL", "best_log", "chosen_members", "criterion", "final_losses", "members_by_arm"]

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
    for event in log.events:
        if event.kind == "diverged":
            losses.setdefault(event.arm, {})[event.seed] = math.inf
    return losses


def members_by_arm(log: Log) -> dict[str, list[str]]:
    """The members of each optimizer, by ascending learning rate."""
    members: dict[str, list[str]] = {}
    for member in sorted(log.arms, key=lambda m: split_member(m)[1]):
        members.setdefault(split_member(member)[0], []).append(member)
    return members


def chosen_members(log: Log, knobs: Knobs) -> dict[str, str]:
    """For each optimizer the member with the lowest final loss so far, by the optimizer's name.

    The choice is made on the mean over seeds of :func:`final_losses`; before anything is measured it is the middle of
    the grid. What is chosen changes while a run goes on.
    """
    losses = final_losses(log, knobs)
    chosen = {}
    for name, members in members_by_arm(log).items():
        means = {m: _mean(losses[m]) for m in members if m in losses}
        best = min(means, key=lambda m: means[m], default=members[0])
        middle = members[len(members) // 2]
        chosen[name] = best if math.isfinite(means.get(best, math.inf)) else middle
    return chosen


def best_log(log: Log, knobs: Knobs) -> LogView:
    """The log with each optimizer as one arm: its best member (:func:`chosen_members`) under the optimizer's name."""
    key = (len(log), knobs.key())
    made = _made.get(log)
    if made is None or made[:2] != key:
        made = (*key, log.view({member: name for name, member in chosen_members(log, knobs).items()}))
        _made[log] = made
    return made[2]


_made: WeakKeyDictionary[Log, tuple[int, str, LogView]] = WeakKeyDictionary()


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values)
