from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.ipc
import pytest

from normviz.engine import RunStore, StoreError, default_store_path, read_parquet
from normviz.engine import store as store_module
from normviz.engine.owner import owner_name
from normviz.experiments import Run
from normviz.frame import Frame, FrameLog
from tests.engine.toy import EXPERIMENT, ToyKnobs
from tests.waiting import wait_until


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    store = RunStore(tmp_path / "a folder?")
    yield store
    store.close()


def some_frames(first: int, last: int) -> list[Frame]:
    return [
        Frame(step, arm, 1, {"loss": 1.0 / (step + 1), "map": np.full((2, 2), step)}, event=None)
        for step in range(first, last)
        for arm in ("a", "b")
    ]


def begin(store: RunStore, frames: int = 0, **knobs: object) -> Run:
    run = Run(EXPERIMENT, ToyKnobs(**knobs), device="cpu")
    run.begin()
    store.create(run)
    extend(store, run, frames)
    return run


def extend(store: RunStore, run: Run, steps: int) -> None:
    frames = some_frames(run.log.last_step + 1 if len(run.log) else 0, run.log.last_step + steps)
    run.log.extend(frames)
    store.append(run.id, frames)


def finished(store: RunStore, frames: int = 5, **knobs: object) -> Run:
    run = begin(store, frames, **knobs)
    run.end("done")
    store.finish(run)
    return run


def assert_same_frames(log: FrameLog, other: FrameLog) -> None:
    assert log.to_table().equals(other.to_table())


class TestRoundTrip:
    def test_run(self, store: RunStore) -> None:
        run = finished(store, 20, steps=19, tag=0.1, arms=("a", "b"))
        back = store.load(run.id)
        assert_same_frames(back.log, run.log)
        for name in (
            "id",
            "knobs",
            "device",
            "environment",
            "status",
            "error",
            "created",
            "started",
            "finished",
        ):
            assert getattr(back, name) == getattr(run, name), name
        (row,) = store.list()
        assert (row.frames, row.last_step, row.slug) == (len(run.log), run.log.last_step, "toy")
        assert ToyKnobs.parse(row.knobs) == run.knobs
        with pytest.raises(dataclasses.FrozenInstanceError):
            row.name = "x"

    def test_another_process_reads_it(self, store: RunStore) -> None:
        run = finished(store)
        assert_same_frames(RunStore(store.path).load(run.id).log, run.log)

    def test_failed_run(self, store: RunStore) -> None:
        run = begin(store, 2)
        run.end("failed", "ValueError: no")
        store.finish(run)
        assert store.load(run.id).error == "ValueError: no"
        assert store.latest("toy", run.knobs.key()) is None

    def test_live_run_is_read_up_to_now(self, store: RunStore) -> None:
        run = begin(store, 3)
        extend(store, run, 4)
        assert_same_frames(store.load(run.id).log, run.log)
        assert store.load(run.id).status == "running"

    def test_frames_reach_the_disk_within_a_second_without_further_calls(self, store: RunStore) -> None:
        run = begin(store, 2)
        extend(store, run, 3)
        extend(store, run, 3)
        other = RunStore(store.path)
        assert store_module.FLUSH_SECONDS < 1.0
        wait_until(lambda: len(other.load(run.id).log) == len(run.log), "the frames on the disk")
        other.close()

    def test_frames_file_is_a_plain_arrow_stream(self, store: RunStore) -> None:
        run = finished(store, 5)
        with pyarrow.ipc.open_stream(store.path / "frames" / f"{run.id}.arrows") as reader:
            assert reader.read_all().equals(run.log.to_table())


