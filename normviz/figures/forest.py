"""The forest plot of a page's verdicts: one interval per claim against what was claimed, coloured by its outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.claims import OUTCOMES, Bound, Claim, Verdict
from normviz.figures.figure import Figure
from normviz.figures.vega import specification

__all__ = ["OUTCOME_COLOURS", "forest_figure"]

OUTCOME_COLOURS = {
    "reproduced": "#069e73",
    "weaker": "#b8860b",
    "no effect": "#8a8a8a",
    "opposite": "#d55e00",
    "undecided": "#7f7fff",
}
"""One colour per outcome; the symbol says the same without colour."""

SYMBOLS = {
    "reproduced": "circle",
    "weaker": "triangle-up",
    "no effect": "square",
    "opposite": "cross",
    "undecided": "diamond",
}

LOW, HIGH = -1.0, 2.5
"""Ends of the axis, in units of what was claimed."""


def forest_figure(claims: Sequence[Claim], verdicts: Mapping[str, Verdict]) -> Figure:
    """One vertical interval for each measured claim: 0 is no effect, 1 is what the rule asks for.

    Claims stand side by side, because twenty rows would not fit a screen. Identities are not drawn: they are no
    evidence.

    Args:
        claims: of the page.
        verdicts: by claim.
    """
    rows: list[dict[str, Any]] = []
    for claim in claims:
        verdict = verdicts.get(claim.id)
        if verdict is None or not verdict.measured or claim.identity:
            continue
        low, middle, high = (scaled(claim, v) for v in (verdict.low, verdict.estimate, verdict.high))
        rows.append(
            {
                "id": claim.id,
                "n": len(rows) + 1,
                "low": min(low, high),
                "middle": middle,
                "high": max(low, high),
                "outcome": OUTCOMES[verdict.outcome],
                "claim": claim.statement,
                "measured": claim.measured_text(verdict),
                "rule": claim.rule_text,
            }
        )
    columns = ["id", "n", "low", "middle", "high", "outcome", "claim", "measured", "rule"]
    data = pd.DataFrame(rows, columns=columns)
    listed = "; ".join(f"{row['claim']} {row['outcome']}, {row['measured']}" for row in rows)
    text = (
        f"Forest plot of {len(rows)} claims. {listed}" if rows else "Forest plot: no claim is measured yet."
    )
    return Figure(
        "Verdicts",
        "Above 1: what the rule asks for. Around 0: no effect.",
        text,
        spec=_forest_spec(len(rows)),
        data=data,
        wide=True,
    )


def scaled(claim: Claim, value: float) -> float:
    """A measured value on the common axis: 0 is no effect (for a bound: twice the limit), 1 the rule's threshold."""
    rule = claim.rule
    if isinstance(rule, Bound):
        size = abs(rule.limit) or 1.0
        position = 1 + (rule.limit - value) / size * (1 if rule.side == "below" else -1)
    else:
        position = (value - rule.null) / (rule.threshold - rule.null)
    return HIGH if math.isnan(position) else min(max(position, LOW), HIGH)


@lru_cache(maxsize=64)
def _forest_spec(count: int) -> dict[str, Any]:
    names = list(OUTCOMES.values())
    colour = alt.Color(
        "outcome:N", legend=None, scale=alt.Scale(domain=names, range=[OUTCOME_COLOURS[o] for o in OUTCOMES])
    )
    shape = alt.Shape(
        "outcome:N", legend=None, scale=alt.Scale(domain=names, range=[SYMBOLS[o] for o in OUTCOMES])
    )
    scale = alt.Scale(domain=[LOW, HIGH], nice=False)
    x = alt.X(
        "n:Q",
        title=None,
        scale=alt.Scale(domain=[0.4, max(count, 1) + 0.6], nice=False),
        axis=alt.Axis(values=list(range(1, count + 1)), format="d", grid=False),
    )
    axis = alt.Axis(values=[0, 1], labelExpr="datum.value == 0 ? 'no effect' : 'claimed'", grid=False)
    tooltip = [
        alt.Tooltip("claim:N"),
        alt.Tooltip("outcome:N"),
        alt.Tooltip("measured:N"),
        alt.Tooltip("rule:N"),
    ]
    pick = alt.selection_point(name="claim", fields=["id"], on="click", clear="dblclick")
    base = alt.Chart().encode(x=x, color=colour, tooltip=tooltip)
    rules = [
        alt.Chart()
        .mark_rule(color="#888888", strokeDash=dash, strokeWidth=1)
        .encode(y=alt.datum(at, scale=scale))
        for at, dash in ((0, [2, 3]), (1, [1, 0]))
    ]
    bar = base.mark_rule(strokeWidth=5, opacity=0.45).encode(
        y=alt.Y("low:Q", title=None, scale=scale, axis=axis), y2="high:Q"
    )
    dot = base.mark_point(filled=True, size=70, opacity=1).encode(
        y=alt.Y("middle:Q", title=None, scale=scale, axis=axis), shape=shape
    )
    layers = alt.layer(*rules, bar, dot.add_params(pick)).properties(width="container", height=104)
    return specification(layers)
