"""Values that hold until the next one, on positions that all seeds share.

Arms whose batch grows are measured at positions that differ from seed to seed. A mean over the seeds that happen to
have a value there would jump up and down, and a batch size would seem to shrink that never does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normviz.frame import Frame, FrameLog, Log

__all__ = ["held_values"]

POSITIONS = 120
"""Positions along the run: what a small chart can show."""


def held_values(log: Log, names: Sequence[str], arms: Sequence[str], last: int) -> FrameLog:
    """A log of these scalars at shared positions, each from its first to its last measurement.

    Args:
        log: the frames.
        names: of the scalars.
        arms: those that are kept.
        last: last position of the run.
    """
    grid = np.unique(np.linspace(0, last, POSITIONS + 1).astype(int))
    frames = []
    for name in names:
        table = log.scalars(name)
        members = table[["arm", "seed"]].drop_duplicates().itertuples(index=False)
        for arm, seed in (member for member in members if member[0] in arms):
            own = table[(table["arm"] == arm) & (table["seed"] == seed)]
            at, value = own["step"].to_numpy(), own["value"].to_numpy()
            inside = grid[(grid >= at[0]) & (grid <= at[-1])]
            held = value[np.searchsorted(at, inside, side="right") - 1]
            frames += [
                Frame(int(position), str(arm), int(seed), {name: float(v)})
                for position, v in zip(inside, held, strict=True)
            ]
    return FrameLog(frames)
