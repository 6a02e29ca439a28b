"""Merge the frames of a run's parts into one log: each frame once, and the arms in the order one worker sends them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from normviz.frame import Frame

__all__ = ["FrameMerge", "Seen"]

Seen = Counter[tuple[str, int]]
"""How many frames of each member (arm and seed) a part has sent since it began."""


class FrameMerge:
    """Decides which of the frames that parts send join the log, and when. Not thread-safe.

    A part that begins again sends the same frames again (experiments are deterministic): of each member as many are
    left out as had come before, however the seeds are grouped into parts this time.

    A log lists its arms in the order of their first frames. So that this order does not depend on which worker was
    faster, the frames of an arm that is new to the log wait until the leading part, which has the first seed, has sent
    a frame of that arm or has ended.

    Args:
        leader: the seed whose part leads.
        arms: arms that the log has already.
    """

    def __init__(self, leader: int, arms: Iterable[str] = ()) -> None:
        self._leader: int | None = leader
        self._arms = set(arms)
        self._had: Seen = Counter()
        self._held: dict[str, list[Frame]] = {}

    def leads(self, seeds: Collection[int]) -> bool:
        """Whether a part with these seeds is the leading one; none is when that has ended."""
        return self._leader in seeds

    def add(self, seeds: Collection[int], seen: Seen, frames: Iterable[Frame]) -> list[Frame]:
        """Frames have come from a part.

        Args:
            seeds: the part's seeds.
            seen: the part's own count, which is updated.
            frames: what it sent.

        Returns:
            The frames that join the log now.
        """
        joining: list[Frame] = []
        for frame in frames:
            member = (frame.arm, frame.seed)
            seen[member] += 1
            if seen[member] <= self._had[member]:
                continue
            self._had[member] = seen[member]
            if frame.arm in self._arms:
                joining.append(frame)
            elif self._leader is None or self.leads(seeds):
                self._arms.add(frame.arm)
                joining += [frame, *self._held.pop(frame.arm, ())]
            else:
                self._held.setdefault(frame.arm, []).append(frame)
        return joining

    def end(self, seeds: Collection[int]) -> list[Frame]:
        """A part has ended for good; returns the frames that waited for it."""
        if not self.leads(seeds):
            return []
        self._leader = None
        waited = [frame for frames in self._held.values() for frame in frames]
        self._arms.update(self._held)
        self._held.clear()
        return waited
