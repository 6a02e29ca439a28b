from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from normviz.engine import RunStore, run_inline
from normviz.experiments import Experiment, Run
from normviz.knobs import Knobs


@dataclass
class HereAndNow:
    """An engine that trains in this process when a run is submitted, and notes what it trained."""

    store: RunStore | None = None
    trained: list[Knobs] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    def submit(self, experiment: Experiment, knobs: Knobs, *, owner: str, device: str = "auto") -> Run:
        self.trained.append(knobs)
        run = Run(experiment, knobs, device=device)
        try:
            return run_inline(experiment, knobs, device=device, store=self.store)
        except ArithmeticError as error:
            run.end("failed", str(error))
            return run

    def wait_for_frames(self, run_id: str, seen: int, timeout: float) -> int:
        raise AssertionError("there is nothing to wait for")

    def cancel(self, run_id: str) -> None:
        self.cancelled.append(run_id)


@pytest.fixture
def evidence_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of evidence for one test."""
    folder = tmp_path / "evidence"
    monkeypatch.setenv("NORMVIZ_EVIDENCE", str(folder))
    return folder
