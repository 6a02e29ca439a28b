"""Curves that are no arms: a matrix or a decomposition each, with a legend of their own, and marks behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.arms import Arms, Look
from normviz.experiments.context_adapters.recorded import SHARES, SPECTRA
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, arm_dash
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["spectra_figure", "truncation_error_figure", "truncation_figure"]

COLUMNS = ["curve", "x", "mean", "low", "high", "x2", "label"]
MATRICES = Arms((Look(SPECTRA[0], 6, 1, 1), Look(SPECTRA[1], 1, 0, 0), Look(SPECTRA[2], 3, 2, 2)))
DECOMPOSED = Arms((Look("CorDA", 1, 0, 0), Look("ASVD", 4, 2, 2), Look("SVD", 6, 1, 1)))
"""In the order of the recorded rows."""
SMALLEST = 1e-5
"""Share of the largest singular value below which a spectrum is not drawn."""
Align = Literal["left", "right"]
NAMED: tuple[tuple[str, Align, int, str], ...] = (("<", "left", 3, "x"), (">", "right", -3, "x2"))
"""Where the names of the leading and of the trailing components stand."""
MARK = "mark"
"""Name of rows that are no curve: a span of components, or a level."""


def spectra_figure(board: Board, layer: int, rank: int) -> Figure:
    """Singular values of W and of W C for both tasks, with the components that the two modes train.

    Args:
        board: log and arms.
        layer: which of the adapted layers, from 0.
        rank: components that an adapter takes.
    """
    stacks = _stack(board, f"spectra_{layer}")
    count = stacks.shape[2]
    data = _rows(stacks, MATRICES.names, np.arange(1, count + 1), smallest=SMALLEST)
    marks = []
    if count:
        leading = (0.5, min(rank, count) + 0.5, "IPA trains these")
        trailing = (max(count - rank, 0) + 0.5, count + 0.5, "KPA trains these")
        marks = [(MARK, low, np.nan, np.nan, np.nan, high, text) for low, high, text in (leading, trailing)]
    data = pd.concat([data, pd.DataFrame(marks, columns=COLUMNS)], ignore_index=True) if marks else data
    width = Span(0.5, max(count, 2) + 0.5)
    spec = _spec(MATRICES, "number of the component", "singular value ÷ largest", width, SPECTRUM_SPAN, True)
    where = ("first", "second")[layer]
    return Figure(
        f"Spectra of W and W C, {where} layer",
        "W C falls more steeply: few components carry the task.",
        _described(data, f"Singular values of the {where} layer over the largest, first to last"),
        spec=spec,
        data=data,
    )


SPECTRUM_SPAN = Span(SMALLEST, 1.0, log=True)


def truncation_figure(board: Board) -> Figure:
    """Test loss of the first task against the share of components that are discarded."""
    data = _rows(_stack(board, "truncation_loss"), DECOMPOSED.names, np.array(SHARES) * 100)
    table = board.log.scalars("base_loss")
    if not table.empty:
        level = float(table["value"].mean())
        mark = (MARK, 0.0, level, level, level, 0.0, "nothing discarded")
        data = pd.concat([data, pd.DataFrame([mark], columns=COLUMNS)], ignore_index=True)
    height = Span.of(data["low"], data["high"], log=True)
    width = Span(100 * SHARES[0], 100.0)
    return Figure(
        "Loss after discarding components",
        "The paper has CorDA lowest everywhere. Is it so here?",
        _described(data, "Test loss of the first task, from 50 to 97.5 % discarded"),
        spec=_spec(
            DECOMPOSED, "smallest components discarded (%)", "loss on the first task", width, height, False
        ),
        data=data,
    )


def truncation_error_figure(board: Board) -> Figure:
    """Error weighted by the covariance against the share of components that are discarded."""
    data = _rows(_stack(board, "truncation_error"), DECOMPOSED.names, np.array(SHARES) * 100)
    return Figure(
        "Weighted error after discarding",
        "Here CorDA must be lowest: this is what it minimises.",
        _described(data, "Weighted error, from 50 to 97.5 % discarded"),
        spec=_spec(
            DECOMPOSED,
            "smallest components discarded (%)",
            "‖(W − Wₖ) C‖ ÷ ‖W C‖",
            Span(100 * SHARES[0], 100.0),
            Span.of(data["low"], data["high"], log=True),
            False,
        ),
        data=data,
    )


def _stack(board: Board, name: str) -> NDArray[np.float64]:
    """A recorded array of every seed, [seeds, rows, positions]; without positions where there is none yet."""
    found = [entry.value.astype(float) for entry in board.log.arrays(name)]
    return np.stack(found) if found else np.zeros((0, 3, 0))


def _rows(
    stack: NDArray[np.float64], names: Sequence[str], at: NDArray[np.float64], *, smallest: float = 0.0
) -> pd.DataFrame:
    parts = []
    for row, name in enumerate(names):
        if not len(stack):
            break
        values = stack[:, row]
        part = pd.DataFrame(
            {
                "curve": name,
                "x": at,
                "mean": values.mean(0),
                "low": values.min(0),
                "high": values.max(0),
                "x2": np.nan,
                "label": "",
            }
        )
        parts.append(part[part["low"] > smallest])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


def _described(data: pd.DataFrame, what: str) -> str:
    curves = data[data["curve"] != MARK]
    if curves.empty:
        return f"{what}; nothing is measured yet."
    ends: Mapping[str, Any] = {str(name): part["mean"] for name, part in curves.groupby("curve", sort=False)}
    listed = ", ".join(f"{name} {v.iloc[0]:.3g} to {v.iloc[-1]:.3g}" for name, v in ends.items())
    return f"{what}: {listed}."


@lru_cache(maxsize=64)
def _spec(curves: Arms, x: str, y: str, width: Span, height: Span, spans: bool) -> dict[str, Any]:
    legend = legend_above(curves.names)
    base = (
        alt.Chart()
        .transform_filter(f"datum.curve != '{MARK}'")
        .encode(x=across("x", x, width), color=arm_colour(curves, field="curve", legend=legend))
    )
    area = base.mark_area(opacity=0.18, clip=True).encode(y=up("low", y, height), y2="high:Q")
    line = base.mark_line(strokeWidth=2, clip=True).encode(
        y=up("mean", y, height), strokeDash=arm_dash(curves, field="curve", legend=legend)
    )
    dots = base.mark_point(filled=True, size=24, clip=True).encode(
        y=up("mean", y, height),
        opacity=alt.value(0 if spans else 1),
        tooltip=[
            alt.Tooltip("curve:N", title="of"),
            alt.Tooltip("x:Q", title=x, format=".3~g"),
            alt.Tooltip("mean:Q", title="mean over seeds", format=".3g"),
        ],
    )
    marks = alt.Chart().transform_filter(f"datum.curve == '{MARK}'")
    if spans:
        layers = [
            marks.mark_rect(color=MUTED, opacity=0.18).encode(
                x=across("x", x, width), x2="x2:Q", y=alt.value(0), y2=alt.value("height")
            ),
            *(
                marks.transform_filter(f"datum.x {side} 1")
                .mark_text(color=MUTED, fontSize=11, align=align, baseline="bottom", dx=dx, dy=-3)
                .encode(x=across(end, x, width), y=alt.value("height"), text="label:N")
                for side, align, dx, end in NAMED
            ),
        ]
    else:
        layers = [
            marks.mark_rule(color=MUTED, strokeDash=[4, 3]).encode(
                x=alt.value(0), x2=alt.value("width"), y=up("mean", y, height)
            ),
            marks.mark_text(color=MUTED, fontSize=11, align="right", baseline="top", dx=-3, dy=3).encode(
                x=alt.value("width"), y=up("mean", y, height), text="label:N"
            ),
        ]
    chart = alt.layer(*layers, area, line, dots).properties(height=height_below(curves.names))
    return specification(chart)