class TestList:
    def test_newest_first_by_experiment_and_limited(self, store: RunStore) -> None:
        assert store.list() == []
        assert not store.path.exists(), "reading makes nothing"
        runs = [finished(store, 1, tag=float(i)) for i in range(4)]
        assert [row.id for row in store.list()] == [run.id for run in reversed(runs)]
        assert [row.id for row in store.list("toy", limit=2)] == [runs[3].id, runs[2].id]
        assert store.list("other") == []
        with pytest.raises(ValueError, match="limit"):
            store.list(limit=0)

    def test_latest_has_the_same_knobs_and_is_done(self, store: RunStore) -> None:
        key = ToyKnobs(steps=7).key()
        assert store.latest("toy", key) is None
        finished(store, steps=8)
        first, second = finished(store, steps=7), finished(store, steps=7)
        begin(store, steps=7)
        assert store.latest("toy", key).id == second.id
        assert store.latest("toy", key, "cpu").id == second.id
        assert store.latest("toy", key, "cuda") is None
        assert store.latest("other", key) is None
        store.delete(second.id)
        assert store.latest("toy", key).id == first.id


class TestChange:
    def test_rename(self, store: RunStore) -> None:
        run = finished(store)
        store.rename(run.id, "  wide net ")
        assert store.load(run.id).name == "wide net"
        assert store.load(run.id).title == "wide net"
        store.rename(run.id, "")
        assert store.load(run.id).title == "Toy (defaults)"
        for bad in ("x" * 81, "a\nb", "a\x00"):
            with pytest.raises(ValueError, match="name must have at most 80 printable characters"):
                store.rename(run.id, bad)
        with pytest.raises(StoreError, match="no stored run 'unknown'"):
            store.rename("unknown", "x")

    def test_delete(self, store: RunStore) -> None:
        run, other = finished(store), finished(store)
        store.delete(run.id)
        assert [row.id for row in store.list()] == [other.id]
        assert [path.stem for path in (store.path / "frames").iterdir()] == [other.id]
        for call in (store.delete, store.load):
            with pytest.raises(StoreError, match="no stored run"):
                call(run.id)
        live = begin(store)
        with pytest.raises(StoreError, match="still running"):
            store.delete(live.id)

    def test_ids_from_a_link_reach_no_other_file(self, store: RunStore, tmp_path: Path) -> None:
        finished(store)
        (tmp_path / "secret.arrows").write_bytes(b"x")
        for bad in ("../secret", "../../secret", "' OR 1=1 --"):
            for call in (store.load, store.delete):
                with pytest.raises(StoreError, match="no stored run"):
                    call(bad)
        assert (tmp_path / "secret.arrows").exists()

    def test_only_runs_that_are_being_stored(self, store: RunStore) -> None:
        run = finished(store)
        with pytest.raises(StoreError, match="not being stored"):
            store.append(run.id, [])
        with pytest.raises(StoreError, match="not being stored"):
            store.finish(run)
        with pytest.raises(StoreError, match="stored already"):
            store.create(run)
        assert_same_frames(store.load(run.id).log, run.log)


class TestExport:
    def test_parquet(self, store: RunStore, tmp_path: Path) -> None:
        run = finished(store, 6, tag=2.5)
        store.rename(run.id, "named")
        target = tmp_path / "run.parquet"
        store.export(run.id, target)
        back = read_parquet(target, EXPERIMENT)
        assert_same_frames(back.log, run.log)
        assert (back.id, back.name, back.status, back.knobs) == (run.id, "named", "done", run.knobs)
        assert (back.device, back.environment, back.finished) == ("cpu", run.environment, run.finished)
        with pytest.raises(StoreError, match="experiment that is not there"):
            read_parquet(target)

    def test_csv(self, store: RunStore, tmp_path: Path) -> None:
        run = finished(store, 6)
        store.export(run.id, tmp_path / "run.csv", "csv")
        table = pd.read_csv(tmp_path / "run.csv")
        pd.testing.assert_frame_equal(table, run.to_dataframe())
        assert sorted(path.name for path in tmp_path.glob("run*")) == ["run.csv"]

    def test_refusals(self, store: RunStore, tmp_path: Path) -> None:
        run = finished(store)
        with pytest.raises(ValueError, match="format must be one of 'parquet', 'csv', got 'xlsx'"):
            store.export(run.id, tmp_path / "x", "xlsx")
        for format in ("parquet", "csv"):
            with pytest.raises(StoreError, match=r"cannot be written: (No such file|Cannot save)"):
                store.export(run.id, tmp_path / "none" / "x", format)
        (tmp_path / "text.parquet").write_text("no parquet")
        pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
        for name in ("text.parquet", "other.parquet", "none.parquet"):
            with pytest.raises(StoreError, match=name):
                read_parquet(tmp_path / name)


