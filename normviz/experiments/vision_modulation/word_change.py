"""Coloured words: how much the picture changes gain and bias of each word's norms."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.experiments.vision_modulation.knobs import ARM_NAMES, LAVI, Knobs
from normviz.figures import Board, Figure
from normviz.figures.legends import colour_bar
from normviz.figures.palette import MUTED
from normviz.figures.vega import specification

__all__ = ["changing_arm", "word_change_figure"]

LEAST = 0.1
"""Least upper end of the colours: at the start every change is zero."""

COLUMNS = ["x", "x2", "y", "y2", "word", "where", "size", "head"]


def changing_arm(knobs: Knobs) -> str:
    """Name of the arm whose words are drawn; "" where none sees through its norms."""
    seeing = knobs.kinds(LAVI)
    return ARM_NAMES[seeing[0]] if seeing else ""


def word_change_figure(board: Board, knobs: Knobs) -> Figure:
    """Questions as rows. Columns: the words; where a question is a single word, the modulated norms."""
    single = knobs.text_length == 1
    arm, title = changing_arm(knobs), "How much each word is changed"
    look_for = (
        "Numbers: size of the change. Which norm does the work?"
        if single
        else "Darker: the picture changes this word's norms more."
    )
    entries = [e for e in board.log.arrays("word_change", board.step) if e.arm == arm]
    tokens = [e for e in board.log.arrays("word_tokens", board.step) if e.arm == arm]
    if not entries or not tokens:
        text = "Words coloured by the change of gain and bias; nothing is measured yet."
        return Figure(title, look_for, text, spec=_spec(1, 1, 1.0), data=pd.DataFrame(columns=COLUMNS))
    change = entries[-1].value.astype(float)  # (lines, T, norms)
    words = [[knobs.vocabulary().words[int(token)] for token in line] for line in tokens[-1].value]
    rows = _by_norm(words, change[:, 0], knobs) if single else _by_word(words, change.mean(-1))
    data = pd.DataFrame(rows, columns=COLUMNS)
    sizes = data["size"].dropna()
    moment = board.progress.at(entries[-1].step)
    listed = "; ".join(
        f"{' '.join(line)}: {', '.join(f'{size:.2g}' for size in sizes_of)}"
        for line, sizes_of in zip(words, change[:, 0] if single else change.mean(-1), strict=True)
    )
    what = "by norm" if single else "by word"
    text = f"Questions coloured by the change of gain and bias of {arm} at {moment}, {what}: {listed}."
    largest = float(f"{max(float(sizes.max()), LEAST):.1g}")
    columns = int(data["x2"].max())
    return Figure(title, look_for, text, spec=_spec(len(words), columns, largest), data=data, moment=moment)


def _by_norm(words: list[list[str]], sizes: NDArray[np.float64], knobs: Knobs) -> list[tuple[Any, ...]]:
    """The word in the first column, then the size of its change at every norm (lines, norms)."""
    norms = [f"block {name}" for name in knobs.modulated_norms()]
    rows: list[tuple[Any, ...]] = [(0, 1, i, i + 1, line[0], "", np.nan, "") for i, line in enumerate(words)]
    for (i, j), size in np.ndenumerate(sizes):
        head = norms[j] if i == 0 else ""
        rows.append((j + 1, j + 2, i, i + 1, f"{size:.2g}", norms[j], float(size), head))
    return rows


def _by_word(words: list[list[str]], sizes: NDArray[np.float64]) -> list[tuple[Any, ...]]:
    """Every word with the size of its change (lines, T)."""
    return [
        (j, j + 1, i, i + 1, words[i][j], "mean over all norms", float(size), "")
        for (i, j), size in np.ndenumerate(sizes)
    ]


@lru_cache(maxsize=64)
def _spec(lines: int, columns: int, largest: float) -> dict[str, Any]:
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, columns], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[lines, -0.3], nice=False))
    colour = alt.Color(
        "size:Q",
        title="‖Δγ, Δβ‖",
        scale=alt.Scale(domain=[0, largest], range=["#eef2f6", "#0a66b8"], clamp=True, interpolate="rgb"),
        legend=colour_bar(format="~g"),
    )
    cells = (
        alt.Chart()
        .transform_filter("datum.where != ''")
        .mark_rect(stroke="white", strokeWidth=1.5)
        .encode(
            x=x,
            x2="x2:Q",
            y=y,
            y2="y2:Q",
            color=colour,
            tooltip=[
                alt.Tooltip("word:N"),
                alt.Tooltip("where:N", title="norm"),
                alt.Tooltip("size:Q", title="change", format=".3g"),
            ],
        )
    )
    middle = alt.Chart().transform_calculate(mx="(datum.x + datum.x2) / 2", my="(datum.y + datum.y2) / 2")
    place = {"x": alt.X("mx:Q", axis=None), "y": alt.Y("my:Q", axis=None), "text": "word:N"}
    dark = alt.when(f"datum.size > {0.55 * largest}")
    words = middle.transform_filter("datum.where != ''").mark_text(fontSize=10)
    words = words.encode(**place, color=dark.then(alt.value("white")).otherwise(alt.value("#222222")))
    names = middle.transform_filter("datum.where == ''").mark_text(fontSize=11, color=MUTED).encode(**place)
    heads = (
        middle.transform_filter("datum.head != ''")
        .mark_text(fontSize=10, baseline="bottom", dy=-2, color=MUTED)
        .encode(x=alt.X("mx:Q", axis=None), y=alt.Y("y:Q", axis=None), text="head:N")
    )
    layered = alt.layer(cells, words, names, heads).resolve_scale(color="independent")
    return specification(layered.properties(view=alt.ViewBackground(stroke=None)))
