"""Progress on a terminal, and where nothing can be redrawn."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from normviz.cli.progress import RunProgress
from normviz.frame import Frame
from normviz.progress import ROUNDS, Progress
from tests.engine.toy import ToyKnobs


def test_live_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with RunProgress(console, ToyKnobs(steps=10), "Toy [x]") as progress:
        for frame in (
            Frame(0, "a", 0),
            Frame(0, "b", 0, {"other": 3.0}),
            Frame(4, "a", 0, {"loss": 2.0, "map": [1.0]}),
            Frame(4, "a", 1, {"loss": 4.0}),
            Frame(
                2,
                "b",
                0,
                {"loss": float("inf")},
                event="diverged at step 2: the training loss is inf",
                kind="diverged",
            ),
        ):
            progress.on_frame(frame)
        assert progress.step == pytest.approx((4 + 4 + 10) / 3), "a diverged network is done"
        assert progress.newest() == "loss: a 3, b inf"
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "Toy [x]" in text
    assert "step 6 of 10" in text
    assert "loss: a 3, b inf" in text


def test_plain_progress_where_nothing_can_be_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("JPY_PARENT_PID", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as environment:
            environment.delenv("JPY_PARENT_PID", raising=False)
            environment.setenv("TERM", "xterm")
            environment.setenv(name, value)
            console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
            with RunProgress(console, ToyKnobs(steps=10), "Toy") as progress:
                for step in range(11):
                    progress.on_frame(Frame(step, "a", 0, {"loss": 1.0}))
        assert isinstance(console.file, io.StringIO)
        lines = console.file.getvalue().splitlines()
        assert [line.partition(",")[0].partition(";")[0] for line in lines] == [
            "Toy: starting",
            *(f"Toy: step {step} of 10" for step in (2, 4, 6, 8, 10)),
        ]


def test_positions_are_those_of_the_experiments_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    class RoundKnobs(ToyKnobs):
        def progress(self) -> Progress:
            return ROUNDS

    monkeypatch.setenv("JPY_PARENT_PID", "1")
    console = Console(file=io.StringIO(), width=100, color_system=None)
    with RunProgress(console, RoundKnobs(steps=5), "Toy") as progress:
        for step in range(6):
            progress.on_frame(Frame(step, "a", 0, {"loss": 1.0}))
    assert isinstance(console.file, io.StringIO)
    assert "Toy: round 5 of 5; loss: a 1" in console.file.getvalue()
    monkeypatch.delenv("JPY_PARENT_PID")
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with RunProgress(console, RoundKnobs(steps=5), "Toy") as progress:
        progress.on_frame(Frame(2, "a", 0, {"loss": 1.0}))
    assert isinstance(console.file, io.StringIO)
    assert "round 2 of 5" in console.file.getvalue()
