"""The best learning rate of every optimizer, and the log seen through it: each optimizer as one arm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from normviz.experiments.optimizer_spectra.knobs import Knobs, split_member
from normviz.frame import ArrayAt, Event, FrameLog

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TAIL", "BestLog", "best_log", "criterion", "final_losses", "members_by_arm"]

TAIL = 3
"""Last values of the criterion that are averaged for a final loss."""


def criterion(knobs: Knobs) -> str:
    """The scalar by which learning rates are chosen: validation loss, or the loss itself where nothing is held out."""
    return "loss" if knobs.task == "regression" else "validation_loss"


def final_losses(log: FrameLog, knobs: Knobs) -> dict[str, dict[int, float]]:
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
        if event.text.startswith("diverged"):
            losses.setdefault(event.arm, {})[event.seed] = math.inf
    return losses


def members_by_arm(log: FrameLog) -> dict[str, list[str]]:
    """The members of each optimizer, by ascending learning rate."""
    members: dict[str, list[str]] = {}
    for member in sorted(log.arms, key=lambda m: split_member(m)[1]):
        members.setdefault(split_member(member)[0], []).append(member)
    return members


class BestLog(FrameLog):
    """A view of a log: of each optimizer the learning rate with the lowest final loss so far, under its plain name.

    The choice is made on the mean over seeds of :func:`final_losses`; before anything is measured it is the middle of
    the grid. What was chosen changes while a run goes on; the view is of the log as it was when it was made.

    Args:
        log: the members' log.
        knobs: the run's setting.
    """

    def __init__(self, log: FrameLog, knobs: Knobs) -> None:
        super().__init__()
        self.log, self.knobs = log, knobs
        self._tables: dict[str, pd.DataFrame] = {}

    @cached_property
    def chosen(self) -> dict[str, str]:
        """The chosen member of each optimizer, by the optimizer's name."""
        losses = final_losses(self.log, self.knobs)
        chosen = {}
        for name, members in members_by_arm(self.log).items():
            means = {m: _mean(losses[m]) for m in members if m in losses}
            best = min(means, key=lambda m: means[m], default=members[0])
            middle = members[len(members) // 2]
            chosen[name] = best if math.isfinite(means.get(best, math.inf)) else middle
        return chosen

    @property
    def rates(self) -> dict[str, float]:
        """The chosen learning rate of each optimizer."""
        return {name: split_member(member)[1] for name, member in self.chosen.items()}

    @cached_property
    def _names(self) -> Mapping[str, str]:
        return {member: name for name, member in self.chosen.items()}

    @property
    def arms(self) -> list[str]:
        """Names of the optimizers."""
        return list(self.chosen)

    @property
    def seeds(self) -> list[int]:
        """Seeds of the log."""
        return self.log.seeds

    @property
    def last_step(self) -> int:
        """The furthest step of any member."""
        return self.log.last_step

    @property
    def events(self) -> list[Event]:
        """Events of the chosen members."""
        return [e._replace(arm=self._names[e.arm]) for e in self.log.events if e.arm in self._names]

    def scalars(self, name: str) -> pd.DataFrame:
        """A scalar of the chosen members over time; see :meth:`FrameLog.scalars`."""
        import pandas as pd

        if name not in self._tables:
            table = self.log.scalars(name)
            codes, members = pd.factorize(table["arm"].to_numpy())
            chosen = np.array([member in self._names for member in members], dtype=bool)
            names = np.array([self._names.get(member, "") for member in members], dtype=object)
            kept = chosen[codes] if len(codes) else np.zeros(0, dtype=bool)
            columns = {c: table[c].to_numpy()[kept] for c in ("step", "seed", "value")}
            self._tables[name] = pd.DataFrame(
                {
                    "step": columns["step"],
                    "arm": names[codes[kept]],
                    "seed": columns["seed"],
                    "value": columns["value"],
                }
            )
        return self._tables[name]

    def arrays(self, name: str, step: int | None = None) -> list[ArrayAt]:
        """Newest arrays of the chosen members; see :meth:`FrameLog.arrays`."""
        return [
            entry._replace(arm=self._names[entry.arm])
            for entry in self.log.arrays(name, step)
            if entry.arm in self._names
        ]


_made: WeakKeyDictionary[FrameLog, tuple[int, str, BestLog]] = WeakKeyDictionary()


def best_log(log: FrameLog, knobs: Knobs) -> BestLog:
    """The view of a log as it is now, made once for all figures and claims."""
    key = (len(log), knobs.key())
    made = _made.get(log)
    if made is None or made[:2] != key:
        made = (*key, BestLog(log, knobs))
        _made[log] = made
    return made[2]


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values)
