"""A figure on the page: heading, the line that says what to look for, the chart with its textual alternative."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from normviz.figures import Figure

__all__ = ["draw_figure", "figure_grid"]


def draw_figure(name: str, figure: Figure, *, key: str) -> None:
    """Draw one figure; the key keeps the reader's zoom and selection while the data change."""
    with st.container(border=True, key=f"{key}-{name}", height="stretch"):
        st.markdown(f"**{figure.title}**  \n:gray[:small[{figure.look_for}]]")
        if figure.plotly is not None:
            st.plotly_chart(
                figure.plotly, key=f"{key}-{name}-chart", alt=figure.alt, config={"displaylogo": False}
            )
        elif figure.data is None or figure.data.empty:
            st.container(height=340, border=False).caption("Nothing measured yet.")
        else:
            spec: Any = figure.spec
            st.vega_lite_chart(figure.data, spec, key=f"{key}-{name}-chart", alt=figure.alt, width="stretch")


def figure_grid(figures: Mapping[str, Figure], *, key: str, columns: int = 2) -> None:
    """Draw figures in rows of ``columns``; a wide one takes a row of its own. Columns stack on a narrow screen."""
    row: list[tuple[str, Figure]] = []
    for name, figure in figures.items():
        if figure.wide:
            _row(row, key, columns)
            row = []
            draw_figure(name, figure, key=key)
            continue
        row.append((name, figure))
        if len(row) == columns:
            _row(row, key, columns)
            row = []
    _row(row, key, columns)


def _row(row: list[tuple[str, Figure]], key: str, columns: int) -> None:
    if row:
        for cell, (name, figure) in zip(st.columns(columns), row, strict=False):
            with cell:
                draw_figure(name, figure, key=key)
