"""A scalar of each arm against its dose."""

from __future__ import annotations

import math
from typing import Any

from normviz.experiments.residual_depth.responses import response_figure
from normviz.frame import Frame, FrameLog


def test_response_figure_marks_what_diverged() -> None:
    log = FrameLog(
        [
            Frame(0, "a", 0, {"v": 1.0}),
            Frame(5, "a", 0, {"v": 3.0}),
            Frame(5, "a", 1, {"v": 5.0}),
            Frame(0, "b", 0, {"v": 2.0}),
            Frame(1, "b", 0, {"loss": math.inf}, "diverged at step 1: loss is inf", kind="diverged"),
        ]
    )
    common: dict[str, Any] = {"title": "T", "x": "x", "y": "y", "look_for": "l"}
    figure = response_figure(log, "v", {"a": 0.1, "b": 1.0}, marks={"m": 0.3}, **common)
    assert figure.data is not None
    assert figure.data["diverged"].tolist() == [False, True]
    assert figure.data["mean"].tolist()[0] == 4.0
    assert "1: diverged" in figure.alt
    assert "<svg" in figure.to_svg()
    early = response_figure(log, "v", {"a": 0.1, "b": 1.0}, step=0, **common)
    assert early.data is not None
    assert early.data["mean"].tolist() == [1.0, 2.0]
