"""More seeds for a run that is done: the run that had them from the beginning, member by member."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from normviz.engine import RunStore, StoreError, WorkerEngine
from normviz.experiments import Run, run_experiment
from normviz.knobs import KnobError, Knobs
from tests.engine.conftest import Gate, wait_for_end
from tests.engine.members import by_member
from tests.engine.toy import EXPERIMENT, ToyKnobs
from tests.waiting import wait_until


def submit(engine: WorkerEngine, **knobs: object) -> Run:
    return engine.submit(EXPERIMENT, ToyKnobs(**knobs), owner="me")


def whole(knobs: Knobs) -> dict[tuple[str, int], bytes]:
    return by_member(EXPERIMENT.frames(knobs.model_copy(update={"gate": ""}), "cpu"))


class TestWorkers:
    def test_two_seeds_and_one_more_are_three(
        self, engine: WorkerEngine, store: RunStore, gate: Gate
    ) -> None:
        gate.allow(30)
        setting = {"arms": ("a", "b"), "steps": 30, "first_seed": 4, "gate": gate.path}
        run = wait_for_end(engine, submit(engine, seeds=2, **setting))
        before, seconds = run.log.frames, run.seconds
        gate.allow(0)
        assert engine.extend(run.id, 1) is run
        wait_until(lambda: len(run.log) > len(before))
        assert run.status == store.load(run.id).status == "running"
        gate.allow(30)
        assert wait_for_end(engine, run).status == "done"
        assert run.knobs == ToyKnobs(seeds=3, **setting)
        assert run.log.frames[: len(before)] == before
        assert by_member(run.log.frames) == whole(run.knobs)
        assert seconds < run.seconds
        stored = store.load(run.id)
        assert (stored.status, stored.knobs, stored.started) == ("done", run.knobs, run.started)
        assert by_member(stored.log.frames) == whole(run.knobs)
        (row,) = [row for row in store.list() if row.id == run.id]
        assert (row.frames, row.finished) == (len(run.log), run.finished)
        assert store.latest("toy", run.knobs.key()).id == run.id

    def test_many_seeds_spread_over_the_workers(self, engine: WorkerEngine, gate: Gate) -> None:
        wait_until(lambda: engine.workers_ready() == 2)
        gate.allow(20)
        run = wait_for_end(engine, submit(engine, seeds=1, steps=20, gate=gate.path))
        gate.allow(0)
        engine.extend(run.id, 4)
        wait_until(lambda: list(engine.worker_pids().values()) == [run.id, run.id])
        assert run.progress == pytest.approx(1 / 5)
        gate.allow(20)
        assert wait_for_end(engine, run).status == "done"
        assert by_member(run.log.frames) == whole(run.knobs)

    def test_run_from_the_store(self, engine: WorkerEngine, store: RunStore) -> None:
        run = Run(EXPERIMENT, ToyKnobs(seeds=2, steps=15))
        run.begin()
        store.create(run)
        run.log.extend(EXPERIMENT.frames(run.knobs, "cpu"))
        store.append(run.id, run.log.frames)
        run.end("done")
        store.finish(run)
        for seeds in (3, 4):
            extended = wait_for_end(engine, engine.extend(run.id, 1))
            assert (extended.status, extended.knobs.seeds) == ("done", seeds)
            assert engine.get(run.id) is extended
            assert by_member(store.load(run.id).log.frames) == whole(extended.knobs)

    def test_cancelled_in_the_queue_it_is_what_it_was(self, engine: WorkerEngine, store: RunStore) -> None:
        run = wait_for_end(engine, submit(engine, seeds=1, steps=5))
        finished = run.finished
        blockers = [submit(engine, steps=10_000, delay=20.0) for _ in range(2)]
        engine.extend(run.id, 2)
        assert (run.status, engine.place(run.id)) == ("queued", 1)
        engine.cancel(run.id)
        assert (run.status, run.knobs.seeds, run.finished) == ("done", 1, finished)
        assert store.load(run.id).status == "done"
        for blocker in blockers:
            engine.cancel(blocker.id)
            wait_for_end(engine, blocker)
        assert wait_for_end(engine, engine.extend(run.id, 1)).knobs.seeds == 2

    def test_worker_that_is_dead_already(self, engine: WorkerEngine) -> None:
        run = wait_for_end(engine, submit(engine, seeds=1, steps=5))
        started = run.started
        wait_until(lambda: engine.workers_ready() == 2)
        os.kill(next(iter(engine.worker_pids())), signal.SIGKILL)  # the one that gets the new seed
        engine.extend(run.id, 1)
        assert wait_for_end(engine, run).status == "done"
        assert by_member(run.log.frames) == whole(run.knobs)
        assert run.started > started, "the time between is not counted"
        wait_until(lambda: engine.workers_ready() == 2)

    def test_cancelled_under_way_it_keeps_all_frames(
        self, engine: WorkerEngine, store: RunStore, gate: Gate
    ) -> None:
        gate.allow(40)
        run = wait_for_end(engine, submit(engine, seeds=1, steps=40, gate=gate.path))
        before = run.log.frames
        gate.allow(5)
        engine.extend(run.id, 1)
        wait_until(lambda: len(run.log) == len(before) + 6)
        engine.cancel(run.id)
        gate.allow(40)
        assert wait_for_end(engine, run).status == "cancelled"
        stored = store.load(run.id)
        assert stored.status == "cancelled"
        assert by_member(stored.log.frames[: len(before)]) == by_member(before)
        assert by_member(stored.log.frames) == by_member(run.log.frames)
        with pytest.raises(
            ValueError, match=r"Only a run that is done takes more seeds; the run .* cancelled"
        ):
            engine.extend(run.id, 1)

    def test_refusals_change_nothing(self, engine: WorkerEngine) -> None:
        run = wait_for_end(engine, submit(engine, seeds=4, steps=2))
        for seeds, message in (
            (3, "seeds = 7 is not allowed: it takes 1 to 6"),
            (0, "1 or more further seeds, got 0"),
            (-1, "1 or more further seeds, got -1"),
        ):
            with pytest.raises(KnobError, match=message):
                engine.extend(run.id, seeds)
        assert (run.status, run.knobs.seeds) == ("done", 4)
        with pytest.raises(StoreError, match="no stored run 'unknown'"):
            engine.extend("unknown", 1)
        live = submit(engine, steps=10_000, delay=5.0)
        with pytest.raises(ValueError, match="Only a run that is done"):
            engine.extend(live.id, 1)
        engine.cancel(live.id)
        wait_for_end(engine, live)


class TestInline:
    def test_two_seeds_and_one_more_are_three(self) -> None:
        run = run_experiment(EXPERIMENT, ToyKnobs(seeds=2, steps=30))
        before, seen = run.log.frames, []
        assert run.extend(1, on_frame=seen.append) is run
        assert (run.status, run.knobs.seeds) == ("done", 3)
        assert run.log.frames == before + seen
        assert by_member(run.log.frames) == whole(ToyKnobs(seeds=3, steps=30))

    def test_interrupted(self) -> None:
        def interrupt(frame: object) -> None:
            raise KeyboardInterrupt

        run = run_experiment(EXPERIMENT, ToyKnobs(steps=3))
        assert run.extend(1, on_frame=interrupt).status == "cancelled"
        assert by_member(run.log.frames).keys() == {("a", 0), ("a", 1)}

    def test_failed(self) -> None:
        run = run_experiment(EXPERIMENT, ToyKnobs(steps=3, mode="raise", only=1))
        with pytest.raises(ArithmeticError):
            run.extend(2)
        assert (run.status, run.knobs.seeds) == ("failed", 3)

    def test_refusals(self) -> None:
        run = run_experiment(EXPERIMENT, ToyKnobs(seeds=6, steps=1))
        with pytest.raises(KnobError, match="it takes 1 to 6"):
            run.extend(1)
        together = run_experiment(dataclasses.replace(EXPERIMENT, divisible=False), ToyKnobs(steps=1))
        with pytest.raises(ValueError, match="seeds of 'toy' are trained together"):
            together.extend(1)

    def test_experiment_with_one_seed_only(self) -> None:
        class Single(Knobs):
            pass

        run = dataclasses.replace(EXPERIMENT, knobs=Single)
        done = Run(run, Single(), status="done")
        with pytest.raises(KnobError, match="There is no knob 'seeds'"):
            done.with_more_seeds(1)


SERVER = """
import sys
from normviz.engine import RunStore, WorkerEngine
if __name__ == "__main__":
    engine = WorkerEngine(1, store=RunStore(sys.argv[1]), threads=1)
    run = engine.extend(sys.argv[2], 1)
    while True:
        engine.wait_for_frames(run.id, len(run.log), 1.0)
        print(len(run.log), flush=True)
"""


def test_killed_while_it_goes_on_a_run_keeps_its_frames(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    run = Run(EXPERIMENT, ToyKnobs(seeds=2, steps=1000, delay=1.0))
    run.begin()
    store.create(run)
    run.log.extend(EXPERIMENT.frames(run.knobs.model_copy(update={"delay": 0.0}), "cpu"))
    store.append(run.id, run.log.frames)
    run.end("done")
    store.finish(run)
    command = [sys.executable, "-c", SERVER, str(tmp_path), run.id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) as server:
        for line in server.stdout:
            if (
                json.loads(line) > len(run.log) + 500
            ):  # at 1 ms each more than the half second that may be lost
                break
        server.send_signal(signal.SIGKILL)
    stored = store.load(run.id)
    assert (stored.status, stored.knobs.seeds) == ("cancelled", 3)
    assert by_member(stored.log.frames[: len(run.log)]) == by_member(run.log.frames)
    added = stored.log.frames[len(run.log) :]
    assert [(frame.seed, frame.step) for frame in added] == [(2, step) for step in range(len(added))]
    assert added
    store.close()
