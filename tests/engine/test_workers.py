from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from normviz.engine import RunStore, StoreError, WorkerEngine, workers
from normviz.engine.process import cause_of_death
from normviz.engine.protocol import ProtocolError
from normviz.experiments import Experiment, Run
from normviz.knobs import KnobError, Knobs
from normviz.training import device_names
from tests.engine.conftest import GRACE, Gate, wait_for_end
from tests.engine.toy import EXPERIMENT, ToyKnobs
from tests.waiting import wait_until

SLOW = 50.0


def submit(engine: WorkerEngine, owner: str = "me", device: str = "auto", **knobs: object) -> Run:
    return engine.submit(EXPERIMENT, ToyKnobs(**knobs), owner=owner, device=device)


def worker_of(engine: WorkerEngine, run: Run) -> int:
    return next(pid for pid, run_id in engine.worker_pids().items() if run_id == run.id)


@pytest.fixture
def blockers(engine: WorkerEngine) -> list[Run]:
    """A long run in each worker, so that all others wait; cancelled when the test ends."""
    wait_until(lambda: engine.workers_ready() == 2)
    runs = [submit(engine, owner=f"blocker {i}", steps=10_000, delay=SLOW) for i in range(2)]
    yield runs
    for run in runs:
        engine.cancel(run.id)
        wait_for_end(engine, run)


class TestRun:
    def test_devices_have_names(self, engine: WorkerEngine) -> None:
        wait_until(lambda: engine.workers_ready() == 2)
        assert engine.device_name("cpu") == "CPU"
        assert engine.device_name("auto") == device_names()["auto"]
        assert engine.device_name("cuda:7") == device_names().get("cuda", "")
        assert engine.device_name("abacus") == ""

    def test_all_frames_arrive_whole(self, engine: WorkerEngine) -> None:
        run = wait_for_end(engine, submit(engine, steps=200, arms=("a", "b"), tag=7.0))
        assert run.status == "done"
        assert run.error is None
        assert run.progress == 1.0
        assert run.started is not None
        assert run.finished >= run.started
        steps = [(f.step, f.arm) for f in run.log.frames]
        assert steps == [(s, a) for s in range(201) for a in ("a", "b")]
        assert all(f.values["tag"] == 7.0 for f in run.log.frames)
        last = run.log.arrays("map")[0]
        np.testing.assert_array_equal(last.value, np.full((2, 3), 200))
        assert [e.text for e in run.log.events] == ["began", "began"]

    def test_submit_returns_and_the_first_frame_comes_before_the_first_step(
        self, engine: WorkerEngine, gate: Gate
    ) -> None:
        run = submit(engine, steps=3, gate=gate.path)
        wait_until(lambda: len(run.log) == 1, "the first frame, while the first step is held back")
        assert run.log.frames[0].step == 0
        gate.allow(3)
        assert wait_for_end(engine, run).status == "done"

    def test_frames_stream_while_it_trains(self, engine: WorkerEngine, gate: Gate) -> None:
        run = submit(engine, steps=5, gate=gate.path)
        for step in range(5):
            wait_until(
                lambda step=step: len(run.log) == step + 1, "a frame, while the next step is held back"
            )
            if step == 2:
                time.sleep(0.4)  # from now on a thread of its own sends the frames
            gate.allow(step + 1)
        assert wait_for_end(engine, run).log.last_step == 5

    def test_torch_is_loaded_with_the_threads_asked_for(self, engine: WorkerEngine) -> None:
        run = wait_for_end(engine, submit(engine, steps=1))
        assert run.log.frames[0].values["threads"] == 1.0

    def test_waiting_ends_with_the_time(self, engine: WorkerEngine, gate: Gate) -> None:
        run = submit(engine, steps=1, gate=gate.path)
        wait_until(lambda: len(run.log) == 1)
        start = time.monotonic()
        assert engine.wait_for_frames(run.id, 1, 0.1) == 1
        assert time.monotonic() - start >= 0.1
        gate.allow(1)
        wait_for_end(engine, run)
        assert engine.wait_for_frames(run.id, 2, 1e6) == 2, "nothing more can come"
        assert engine.wait_for_frames("unknown", 0, 5.0) == 0

    def test_is_found_again_in_memory_and_in_the_store(self, engine: WorkerEngine, store: RunStore) -> None:
        run = wait_for_end(engine, submit(engine, steps=30, tag=3.0))
        assert engine.get(run.id) is run
        assert engine.get("unknown") is None
        stored = store.load(run.id)
        assert stored.status == "done"
        assert stored.knobs == run.knobs
        assert stored.log.to_table().equals(run.log.to_table())
        latest = store.latest("toy", run.knobs.key())
        assert (latest.id, latest.frames, latest.last_step) == (run.id, 31, 30)
        assert engine.store_message() is None


