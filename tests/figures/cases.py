"""Every chart that is drawn from a run, by name: what it draws from any log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from normviz.arms import Arms
from normviz.experiments.attention_entropy.attention_maps import attention_maps_figure
from normviz.experiments.attention_entropy.growth import growth_figure
from normviz.experiments.evolving_layers.scatters import Dot, scatter_figure
from normviz.experiments.evolving_layers.sweeps import sweep_figure
from normviz.experiments.residual_depth.responses import response_figure
from normviz.experiments.residual_depth.theories import theory_figure
from normviz.figures import Board, Figure, seed_bands
from normviz.frame import Frame, FrameLog, Log
from normviz.progress import SAMPLES

ARMS = Arms.of({"A": 3, "B": 1})
LAST = 40
WORDS: dict[str, Any] = {"title": "T", "look_for": "l"}


def run_log(scale: float = 1.0, steps: Sequence[int] = (0, 20, 40)) -> FrameLog:
    """Two arms and seeds; every number is a multiple of ``scale``, 0 or NaN included."""
    rng = np.random.default_rng(0)
    return FrameLog(
        Frame(
            step,
            arm,
            seed,
            {
                "v": scale * rng.uniform(1, 2),
                "w": scale * rng.uniform(1, 2),
                "line": scale * rng.uniform(0.1, 9.0, 3),
                "matrix": np.full((3, 3), 1 / 3),
                "histogram": rng.random((2, 5)),
            },
        )
        for step in steps
        for arm in ARMS
        for seed in (0, 1)
    )


def _board(log: Log, arms: Arms) -> Board:
    return Board(log, arms, None, LAST, SAMPLES)


def _curves(log: Log, arms: Arms, **options: Any) -> Figure:
    data = seed_bands(log.scalars("v")).rename(columns={"step": "x"})
    return _board(log, arms).curves(data, x="x", y="y", **WORDS, **options)


def _bars(log: Log, arms: Arms) -> Figure:
    values = log.final("v").groupby("arm")["value"].mean().to_dict()
    return _board(log, arms).bars(values, x="x", expected={"A": 1.0}, **WORDS)


def _scatter(log: Log, arms: Arms) -> Figure:
    dots = [Dot(row.arm, row.step, row.value) for row in log.scalars("v").itertuples()]
    return scatter_figure(dots, groups=arms, x="x", y="y", **WORDS)


DRAWN: dict[str, Callable[[Log, Arms], Figure]] = {
    "lines": lambda log, arms: _board(log, arms).lines("v", y="y", **WORDS),
    "log lines": lambda log, arms: _board(log, arms).lines("v", y="y", log_scale=True, **WORDS),
    "two lines": lambda log, arms: _board(log, arms).lines(
        {"v": "", "w": ", w"}, y="y", zero_line=True, **WORDS
    ),
    "curves": _curves,
    "log curves": lambda log, arms: _curves(log, arms, log_x=True, log_y=True, points=True),
    "profile": lambda log, arms: _board(log, arms).profile(
        "line", x="x", y="y", reference={"theory": [1.0, 2.0, 3.0]}, **WORDS
    ),
    "log profile": lambda log, arms: _board(log, arms).profile("line", x="x", y="y", log_scale=True, **WORDS),
    "ridges": lambda log, arms: _board(log, arms).ridges(
        "histogram", low=-1, high=1, x="x", layer_names=["in", "out"], **WORDS
    ),
    "strips": lambda log, arms: _board(log, arms).strips("line", y="y", value="v", limits=(0.1, 10), **WORDS),
    "dots": lambda log, arms: _board(log, arms).dots({"first": "v", "second": "w"}, x="x", **WORDS),
    "areas": lambda log, arms: _board(log, arms).areas({"first": "v", "second": "w"}, y="y", **WORDS),
    "bars": _bars,
    "scatter": _scatter,
    "maps": lambda log, arms: attention_maps_figure(log, "matrix", arms=arms, **WORDS),
    "growth": lambda log, arms: growth_figure(log, "line", (8, 16, 32), x="x", y="y", arms=arms, **WORDS),
    "sweep": lambda log, arms: sweep_figure(
        log, "v", {"A": ("A", 2.0), "B": ("B", 4.0)}, x="x", y="y", arms=arms, **WORDS
    ),
    "response": lambda log, arms: response_figure(
        log, "v", {"A": 0.1, "B": 1.0}, x="x", y="y", arms=arms, log_scale=True, marks={"m": 0.3}, **WORDS
    ),
    "theory": lambda log, arms: theory_figure(
        log, "line", {"A": [1.0, 2.0, 3.0]}, x="x", y="y", arms=arms, **WORDS
    ),
}
"""Name -> the chart of a log with these arms."""

ALONE = {"areas", "strips", "maps", "bars"}
"""Charts whose colours are no arms, or that name their arms themselves: no legend is put back into them."""