class TestDamage:
    def test_every_truncated_tail_is_read_up_to_it(self, store: RunStore) -> None:
        run = begin(store)
        ends = []
        path = store.path / "frames" / f"{run.id}.arrows"
        for _ in range(3):
            store._writers[run.id].flushed = 0.0
            extend(store, run, 2)
            ends.append((path.stat().st_size, len(run.log)))
        run.end("done")
        store.finish(run)
        whole = path.read_bytes()
        for cut in [*range(0, len(whole), 97), *(end + d for end, _ in ends for d in (-1, 0, 1))]:
            path.write_bytes(whole[:cut])
            expected = max((count for end, count in ends if end <= cut), default=0)
            assert len(store.load(run.id).log) == expected, cut

    def test_frames_of_another_form(self, store: RunStore) -> None:
        run = finished(store)
        path = store.path / "frames" / f"{run.id}.arrows"
        table = pyarrow.table({"x": [1]})
        with pyarrow.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
        with pytest.raises(StoreError, match="another form"):
            store.load(run.id)
        path.unlink()
        with pytest.raises(StoreError, match="cannot be read: No such file"):
            store.load(run.id)

    def test_knobs_that_are_no_longer_valid(self, store: RunStore) -> None:
        run = finished(store)
        with store._index(write=True) as index:
            index.execute('UPDATE runs SET knobs = \'{"steps": 0, "depth": 3}\'')
        with pytest.raises(
            StoreError, match=r"no longer possible: .*no knob 'depth'.*steps = 0 is not allowed"
        ):
            store.load(run.id)
        assert store.list()[0].knobs == {"steps": 0, "depth": 3}

    def test_experiment_that_is_no_longer_there(self, store: RunStore) -> None:
        run = finished(store)
        with store._index(write=True) as index:
            index.execute("UPDATE runs SET package = 'tests.engine.gone'")
        with pytest.raises(StoreError, match="experiment that is not there"):
            store.load(run.id)

    def test_file_that_is_no_index(self, store: RunStore) -> None:
        store.path.mkdir()
        (store.path / "runs.sqlite").write_text(
            "this is no database, but it is long enough to look like one" * 9
        )
        with pytest.raises(StoreError, match="cannot be read"):
            store.list()
        with pytest.raises(StoreError, match="cannot be written"):
            begin(store)

    def test_newer_version(self, store: RunStore) -> None:
        finished(store)
        store.close()
        connection = sqlite3.connect(store.path / "runs.sqlite")
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        for call in (store.list, lambda: begin(store)):
            with pytest.raises(StoreError, match="newer version"):
                call()


