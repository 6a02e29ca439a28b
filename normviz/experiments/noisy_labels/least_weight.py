"""The samples with the least weight: pictures of digits, or the text of passages."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.experiments.noisy_labels.knobs import WEIGHTING, Knobs, arm_names
from normviz.figures import Figure, colours
from normviz.figures.gallery import gallery_figure
from normviz.figures.vega import specification
from normviz.frame import ArrayAt, Log

__all__ = ["least_weight_figure"]

KINDS = ("wrong label", "right label")
COLUMNS, ROWS = 6, 3
PASSAGES = 8
SHOWN_CHARACTERS = 80
COLUMNS_OF_TEXT = ["row", "kind", "text", "passage"]
NO_BREAK = "\N{NO-BREAK SPACE}"


def least_weight_figure(log: Log, knobs: Knobs, step: int | None) -> Figure:
    """Samples that one arm of the first seed trusts least: STORM if it is there, else the last arm that weighs."""
    arms = arm_names(knobs, ("storm",)) or arm_names(knobs, WEIGHTING)[-1:]
    looks = [e for e in log.arrays("least_looks", step) if e.arm in arms]
    facts = [e for e in log.arrays("least_facts", step) if e.arm in arms]
    arm = arms[0] if arms else "STORM"
    title = f"What {arm} trusts least"
    if not looks or not facts:
        look_for = "The training samples with the least weight will be shown here."
        return Figure(title, look_for, "Nothing is measured yet.", spec=_text_spec(), data=_no_rows())
    draw = _pictures if knobs.task == "digits" else _passages
    return draw(f"{title} (step {looks[-1].step})", looks[-1], facts[-1])


def _kind(given: float, true: float) -> str:
    return KINDS[int(given == true)]


def _share_wrong(facts: ArrayAt) -> str:
    wrong = int((facts.value[:, 1] != facts.value[:, 2]).sum())
    return f"{wrong} of these {len(facts.value)} labels are wrong"


def _pictures(title: str, looks: ArrayAt, facts: ArrayAt) -> Figure:
    captions, kinds = [], []
    for _, given, true, _ in facts.value.tolist():
        kinds.append(_kind(given, true))
        captions.append(f"{given:.0f}" if given == true else f"{given:.0f} (is {true:.0f})")
    listed = ", ".join(
        f"labelled {given:.0f}, is {true:.0f}, weight {weight:.2g}"
        for weight, given, true, _ in facts.value[:6].tolist()
    )
    return gallery_figure(
        looks.value.reshape(-1, 8, 8)[: COLUMNS * ROWS],
        captions,
        kinds,
        kind_names=KINDS,
        title=title,
        look_for=f"Below each digit its label, and in brackets what it is: {_share_wrong(facts)}.",
        alt_text=f"Pictures of the least trusted digits; {_share_wrong(facts)}. First ones: {listed}.",
        columns=COLUMNS,
        rows=ROWS,
        limits=(0.0, 16.0),
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
    look_for = (
        f"Number of the chapter it is labelled with, and in brackets the right one: {_share_wrong(facts)}."
    )
    shown = " | ".join(text.replace(NO_BREAK, " ") for _, _, text, _ in rows[:3])
    alt_text = f"Text of the least trusted passages; {_share_wrong(facts)}. First ones: {shown}."
    return Figure(title, look_for, alt_text, spec=_text_spec(), data=data, wide=True)


def _no_rows() -> pd.DataFrame:
    return pd.DataFrame(columns=COLUMNS_OF_TEXT)


@lru_cache(maxsize=1)
def _text_spec() -> dict[str, Any]:
    y = alt.Y("row:Q", axis=None, scale=alt.Scale(domain=[PASSAGES + 0.5, 0.5], nice=False))
    mark = (
        alt.Chart()
        .mark_point(filled=True, size=80, opacity=1)
        .encode(
            x=alt.value(6),
            y=y,
            color=alt.Color(
                "kind:N",
                title=None,
                scale=alt.Scale(domain=list(KINDS), range=colours(KINDS)),
                legend=alt.Legend(orient="top", symbolOpacity=1),
            ),
            shape=alt.Shape(
                "kind:N", title=None, scale=alt.Scale(domain=list(KINDS), range=["cross", "circle"])
            ),
        )
    )
    text = (
        alt.Chart()
        .mark_text(align="left", font="monospace", fontSize=12, baseline="middle", color="#888888")
        .encode(
            x=alt.value(18),
            y=y,
            text="text:N",
            tooltip=[alt.Tooltip("kind:N", title="label"), alt.Tooltip("passage:N", title="text")],
        )
    )
    return specification(alt.layer(mark, text).properties(width="container", height=24 * PASSAGES + 40))
