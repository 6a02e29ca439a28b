"""Charts that only the page *Optimizer spectra* has: the geometry picture, Fira's factors, the distributed plan."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.arms import Arms
from normviz.experiments.optimizer_spectra.knobs import PLANS
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, arm_symbol, faded, focus_param
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["factors_figure", "geometry_figure", "plan_figure"]

PLAN_ARMS = Arms.of({PLANS["everywhere"]: 6, PLANS["in order"]: 1, PLANS["sorted"]: 2})


def geometry_figure(board: Board) -> Figure:
    """Condition number of the update against the spread of its row norms, each arm with its earlier values."""
    log, step = board.log, board.step
    table, spreads = log.scalars("condition"), log.scalars("row_cv")["value"].tolist()  # measured together
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for arm, at, condition, spread in zip(
        *(table[c].tolist() for c in ("arm", "step", "value")), spreads, strict=True
    ):
        if (step is None or at <= step) and 0 < condition < math.inf:
            found.setdefault((arm, at), []).append((math.log10(condition), spread))
    rows = []
    last: dict[str, int] = {}
    for (arm, at), pairs in found.items():
        orders, values = zip(*pairs, strict=True)
        rows.append((arm, at, 10.0 ** (sum(orders) / len(orders)), sum(values) / len(values)))
        last[arm] = at
    drawn = pd.DataFrame(
        [(*row, row[1] == last[row[0]]) for row in rows],
        columns=["arm", "step", "condition", "spread", "newest"],
    )
    if drawn.empty:
        moment, text = "", "Scatter chart of condition number and row spread; nothing is measured yet."
    else:
        newest = [row for row in rows if row[1] == last[row[0]]]
        listed = ", ".join(f"{arm} {condition:.3g} and {spread:.2g}" for arm, _, condition, spread in newest)
        moment = board.progress.at(max(last.values()))
        text = f"Scatter chart of condition number and row spread at {moment}: {listed}."
    width, height = Span.of(drawn["condition"], log=True), Span.of(drawn["spread"], zero=True)
    return Figure(
        "Conditioning against row balance",
        "Left: flat spectrum. Low: all neurons move alike. Who is both?",
        text,
        spec=_geometry_spec(board.arms, width, height),
        data=drawn,
        moment=moment,
    )


@lru_cache(maxsize=64)
def _geometry_spec(arms: Arms, width: Span, height: Span) -> dict[str, Any]:
    base = alt.Chart().encode(
        x=across("condition", "condition number of the update", width),
        y=up("spread", "row norms: standard deviation / mean", height),
        color=arm_colour(arms),
    )
    trail = base.mark_line(strokeWidth=1, interpolate="monotone").encode(
        order="step:Q", opacity=faded(0.45, 0.05)
    )
    points = (
        base.transform_filter("datum.newest")
        .mark_point(filled=True, size=110)
        .encode(
            shape=arm_symbol(arms),
            opacity=faded(),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("step:Q", format="d"),
                alt.Tooltip("condition:Q", format=".3~g"),
                alt.Tooltip("spread:Q", title="row spread", format=".3~f"),
            ],
        )
    )
    return specification(alt.layer(trail, points).add_params(focus_param()))


def factors_figure(board: Board) -> Figure:
    """Fira's scaling factors against those of full-rank Adam, one dot per column (row, if tall) of the matrix."""
    entries = [entry for entry in board.log.arrays("phi", board.step) if entry.arm in board.arms]
    rows = [
        (entry.arm, low, full)
        for entry in entries
        for low, full in entry.value.astype(float).T.tolist()
        if low > 0 and full > 0 and math.isfinite(low) and math.isfinite(full)
    ]
    data = pd.DataFrame(rows, columns=["arm", "low", "full"])
    moment, text = "", "Scatter chart of scaling factors; nothing is measured yet."
    if entries:
        shown = max(entry.step for entry in entries)
        table = board.log.scalars("phi_spearman")
        at = table[(table["step"] == shown) & table["arm"].isin(board.arms.names)]["value"]
        moment = board.progress.at(shown)
        text = f"Scatter chart of {len(rows)} scaling factors at {moment}: rank correlation {at.mean():.3f}."
    full, low = (Span.of(data[name], log=True) for name in ("full", "low"))
    return Figure(
        "Fira's scaling factors",
        "On a line along the diagonal: both Adams rescale alike.",
        text,
        spec=_factors_spec(board.arms, full, low),
        data=data,
        moment=moment,
    )


@lru_cache(maxsize=64)
def _factors_spec(arms: Arms, full: Span, low: Span) -> dict[str, Any]:
    x, y = across("full", "factor of full-rank Adam", full), up("low", "factor in Fira's subspace", low)
    points = (
        alt.Chart()
        .mark_point(filled=True, size=28)
        .encode(
            x=x,
            y=y,
            color=arm_colour(arms),
            shape=arm_symbol(arms),
            opacity=faded(0.7),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("full:Q", title="full rank", format=".4~g"),
                alt.Tooltip("low:Q", title="low rank", format=".4~g"),
            ],
        )
    )
    diagonal = (
        alt.Chart()
        .mark_line(color=MUTED, strokeDash=[3, 3], clip=True)
        .encode(x=x, y=alt.Y("full:Q", scale=low.scale))
    )
    return specification(alt.layer(diagonal, points).add_params(focus_param()))


def plan_figure(board: Board) -> Figure:
    """Newton-Schulz work of each machine on GPT-2 small under three plans."""
    rows = [
        (plan, rank + 1, work)
        for plan in PLAN_ARMS
        for entry in board.log.arrays(f"plan/{plan}")[:1]
        for rank, work in enumerate(entry.value.astype(float).tolist())
    ]
    data = pd.DataFrame(rows, columns=["plan", "machine", "work"])
    if rows:
        busiest = data.groupby("plan", sort=False)["work"].max()
        listed = ", ".join(f"{plan} {work:.0f}" for plan, work in busiest.items())
        text = f"Bars of operations per machine. GFLOP of the busiest one: {listed}."
    else:
        text = "Bars of operations per machine; nothing is measured yet."
    return Figure(
        "GPT-2 small's matrices on several machines",
        "All wait for the busiest machine: which plan's tallest bar is lowest?",
        text,
        spec=_plan_spec(Span.of(data["work"], zero=True)),
        data=data,
    )


@lru_cache(maxsize=8)
def _plan_spec(height: Span) -> dict[str, Any]:
    plans = PLAN_ARMS.names
    chart = (
        alt.Chart()
        .mark_bar()
        .encode(
            x=alt.X("machine:O", title="machine", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("plan:N", sort=list(plans)),
            y=up("work", "GFLOP per step, counted", height),
            color=arm_colour(PLAN_ARMS, field="plan", legend=legend_above(plans, lines=False)),
            tooltip=[
                alt.Tooltip("plan:N"),
                alt.Tooltip("machine:O"),
                alt.Tooltip("work:Q", title="GFLOP", format=".4~g"),
            ],
        )
        .properties(height=height_below(plans))
    )
    return specification(chart)
