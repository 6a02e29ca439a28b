"""Growth: exponents of power laws, and labels that do not lie on each other."""

from __future__ import annotations

import numpy as np
import pytest

from normviz.arms import Arms
from normviz.experiments.attention_entropy.growth import APART, growth_figure
from normviz.frame import Frame, FrameLog

SIZES = (512, 1024, 2048)


def test_exponents_and_labels_kept_apart() -> None:
    log = FrameLog()
    at = np.array(SIZES, dtype=float)
    for arm, values in {"square": at**2, "line": 3 * at, "nearly": 3.01 * at}.items():
        log.append(Frame(1, arm, 0, {"cost": values}))
    arms = Arms.of(["square", "line", "nearly"])
    figure = growth_figure(log, "cost", SIZES, title="Cost", x="N", y="s", look_for="", arms=arms)
    assert figure.data is not None
    assert "square 2.00, line 1.00, nearly 1.00" in figure.alt
    ends = figure.data[figure.data["label"] != ""]
    assert list(ends["label"]) == ["N^2.00", "N^1.00", "N^1.00"]
    means, heights = ends["mean"].to_numpy(float), ends["at"].to_numpy(float)
    assert heights[:2] == pytest.approx(means[:2])
    span = np.log(figure.data["mean"].max() / figure.data["mean"].min())
    assert np.log(heights[2] / heights[1]) == pytest.approx(APART * span)


def test_empty_log_says_so() -> None:
    figure = growth_figure(
        FrameLog(), "cost", SIZES, title="Cost", x="N", y="s", look_for="", arms=Arms.of("a")
    )
    assert "nothing is measured yet" in figure.alt
