from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import resource
import shutil
import signal
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
from normviz.frame import Frame, FrameLog, frames_to_table, schema
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


def written_in_batches(store: RunStore) -> Run:
    run = begin(store)
    for _ in range(4):
        extend(store, run, 3)
        flush(store)
    run.end("done")
    store.finish(run)
    return run


def flush(store: RunStore) -> None:
    """Write what waits."""
    for run_id, writer in store._open_writers():
        store._flush(run_id, writer)


def damage(data: bytes, random: random.Random) -> bytes:
    """Bytes that are changed, missing or new in up to five places."""
    spoilt = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5))):
        place, length = random.randrange(len(spoilt)), random.randrange(1, 64)
        match random.randrange(4):
            case 0:
                spoilt[place] ^= 1 << random.randrange(8)
            case 1:
                spoilt[place : place + 8] = random.randbytes(8)
            case 2:
                del spoilt[place : place + length]
            case _:
                spoilt[place:place] = random.randbytes(length)
    return bytes(spoilt)


@contextlib.contextmanager
def full_disk(store: RunStore) -> Iterator[None]:
    """No file of this process can grow, and the index cannot be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    store.list()
    store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


KILLED = """
import os, signal
from normviz.engine import RunStore
from tests.engine.test_store import begin, finished, flush
store = RunStore({path!r})
finished(store, 4)
begin(store, 4)
flush(store)
os.kill(os.getpid(), signal.SIGKILL)
"""


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

    def test_run_that_another_server_goes_on_with_is_followed(self, store: RunStore) -> None:
        run, reader = begin(store, 3), RunStore(store.path)
        flush(store)
        seen = reader.load(run.id)
        shown = seen.log.view()
        for _ in range(3):
            extend(store, run, 4)
            flush(store)
            reader.update(seen)
            assert_same_frames(seen.log, run.log)
            assert seen.status == "running"
        reader.update(seen)
        assert len(seen.log) == len(run.log), "nothing twice"
        assert len(shown) < len(run.log)
        extend(store, run, 4)
        run.end("failed", "ValueError: no")
        store.finish(run)
        reader.update(seen)
        assert_same_frames(seen.log, run.log)
        assert (seen.status, seen.error, seen.finished) == ("failed", "ValueError: no", run.finished)
        store.delete(run.id)
        with pytest.raises(StoreError, match="no stored run"):
            reader.update(seen)

    def test_run_of_this_server_is_followed_with_what_waits(self, store: RunStore) -> None:
        run = begin(store, 3)
        extend(store, run, 3)
        seen = store.load(run.id)
        assert_same_frames(seen.log, run.log)
        extend(store, run, 3)
        flush(store)
        store.update(seen)
        assert_same_frames(seen.log, run.log)

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
            extend(store, run, 2)
            flush(store)
            ends.append((path.stat().st_size, len(run.log)))
        run.end("done")
        store.finish(run)
        whole = path.read_bytes()
        for cut in [*range(0, len(whole), 97), *(end + d for end, _ in ends for d in (-1, 0, 1))]:
            path.write_bytes(whole[:cut])
            expected = max((count for end, count in ends if end <= cut), default=0)
            assert len(store.load(run.id).log) == expected, cut

    def test_random_damage_is_told_from_whole_frames(self, store: RunStore) -> None:
        damaged, other = written_in_batches(store), finished(store)
        path = store.path / "frames" / f"{damaged.id}.arrows"
        whole, told, opened, beginnings = path.read_bytes(), 0, 0, 0
        for seed in range(150):
            path.write_bytes(damage(whole, random.Random(seed)))
            assert {row.id for row in store.list()} == {damaged.id, other.id}
            try:
                back = store.load(damaged.id)
            except StoreError as error:
                beginnings += "beginning is damaged" in str(error)
                continue
            opened += 1
            assert_same_frames(back.log, FrameLog(damaged.log.frames[: len(back.log)]))
            if len(back.log) < len(damaged.log):
                told += 1
                assert back.status == "cancelled", seed
                assert f"Only {len(back.log)} of {len(damaged.log)} frames can be read" in back.error
        assert told > 50
        assert opened + beginnings == 150
        assert_same_frames(store.load(other.id).log, other.log)

    def test_random_damage_to_a_file_without_checksums_raises_nothing_else(self, store: RunStore) -> None:
        run = finished(store)
        path = store.path / "frames" / f"{run.id}.arrows"
        with pyarrow.ipc.new_stream(path, schema()) as writer:
            for first in range(0, len(run.log), 4):
                writer.write_table(frames_to_table(run.log.frames[first : first + 4]))
        assert_same_frames(store.load(run.id).log, run.log)
        whole = path.read_bytes()
        for seed in range(150):
            path.write_bytes(damage(whole, random.Random(seed)))
            with contextlib.suppress(StoreError):
                store.load(run.id)

    def test_more_seeds_for_a_file_that_is_damaged_or_has_no_checksums(self, store: RunStore) -> None:
        for spoil in (True, False):
            run = written_in_batches(store)
            path = store.path / "frames" / f"{run.id}.arrows"
            if spoil:
                path.write_bytes(path.read_bytes()[:-50])
            else:
                with pyarrow.ipc.new_stream(path, schema()) as writer:
                    writer.write_table(run.log.to_table())
            run.begin()
            store.reopen(run)
            extend(store, run, 3)
            run.end("done")
            store.finish(run)
            back = RunStore(store.path).load(run.id)
            assert_same_frames(back.log, run.log)
            assert back.status == "done"

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

    @pytest.mark.parametrize("slug", ["toy", "antigravity", "unittest.__main__"])
    def test_package_of_a_row_is_not_imported_unless_it_is_registered(
        self, store: RunStore, slug: str
    ) -> None:
        run = finished(store)
        with store._index(write=True) as index:
            index.execute("UPDATE runs SET slug = ?, package = 'unittest.__main__'", (slug,))
        with pytest.raises(
            StoreError, match=r"'unittest\.__main__' cannot be imported: it is not registered"
        ):
            store.load(run.id)
        assert "unittest.__main__" not in sys.modules

    def test_file_that_is_no_index(self, store: RunStore) -> None:
        store.path.mkdir()
        (store.path / "runs.sqlite").write_text(
            "this is no database, but it is long enough to look like one" * 9
        )
        with pytest.raises(StoreError, match="cannot be read"):
            store.list()
        with pytest.raises(StoreError, match="cannot be written"):
            begin(store)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("knobs", '{"steps": 5'),
            ("knobs", "[1]"),
            ("knobs", '{"steps": NaN}'),
            ("knobs", "[" * 100_000),
            ("environment", '{"torch": 2}'),
            ("environment", b"{\xff}"),
            ("status", "sleeping"),
            ("created", None),
            ("created", 1e300),
            ("started", "yesterday"),
            ("frames", -1),
            ("last_step", "many"),
            ("slug", None),
        ],
    )
    def test_damaged_row_is_said_and_hides_no_other(self, store: RunStore, field: str, value: object) -> None:
        run, other = finished(store), finished(store)
        with store._index(write=True) as index:
            index.execute(f"UPDATE runs SET {field} = CAST(? AS TEXT) WHERE id = ?", (value, run.id))
            if field == "knobs":
                index.execute("UPDATE runs SET owner = NULL WHERE id = ?", (run.id,))
        rows = {row.id: row for row in store.list()}
        assert rows.keys() == {run.id, other.id}
        assert rows[other.id].status == "done"
        assert (rows[run.id].status, rows[run.id].damaged) == ("failed", (field,))
        assert rows[run.id].error == f"The entry of this run in the index is damaged ({field})."
        with pytest.raises(StoreError, match=rf"cannot be read\. The entry .* is damaged \({field}\)"):
            store.load(run.id)
        store.delete(run.id)
        assert [row.id for row in store.list()] == [other.id]

    def test_text_in_the_index_that_is_not_utf8(self, store: RunStore) -> None:
        run, other = finished(store), finished(store)
        with store._index(write=True) as index:
            index.execute("UPDATE runs SET name = CAST(x'61ff' AS TEXT) WHERE id = ?", (run.id,))
        assert {row.id: row.name for row in store.list()} == {run.id: "a\ufffd", other.id: ""}

    @pytest.mark.parametrize("owner", [None, "", "nobody", "a:b:c", f"host:{'9' * 30}:1", ":-1:", b"\xff"])
    def test_owner_that_is_none(self, store: RunStore, owner: object) -> None:
        run = begin(store, 2)
        store._writers.pop(run.id)
        with store._index(write=True) as index:
            index.execute("UPDATE runs SET owner = ? WHERE id = ?", (owner, run.id))
        assert store.load(run.id).status == "cancelled"

    def test_random_damage_to_the_index_raises_nothing_else(self, store: RunStore, tmp_path: Path) -> None:
        runs = [finished(store) for _ in range(3)]
        store.close()
        whole, read = (store.path / "runs.sqlite").read_bytes(), 0
        for seed in range(60):
            other = RunStore(tmp_path / str(seed))
            other.path.mkdir()
            spoilt = damage(whole, random.Random(seed))
            (other.path / "runs.sqlite").write_bytes(
                spoilt if seed else whole.replace(b"device", b"dev\xe7ce")
            )
            for call in (
                other.list,
                lambda other=other: other.load(runs[0].id),
                lambda other=other: other.rename(runs[1].id, "x"),
                lambda other=other: other.delete(runs[2].id),
                lambda other=other: finished(other),
            ):
                with contextlib.suppress(StoreError):
                    call()
                    read += 1
            other.close()
        assert read > 50

    def test_columns_that_are_missing_or_new(self, store: RunStore) -> None:
        run = finished(store)
        store.close()
        connection = sqlite3.connect(store.path / "runs.sqlite")
        connection.executescript(
            "DROP INDEX runs_by_knobs; ALTER TABLE runs DROP COLUMN finished;"
            "ALTER TABLE runs DROP COLUMN device; ALTER TABLE runs ADD COLUMN colour TEXT;"
        )
        connection.close()
        other = finished(store)
        rows = {row.id: row for row in store.list()}
        assert rows[other.id].status == "done"
        assert rows[run.id].damaged == ("device",)
        assert store.latest("toy", other.knobs.key()).id == other.id
        assert_same_frames(store.load(other.id).log, other.log)

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

    def test_run_that_ends_while_the_disk_is_full(self, store: RunStore) -> None:
        run = begin(store, 3)
        extend(store, run, 3)
        with full_disk(store):
            run.end("done")
            with pytest.raises(StoreError, match="cannot be written"):
                store.finish(run)
            (row,) = store.list()
            assert (row.status, row.frames, row.finished) == ("done", len(run.log), run.finished)
            assert_same_frames(store.load(run.id).log, run.log)
            with pytest.raises(StoreError, match="not being stored"):
                store.append(run.id, [])
        other = RunStore(store.path)
        wait_until(lambda: other.list()[0].status == "done", "the end on the disk")
        assert_same_frames(other.load(run.id).log, run.log)
        assert store._writers == {}

    def test_run_that_ended_while_the_disk_is_full_can_be_deleted(self, store: RunStore) -> None:
        run = begin(store, 3)
        with full_disk(store):
            extend(store, run, 3)
            run.end("done")
            with pytest.raises(StoreError, match="cannot be written"):
                store.finish(run)
            store._frames_path(run.id).unlink()
        store.delete(run.id)
        time.sleep(2 * store_module.FLUSH_SECONDS)  # in which it would have been tried again
        assert store.list() == []
        assert list((store.path / "frames").iterdir()) == []

    def test_folder_that_is_taken_away_and_comes_back(self, store: RunStore) -> None:
        before, run = finished(store), begin(store, 3)
        other = begin(store, 1)
        flush(store)
        shutil.rmtree(store.path)
        assert store.list() == []
        extend(store, run, 4)
        flush(store)
        other.end("done")
        store.finish(other)
        reader = RunStore(store.path)
        assert {row.id for row in reader.list()} == {run.id, other.id}
        assert_same_frames(reader.load(run.id).log, run.log)
        assert_same_frames(reader.load(other.id).log, other.log)
        run.end("done")
        store.finish(run)
        assert {row.status for row in reader.list()} == {"done"}
        for call in (store.load, reader.load):
            with pytest.raises(StoreError, match="no stored run"):
                call(before.id)

    def test_folder_that_comes_back_as_it_was(self, store: RunStore, tmp_path: Path) -> None:
        before, run = finished(store), begin(store, 3)
        flush(store)
        store.path.rename(tmp_path / "elsewhere")
        extend(store, run, 4)
        flush(store)
        assert_same_frames(store.load(run.id).log, run.log)
        shutil.rmtree(store.path)
        (tmp_path / "elsewhere").rename(store.path)
        run.end("done")
        store.finish(run)
        assert {row.id for row in store.list()} == {before.id, run.id}
        assert_same_frames(RunStore(store.path).load(run.id).log, run.log)

    def test_read_only_folder_in_which_a_server_was_killed(self) -> None:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as undo:
            path = Path(folder) / "store"
            script = KILLED.format(path=str(path))
            killed = subprocess.run([sys.executable, "-c", script], cwd=Path.cwd(), check=False)
            assert killed.returncode == -signal.SIGKILL
            assert (path / "runs.sqlite-wal").stat().st_size > 0
            Path(folder).chmod(0o755)
            for entry in (*path.rglob("*"), path):
                entry.chmod(0o555 if entry.is_dir() else 0o444)
                undo.callback(entry.chmod, 0o755)
            if os.geteuid() == 0:  # root may write anywhere
                os.seteuid(65534)
                undo.callback(os.seteuid, 0)
            reader = RunStore(path)
            assert sorted(row.status for row in reader.list()) == ["cancelled", "done"]
            assert all(len(reader.load(row.id).log) == row.frames > 0 for row in reader.list())
            reader.close()

    def test_error_of_a_late_write_is_raised_by_the_next_append(
        self, store: RunStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path, frames: object, end: int) -> int:
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
