"""Compare runs member by member: what each network's frames hold, in their order, whatever came between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from normviz.engine.protocol import encode_frames
from normviz.experiments import Run
from normviz.frame import Frame

Members = dict[tuple[str, int], bytes]


def by_member(frames: Iterable[Frame], without: Iterable[str] = ("threads",)) -> Members:
    """The frames of each arm and seed as bytes; ``without`` names values that depend on the process or the clock."""
    members: dict[tuple[str, int], list[Frame]] = {}
    for frame in frames:
        kept = {name: value for name, value in frame.values.items() if name not in without}
        member = members.setdefault((frame.arm, frame.seed), [])
        member.append(Frame(frame.step, frame.arm, frame.seed, kept, frame.event))
    return {member: encode_frames(frames) for member, frames in sorted(members.items())}


def last_steps(run: Run) -> Counter[tuple[str, int]]:
    """The last step of each member so far; 0 for one that has not begun."""
    return Counter({(frame.arm, frame.seed): frame.step for frame in run.log.frames})
