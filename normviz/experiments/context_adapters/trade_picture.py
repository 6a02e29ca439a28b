"""The page's picture: every arm as a point that moves while it trains, learning to the right, keeping upwards."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.arms import Arms
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, arm_symbol, faded, focus_param
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["ends_figure", "trade_figure"]

COLUMNS = ["part", "arm", "x", "y", "order", "seed"]
LEARNED, KEPT = "right on the new task (%)", "right on the first task (%)"
WHOLE = Span(0.0, 100.0)


def trade_figure(board: Board) -> Figure:
    """Means over the seeds up to the moment as trails, the newest as a symbol."""
    both, shown = _both(board)
    rows = []
    for arm in board.arms:
        mine = both[both["arm"] == arm]
        means = mine.groupby("step")[["value", "value_kept"]].mean()
        trail = [(arm, x, y, int(at), -1) for at, x, y in means.itertuples()]
        rows += [("trail", *row) for row in trail]
        rows += [("now", *trail[-1])] if trail else []
    data = pd.DataFrame(rows, columns=COLUMNS)
    if shown is None:
        text, moment = "Accuracy on both tasks; nothing is measured yet.", ""
    else:
        moment = board.progress.at(shown)
        listed = "; ".join(
            f"{row.arm} {row.x:.0f} and {row.y:.0f}" for row in data[data["part"] == "now"].itertuples()
        )
        text = f"Percent right on the new and on the first task at {moment}, mean over seeds: {listed}."
    return Figure(
        "Learning against keeping",
        "Far right: learned. High up: kept. Who gets both?",
        text,
        spec=_trade_spec(board.arms),
        data=data.round({"x": 2, "y": 2}),
        moment=moment,
    )


def ends_figure(board: Board) -> Figure:
    """A point for each seed at the moment."""
    both, shown = _both(board)
    newest = both.sort_values("step").drop_duplicates(["arm", "seed"], keep="last")
    data = pd.DataFrame(
        {
            "arm": newest["arm"],
            "x": newest["value"].round(2),
            "y": newest["value_kept"].round(2),
            "seed": newest["seed"],
        }
    )
    moment = "" if shown is None else board.progress.at(shown)
    text = "Percent right on both tasks, a point for each seed; nothing is measured yet."
    if shown is not None:
        listed = "; ".join(
            f"{arm} {part['x'].min():.0f} to {part['x'].max():.0f} and {part['y'].min():.0f} to {part['y'].max():.0f}"
            for arm, part in data.groupby("arm", sort=False)
        )
        text = f"Percent right on the new and on the first task at {moment}, by seed: {listed}."
    return Figure(
        "Both tasks, seed by seed",
        "Do the clouds of two arms overlap?",
        text,
        spec=_ends_spec(board.arms, Span.of(data["x"]), Span.of(data["y"])),
        data=data,
        moment=moment,
    )


def _both(board: Board) -> tuple[pd.DataFrame, int | None]:
    """Both accuracies of the arms at every moment so far (columns step, arm, seed, value, value_kept)."""
    learned, kept = board.log.scalars("new_accuracy"), board.log.scalars("kept_accuracy")
    both = learned.merge(kept, on=["step", "arm", "seed"], suffixes=("", "_kept"))
    both = both[both["arm"].isin(board.arms.names)]
    if board.step is not None:
        both = both[both["step"] <= board.step]
    return both, None if both.empty else int(both["step"].max())


@lru_cache(maxsize=64)
def _trade_spec(arms: Arms) -> dict[str, Any]:
    base = alt.Chart().encode(
        x=across("x", LEARNED, WHOLE, grid=True), y=up("y", KEPT, WHOLE), color=arm_colour(arms)
    )
    told = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("x:Q", title="new task (%)", format=".1f"),
        alt.Tooltip("y:Q", title="first task (%)", format=".1f"),
    ]
    trail = (
        base.transform_filter("datum.part == 'trail'")
        .mark_line(strokeWidth=2, clip=True)
        .encode(order="order:Q", opacity=faded(0.7, 0.1))
    )
    now = (
        base.transform_filter("datum.part == 'now'")
        .mark_point(filled=True, size=150)
        .encode(shape=arm_symbol(arms), opacity=faded(), tooltip=told)
    )
    return specification(alt.layer(trail, now).add_params(focus_param()))


@lru_cache(maxsize=64)
def _ends_spec(arms: Arms, width: Span, height: Span) -> dict[str, Any]:
    chart = (
        alt.Chart()
        .mark_point(filled=True, size=60, clip=True)
        .encode(
            x=across("x", LEARNED, width, grid=True),
            y=up("y", KEPT, height),
            color=arm_colour(arms),
            shape=arm_symbol(arms),
            opacity=faded(),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("seed:Q", format="d"),
                alt.Tooltip("x:Q", title="new task (%)", format=".1f"),
                alt.Tooltip("y:Q", title="first task (%)", format=".1f"),
            ],
        )
    )
    return specification(chart.add_params(focus_param()))
