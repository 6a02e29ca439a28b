"""``normviz sweep``: all combinations, a failure in between, an interruption."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from normviz.cli import main
from normviz.cli.progress import RunProgress
from normviz.engine import RunStore
from normviz.frame import Frame
from tests.cli.conftest import stored

NAME = "tests.engine.toy"


def test_sweep(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", NAME, "--grid", "steps=1,3", "--grid", "arms=a,a+b", "--tag", "7"]) == 0
    out, err = capsys.readouterr()
    store = RunStore(data_folder)
    runs = [store.load(run.id) for run in reversed(store.list())]
    store.close()
    dumps = [run.knobs.model_dump() for run in runs]
    assert [(d["steps"], d["arms"], d["tag"]) for d in dumps] == [
        (steps, arms, 7.0) for steps in (1, 3) for arms in (("a",), ("a", "b"))
    ]
    rows = [row for row in out.splitlines() if row.startswith(("│ 1 ", "│ 3 "))]
    assert [run.id in row and "done" in row for run, row in zip(runs, rows, strict=True)] == [True] * 4
    assert "last loss" in out
    assert "a 0.25" in rows[3]
    assert "2/4 steps=1, arms=a+b: starting" in err


def test_sweep_goes_on_after_a_failure(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", NAME, "--grid", "mode=raise,train"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"│ raise .* failed ", out)
    assert re.search(r"│ train .* done ", out)
    assert stored(data_folder) == [("toy", "done"), ("toy", "failed")]


def test_interrupted_sweep_starts_no_more(
    data_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = RunProgress.on_frame

    def interrupt(progress: RunProgress, frame: Frame) -> None:
        if frame.values["tag"] == 2.0 and frame.step == 2:
            raise KeyboardInterrupt
        taken(progress, frame)

    monkeypatch.setattr(RunProgress, "on_frame", interrupt)
    assert main(["sweep", NAME, "--grid", "tag=1,2,3"]) == 130
    out = capsys.readouterr().out
    assert re.findall(r"│ (done|interrupted|not started) ", out) == [
        "done",
        "interrupted",
        "not started",
    ]
    assert stored(data_folder) == [("toy", "cancelled"), ("toy", "done")]
