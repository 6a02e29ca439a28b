"""Cost of one gradient over the length: measured time and counted operations on one axis, with fitted exponents."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.arms import Arms
from normviz.experiments.lora_limits.cost_fit import FITTED_SHARE, exponent
from normviz.experiments.lora_limits.knobs import EXACT
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, arm_dash, faded, focus_param
from normviz.figures.layers import band, seed_tooltip
from normviz.figures.legends import height_below, legend_above
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["cost_figure"]

Array = NDArray[np.float64]

KINDS = {"operations_by_length": "counted operations", "seconds_by_length": "time"}
TITLE = "relative to the exact method at 1,024 tokens"
REFERENCE = 1024
"""Length at which the exact method's cost is 1."""
COLUMNS = ["arm", "kind", "line", "x", "mean", "low", "high", "label"]


def cost_figure(board: Board, arms: Sequence[str]) -> Figure:
    """Cost relative to the exact method's at 1,024 tokens, a line for each arm and kind of cost.

    Args:
        board: log, arms, moment.
        arms: those whose cost is measured.
    """
    rows: list[pd.DataFrame] = []
    found: dict[str, str] = {}
    for name, kind in KINDS.items():
        tables = _tables(board, name, arms)
        unit = _at(tables.get(EXACT, []), REFERENCE)
        if unit is None:
            continue
        for arm, seeds in tables.items():
            length = min(len(table) for table in seeds)
            stack = np.stack([table[:length, 1] for table in seeds]) / unit
            x = seeds[0][:length, 0]
            slope = exponent(
                np.stack([x, stack.mean(0)], axis=1), FITTED_SHARE["exact" if arm == EXACT else "lowrank"]
            )
            label = "" if np.isnan(slope) else f"L^{slope:.2f}"
            found[f"{arm}, {kind}"] = label
            labels = [""] * (length - 1) + [label]
            rows.append(
                pd.DataFrame(
                    {
                        "arm": arm,
                        "kind": kind,
                        "line": f"{arm}, {kind}",
                        "x": x,
                        "mean": stack.mean(0),
                        "low": stack.min(0),
                        "high": stack.max(0),
                        "label": labels,
                    }
                )
            )
    data = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=COLUMNS)
    listed = "; ".join(f"{line} {label}" for line, label in found.items() if label)
    found_words = "nothing is measured yet" if data.empty else listed or "one length"
    text = f"Cost of one gradient over the length; {found_words}."
    width, height = (
        Span.of([256.0, 4096.0], data["x"], log=True),
        Span.of(data["low"], 2 * data["high"], log=True),
    )
    return Figure(
        "Cost of one gradient",
        "Slopes are exponents. Where does low-rank become cheaper?",
        text,
        spec=_cost_spec(board.arms, width, height),
        data=data,
    )


def _tables(board: Board, name: str, arms: Sequence[str]) -> dict[str, list[Array]]:
    entries = board.log.arrays(name, board.step)
    found = {arm: [e.value.astype(float) for e in entries if e.arm == arm] for arm in arms}
    return {arm: tables for arm, tables in found.items() if tables}


def _at(tables: Sequence[Array], length: int) -> float | None:
    """Mean cost at a length, or at the longest below it where it was not measured yet."""
    costs = [table[table[:, 0] <= length][-1] for table in tables if (table[:, 0] <= length).any()]
    if not costs:
        return None
    return float(np.mean([cost * (length / at) ** 2 for at, cost in costs]))


@lru_cache(maxsize=64)
def _cost_spec(arms: Arms, width: Span, height: Span) -> dict[str, Any]:
    kinds = Arms.of(tuple(KINDS.values()))
    scale = alt.Scale(type="log", base=2, domain=[width.low, width.high], nice=False)
    ticks = [2**k for k in range(6, 18, 2) if width.low <= 2**k <= width.high]
    base = alt.Chart().encode(
        x=across("x", "tokens L", width, scale=scale, values=ticks, labelExpr="format(datum.value, ',d')"),
        color=arm_colour(arms),
        detail="line:N",
    )
    dash = arm_dash(kinds, field="kind", legend=legend_above(kinds.names))
    y = up("mean", TITLE, height)
    line = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash, opacity=faded())
    told = seed_tooltip(alt.Tooltip("x:Q", title="tokens", format=",d"), alt.Tooltip("kind:N"))
    points = base.mark_point(filled=True, size=24).encode(y=y, opacity=faded(), tooltip=told)
    labels = [
        base.transform_filter(f"datum.kind == '{kind}'")
        .mark_text(align="right", dx=-8, dy=dy, fontSize=11, fontWeight="bold")
        .encode(y=y, text="label:N", opacity=faded())
        for kind, dy in zip(kinds, (-9, 13), strict=True)
    ]
    layers = [band(base, TITLE, height), line, points, *labels]
    chart = alt.layer(*layers).properties(height=height_below(kinds.names))
    return specification(chart.add_params(focus_param()))
