from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from normviz.engine import RunStore, WorkerEngine
from normviz.experiments import Run

GRACE = 0.3


def wait_until(condition: Callable[[], object], timeout: float = 60.0) -> None:
    """Wait for something that another process does; fails the test if it does not come."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def wait_for_end(engine: WorkerEngine, run: Run, timeout: float = 60.0) -> Run:
    end = time.monotonic() + timeout
    while run.live:
        assert time.monotonic() < end, f"the run is still {run.status}"
        engine.wait_for_frames(run.id, len(run.log), 0.5)
    return run


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunStore]:
    store = RunStore(tmp_path_factory.mktemp("store"))
    yield store
    store.close()


@pytest.fixture(scope="session")
def engine(store: RunStore) -> Iterator[WorkerEngine]:
    """Two warm workers, shared by all tests: starting them takes seconds."""
    engine = WorkerEngine(2, store=store, grace=GRACE, threads=1, nice=0)
    wait_until(lambda: engine.workers_ready() == 2, 60)
    yield engine
    engine.close()
