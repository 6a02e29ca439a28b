"""The samples with the least weight: digits as pictures or signals, or the text of passages."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.digit_sources import digit_source
from normviz.experiments.noisy_labels.knobs import LABELS, WEIGHTING, Knobs, arm_name
from normviz.figures import Board, Figure, colours, digit_gallery_figure, symbols
from normviz.figures.legends import legend_above
from normviz.figures.palette import MUTED
from normviz.figures.vega import specification
from normviz.frame import ArrayAt

__all__ = ["least_weight_figure"]

KINDS = LABELS.ordered(("wrong label", "right label"))
COLUMNS, ROWS = 6, 3
PASSAGES, PITCH = 8, 23
"""Passages that are shown, and pixels of a row."""
SHOWN_CHARACTERS = 36
"""What a row has room for; pointing at it shows the whole passage."""
COLUMNS_OF_TEXT = ["row", "kind", "text", "passage"]
NO_BREAK = "\N{NO-BREAK SPACE}"


def least_weight_figure(board: Board, knobs: Knobs) -> Figure:
    """Samples that one arm of the first seed trusts least: STORM if it is there, else the last arm that weighs."""
    chosen = knobs.kinds(("storm",)) or knobs.kinds(WEIGHTING)[-1:]
    arm = arm_name(chosen[0], knobs)
    looks, facts = (
        [e for e in board.log.arrays(name, board.step) if e.arm == arm]
        for name in ("least_looks", "least_facts")
    )
    title = f"What {arm} trusts least"
    if not looks or not facts:
        look_for = "The training samples with the least weight will be shown here."
        return Figure(title, look_for, "Nothing is measured yet.", spec=_text_spec(), data=_no_rows())
    if knobs.task == "digits":
        figure = _digits(title, knobs.data, looks[-1], facts[-1])
    else:
        figure = _passages(title, looks[-1], facts[-1])
    return replace(figure, moment=board.progress.at(looks[-1].step))


def _kind(given: float, true: float) -> str:
    return KINDS.names[int(given == true)]


def _share_wrong(facts: ArrayAt) -> str:
    wrong = int((facts.value[:, 1] != facts.value[:, 2]).sum())
    return f"{wrong} of these {len(facts.value)} labels are wrong"


def _digits(title: str, data: str, looks: ArrayAt, facts: ArrayAt) -> Figure:
    captions, kinds = [], []
    for _, given, true, _ in facts.value.tolist():
        kinds.append(_kind(given, true))
        captions.append(f"{given:.0f}" if given == true else f"{given:.0f} (is {true:.0f})")
    listed = ", ".join(
        f"labelled {given:.0f}, is {true:.0f}, weight {weight:.2g}"
        for weight, given, true, _ in facts.value[:6].tolist()
    )
    shown = "Pictures" if digit_source(data).picture else "Signals"
    return digit_gallery_figure(
        data,
        looks.value[: COLUMNS * ROWS],
        captions,
        kinds,
        kind_names=KINDS,
        title=title,
        look_for=f"{_share_wrong(facts)}. Is each label right?",
        alt_text=f"{shown} of the least trusted digits. {_share_wrong(facts)}. First ones: {listed}.",
        columns=COLUMNS,
        rows=ROWS,
    )


def _passages(title: str, looks: ArrayAt, facts: ArrayAt) -> Figure:
    rows = []
    for row, (codes, (_, given, true, _)) in enumerate(
        zip(looks.value, facts.value.tolist(), strict=True), start=1
    ):
        passage = "".join(chr(int(code)) for code in codes)
        text = passage[:SHOWN_CHARACTERS]
        label = f"{given:.0f}" if given == true else f"{given:.0f} (is {true:.0f})"
        rows.append((row, _kind(given, true), f"{label:<9} {text}…".replace(" ", NO_BREAK), passage))
    data = pd.DataFrame(rows, columns=COLUMNS_OF_TEXT)
    look_for = f"{_share_wrong(facts)}. In brackets: the right chapter."
    shown = " | ".join(text.replace(NO_BREAK, " ") for _, _, text, _ in rows[:3])
    alt_text = f"Text of the least trusted passages. {_share_wrong(facts)}. First ones: {shown}."
    return Figure(title, look_for, alt_text, spec=_text_spec(), data=data)


def _no_rows() -> pd.DataFrame:
    return pd.DataFrame(columns=COLUMNS_OF_TEXT)


@lru_cache(maxsize=1)
def _text_spec() -> dict[str, Any]:
    y = alt.Y("row:Q", axis=None, scale=alt.Scale(domain=[PASSAGES + 0.5, 0.5], nice=False))
    names = list(KINDS.names)
    mark = (
        alt.Chart()
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            x=alt.value(6),
            y=y,
            color=alt.Color(
                "kind:N",
                title=None,
                scale=alt.Scale(domain=names, range=colours(KINDS)),
                legend=legend_above(names, lines=False),
            ),
            shape=alt.Shape("kind:N", title=None, scale=alt.Scale(domain=names, range=symbols(KINDS))),
        )
    )
    text = (
        alt.Chart()
        .mark_text(align="left", font="monospace", fontSize=11, baseline="middle", color=MUTED)
        .encode(
            x=alt.value(16),
            y=y,
            text="text:N",
            tooltip=[alt.Tooltip("kind:N", title="label"), alt.Tooltip("passage:N", title="text")],
        )
    )
    return specification(alt.layer(mark, text).properties(height=PITCH * PASSAGES + 40))
