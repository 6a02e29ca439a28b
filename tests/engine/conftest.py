from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from normviz.engine import RunStore, WorkerEngine
from normviz.engine.ray import RayEngine
from normviz.experiments import Run
from tests.waiting import wait_until

GRACE = 0.3


def wait_for_end(engine: WorkerEngine | RayEngine, run: Run) -> Run:
    wait_until(lambda: not run.live, f"the end of run {run.id}", progress=lambda: len(run.log))
    return run


class Gate:
    """Holds a toy's run before a step, however fast or slow the machine is: knob ``gate=gate.path``."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.allow(0)

    def close(self) -> None:
        """Not even the first frame may come."""
        Path(self.path).unlink()

    def allow(self, steps: int) -> None:
        """Every step up to this one may be made."""
        Path(self.path).write_bytes(b"." * steps)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.allow(100_000)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunStore]:
    store = RunStore(tmp_path_factory.mktemp("store"))
    yield store
    store.close()


@pytest.fixture(scope="session")
def engine(store: RunStore) -> Iterator[WorkerEngine]:
    """Two warm workers, shared by all tests: starting them takes seconds."""
    engine = WorkerEngine(2, store=store, grace=GRACE, threads=1, nice=0)
    wait_until(lambda: engine.workers_ready() == 2, "two warm workers")
    yield engine
    engine.close()
