"""Crosstalk of the weights against the damage that merging does: two things that need not go together."""

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

__all__ = ["damage_plane_figure"]

COLUMNS = ["part", "arm", "x", "y", "order"]
LEAST = 0.1
"""Least upper ends of both axes, so that small numbers look small."""


def damage_plane_figure(board: Board) -> Figure:
    """A way for every arm, mean over seeds: from the first crosstalk that is measured to the moment shown."""
    title = "Where it helps, and where not"
    look_for = "Left and high: weights apart, concepts damaged all the same."
    tables = {
        name: board.log.scalars(name) for name in ("weight_crosstalk", "distance_sum", "distance_alone")
    }
    rows: list[tuple[str, str, float, float, int]] = []
    means: dict[str, dict[tuple[str, int], float]] = {
        name: {
            (str(arm), int(step)): float(value)
            for arm, step, value in table.groupby(["arm", "step"])["value"].mean().reset_index().to_numpy()
        }
        for name, table in tables.items()
    }
    for arm in board.arms:
        steps = sorted(step for name, step in means["weight_crosstalk"] if name == arm)
        way = [
            (
                means["weight_crosstalk"][arm, step],
                means["distance_sum"][arm, step] - means["distance_alone"][arm, step],
                step,
            )
            for step in steps
            if (board.step is None or step <= board.step) and (arm, step) in means["distance_sum"]
        ]
        rows += [("way", arm, *point) for point in way]
        rows += [("now", arm, *way[-1])] if way else []
    data = pd.DataFrame(rows, columns=COLUMNS).round({"x": 4, "y": 4})
    now = [(arm, x, y) for part, arm, x, y, _ in rows if part == "now"]
    moment = board.progress.at(max(row[4] for row in rows)) if rows else ""
    if now:
        listed = "; ".join(f"{arm} crosstalk {x:.2f}, damage {y:.3f}" for arm, x, y in now)
        text = f"Damage of the sum against weight crosstalk at {moment}: {listed}."
    else:
        text = "Damage of the sum against weight crosstalk; nothing is measured yet."
    width, height = Span.of([0.0, LEAST], data["x"]), Span.of([0.0, LEAST], data["y"])
    return Figure(title, look_for, text, spec=_spec(board.arms, width, height), data=data, moment=moment)


@lru_cache(maxsize=64)
def _spec(arms: Arms, width: Span, height: Span) -> dict[str, Any]:
    base = alt.Chart().encode(
        x=across("x", "weight crosstalk, mean over pairs", width, format=".3~g"),
        y=up("y", "distance added by the sum", height, format=".3~g"),
        color=arm_colour(arms),
        opacity=faded(),
    )
    way = base.transform_filter("datum.part == 'way'").mark_line(strokeWidth=1.5, clip=True)
    now = base.transform_filter("datum.part == 'now'").mark_point(filled=True, size=110)
    told = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("x:Q", title="weight crosstalk", format=".3f"),
        alt.Tooltip("y:Q", title="distance added", format=".3f"),
    ]
    layers = [way.encode(order="order:Q", detail="arm:N"), now.encode(shape=arm_symbol(arms), tooltip=told)]
    return specification(alt.layer(*layers).add_params(focus_param()))
