"""Singular values of every backward map inside the band that its threshold leaves them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.arms import Arms
from normviz.experiments.compatible_representations.knobs import ARM_NAMES, LAMBDAS, Knobs
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, faded, focus_param
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, up
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["BAND", "band_figure", "own_band_figure"]

HALF, SHORT = 0.36, 0.26
"""Half the width of a band and of a singular value's mark, in columns."""
COLUMNS = ["part", "arm", "column", "left", "right", "low", "high", "delta"]
BAND = ("sqrt(max(0, 1 - lam))", "sqrt(1 + lam)")
"""Ends of the band in Vega's language, for the slider's lambda."""


def band_limits(lam: float) -> tuple[float, float]:
    """Ends of the band of a threshold; the same as the library's, for a room that loads no PyTorch."""
    return math.sqrt(max(0.0, 1 - lam)), math.sqrt(1 + lam)


def _rows(board: Board, knobs: Knobs) -> tuple[pd.DataFrame, str]:
    """A row for each band, each singular value and each distance of the first seed; and the moment."""
    seed = knobs.first_seed
    shown = {e.arm: e for e in board.log.arrays("singular", board.step) if e.seed == seed}
    table = board.log.scalars("delta")
    rows: list[tuple[Any, ...]] = []
    for i, kind in enumerate(knobs.maps()):
        arm = ARM_NAMES[kind]
        if kind in LAMBDAS:
            rows.append(("band", arm, i, i - HALF, i + HALF, *band_limits(LAMBDAS[kind]), 0.0))
        if arm not in shown:
            continue
        entry = shown[arm]
        own = table[(table["arm"] == arm) & (table["seed"] == seed) & (table["step"] <= entry.step)]
        delta = float(own["value"].iloc[-1])
        rows += [("value", arm, i, i - SHORT, i + SHORT, s, s, delta) for s in entry.value.astype(float)]
        rows.append(("distance", arm, i, i, i, float(entry.value.max()), 0.0, delta))
    moment = board.progress.at(max(e.step for e in shown.values())) if shown else ""
    return pd.DataFrame(rows, columns=COLUMNS), moment


def _described(data: pd.DataFrame, moment: str) -> str:
    if not moment:
        return "Singular values of the backward maps; nothing is measured yet."
    values = data[data["part"] == "value"].groupby("arm", sort=False)
    listed = "; ".join(
        f"{arm} {part['low'].min():.2f} to {part['low'].max():.2f}, δ {part['delta'].iloc[0]:.2f}"
        for arm, part in values
    )
    return f"Singular values of the backward maps at {moment}, first seed: {listed}."


def band_figure(board: Board, knobs: Knobs) -> Figure:
    """Every arm's singular values at the moment shown, first seed; the shaded band is that of its lambda."""
    data, moment = _rows(board, knobs)
    spec = _spec(board.arms.only(map(ARM_NAMES.__getitem__, knobs.maps())), _height(data), by_hand=False)
    return Figure(
        "Singular values and their bands",
        "Shaded: what λ allows. Who stays inside, who needs more?",
        _described(data, moment),
        spec=spec,
        data=data,
        moment=moment,
    )


def own_band_figure(board: Board, knobs: Knobs) -> Figure:
    """The same singular values with one band for all, whose lambda is a slider."""
    data, moment = _rows(board, knobs)
    data = data[data["part"] != "band"].reset_index(drop=True)
    spec = _spec(board.arms.only(map(ARM_NAMES.__getitem__, knobs.maps())), _height(data), by_hand=True)
    return Figure(
        "Singular values and a band of your own",
        "Drag λ. Green numbers: δ is not above it.",
        _described(data, moment),
        spec=spec,
        data=data,
        moment=moment,
    )


def _height(data: pd.DataFrame) -> Span:
    return Span.of(data["low"], data["high"], [0.0, 1.5], zero=True)


@lru_cache(maxsize=128)
def _spec(arms: Arms, height: Span, *, by_hand: bool) -> dict[str, Any]:
    columns = max(len(arms), 1)
    across = alt.Scale(domain=[-0.5, columns - 0.5], nice=False)
    axis = alt.Axis(
        values=list(range(len(arms))),
        labelExpr=f"{list(arms.names)!r}[datum.value]",
        labelAngle=-30 if columns > 6 else 0,
        labelOverlap=False,
        grid=False,
        ticks=False,
    )

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=None, scale=across, axis=axis)

    def y(field: str) -> alt.Y:
        return up(field, "singular values of the map", height)

    base = alt.Chart()
    values = (
        base.transform_filter("datum.part == 'value'")
        .mark_rule(strokeWidth=1.6, clip=True)
        .encode(
            x=x("left"),
            x2="right:Q",
            y=y("low"),
            color=arm_colour(arms),
            opacity=faded(0.9),
            tooltip=[alt.Tooltip("arm:N"), alt.Tooltip("low:Q", title="singular value", format=".3f")],
        )
    )
    one = alt.Chart().mark_rule(color=MUTED, strokeDash=[2, 2]).encode(y=alt.datum(1.0))
    if not by_hand:
        band = (
            base.transform_filter("datum.part == 'band'")
            .mark_rect(clip=True)
            .encode(
                x=x("left"),
                x2="right:Q",
                y=y("low"),
                y2="high:Q",
                color=arm_colour(arms),
                opacity=faded(0.22, 0.03),
            )
        )
        return specification(alt.layer(band, one, values).add_params(focus_param()))
    low, high = BAND
    band = (
        base.transform_aggregate(rows="count()")
        .transform_calculate(
            left="-0.5", right=f"{columns - 0.5}", low=low, high=f"min({high}, {height.high})"
        )
        .mark_rect(color=MUTED, opacity=0.2, clip=True)
        .encode(x=x("left"), x2="right:Q", y=y("low"), y2="high:Q")
    )
    told = (
        base.transform_filter("datum.part == 'distance'")
        .transform_calculate(text="'δ ' + format(datum.delta, '.2f')")
        .mark_text(baseline="bottom", dy=-4, fontSize=10)
        .encode(
            x=x("column"),
            y=y("low"),
            text="text:N",
            color=alt.when("datum.delta <= lam").then(alt.value("#069e73")).otherwise(alt.value("#d55e00")),
        )
    )
    layered = alt.layer(band, one, values, told).resolve_scale(color="independent")
    return specification(layered.add_params(focus_param(), slider("lam", "λ", 1.0, 0.0, 4.0, 0.05)))
