from __future__ import annotations

import importlib.util
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from normviz.engine import RayEngine, RunStore
from normviz.engine.protocol import decode_frames
from normviz.engine.ray import stream
from normviz.knobs import KnobError
from tests.engine.conftest import wait_for_end
from tests.engine.members import by_member
from tests.engine.toy import EXPERIMENT, ToyKnobs
from tests.waiting import wait_until

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


def test_stream_sends_the_first_frame_alone_and_loses_none() -> None:
    knobs = ToyKnobs(steps=20, delay=5.0)
    batches = [
        decode_frames(b) for b in stream("tests.engine.toy", knobs.model_dump(mode="json"), [0], "cpu", 0.02)
    ]
    assert [f.step for f in batches[0]] == [0]
    assert [f.step for batch in batches for f in batch] == list(range(21))
    assert 3 < len(batches) < 21


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"normviz\[ray\]"):
        RayEngine()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return RunStore(tmp_path_factory.mktemp("ray"))


@pytest.fixture(scope="module")
def ray_engine(store: RunStore) -> Iterator[RayEngine]:
    import ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}},
        )
        yield RayEngine(store=store)
        ray.shutdown()


@needs_ray
@pytest.mark.slow
class TestRay:
    def test_runs_and_is_stored(self, ray_engine: RayEngine, store: RunStore) -> None:
        run = wait_for_end(ray_engine, ray_engine.submit(EXPERIMENT, ToyKnobs(steps=50), owner="me"))
        assert (run.status, run.error) == ("done", None)
        assert [f.step for f in run.log.frames] == list(range(51))
        assert ray_engine.get(run.id) is run
        assert store.load(run.id).log.to_table().equals(run.log.to_table())

    def test_more_seeds(self, ray_engine: RayEngine, store: RunStore) -> None:
        run = wait_for_end(ray_engine, ray_engine.submit(EXPERIMENT, ToyKnobs(steps=20, seeds=2), owner="me"))
        assert ray_engine.extend(run.id, 1) is run
        assert wait_for_end(ray_engine, run).status == "done"
        assert by_member(run.log.frames) == by_member(EXPERIMENT.frames(ToyKnobs(steps=20, seeds=3), "cpu"))
        assert by_member(store.load(run.id).log.frames) == by_member(run.log.frames)
        with pytest.raises(ValueError, match="no run 'unknown'"):
            ray_engine.extend("unknown", 1)

    def test_cancel(self, ray_engine: RayEngine, tmp_path: Path) -> None:
        tally = tmp_path / "steps"
        run = ray_engine.submit(EXPERIMENT, ToyKnobs(steps=10_000, delay=50.0, tally=str(tally)), owner="me")
        wait_until(lambda: len(run.log) >= 3, progress=lambda: len(run.log))
        ray_engine.cancel(run.id)
        assert wait_for_end(ray_engine, run).status == "cancelled"
        made = tally.stat().st_size
        time.sleep(0.3)
        assert tally.stat().st_size == made, "no step is made any more"
        ray_engine.cancel(run.id)
        ray_engine.cancel("unknown")

    def test_failure(self, ray_engine: RayEngine) -> None:
        run = wait_for_end(ray_engine, ray_engine.submit(EXPERIMENT, ToyKnobs(mode="raise"), owner="me"))
        assert (run.status, run.error) == ("failed", "ArithmeticError: the loss is odd")
        forged = ToyKnobs.model_construct(**ToyKnobs().model_dump() | {"steps": 10**9})
        with pytest.raises(KnobError, match="steps"):
            ray_engine.submit(EXPERIMENT, forged, owner="me")
