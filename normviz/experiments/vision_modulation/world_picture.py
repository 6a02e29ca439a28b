"""The picture of the page *Vision modulation*: cells, the one that is asked for, what the word reads, the answers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.experiments.vision_modulation.knobs import ARM_NAMES, Knobs
from normviz.experiments.vision_modulation.words import COLOURS
from normviz.figures import Board, Figure
from normviz.figures.palette import MUTED
from normviz.figures.vega import specification
from normviz.frame import ArrayAt

__all__ = ["COLOUR_CODES", "looking_arm", "world_figure"]

COLOUR_CODES = ("#d7262b", "#1f6fd0", "#2c9c3f", "#f2c12e", "#7d3fb0", "#ef8322", "#f59ac2", "#80502a")
"""How the colours of the world look."""
GRID, BARS = 1.0, 1.12
"""Right end of the picture, left end of the answers; the whole is 2.1 wide."""
WHOLE = 2.1
LABEL = 0.42
"""Share of an arm's row that its name takes."""
INSIDE = 0.43
"""Half the side of a cell, as a share of the room it has."""
COLUMNS = ["part", "asked", "cell", "name", "x", "x2", "y", "y2", "colour", "amount", "text"]


def looking_arm(knobs: Knobs) -> str:
    """Name of the arm whose attention is drawn; "" where none looks by attention."""
    looking = knobs.kinds(("attention", "frozen"))
    return ARM_NAMES[looking[0]] if looking else ""


def world_figure(board: Board, knobs: Knobs) -> Figure:
    """One picture of the first seed. Pointing at a cell asks for it: circles and answers follow at once."""
    title = "What the asking word reads"
    arm = looking_arm(knobs)
    look_for = "Point at a cell to ask for it. Does the circle follow?"
    if not arm:
        look_for = "Point at a cell to ask for it. Who answers right?"
    spec = _world_spec()
    answers = {e.arm: e for e in board.log.arrays("answers", board.step) if e.arm in board.arms}
    colours = [e for e in board.log.arrays("colours", board.step) if e.arm in answers]
    if not answers or not colours:
        return Figure(
            title,
            look_for,
            "Picture of coloured cells; nothing is measured yet.",
            spec=spec,
            data=pd.DataFrame(columns=COLUMNS),
        )
    cells = colours[-1].value.astype(int)
    reads = [e for e in board.log.arrays("read", board.step) if e.arm == arm]
    rows = _cells(cells, knobs) + _answers(answers, cells, board, knobs)
    if reads:
        rows += _circles(reads[-1].value.astype(float).mean(1), knobs)
    moment = board.progress.at(max(e.step for e in answers.values()))
    text = _words(cells, answers, reads, moment, knobs)
    return Figure(title, look_for, text, spec=spec, data=pd.DataFrame(rows, columns=COLUMNS), moment=moment)


