"""The reader's prompt and how both models go on: characters by their writer, entropies, and a threshold to drag."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.experiments.entropy_decoding.knobs import EAD, LARGE, SMALL, Knobs
from normviz.experiments.entropy_decoding.recorded import FINE, FINE_STEP, NEW_TOKENS
from normviz.figures import Board, Figure, colours
from normviz.figures.palette import MUTED
from normviz.figures.vega import specification
from normviz.frame import ArrayAt

__all__ = ["shown_character", "text_figure"]

LINE = 24
"""New characters in a line."""
STEP = NEW_TOKENS // LINE
"""Width of a character in places of the horizontal axis."""
PROMPT = "prompt"
COLUMNS = ["kind", "i", "x", "row", "char", "own", "by", "small", "large", "recorded", "level"]
NAMES = ("text_codes", "text_owner", "text_small", "text_large", "text_by_tau")
TITLE, LOOK = "Text by its writer", "Drag the line: who writes which character?"


def shown_character(code: float) -> str:
    """A character as it is drawn: spaces and line ends as signs."""
    char = chr(int(code))
    return {" ": "·", "\n": "↵", "\t": "→"}.get(char, char)


def text_figure(board: Board, knobs: Knobs, *, wide: bool = False) -> Figure:
    """Characters by their writer, above the entropies of who wrote them, the rolling mean and the threshold.

    The threshold is dragged in the chart or by its slider. The text stays as it was recorded; who would have written
    each character follows from both models' entropies on it.
    """
    found = {name: _of_first(board, knobs, name) for name in NAMES}
    if any(entry is None for entry in found.values()):
        spec = _text_spec(knobs.window, 3, knobs.tau)
        text = "Text coloured by its writer; nothing is measured yet."
        return Figure(TITLE, LOOK, text, spec=spec, data=pd.DataFrame(columns=COLUMNS), wide=wide)
    codes, owner, small, large, by_tau = (e.value.astype(float) for e in found.values() if e is not None)
    data = _table(codes, owner, small, large, by_tau, knobs.tau)
    top = min(7, max(2, math.ceil(float(max(small.max(), large.max())))))
    moment = board.progress.at(max(e.step for e in found.values() if e is not None))
    written = "".join(chr(int(code)) for code in codes)
    begin = len(codes) - len(owner)
    alt_text = (
        f"After the prompt {written[:begin]!r} the models wrote {written[begin:]!r}; the large model wrote "
        f"{owner.mean():.0%} of it at a threshold of {knobs.tau:g} bits. Mean entropy "
        f"{np.where(owner > 0, large, small).mean():.2f} bits."
    )
    spec = _text_spec(knobs.window, top, knobs.tau)
    return Figure(TITLE, LOOK, alt_text, spec=spec, data=data, moment=moment, wide=wide)


def _of_first(board: Board, knobs: Knobs, name: str) -> ArrayAt | None:
    entries = [e for e in board.log.arrays(name, board.step) if e.arm == EAD and e.seed == knobs.first_seed]
    return entries[-1] if entries else None


def _table(codes: Any, owner: Any, small: Any, large: Any, by_tau: Any, tau: float) -> pd.DataFrame:
    """A row per character of the prompt, per new character, and per place of the threshold."""
    begin = len(codes) - len(owner)
    rows: list[tuple[Any, ...]] = [
        (PROMPT, i, (i + 0.5) * STEP, 0, shown_character(code), 0, "", 0.0, 0.0, tau, 0.0)
        for i, code in enumerate(codes[:begin].tolist())
    ]
    for i, code in enumerate(codes[begin:].tolist()):
        writers = "".join(str(int(big)) for big in by_tau[:, i].tolist())
        x, row = (i % LINE + 0.5) * STEP, 1 + i // LINE
        char = shown_character(code)
        rows.append(("new", i, x, row, char, int(owner[i]), writers, small[i], large[i], tau, 0.0))
    rows += [("level", 0, NEW_TOKENS / 2, 0, "", 0, "", 0.0, 0.0, tau, level) for level in FINE]
    return pd.DataFrame(rows, columns=COLUMNS)


@lru_cache(maxsize=64)
def _text_spec(window: int, top: int, tau: float) -> dict[str, Any]:
    across = alt.Scale(domain=[0, NEW_TOKENS], nice=False)
    lines = NEW_TOKENS // LINE + 1
    upper = top * (1 + 0.24 * lines)
    up = alt.Scale(domain=[0, upper], nice=False)
    marks = list(range(top + 1)) if top < 5 else list(range(0, top + 1, 2))
    # Two names for one value: the selection follows the pointer and the slider, the parameter is never undefined.
    pull = alt.selection_point(
        name="pull",
        fields=["level"],
        nearest=True,
        on="pointerdown, [pointerdown, window:pointerup] > pointermove",
        value=[{"level": tau}],
        clear=False,
        toggle=False,
        bind=alt.binding_range(min=FINE[0], max=FINE[-1], step=FINE_STEP, name="τ in bits "),
    )
    chosen = alt.param(name="tau", expr=f"isValid(pull.level) ? +pull.level[0] : {tau}")

    def part(kind: str) -> alt.Chart:
        chart: alt.Chart = alt.Chart().transform_filter(f"datum.kind == '{kind}'")
        return chart

    def new() -> alt.Chart:
        """New characters with who writes them at the threshold."""
        place = f"round(tau / {FINE_STEP})"
        other = f"toNumber(substring(datum.by, {place}, {place} + 1))"
        written = f"abs(tau - datum.recorded) < {FINE_STEP / 2} ? datum.own : {other}"
        chart: alt.Chart = (
            part("new")
            .transform_calculate(big=written)
            .transform_calculate(
                writer=f"datum.big ? '{LARGE}' : '{SMALL}'", entropy="datum.big ? datum.large : datum.small"
            )
        )
        return chart

    # The place of a line of text, in bits, above the entropies.
    height = f"{top} * (1 + 0.24 * ({lines} - 0.45 - datum.row))"
    names = [SMALL, LARGE]
    colour = alt.Color(
        "writer:N", title=None, scale=alt.Scale(domain=names, range=list(_writers())), legend=None
    )
    side = alt.Axis(values=marks, format="d", grid=False)
    below = alt.Axis(format="d", grid=False, tickCount=6)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title="new character", scale=across, axis=below)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", title="entropy in bits", scale=up, axis=side)

    told = [
        alt.Tooltip("char:N", title="character"),
        alt.Tooltip("writer:N", title="writer"),
        alt.Tooltip("small:Q", title="small model's entropy", format=".2f"),
        alt.Tooltip("large:Q", title="large model's entropy", format=".2f"),
    ]
    half = f"{0.11 * top}"
    boxes = (
        new()
        .transform_calculate(left=f"datum.x - {STEP / 2}", right=f"datum.x + {STEP / 2}", y=height)
        .transform_calculate(low=f"datum.y - {half}", high=f"datum.y + {half}")
        .mark_rect(opacity=0.22, strokeWidth=0)
        .encode(
            x=x("left"),
            x2="right:Q",
            y=y("low"),
            y2="high:Q",
            color=colour,
        )
    )
    letters = (
        new()
        .transform_calculate(y=height)
        .mark_text(font="monospace", fontSize=12, fontWeight="bold", baseline="middle")
        .encode(x=x("x"), y=y("y"), text="char:N", color=colour)
    )
    asked = (
        part(PROMPT)
        .transform_calculate(y=height)
        .mark_text(font="monospace", fontSize=12, baseline="middle", color=MUTED)
        .encode(x=x("x"), y=y("y"), text="char:N")
    )
    share = (
        new()
        .transform_aggregate(share="mean(big)")
        .transform_calculate(
            y=f"{top * (1 + 0.24 * (lines - 0.45))}",
            words="format(datum.share, '.0%') + ' by the large model'",
        )
        .mark_text(align="right", baseline="middle", fontSize=11, fontWeight="bold", color=_writers()[1])
        .encode(x=alt.value("width"), y=y("y"), text="words:N")
    )
    points = (
        new()
        .transform_calculate(at="datum.i + 0.5")
        .mark_point(filled=True, size=16, opacity=0.9, clip=True)
        .encode(
            x=x("at"),
            y=y("entropy"),
            color=colour,
            tooltip=told,
        )
    )
    mean = (
        new()
        .transform_calculate(at="datum.i + 0.5")
        .transform_window(mean="mean(entropy)", frame=[1 - window, 0], sort=[{"field": "i"}])
        .mark_line(strokeWidth=2, color=MUTED, clip=True)
        .encode(x=x("at"), y=y("mean"))
    )
    level = part("level").transform_filter("datum.level == 0").transform_calculate(y="tau")
    rule = level.mark_rule(strokeWidth=2, strokeDash=[6, 3], color=_writers()[1], clip=True).encode(y=y("y"))
    label = (
        level.transform_calculate(words="'τ ' + format(tau, '.2f')")
        .mark_text(
            align="right", baseline="bottom", dy=-2, fontSize=11, fontWeight="bold", color=_writers()[1]
        )
        .encode(x=alt.value("width"), y=y("y"), text="words:N")
    )
    handles = (
        part("level")
        .mark_point(opacity=0, size=1, tooltip=None)
        .encode(x=x("x"), y=y("level"))
        .add_params(pull)
    )
    layered = alt.layer(boxes, letters, asked, share, mean, points, rule, label, handles)
    return specification(layered.add_params(chosen))


@lru_cache(maxsize=1)
def _writers() -> tuple[str, str]:
    small, large = colours(Knobs().shown_arms().ordered((SMALL, LARGE)))
    return small, large
