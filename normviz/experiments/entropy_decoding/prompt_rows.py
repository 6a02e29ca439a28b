"""What was written after the last test prompts, a row each: characters by their writer, wrong digits marked."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.experiments.entropy_decoding.knobs import EAD, LARGE, SMALL, Knobs
from normviz.experiments.entropy_decoding.recorded import NEW_TOKENS
from normviz.experiments.entropy_decoding.text_picture import shown_character
from normviz.figures import Board, Figure, colours
from normviz.figures.palette import MUTED
from normviz.figures.vega import specification
from normviz.frame import ArrayAt

__all__ = ["prompt_rows_figure"]

ROWS = 8
"""Most prompts that are shown, the newest at the top."""
MARGIN = 6
"""Room for a row's score, in characters."""
COLUMNS = ["row", "x", "char", "writer", "wrong", "score"]
WRONG = "#e0483e"


def prompt_rows_figure(board: Board, knobs: Knobs) -> Figure:
    """The newest prompts of the first seed, decoded at the threshold that is set."""
    title = "Test prompts, newest on top"
    judged = knobs.task == "stretches"
    look_for = (
        "Red bars: digits that break the rule. Who wrote them?" if judged else "Where do words change hands?"
    )
    texts, owners, rights = (_history(board, knobs, name) for name in ("row_codes", "row_owner", "row_right"))
    steps = sorted(texts.keys() & owners.keys(), reverse=True)[:ROWS]
    if not steps:
        text = "Text by its writer, a row for each test prompt; prompts come after the training."
        return Figure(title, look_for, text, spec=_rows_spec(), data=pd.DataFrame(columns=COLUMNS))
    rows: list[tuple[Any, ...]] = []
    shares, found = [], [0, 0]
    for row, step in enumerate(steps):
        owner = owners[step].value
        right = rights[step].value if step in rights else owner * 0 - 1
        shares.append(float(owner.mean()))
        for i, code in enumerate(texts[step].value.tolist()):
            writer = LARGE if owner[i] else SMALL
            rows.append((row, i, shown_character(code), writer, int(right[i] == 0), ""))
        good, all_of_them = int((right == 1).sum()), int((right >= 0).sum())
        found = [found[0] + good, found[1] + all_of_them]
        score = f"{good}/{all_of_them}" if judged else ""
        rows.append((row, NEW_TOKENS, "", "", 0, score))
    data = pd.DataFrame(rows, columns=COLUMNS)
    share = sum(shares) / len(shares)
    text = f"The last {len(steps)} prompts; the large model wrote {share:.0%} of the characters."
    if judged:
        text += f" {found[0]} of {found[1]} digits follow the rule."
    return Figure(title, look_for, text, spec=_rows_spec(), data=data, moment=board.progress.at(steps[0]))


def _history(board: Board, knobs: Knobs, name: str) -> dict[int, ArrayAt]:
    entries = board.log.array_history(name)
    return {
        e.step: e
        for e in entries
        if e.arm == EAD and e.seed == knobs.first_seed and (board.step is None or e.step <= board.step)
    }


@lru_cache(maxsize=1)
def _rows_spec() -> dict[str, Any]:
    across = alt.Scale(domain=[0, NEW_TOKENS + MARGIN], nice=False)
    down = alt.Scale(domain=[ROWS, 0], nice=False)
    writers = colours(Knobs().shown_arms().ordered((SMALL, LARGE)))
    colour = alt.Color("writer:N", scale=alt.Scale(domain=[SMALL, LARGE], range=writers), legend=None)
    chars = (
        alt.Chart()
        .transform_filter("datum.writer != ''")
        .transform_calculate(
            right="datum.x + 1",
            low="datum.row + 0.06",
            high="datum.row + 0.94",
            mx="datum.x + 0.5",
            my="datum.row + 0.5",
        )
    )
    place = {"x": alt.X("x:Q", axis=None, scale=across), "x2": "right:Q"}
    boxes = chars.mark_rect(opacity=0.22, strokeWidth=0).encode(
        **place, y=alt.Y("low:Q", axis=None, scale=down), y2="high:Q", color=colour
    )
    letters = chars.mark_text(
        font="monospace",
        fontSize={"expr": "max(7, min(12, width / 33))"},
        fontWeight="bold",
        baseline="middle",
    ).encode(
        x=alt.X("mx:Q", axis=None, scale=across),
        y=alt.Y("my:Q", axis=None, scale=down),
        text="char:N",
        color=colour,
        tooltip=[alt.Tooltip("char:N", title="character"), alt.Tooltip("writer:N", title="writer")],
    )
    wrong = (
        chars.transform_filter("datum.wrong == 1")
        .transform_calculate(low="datum.row + 0.82")
        .mark_rect(color=WRONG, strokeWidth=0)
        .encode(**place, y=alt.Y("low:Q", axis=None, scale=down), y2="high:Q")
    )
    scores = (
        alt.Chart()
        .transform_filter("datum.score != ''")
        .transform_calculate(mx="datum.x + 0.6", my="datum.row + 0.5")
        .mark_text(align="left", baseline="middle", fontSize=10, color=MUTED)
        .encode(
            x=alt.X("mx:Q", axis=None, scale=across), y=alt.Y("my:Q", axis=None, scale=down), text="score:N"
        )
    )
    layered = alt.layer(boxes, letters, wrong, scores)
    return specification(layered.properties(view=alt.ViewBackground(stroke=None)))