class TestNoRoom:
    def test_path_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            store = RunStore(path)
            assert store.list() == []
            with pytest.raises(StoreError, match="cannot be written"):
                begin(store)

    def test_full_disk_loses_nothing_once_there_is_room_again(self, store: RunStore) -> None:
        run = begin(store, 3)
        path = store.path / "frames" / f"{run.id}.arrows"
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
        try:
            store._writers[run.id].flushed = 0.0
            with pytest.raises(StoreError, match="cannot be written"):
                extend(store, run, 3)
            assert path.stat().st_size == size, "no half a batch is left behind"
            with pytest.raises(StoreError, match="cannot be written"):
                begin(store)
            assert len(list(path.parent.iterdir())) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        extend(store, run, 2)
        run.end("done")
        store.finish(run)
        assert_same_frames(RunStore(store.path).load(run.id).log, run.log)

    def test_error_of_a_late_write_is_raised_by_the_next_append(
        self, store: RunStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path, frames: object) -> None:
            raise OSError(28, "No space left on device")

        run = begin(store, 2)
        monkeypatch.setattr(store_module, "append_frames", full)
        extend(store, run, 2)
        wait_until(lambda: store._writers[run.id].error is not None, 2.0)
        with pytest.raises(StoreError, match="No space left on device"):
            extend(store, run, 2)
        monkeypatch.undo()
        run.end("done")
        store.finish(run)
        assert_same_frames(store.load(run.id).log, run.log)

    def test_read_only_folder_is_still_read(self) -> None:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as undo:
            store = RunStore(Path(folder) / "store")
            run = finished(store, 3)
            store.close()
            Path(folder).chmod(0o755)
            for path in (store.path, store.path / "frames"):
                path.chmod(0o555)
                undo.callback(path.chmod, 0o755)
            if os.geteuid() == 0:  # root may write anywhere
                os.seteuid(65534)
                undo.callback(os.seteuid, 0)
            reader = RunStore(store.path)
            assert_same_frames(reader.load(run.id).log, run.log)
            for change in (begin, lambda s: s.rename(run.id, "x"), lambda s: s.delete(run.id)):
                with pytest.raises(StoreError, match=f"{store.path} cannot be written"):
                    change(reader)
            assert [row.name for row in reader.list()] == [""]
            reader.close()


class TestOrphans:
    def own(self, store: RunStore, run: Run, owner: str) -> None:
        store._writers.pop(run.id)
        with store._index(write=True) as index:
            index.execute("UPDATE runs SET owner = ?, frames = 0 WHERE id = ?", (owner, run.id))

    def test_runs_of_a_dead_server_are_cancelled_with_a_note(self, store: RunStore) -> None:
        dead = subprocess.Popen([sys.executable, "-c", ""])
        owner = owner_name(dead.pid)
        dead.wait()
        run, mine = begin(store, 4), begin(store, 1)
        self.own(store, run, owner)
        for reader in (store, RunStore(store.path)):
            back = reader.load(run.id)
            assert back.status == "cancelled"
            assert back.error.startswith("The server ended while this run was going")
            assert_same_frames(back.log, run.log)
            row = next(row for row in reader.list() if row.id == run.id)
            assert (row.frames, row.last_step) == (len(run.log), run.log.last_step)
            assert abs(row.finished - time.time()) < 60
            assert reader.load(mine.id).status == "running"
        store.delete(run.id)

    def test_runs_of_a_living_server_are_left_alone(self, store: RunStore) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
            run = begin(store, 1)
            self.own(store, run, owner_name(other.pid))
            assert store.load(run.id).status == "running"
            other.kill()
            wait_until(lambda: store.load(run.id).status == "cancelled")  # dead, though nobody waited for it

    def test_process_number_that_was_used_again(self, store: RunStore) -> None:
        run = begin(store, 1)
        host, pid, _ = store._owner.rsplit(":", 2)
        self.own(store, run, f"{host}:{pid}:12345")
        assert store.load(run.id).status == "cancelled"

    def test_server_on_another_machine_is_given_up_after_an_hour(self, store: RunStore) -> None:
        run = begin(store, 1)
        self.own(store, run, "elsewhere:1:1")
        assert store.load(run.id).status == "running"
        old = time.time() - 3700
        os.utime(store.path / "frames" / f"{run.id}.arrows", (old, old))
        assert store.load(run.id).status == "cancelled"


def test_many_threads_at_once(store: RunStore) -> None:
    runs: list[Run] = []

    def work(number: int) -> None:
        run = begin(store, 1, tag=float(number))
        for _ in range(20):
            extend(store, run, 2)
            store.list(limit=3)
        run.end("done")
        store.finish(run)
        runs.append(run)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(runs) == 6
    for run in runs:
        assert_same_frames(store.load(run.id).log, run.log)


def test_default_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NORMVIZ_DATA", str(tmp_path))
    assert default_store_path() == tmp_path
    monkeypatch.delenv("NORMVIZ_DATA")
    assert default_store_path().name == "normviz"
