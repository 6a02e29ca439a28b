"""A figure on the page: a card with its heading, the line that says what to look for, and the chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from normviz.figures.figure import Figure

__all__ = ["STAGE_HEIGHT", "draw_chart", "draw_figure", "figure_grid"]

STAGE_HEIGHT = 202
"""Pixels of a chart on the stage: two rows of cards, the header, the control line and the verdicts fit 900 pixels."""

LEAST_CARD = 300
"""Pixels below which a card becomes narrower only after the grid has dropped a column."""


def draw_figure(
    name: str,
    figure: Figure,
    *,
    key: str,
    height: int = 320,
    focus: Sequence[str] = (),
    cursor: int | None = None,
    wordy: bool = True,
    bare: bool = False,
) -> None:
    """Draw one figure; the key keeps the reader's zoom and selection while the data change.

    Args:
        name: of the figure.
        figure: what is drawn.
        key: prefix of the keys.
        height: of the chart in pixels.
        focus: arms that stand out; none: all.
        cursor: where the cursor stands; None: nowhere.
        wordy: show the line that says what to look for below the title, not only in the heading's help.
        bare: leave the chart's place empty.
    """
    moment = f" :gray[:small[{figure.moment}]]" if figure.moment else ""
    line = f"  \n:gray[:small[{figure.look_for}]]" if wordy else ""
    st.markdown(f"**{figure.title}**{moment}{line}", help=None if wordy else figure.look_for)
    if bare:
        st.container(height=height, border=False)
    else:
        draw_chart(name, figure, key=key, height=height, focus=focus, cursor=cursor)


def draw_chart(
    name: str,
    figure: Figure,
    *,
    key: str,
    height: int = 320,
    focus: Sequence[str] = (),
    cursor: int | None = None,
) -> None:
    """Draw the chart of a figure without its words; see :func:`draw_figure`."""
    drawn = figure.shown(focus=focus, cursor=cursor, height=height)
    if drawn.plotly is not None:
        config = {"displaylogo": False}
        st.plotly_chart(drawn.plotly, key=f"{key}-{name}-chart", alt=figure.alt, config=config)
    elif drawn.data is None or drawn.data.empty:
        st.container(height=height, border=False).caption("Nothing measured yet.")
    else:
        spec: Any = drawn.spec
        st.vega_lite_chart(drawn.data, spec, key=f"{key}-{name}-chart", alt=figure.alt, width="stretch")


def figure_grid(
    figures: Mapping[str, Figure],
    *,
    key: str,
    columns: int = 2,
    height: int = 320,
    focus: Sequence[str] = (),
    cursor: int | None = None,
    wordy: bool = True,
    first: int | None = None,
) -> None:
    """Draw figures in a grid of at most ``columns``, fewer where there is no room; a wide one has a row of its own.

    Args:
        figures: by name.
        key: prefix of the keys.
        columns: most of them.
        height: of a chart in pixels.
        focus: arms that stand out; none: all.
        cursor: where the cursor stands; None: nowhere.
        wordy: show below each title what to look for.
        first: how many get their chart, the others' places stay empty; None: all.
    """
    bare = set(list(figures)[first:]) if first is not None else set()
    shared: dict[str, Any] = {
        "key": key,
        "height": height,
        "focus": focus,
        "cursor": cursor,
        "wordy": wordy,
    }
    narrow = {name: figure for name, figure in figures.items() if not figure.wide}
    with st.grid(columns, min_column_width=LEAST_CARD, gap="xsmall", key=f"{key}-grid") as grid:
        for name, figure in narrow.items():
            with grid.cell(), st.container(border=True, height="stretch", key=f"card-{key}-{name}"):
                draw_figure(name, figure, bare=name in bare, **shared)
    for name, figure in figures.items():
        if figure.wide:
            with st.container(border=True, key=f"card-{key}-{name}"):
                draw_figure(name, figure, bare=name in bare, **shared)