class TestCancel:
    def test_takes_effect_within_one_step(self, engine: WorkerEngine, tmp_path: Path, gate: Gate) -> None:
        tally = tmp_path / "steps"
        gate.allow(3)
        run = submit(engine, steps=1000, gate=gate.path, tally=str(tally))
        wait_until(lambda: len(run.log) == 4)
        engine.cancel(run.id)
        engine.cancel(run.id)
        gate.allow(1000)
        wait_for_end(engine, run)
        assert run.status == "cancelled"
        assert run.error is None
        assert tally.stat().st_size <= 4
        assert Path(f"{tally}.closed").exists()
        assert run.log.last_step == tally.stat().st_size
        engine.cancel(run.id)
        assert run.status == "cancelled"

    def test_unknown_run_is_ignored(self, engine: WorkerEngine) -> None:
        engine.cancel("unknown")
        engine.pause("unknown")
        engine.resume("unknown")
        engine.detach("unknown", "me")
        assert engine.attach("unknown", "me") is None

    def test_of_one_run_leaves_the_next_alone(self, engine: WorkerEngine) -> None:
        for _ in range(5):
            first = submit(engine, steps=1000, delay=5.0)
            wait_until(lambda first=first: len(first.log))
            engine.cancel(first.id)
            second = submit(engine, steps=3)
            assert wait_for_end(engine, second).status == "done"
            assert wait_for_end(engine, first).status == "cancelled"

    def test_worker_that_does_not_react_is_replaced(
        self, engine: WorkerEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(workers, "PATIENCE", 0.2)
        run = submit(engine, steps=100, mode="deaf")
        wait_until(lambda: len(run.log) == 2)
        engine.cancel(run.id)
        wait_for_end(engine, run)
        assert run.status == "cancelled"
        assert run.error is None


class TestPause:
    def test_no_step_is_made_until_it_goes_on(self, engine: WorkerEngine, tmp_path: Path, gate: Gate) -> None:
        tally = tmp_path / "steps"
        gate.allow(3)
        run = submit(engine, steps=60, gate=gate.path, tally=str(tally))
        wait_until(lambda: len(run.log) == 4)
        engine.pause(run.id)
        assert run.status == "paused"
        gate.allow(60)
        time.sleep(0.3)
        made = tally.stat().st_size
        assert made <= 4
        wait_until(lambda: run.log.last_step == made, "the frames before the pause")
        time.sleep(0.2)
        assert tally.stat().st_size == made
        engine.resume(run.id)
        assert run.status == "running"
        assert wait_for_end(engine, run).status == "done"
        assert run.log.last_step == 60
        engine.pause(run.id)
        assert run.status == "done"

    def test_paused_run_is_cancelled(self, engine: WorkerEngine) -> None:
        run = submit(engine, steps=1000, delay=5.0)
        wait_until(lambda: len(run.log) >= 1)
        engine.pause(run.id)
        engine.cancel(run.id)
        assert wait_for_end(engine, run).status == "cancelled"


@pytest.fixture
def due(engine: WorkerEngine, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What the engine will do after a grace period, for the test to let happen."""
    actions: list[Callable[[], None]] = []

    def later(seconds: float, action: Callable[[], None]) -> None:
        if seconds == GRACE:
            actions.append(action)

    monkeypatch.setattr(engine, "_later", later)
    return actions


class TestViewers:
    def test_closed_tab_cancels_after_the_grace_period(self, engine: WorkerEngine) -> None:
        run = submit(engine, steps=10_000, delay=5.0)
        assert engine.attach(run.id, "tab") is run
        start = time.monotonic()
        engine.detach(run.id, "tab")
        wait_for_end(engine, run)
        assert run.status == "cancelled"
        assert time.monotonic() - start >= GRACE

    def test_reload_in_time_keeps_it(self, engine: WorkerEngine, due: list[Callable[[], None]]) -> None:
        run = submit(engine, steps=10_000, delay=5.0)
        engine.attach(run.id, "tab")
        engine.detach(run.id, "tab")
        engine.attach(run.id, "tab after reload")
        due.pop()()
        assert run.status == "running"
        engine.detach(run.id, "tab after reload")
        engine.attach(run.id, "a third")
        engine.detach(run.id, "a third")
        first, second = due
        first()
        assert run.status == "running", "each detaching has a grace period of its own"
        second()
        assert wait_for_end(engine, run).status == "cancelled"

    def test_another_viewer_keeps_it(self, engine: WorkerEngine, due: list[Callable[[], None]]) -> None:
        run = submit(engine, steps=10_000, delay=5.0)
        engine.attach(run.id, "one")
        engine.attach(run.id, "two")
        engine.detach(run.id, "one")
        engine.detach(run.id, "nobody")
        assert due == []
        engine.cancel(run.id)
        wait_for_end(engine, run)

    def test_who_leaves_ends_it_only_where_nobody_else_watches(self, engine: WorkerEngine) -> None:
        run = submit(engine, steps=10_000, delay=5.0)
        engine.attach(run.id, "one")
        engine.attach(run.id, "two")
        engine.leave(run.id, "one")
        assert run.live
        engine.leave(run.id, "two")
        assert wait_for_end(engine, run).status == "cancelled"
        engine.leave("unknown", "one")

    def test_run_that_was_never_attached_goes_on(
        self, engine: WorkerEngine, due: list[Callable[[], None]]
    ) -> None:
        run = submit(engine, steps=10_000, delay=5.0)
        engine.detach(run.id, "nobody")
        assert due == []
        engine.cancel(run.id)
        wait_for_end(engine, run)

    def test_waiting_run_is_cancelled_too(self, engine: WorkerEngine, blockers: list[Run]) -> None:
        run = submit(engine)
        engine.attach(run.id, "tab")
        engine.detach(run.id, "tab")
        wait_until(lambda: run.status == "cancelled")
        assert run.started is None


class TestFailure:
    def test_killed_worker_fails_only_its_own_run(self, engine: WorkerEngine) -> None:
        other = submit(engine, owner="other", steps=40, delay=10.0)
        run = submit(engine, steps=10_000, delay=10.0)
        wait_until(lambda: len(run.log) >= 2 and len(other.log) >= 2)
        killed = worker_of(engine, run)
        os.kill(killed, signal.SIGKILL)
        wait_for_end(engine, run)
        assert run.status == "failed"
        assert run.error == "The worker process was killed (SIGKILL), perhaps for lack of memory."
        assert wait_for_end(engine, other).status == "done"
        assert wait_for_end(engine, submit(engine)).status == "done"
        wait_until(lambda: engine.workers_ready() == 2)
        assert killed not in engine.worker_pids()

    def test_idle_worker_that_died_is_replaced_before_it_matters(self, engine: WorkerEngine) -> None:
        wait_until(lambda: engine.workers_ready() == 2)
        os.kill(next(iter(engine.worker_pids())), signal.SIGKILL)  # the one that gets the next run
        run = submit(engine)  # the engine may not have noticed yet
        assert wait_for_end(engine, run).status == "done"
        wait_until(lambda: engine.workers_ready() == 2)

    def test_worker_that_leaves(self, engine: WorkerEngine) -> None:
        run = wait_for_end(engine, submit(engine, mode="exit"))
        expected = (
            "The worker process ended unexpectedly (exit code 3). Last line of its standard error: goodbye"
        )
        assert (run.status, run.error) == ("failed", expected)

    def test_causes_of_death_in_words(self) -> None:
        assert cause_of_death(-signal.SIGABRT) == "The worker process crashed (SIGABRT)."
        assert cause_of_death(-signal.SIGTERM) == "The worker process was killed (SIGTERM)."
        assert (
            cause_of_death(-99, "a\nb \n\n")
            == "The worker process crashed (signal 99). Last line of its standard error: b"
        )
        assert len(cause_of_death(1, "x" * 9999)) < 300

    def test_exception_is_one_readable_line(
        self, engine: WorkerEngine, caplog: pytest.LogCaptureFixture
    ) -> None:
        wait_until(lambda: engine.workers_ready() == 2)
        before = set(engine.worker_pids())
        with caplog.at_level(logging.ERROR, "normviz.engine"):
            run = wait_for_end(engine, submit(engine, mode="raise"))
        assert run.status == "failed"
        assert run.error == "ArithmeticError: the loss is odd"
        assert [f.step for f in run.log.frames] == [0, 1]
        assert "_misbehave" in caplog.text
        assert wait_for_end(engine, submit(engine)).status == "done"
        assert set(engine.worker_pids()) == before, "the workers are used again"

    def test_frame_that_cannot_be_sent(self, engine: WorkerEngine) -> None:
        run = wait_for_end(engine, submit(engine, mode="odd", delay=100.0))
        assert run.status == "failed"
        assert run.log.frames[0].step == 0

    def test_device_that_is_not_there(self, engine: WorkerEngine) -> None:
        run = wait_for_end(engine, submit(engine, device="abacus"))
        assert run.status == "failed"
        assert run.error == "ValueError: device must be 'auto' or 'cpu' here, got 'abacus'."

    def test_stray_prints_and_reads_do_no_harm(self, engine: WorkerEngine) -> None:
        run = wait_for_end(engine, submit(engine, mode="print", steps=3))
        assert run.status == "done"
        assert run.log.last_step == 3

    def test_message_that_is_none_ends_the_worker(
        self, engine: WorkerEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def garbled(payload: bytes) -> list[object]:
            raise ProtocolError("odd bytes")

        monkeypatch.setattr(workers, "decode_frames", garbled)
        run = wait_for_end(engine, submit(engine))
        assert run.status == "failed"
        assert run.error == "The worker process sent something unreadable: odd bytes"
        monkeypatch.undo()
        assert wait_for_end(engine, submit(engine)).status == "done"


class TestRefusal:
    def test_knobs_that_are_not_allowed_never_reach_a_worker(self, engine: WorkerEngine) -> None:
        forged = ToyKnobs.model_construct(**ToyKnobs().model_dump() | {"steps": 10**9})
        with pytest.raises(KnobError, match="steps = 1000000000 is not allowed"):
            engine.submit(EXPERIMENT, forged, owner="me")

        class OtherKnobs(Knobs):
            pass

        with pytest.raises(KnobError, match="must be ToyKnobs"):
            engine.submit(EXPERIMENT, OtherKnobs(), owner="me")

    @pytest.mark.parametrize("package", ["tests.engine.nowhere", "tests.engine", "normviz.experiments"])
    def test_unknown_experiment(self, engine: WorkerEngine, package: str) -> None:
        values = {name: getattr(EXPERIMENT, name) for name in EXPERIMENT.__dataclass_fields__}
        with pytest.raises(ValueError, match=package):
            engine.submit(Experiment(**values | {"package": package}), ToyKnobs(), owner="me")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"workers": 0}, "workers must be"),
            ({"workers": 1, "threads": 0}, "threads must be"),
            ({"workers": 1, "grace": -1.0}, "grace must be"),
            ({"workers": 1, "publish_interval": -1.0}, "publish_interval must be"),
            ({"workers": 1, "nice": 20}, "nice must be"),
        ],
    )
    def test_arguments(self, arguments: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            WorkerEngine(**arguments)

    def test_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NORMVIZ_WORKERS", "many")
        with pytest.raises(ValueError, match="NORMVIZ_WORKERS must be an integer"):
            WorkerEngine()


class TestQueue:
    def test_visitors_wait_in_turn_and_see_their_place(
        self, engine: WorkerEngine, blockers: list[Run]
    ) -> None:
        greedy = [submit(engine, owner="greedy", steps=1) for _ in range(3)]
        modest = submit(engine, owner="modest", steps=1)
        late = submit(engine, owner="late", steps=1)
        order = [greedy[0], modest, late, greedy[1], greedy[2]]
        assert [engine.place(run.id) for run in order] == [1, 2, 3, 4, 5]
        assert all(run.status == "queued" for run in order)
        assert engine.place(blockers[0].id) == 0
        assert engine.place("unknown") == 0

        engine.cancel(late.id)
        assert late.status == "cancelled"
        assert engine.place(late.id) == 0
        assert engine.place(greedy[1].id) == 3

        engine.cancel(blockers[0].id)
        order.remove(late)
        for run in order:
            assert wait_for_end(engine, run).status == "done"
            assert engine.place(run.id) == 0
        assert sorted(order, key=lambda run: run.started) == order

    def test_two_owners_never_see_each_others_frames(self, engine: WorkerEngine) -> None:
        runs = [
            submit(engine, owner=owner, steps=50, delay=1.0, tag=float(tag))
            for tag, owner in enumerate(["ann", "bob"] * 4)
        ]
        assert len({run.id for run in runs}) == 8
        for tag, run in enumerate(runs):
            wait_for_end(engine, run)
            assert [f.step for f in run.log.frames] == list(range(51))
            assert {f.values["tag"] for f in run.log.frames} == {float(tag)}

    def test_many_threads_at_once(self, engine: WorkerEngine) -> None:
        done = []

        def visit(number: int) -> None:
            run = submit(engine, owner=f"visitor {number}", steps=20, tag=float(number))
            engine.attach(run.id, "tab")
            if number % 3 == 0:
                engine.cancel(run.id)
            wait_for_end(engine, run)
            engine.detach(run.id, "tab")
            done.append((number, run))

        threads = [threading.Thread(target=visit, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 12
        for number, run in done:
            assert run.status in ({"cancelled", "done"} if number % 3 == 0 else {"done"})
            assert {f.values["tag"] for f in run.log.frames} <= {float(number)}


def test_ended_runs_are_forgotten_unless_they_are_watched(
    engine: WorkerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "KEPT_IN_MEMORY", 2)
    watched = submit(engine, steps=1)
    engine.attach(watched.id, "tab")
    wait_for_end(engine, watched)
    others = [wait_for_end(engine, submit(engine, steps=1)) for _ in range(4)]
    wait_until(lambda: engine.get(others[1].id) is None)
    assert engine.get(watched.id) is watched
    assert [engine.get(run.id) for run in others] == [None, None, others[2], others[3]]
    engine.detach(watched.id, "tab")


def test_store_that_fails_stops_no_run(
    engine: WorkerEngine, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise StoreError("/store cannot be written (No space left on device).")

    monkeypatch.setattr(store, "create", refuse)
    run = wait_for_end(engine, submit(engine, steps=5))
    assert run.status == "done"
    assert run.log.last_step == 5
    expected = "Runs are not being kept: /store cannot be written (No space left on device)."
    assert engine.store_message() == expected
    monkeypatch.undo()

    monkeypatch.setattr(store, "append", refuse)
    run = wait_for_end(engine, submit(engine, steps=5))
    assert run.status == "done"
    assert engine.store_message() == expected
    monkeypatch.undo()

    run = wait_for_end(engine, submit(engine, steps=5))
    assert engine.store_message() is None
    assert store.load(run.id).log.last_step == 5


def test_worker_that_cannot_start_fails_the_runs_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(workers, "_LONGEST_BACKOFF", 0.05)
    engine = WorkerEngine(1)
    run = submit(engine)
    wait_for_end(engine, run)
    assert run.status == "failed"
    assert run.error == "No worker process can be started: No such file or directory."
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        submit(engine)


def test_close_cancels_and_ends_the_workers(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    engine = WorkerEngine(1, store=store, threads=1)
    runs = [submit(engine, steps=10_000, delay=10.0) for _ in range(2)]
    wait_until(lambda: len(runs[0].log) >= 2)
    (pid,) = engine.worker_pids()
    engine.close()
    assert [run.status for run in runs] == ["cancelled", "cancelled"]
    assert not Path(f"/proc/{pid}").exists()
    stored = store.load(runs[0].id)
    assert stored.status == "cancelled"
    assert len(stored.log) == len(runs[0].log)
    store.close()


def test_server_loads_no_torch() -> None:
    code = (
        "import sys, normviz.engine as e; "
        "[getattr(e, n) for n in e.__all__ if n != 'RayEngine']; "
        "from tests.engine.toy import EXPERIMENT; "
        "engine = e.WorkerEngine(1); engine.close(); "
        "assert not {'torch', 'streamlit', 'multiprocessing'} & set(sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_runs_that_a_tab_has_left_are_let_go(engine: WorkerEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "KEPT_IN_MEMORY", 3)
    left: list[weakref.ref[Run]] = []
    for _ in range(12):
        run = submit(engine, steps=1)
        engine.attach(run.id, "tab")
        wait_for_end(engine, run)
        engine.leave(run.id, "tab")
        left.append(weakref.ref(run))
    wait_until(
        lambda: gc.collect() >= 0 and sum(ref() is not None for ref in left) <= 4, "the runs to be let go"
    )
    assert engine.get(run.id) is run