def _place(cell: int, side: int) -> tuple[float, float]:
    """Middle of a cell, both from 0 to 1."""
    return (cell % side + 0.5) / side * GRID, (cell // side + 0.5) / side


def _cells(colours: Any, knobs: Knobs) -> list[tuple[Any, ...]]:
    rows = []
    half = INSIDE / knobs.side
    for cell, (colour, name) in enumerate(zip(colours, knobs.vocabulary().cells, strict=True)):
        x, y = _place(cell, knobs.side)
        text = f"{name}: {COLOURS[colour]}"
        corners = (x - half, x + half, y - half, y + half)
        rows.append(("cell", -1, cell, name, *corners, COLOURS[colour], 0.0, text))
    return rows


def _circles(read: Any, knobs: Knobs) -> list[tuple[Any, ...]]:
    """What each question reads of each cell, mean over heads and norms (asked, cells)."""
    rows = []
    for asked, cell in np.ndindex(*read.shape):
        x, y = _place(cell, knobs.side)
        share = float(read[asked, cell])
        # The area says the share; a share of 1 fills the cell.
        radius = INSIDE / knobs.side * np.sqrt(share)
        text = f"{share:.0%} of the attention"
        rows.append(
            ("circle", asked, cell, "", x - radius, x + radius, y - radius, y + radius, "", share, text)
        )
    return rows


def _answers(answers: dict[str, ArrayAt], colours: Any, board: Board, knobs: Knobs) -> list[tuple[Any, ...]]:
    """A bar of probabilities for each arm and question, its name, and how much it gives the right colour."""
    rows: list[tuple[Any, ...]] = []
    shown = [arm for arm in board.arms if arm in answers]
    names = knobs.vocabulary().cells
    for asked in range(knobs.cells):
        right = int(colours[asked])
        for i, arm in enumerate(shown):
            low, high = (i + LABEL) / len(shown), (i + 0.92) / len(shown)
            share = answers[arm].value[asked].astype(float)
            ends = np.concatenate([[0.0], np.cumsum(share)]) * (WHOLE - BARS) + BARS
            for colour, probability in enumerate(share.tolist()):
                text = f"{arm}: {COLOURS[colour]} {probability:.0%}"
                rows.append(
                    (
                        "bar",
                        asked,
                        asked,
                        arm,
                        ends[colour],
                        ends[colour + 1],
                        low,
                        high,
                        COLOURS[colour],
                        probability,
                        text,
                    )
                )
            label = f"{arm}: {COLOURS[right]} {share[right]:.0%}"
            rows.append(
                (
                    "label",
                    asked,
                    asked,
                    names[asked],
                    BARS,
                    WHOLE,
                    i / len(shown),
                    low,
                    "",
                    share[right],
                    label,
                )
            )
    return rows


def _words(colours: Any, answers: dict[str, ArrayAt], reads: list[ArrayAt], moment: str, knobs: Knobs) -> str:
    names = knobs.vocabulary().cells
    shown = ", ".join(f"{name} {COLOURS[c]}" for name, c in zip(names, colours, strict=True))
    mean = {arm: float(np.mean([e.value[q, c] for q, c in enumerate(colours)])) for arm, e in answers.items()}
    right = ", ".join(f"{arm} {value:.0%}" for arm, value in mean.items())
    text = f"Picture with the cells {shown}. Probability of the right colour at {moment}, mean over all cells: {right}."
    if reads:
        own = float(np.mean([reads[-1].value[q, :, q] for q in range(len(colours))]))
        even = 1 / len(colours)
        text += (
            f" Asked for a cell, the word gives it {own:.0%} of its attention (evenly spread: {even:.0%})."
        )
    return text


@lru_cache(maxsize=1)
def _world_spec() -> dict[str, Any]:
    chosen = "(isDefined(asked.cell) ? asked.cell[0] : 0)"
    scale = alt.Scale(domain=[0, WHOLE], nice=False)
    x = alt.X("x:Q", axis=None, scale=scale)
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[1, 0], nice=False))
    fill = alt.Color("colour:N", scale=alt.Scale(domain=list(COLOURS), range=list(COLOUR_CODES)), legend=None)
    told = [alt.Tooltip("text:N", title=" ")]
    asked = alt.selection_point(
        name="asked", fields=["cell"], on="pointerover", value=[{"cell": 0}], clear=False, toggle=False
    )

    def part(name: str, *, follows: bool) -> alt.Chart:
        chart: alt.Chart = alt.Chart().transform_filter(f"datum.part == '{name}'")
        return chart.transform_filter(f"datum.asked == {chosen}") if follows else chart

    place = {"x": x, "x2": "x2:Q", "y": y, "y2": "y2:Q"}
    cells = part("cell", follows=False).mark_rect(strokeWidth=0).encode(**place, color=fill)
    circles = (
        part("circle", follows=True)
        .mark_rect(cornerRadius=400, fill="white", stroke="#222222", strokeWidth=1.5, fillOpacity=0.9)
        .encode(**place)
    )
    frame = (
        part("cell", follows=False)
        .transform_filter(f"datum.cell == {chosen}")
        .mark_rect(filled=False, stroke="#222222", strokeWidth=3)
        .encode(**place)
    )
    edge = frame.mark_rect(filled=False, stroke="white", strokeWidth=1.2, strokeDash=[4, 3])
    bars = part("bar", follows=True).mark_rect(strokeWidth=0).encode(**place, color=fill, tooltip=told)
    labels = (
        part("label", follows=True)
        .mark_text(align="left", baseline="bottom", dy=-3, fontSize=11, color=MUTED)
        .encode(x=x, y=alt.Y("y2:Q", axis=None), text="text:N")
    )
    # On top of all, so that a circle does not catch the pointer.
    sensor = part("cell", follows=False).mark_rect(opacity=0).encode(**place, tooltip=told).add_params(asked)
    layered = alt.layer(cells, circles, frame, edge, bars, labels, sensor)
    return specification(layered.properties(view=alt.ViewBackground(stroke=None)))
