"""Charts that only the page *Optimizer spectra* has: the geometry picture, Fira's factors, the distributed plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.experiments.optimizer_spectra.knobs import PLANS
from normviz.figures import Figure
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import colours
from normviz.figures.vega import specification
from normviz.frame import Log

__all__ = ["factors_figure", "geometry_figure", "plan_figure"]

SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
    "stroke",
    "wedge",
    "arrow",
    "circle",
)
PLAN_COLOURS = ("#8a8a8a", "#d55e00", "#069e73")


def geometry_figure(log: Log, *, arms: Sequence[str], step: int | None = None) -> Figure:
    """Condition number of the update against the spread of its row norms, each arm with the way it came."""
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
    title = "Conditioning against row balance"
    if drawn.empty:
        text = "Scatter chart of condition number and row spread; nothing is measured yet."
    else:
        newest = [row for row in rows if row[1] == last[row[0]]]
        listed = ", ".join(f"{arm} {condition:.3g} and {spread:.2g}" for arm, _, condition, spread in newest)
        shown = max(last.values())
        text = f"Scatter chart of condition number and row spread at step {shown}: {listed}."
        title = f"{title} (step {shown})"
    look_for = (
        "Left: flat spectrum. Low: all neurons move alike. The thin line is the way from the first step."
    )
    return Figure(title, look_for, text, spec=_geometry_spec(tuple(arms)), data=drawn)


@lru_cache(maxsize=64)
def _geometry_spec(arms: tuple[str, ...]) -> dict[str, Any]:
    scale = alt.Scale(domain=list(arms), range=colours(arms))
    legend = legend_above(arms, lines=False)
    colour = alt.Color("arm:N", title=None, scale=scale, legend=legend)
    pick = alt.selection_point(name="pick", fields=["arm"], bind="legend")
    shown = alt.when(pick)
    base = alt.Chart().encode(
        x=alt.X(
            "condition:Q",
            title="condition number of the update",
            scale=alt.Scale(type="log"),
            axis=alt.Axis(format="~e", tickCount=6),
        ),
        y=alt.Y("spread:Q", title="row norms: standard deviation / mean", scale=alt.Scale(zero=True)),
        color=colour,
    )
    trail = base.mark_line(strokeWidth=1, interpolate="monotone").encode(
        order="step:Q", opacity=shown.then(alt.value(0.45)).otherwise(alt.value(0.05))
    )
    points = (
        base.transform_filter("datum.newest")
        .mark_point(filled=True, size=130)
        .encode(
            shape=alt.Shape(
                "arm:N",
                title=None,
                scale=alt.Scale(domain=list(arms), range=list(SHAPES[: len(arms)])),
                legend=legend,
            ),
            opacity=shown.then(alt.value(1.0)).otherwise(alt.value(0.1)),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("step:Q", format="d"),
                alt.Tooltip("condition:Q", format=".3~g"),
                alt.Tooltip("spread:Q", title="row spread", format=".3~f"),
            ],
        )
    )
    layers = alt.layer(trail, points).properties(width="container", height=height_below(arms))
    return specification(layers.add_params(pick))


def factors_figure(log: Log, *, arms: Sequence[str], step: int | None = None) -> Figure:
    """Fira's scaling factors against those of full-rank Adam, one dot per column (row, if tall) of the matrix."""
    entries = [entry for entry in log.arrays("phi", step) if entry.arm in arms]
    rows = [
        (entry.arm, low, full)
        for entry in entries
        for low, full in entry.value.astype(float).T.tolist()
        if low > 0 and full > 0 and math.isfinite(low) and math.isfinite(full)
    ]
    data = pd.DataFrame(rows, columns=["arm", "low", "full"])
    title, text = "Fira's scaling factors", "Scatter chart of scaling factors; nothing is measured yet."
    look_for = "Parallel to the diagonal: up to a factor Adam rescales a row (column) alike in r directions and in all."
    if entries:
        shown = max(entry.step for entry in entries)
        table = log.scalars("phi_spearman")
        at = table[(table["step"] == shown) & table["arm"].isin(arms)]["value"]
        title = f"{title} (step {shown})"
        text = (
            f"Scatter chart of {len(rows)} scaling factors at step {shown}: rank correlation {at.mean():.3f}."
        )
        look_for = f"{look_for} Here their rank correlation is {at.mean():.2f}."
    return Figure(title, look_for, text, spec=_factors_spec(tuple(arms)), data=data)


@lru_cache(maxsize=64)
def _factors_spec(arms: tuple[str, ...]) -> dict[str, Any]:
    log_scale = alt.Scale(type="log", nice=False)
    axis = alt.Axis(format="~e", tickCount=5)
    legend = legend_above(arms, lines=False) if len(arms) > 1 else None
    points = (
        alt.Chart()
        .mark_point(filled=True, size=28, opacity=0.7)
        .encode(
            x=alt.X("full:Q", title="factor of full-rank Adam", scale=log_scale, axis=axis),
            y=alt.Y("low:Q", title="factor in Fira's subspace", scale=log_scale, axis=axis),
            color=alt.Color(
                "arm:N", title=None, scale=alt.Scale(domain=list(arms), range=colours(arms)), legend=legend
            ),
            shape=alt.Shape(
                "arm:N",
                title=None,
                scale=alt.Scale(domain=list(arms), range=list(SHAPES[: len(arms)])),
                legend=legend,
            ),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("full:Q", title="full rank", format=".4~g"),
                alt.Tooltip("low:Q", title="low rank", format=".4~g"),
            ],
        )
    )
    diagonal = (
        alt.Chart()
        .mark_line(color="#888888", strokeDash=[3, 3])
        .encode(x=alt.X("full:Q", scale=log_scale), y=alt.Y("full:Q", scale=log_scale))
    )
    return specification(alt.layer(diagonal, points).properties(width="container", height=340))


def plan_figure(log: Log) -> Figure:
    """Newton-Schulz work of each machine on GPT-2 small under three plans."""
    rows = [
        (plan, rank + 1, work)
        for plan in PLANS.values()
        for entry in log.arrays(f"plan/{plan}")[:1]
        for rank, work in enumerate(entry.value.astype(float).tolist())
    ]
    data = pd.DataFrame(rows, columns=["plan", "machine", "work"])
    if rows:
        busiest = data.groupby("plan", sort=False)["work"].max()
        listed = ", ".join(f"{plan} {work:.0f}" for plan, work in busiest.items())
        text = f"Bars of operations per machine. GFLOP of the busiest one: {listed}."
    else:
        text = "Bars of operations per machine; nothing is measured yet."
    look_for = (
        "Newton–Schulz work, counted, not timed. Everyone waits for the busiest machine: the tallest bar."
    )
    return Figure("GPT-2 small's matrices on several machines", look_for, text, spec=_plan_spec(), data=data)


@lru_cache(maxsize=1)
def _plan_spec() -> dict[str, Any]:
    plans = list(PLANS.values())
    chart = (
        alt.Chart()
        .mark_bar()
        .encode(
            x=alt.X("machine:O", title="machine", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("plan:N", sort=plans),
            y=alt.Y("work:Q", title="GFLOP per step"),
            color=alt.Color(
                "plan:N",
                title=None,
                scale=alt.Scale(domain=plans, range=list(PLAN_COLOURS)),
                legend=alt.Legend(orient="top", columns=1, labelLimit=260),
            ),
            tooltip=[
                alt.Tooltip("plan:N"),
                alt.Tooltip("machine:O"),
                alt.Tooltip("work:Q", title="GFLOP", format=".4~g"),
            ],
        )
        .properties(width="container", height=340)
    )
    return specification(chart)
