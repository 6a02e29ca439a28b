"""Who got the weight: the samples of a batch with the most and the least weight, to be read."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.experiments.sample_reweighting.knobs import Knobs
from normviz.figures import Board, Figure, colours
from normviz.figures.encodings import focus_param
from normviz.figures.legends import legend_above
from normviz.figures.scales import Span
from normviz.figures.vega import specification
from normviz.frame import ArrayAt

__all__ = ["chosen_arm", "readable", "sample_rows_figure"]

ROWS = 5
"""Samples shown at each end."""
TOLD = 3
"""Samples at each end in the textual alternative."""
PITCH = 18
"""Height of a row in pixels."""
PAPER, INK = "#f3f3f0", "#1c1c1c"
"""Rows are light in both themes, so that the same ink can be read on every colour."""
NO_BREAK = "\N{NO-BREAK SPACE}"
"""Keeps columns apart: a browser draws several ordinary spaces as one."""


def readable(codes: np.ndarray[Any, Any]) -> str:
    """The text of a row of character codes on one line: line ends as ⏎, tabs and runs of spaces as they are."""
    return "".join(chr(int(code)) for code in codes).replace("\n", "⏎").replace("\t", " ")


def chosen_arm(arms: Arms) -> str:
    """Vega expression for the arm that is shown: the only one in focus, else the one chosen in the chart."""
    return f"(length(focus) == 1 && indexof({list(arms.names)!r}, focus[0]) >= 0 ? focus[0] : shown)"


def sample_rows_figure(board: Board, knobs: Knobs) -> Figure:
    """The text of the samples with the most and the least weight, of the first seed; the reader chooses the arm."""
    wanted = ("sample_weight", "sample_loss", "sample_source", "sample_text")
    newest: dict[str, dict[str, ArrayAt]] = {}
    for name in wanted:
        for entry in board.log.arrays(name, board.step):
            if entry.arm in board.arms and entry.seed == knobs.first_seed:
                newest.setdefault(entry.arm, {})[name] = entry
    names = knobs.sources()
    parts = [_rows(arm, found, names.names) for arm, found in newest.items() if len(found) == len(wanted)]
    columns = ["arm", "row", "source", "weight", "text", "loss", "passage"]
    data = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    first = knobs.first_weighted()
    shown = max((f["sample_weight"].step for f in newest.values() if "sample_weight" in f), default=None)
    moment, text = "", "List of samples with their weight; nothing is measured yet."
    if shown is not None:
        moment = board.progress.at(shown)
        rows = data.loc[data["arm"] == first, "text"].str.replace(NO_BREAK, " ").tolist()
        most, least = " | ".join(rows[:TOLD]), " | ".join(rows[-TOLD:])
        text = f"Samples of a batch at {moment} as {first} sees them. Most weight: {most}. Least: {least}."
    return Figure(
        "Who got the weight",
        "Top: most weight. Columns: weight ÷ uniform, loss, copies, text.",
        text,
        spec=_rows_spec(board.arms, names, first, Span.of(data["weight"], zero=True)),
        data=data,
        moment=moment,
    )


def _rows(arm: str, found: dict[str, ArrayAt], names: tuple[str, ...]) -> pd.DataFrame:
    weight = found["sample_weight"].value.astype(float)
    weight = weight * len(weight)
    copies: dict[
        tuple[str, str], list[int]
    ] = {}  # a passage that comes several times in the batch is one row
    for i in np.argsort(-weight, kind="stable").tolist():
        passage = readable(found["sample_text"].value[i])
        copies.setdefault((names[int(found["sample_source"].value[i])], passage), []).append(i)
    different = list(copies.items())
    half = -(-len(different) // 2)
    most, least = different[: min(ROWS, half)], different[max(half, len(different) - ROWS) :]
    rows = []
    for row, ((source, passage), same) in [*enumerate(most), *enumerate(least, start=len(most) + 1)]:
        i = same[0]
        loss = float(found["sample_loss"].value[i])
        times = f"×{len(same)}" if len(same) > 1 else ""
        text = f"{weight[i]:4.2f} {loss:5.2f} {times:<3} {passage}"
        rows.append((arm, row, source, weight[i], text.replace(" ", NO_BREAK), loss, passage))
    return pd.DataFrame(rows, columns=["arm", "row", "source", "weight", "text", "loss", "passage"])


@lru_cache(maxsize=64)
def _rows_spec(arms: Arms, names: Arms, first: str, width: Span) -> dict[str, Any]:
    choice = alt.binding_select(options=list(arms.names), name="As seen by: ")
    shown = alt.param(name="shown", value=first, bind=choice)
    row = alt.Y("row:Q", axis=None, scale=alt.Scale(domain=[2 * ROWS + 0.5, -0.5], nice=False))
    told = [
        alt.Tooltip("source:N"),
        alt.Tooltip("weight:Q", title="weight ÷ uniform", format=".2f"),
        alt.Tooltip("loss:Q", format=".2f"),
        alt.Tooltip("passage:N", title="text"),
    ]
    base = alt.Chart().transform_filter(f"datum.arm == {chosen_arm(arms)}").encode(y=row, tooltip=told)
    paper = base.mark_bar(size=PITCH - 1, color=PAPER).encode(x=alt.value(0), x2=alt.value("width"))
    bar = (
        base.transform_calculate(zero="0")
        .mark_bar(size=PITCH - 1, opacity=0.4)
        .encode(
            x=alt.X("zero:Q", axis=None, scale=alt.Scale(domain=[width.low, width.high], nice=False)),
            x2="weight:Q",
            color=alt.Color(
                "source:N",
                title=None,
                scale=alt.Scale(domain=list(names.names), range=colours(names)),
                legend=legend_above(names.names, lines=False),
            ),
        )
    )
    text = base.mark_text(
        align="left", baseline="middle", font="monospace", fontSize=11, color=INK, clip=True
    ).encode(x=alt.value(4), text="text:N")
    chart = alt.layer(paper, bar, text).properties(height=PITCH * (2 * ROWS + 1) + 40)
    return specification(chart.add_params(shown, focus_param()))
