"""Who gets which worker."""

from __future__ import annotations

import threading

import pytest

from normviz.engine.job import Job, Part, parts_to_give_back, share_out, split_seeds
from normviz.experiments import Run
from tests.engine.toy import EXPERIMENT, ToyKnobs


def job(number: int, seeds: int, *parts: tuple[tuple[int, ...], int]) -> Job:
    """A job with parts: the seeds of each and the frames it has sent."""
    made = Job(Run(EXPERIMENT, ToyKnobs(seeds=seeds)), "me", number, threading.Condition())
    for of_part, frames in parts:
        part = Part(made, 100 * number + of_part[0], of_part, worker=None)
        part.seen["a", of_part[0]] = frames
        made.parts.append(part)
    made.pending = tuple(s for s in made.pending if not any(s in part.seeds for part in made.parts))
    return made


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("seeds", [(4,), (4, 5), (0, 1, 2, 3, 4), (7, 9, 11, 13, 15, 17)])
def test_seeds_are_split_evenly_and_none_is_lost(seeds: tuple[int, ...], count: int) -> None:
    groups = split_seeds(seeds, count)
    assert len(groups) == min(count, len(seeds))
    assert tuple(seed for group in groups for seed in group) == seeds
    sizes = [len(group) for group in groups]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


class TestShareOut:
    def test_each_worker_goes_to_the_job_that_has_the_fewest(self) -> None:
        old = job(1, 6, ((0,), 5), ((1,), 5))
        new = job(2, 6)
        given = {new: 1}
        assert share_out([(old, 4), (new, 6)], 3, given) == 0
        assert given == {new: 3, old: 1}

    def test_none_goes_where_it_is_of_no_use(self) -> None:
        first, second = job(1, 2), job(2, 3)
        given = {first: 1, second: 1}
        assert share_out([(first, 2), (second, 1)], 5, given) == 4
        assert given == {first: 2, second: 1}
        assert share_out([], 2, {}) == 2


class TestGiveBack:
    def test_part_that_has_come_least_far_but_not_the_leading_one(self) -> None:
        run = job(1, 6, ((0,), 1), ((1, 2), 30), ((3,), 20), ((4,), 10))
        chosen = parts_to_give_back([run], 9)
        assert [part.seeds for part in chosen] == [(4,), (1, 2), (3,)]

    def test_run_with_the_most_workers_gives_first(self) -> None:
        two, three = job(1, 3, ((0,), 0), ((1,), 0)), job(2, 3, ((0,), 9), ((1,), 9), ((2,), 9))
        assert [part.job for part in parts_to_give_back([two, three], 2)] == [three, three]
        assert [part.job for part in parts_to_give_back([two, three], 9)] == [three, three, two]

    def test_each_run_keeps_one_worker_also_when_the_leading_part_has_ended(self) -> None:
        single, ended = job(1, 3, ((0,), 0)), job(2, 4, ((1,), 5), ((2,), 4), ((3,), 6))
        ended.merge.end((0,))
        chosen = parts_to_give_back([single, ended], 9)
        assert [part.seeds for part in chosen] == [(2,), (1,)]

    def test_what_is_ending_already_is_not_asked(self) -> None:
        run, stopped = job(1, 3, ((0,), 0), ((1,), 0)), job(2, 3, ((0,), 0), ((1,), 0))
        run.parts[1].returning = True
        stopped.outcome = ("failed", "no")
        assert parts_to_give_back([run, stopped], 2) == []
