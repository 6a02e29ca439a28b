from __future__ import annotations

from pathlib import Path

import pytest

from normviz.engine import RunStore, extend_inline, run_inline
from normviz.frame import Frame
from tests.engine.members import by_member
from tests.engine.toy import EXPERIMENT, ToyKnobs


def test_runs_to_the_end_and_is_stored(tmp_path: Path) -> None:
    store, seen = RunStore(tmp_path), []
    run = run_inline(EXPERIMENT, ToyKnobs(steps=30), device="cpu", store=store, on_frame=seen.append)
    assert (run.status, run.device) == ("done", "cpu")
    assert seen == run.log.frames
    assert store.load(run.id).log.to_table().equals(run.log.to_table())
    store.close()


def test_frames_are_on_disk_while_it_runs(tmp_path: Path) -> None:
    store, other, on_disk = RunStore(tmp_path), RunStore(tmp_path), []

    def look(frame: Frame) -> None:
        if frame.step == 19:
            on_disk.extend(other.load(other.list()[0].id).log.frames)

    run_inline(EXPERIMENT, ToyKnobs(steps=20, delay=60.0), store=store, on_frame=look)
    assert len(on_disk) >= 2, "what is older than a second is there"
    store.close()
    other.close()


def test_more_seeds_join_the_stored_run(tmp_path: Path) -> None:
    store, seen = RunStore(tmp_path), []
    run = run_inline(EXPERIMENT, ToyKnobs(steps=10, seeds=2), store=store)
    assert extend_inline(store.load(run.id), 1, store=store, on_frame=seen.append).status == "done"
    assert {frame.seed for frame in seen} == {2}
    stored = store.load(run.id)
    assert (stored.status, stored.knobs) == ("done", ToyKnobs(steps=10, seeds=3))
    assert by_member(stored.log.frames) == by_member(EXPERIMENT.frames(stored.knobs, "cpu"))
    store.close()


def test_ctrl_c_keeps_what_there_is(tmp_path: Path) -> None:
    def interrupt(frame: Frame) -> None:
        if frame.step == 3:
            raise KeyboardInterrupt

    store, tally = RunStore(tmp_path / "store"), tmp_path / "steps"
    run = run_inline(EXPERIMENT, ToyKnobs(steps=30, tally=str(tally)), store=store, on_frame=interrupt)
    assert (run.status, run.log.last_step) == ("cancelled", 3)
    assert Path(f"{tally}.closed").exists()
    back = store.load(run.id)
    assert (back.status, back.log.last_step) == ("cancelled", 3)
    store.close()


def test_error_is_raised_and_stored(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with pytest.raises(ArithmeticError):
        run_inline(EXPERIMENT, ToyKnobs(mode="raise"), store=store)
    with pytest.raises(ValueError, match="abacus"):
        run_inline(EXPERIMENT, ToyKnobs(), device="abacus", store=store)
    device, odd = store.list()
    assert (odd.status, odd.error, odd.frames) == ("failed", "ArithmeticError: the loss is odd", 2)
    assert (device.status, device.frames) == ("failed", 0)
    store.close()


def test_store_that_fails_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    run = run_inline(EXPERIMENT, ToyKnobs(steps=3), store=RunStore(tmp_path / "file"))
    assert run.status == "done"
    assert "Runs are not being kept" in caplog.text
    assert run_inline(EXPERIMENT, ToyKnobs(steps=3)).status == "done"
