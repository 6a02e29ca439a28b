"""The merge of a run's parts: every order in which their frames can arrive gives the same members and arms."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from normviz.engine.merge import FrameMerge
from normviz.frame import Frame, FrameLog

ARMS = ("plain", "normed", "late")


def sent_by(seeds: tuple[int, ...], steps: int = 6) -> list[Frame]:
    """What one worker sends for these seeds: the last arm begins when the others have ended; two frames a step."""
    early = [
        Frame(step, arm, seed, {name: float(step + seed)})
        for step in range(steps)
        for seed in seeds
        for arm in ARMS[:2]
        for name in ("accuracy", "loss")
    ]
    return early + [Frame(step, ARMS[2], seed, {"loss": 0.0}) for step in range(steps) for seed in seeds]


def by_member(frames: list[Frame]) -> dict[tuple[str, int], list[tuple[int, dict[str, float]]]]:
    members: dict[tuple[str, int], list[tuple[int, dict[str, float]]]] = {}
    for frame in frames:
        members.setdefault((frame.arm, frame.seed), []).append((frame.step, dict(frame.values)))
    return members


@pytest.mark.parametrize("chance", range(20))
def test_any_interleaving_of_the_parts(chance: int) -> None:
    source = random.Random(chance)
    parts = {seeds: sent_by(seeds) for seeds in ((3, 4), (5,), (6,))}
    seen = {seeds: Counter() for seeds in parts}
    log, merge = FrameLog(), FrameMerge(3)
    while parts:
        seeds = source.choice(list(parts))
        count = source.randint(1, 9)
        batch, parts[seeds] = parts[seeds][:count], parts[seeds][count:]
        log.extend(merge.add(seeds, seen[seeds], batch))
        if not parts[seeds]:
            del parts[seeds]
            log.extend(merge.end(seeds))
    assert log.arms == list(ARMS)
    assert by_member(log.frames) == by_member(sent_by((3, 4, 5, 6)))


@pytest.mark.parametrize("stopped_after", [0, 1, 7, 12, 25])
def test_part_that_begins_again_in_other_groups_adds_nothing_twice(stopped_after: int) -> None:
    log, merge = FrameLog(), FrameMerge(0)
    log.extend(merge.add((0,), Counter(), sent_by((0,))))
    log.extend(merge.add((1, 2), Counter(), sent_by((1, 2))[:stopped_after]))
    for seeds in ((2,), (1,)):
        log.extend(merge.add(seeds, Counter(), sent_by(seeds)))
    assert by_member(log.frames) == by_member(sent_by((0, 1, 2)))


def test_new_arm_waits_for_the_leading_part_and_its_first_frame_for_nobody() -> None:
    merge, follower, leader = FrameMerge(0), sent_by((1,)), sent_by((0,))
    seen = Counter()
    assert merge.add((1,), seen, follower[:5]) == []
    assert merge.add((0,), Counter(), leader[:1]) == [
        leader[0],
        *(f for f in follower[:5] if f.arm == "plain"),
    ]
    assert by_member(merge.end((0,))) == by_member([f for f in follower[:5] if f.arm == "normed"])
    assert merge.add((1,), seen, follower[5:]) == follower[5:], "nobody leads any more"
    assert merge.end((1,)) == []


def test_arms_that_the_log_has_already_wait_for_nothing() -> None:
    frames = sent_by((8,))
    assert FrameMerge(7, ARMS).add((8,), Counter(), frames) == frames
