"""A run's seeds on several workers: the same numbers, given back when others wait."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

import pytest

from normviz.engine import RunStore, WorkerEngine
from normviz.experiments import Run
from tests.engine.conftest import Gate, wait_for_end
from tests.engine.members import by_member, last_steps
from tests.engine.toy import EXPERIMENT, ToyKnobs
from tests.waiting import wait_until


def submit(engine: WorkerEngine, owner: str = "me", **knobs: object) -> Run:
    wait_until(lambda: engine.workers_ready() == 2)
    return engine.submit(EXPERIMENT, ToyKnobs(**knobs), owner=owner)


def workers_of(engine: WorkerEngine, run: Run) -> list[int]:
    return [pid for pid, run_id in engine.worker_pids().items() if run_id == run.id]


def assert_like_one_worker(run: Run) -> None:
    alone = by_member(
        EXPERIMENT.frames(run.knobs.model_copy(update={"delay": 0.0, "tally": "", "gate": ""}), "cpu")
    )
    assert by_member(run.log.frames) == alone
    assert run.log.arms == list(run.knobs.arms)


def both_at(run: Run, gate: Gate, step: int) -> None:
    """Let the seeds 0 and 1, each in a worker of its own, come to a step and wait there."""
    gate.allow(step)
    wait_until(lambda: last_steps(run)["a", 0] == last_steps(run)["a", 1] == step)


@pytest.fixture
def wide(engine: WorkerEngine) -> Run:
    """A run that has both workers and has sent frames from both; cancelled when the test ends."""
    run = submit(engine, owner="wide", seeds=2, arms=("a", "b"), steps=100_000, delay=5.0)
    wait_until(lambda: run.log.seeds == [0, 1] and min(last_steps(run).values()) >= 2)
    yield run
    engine.cancel(run.id)
    wait_for_end(engine, run)


class TestSpread:
    @pytest.mark.parametrize("seeds", [2, 3, 5])
    def test_numbers_are_those_of_one_worker(
        self, engine: WorkerEngine, store: RunStore, seeds: int, gate: Gate
    ) -> None:
        run = submit(engine, seeds=seeds, arms=("a", "b"), steps=40, gate=gate.path, first_seed=7)
        wait_until(lambda: len(workers_of(engine, run)) == 2)
        gate.allow(40)
        assert wait_for_end(engine, run).status == "done"
        assert run.progress == 1.0
        assert_like_one_worker(run)
        assert by_member(store.load(run.id).log.frames) == by_member(run.log.frames)

    def test_second_part_delays_no_first_frame(self, engine: WorkerEngine, gate: Gate) -> None:
        gate.close()
        run = submit(engine, seeds=2, steps=3, gate=gate.path)
        time.sleep(0.2)
        assert len(workers_of(engine, run)) == 1
        gate.allow(0)
        wait_until(lambda: len(workers_of(engine, run)) == 2)
        gate.allow(3)
        assert wait_for_end(engine, run).status == "done"

    def test_one_seed_and_seeds_that_cannot_be_parted_have_one_worker(
        self, engine: WorkerEngine, gate: Gate
    ) -> None:
        whole = dataclasses.replace(EXPERIMENT, divisible=False)
        for experiment, seeds in ((EXPERIMENT, 1), (whole, 3)):
            gate.allow(3)
            setting = ToyKnobs(seeds=seeds, steps=20, gate=gate.path)
            run = engine.submit(experiment, setting, owner="me")
            wait_until(lambda run=run, seeds=seeds: len(run.log) == 4 * seeds)
            assert len(workers_of(engine, run)) == 1
            gate.allow(20)
            assert wait_for_end(engine, run).status == "done"
            assert_like_one_worker(run)

    def test_new_run_takes_all_workers_of_the_one_it_replaces(self, engine: WorkerEngine, wide: Run) -> None:
        engine.cancel(wide.id)
        run = submit(engine, owner="wide", seeds=2, steps=10_000, delay=5.0)
        wait_until(lambda: len(workers_of(engine, run)) == 2)
        engine.cancel(run.id)
        assert wait_for_end(engine, run).status == "cancelled"

    def test_progress_counts_the_seeds_that_have_not_begun(self) -> None:
        run = Run(EXPERIMENT, ToyKnobs(seeds=4, steps=10))
        run.begin()
        run.log.extend(EXPERIMENT.frames(run.knobs.for_seeds([0]), "cpu"))
        assert run.progress == 0.25


class TestGiveBack:
    def test_waiting_run_starts_and_nothing_is_shown_twice(
        self, engine: WorkerEngine, store: RunStore, tmp_path: Path, gate: Gate
    ) -> None:
        tally, steps = tmp_path / "steps", 40
        run = submit(engine, seeds=2, arms=("a", "b"), steps=steps, gate=gate.path, tally=str(tally))
        both_at(run, gate, 5)
        other = submit(engine, owner="other", steps=5)
        gate.allow(6)  # the step after which a worker is given back
        assert wait_for_end(engine, other).status == "done"
        assert run.live, "it is held at the gate: the other run did not wait for its end"
        wait_until(lambda: len(workers_of(engine, run)) == 2)
        gate.allow(steps)
        assert wait_for_end(engine, run).status == "done"
        assert_like_one_worker(run)
        assert by_member(store.load(run.id).log.frames) == by_member(run.log.frames)
        assert tally.stat().st_size >= 2 * steps + 5, "what was given back is computed again"

    def test_run_keeps_one_worker(self, engine: WorkerEngine, wide: Run) -> None:
        others = [submit(engine, owner=f"other {i}", steps=10_000, delay=5.0) for i in range(2)]
        wait_until(lambda: len(others[0].log) >= 1)
        time.sleep(0.1)
        assert len(workers_of(engine, wide)) == 1
        assert (others[1].status, engine.place(others[1].id)) == ("queued", 1)
        for run in others:
            engine.cancel(run.id)
            wait_for_end(engine, run)

    @pytest.fixture
    def stranded(self, engine: WorkerEngine, gate: Gate) -> Run:
        """A run that has given one worker back and has ended its part in the other: two more runs have both."""
        run = submit(engine, owner="first", seeds=2, arms=("a", "b"), steps=20, gate=gate.path)
        both_at(run, gate, 5)
        others = [submit(engine, owner=f"other {i}", steps=10_000, delay=5.0) for i in range(2)]
        gate.allow(20)
        wait_until(lambda: all(len(other.log) for other in others))
        assert last_steps(run)["a", 0] == 20
        assert last_steps(run)["a", 1] < 20
        yield run
        for other in others:
            engine.cancel(other.id)
            wait_for_end(engine, other)
        wait_for_end(engine, run)

    def test_run_that_has_given_all_its_workers_waits_in_turn(
        self, engine: WorkerEngine, stranded: Run
    ) -> None:
        assert (stranded.status, engine.place(stranded.id)) == ("running", 1)
        assert workers_of(engine, stranded) == []
        engine.pause(stranded.id)
        assert (stranded.status, engine.place(stranded.id)) == ("paused", 0)
        engine.resume(stranded.id)
        assert (stranded.status, engine.place(stranded.id)) == ("running", 1)
        engine.cancel(next(run_id for run_id in engine.worker_pids().values()))
        assert wait_for_end(engine, stranded).status == "done"
        assert_like_one_worker(stranded)

    @pytest.mark.parametrize("paused", [False, True])
    def test_cancelled_without_a_worker(self, engine: WorkerEngine, stranded: Run, paused: bool) -> None:
        if paused:
            engine.pause(stranded.id)
        engine.cancel(stranded.id)
        assert stranded.status == "cancelled"
        assert engine.place(stranded.id) == 0


class TestWhole:
    def test_pause_holds_all_parts(self, engine: WorkerEngine, wide: Run) -> None:
        engine.pause(wide.id)
        time.sleep(0.15)
        before, steps = len(wide.log), max(last_steps(wide).values())
        time.sleep(0.15)
        assert len(wide.log) == before
        engine.resume(wide.id)
        wait_until(lambda: min(last_steps(wide).values()) > steps)

    def test_paused_run_gives_workers_back_too(self, engine: WorkerEngine, wide: Run) -> None:
        engine.pause(wide.id)
        assert wait_for_end(engine, submit(engine, owner="other", steps=5)).status == "done"
        time.sleep(0.1)
        assert len(workers_of(engine, wide)) == 1, "it takes none while it is paused"
        engine.resume(wide.id)
        wait_until(lambda: len(workers_of(engine, wide)) == 2)

    def test_cancel_ends_all_parts(self, engine: WorkerEngine, wide: Run) -> None:
        engine.cancel(wide.id)
        assert wait_for_end(engine, wide).status == "cancelled"
        assert workers_of(engine, wide) == []

    def test_error_in_one_part_ends_the_run(self, engine: WorkerEngine) -> None:
        run = submit(engine, seeds=2, steps=10_000, delay=5.0, mode="raise", only=1)
        wait_for_end(engine, run)
        assert (run.status, run.error) == ("failed", "ArithmeticError: the loss is odd")
        assert last_steps(run)["a", 1] == 1
        assert workers_of(engine, run) == []

    def test_dead_worker_of_one_part_ends_the_run_and_no_other(
        self, engine: WorkerEngine, store: RunStore, wide: Run
    ) -> None:
        os.kill(workers_of(engine, wide)[1], signal.SIGKILL)
        wait_for_end(engine, wide)
        assert wide.status == "failed"
        assert wide.error == "The worker process was killed (SIGKILL), perhaps for lack of memory."
        assert store.load(wide.id).status == "failed"
        assert wait_for_end(engine, submit(engine)).status == "done"
