"""Who has which digits: a row per client, a column per digit, a bubble as large as the number of samples."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.figures import Board, Figure
from normviz.figures.vega import specification

__all__ = ["BLUE", "label_figure"]

BLUE = "#0a85d1"


def label_figure(board: Board, what: str = "digit") -> Figure:
    """The clients of the first seed.

    Args:
        board: of the run.
        what: a class is called; classes behind the last that anybody has are left out.
    """
    many = "classes" if what == "class" else f"{what}s"
    title, look_for = f"Who has which {many}", f"One row per client. How many {many} does each one know?"
    entries = board.log.arrays("labels", board.step)
    if not entries:
        data = pd.DataFrame(columns=["client", "digit", "samples"])
        return Figure(
            title,
            look_for,
            "Bubbles of labels; nothing is measured yet.",
            spec=_spec(10, 100, what),
            data=data,
        )
    counts = min(entries, key=lambda entry: entry.seed).value
    counts = counts[:, : int(np.flatnonzero(counts.sum(0)).max(initial=0)) + 1]
    clients, digits = counts.shape
    client, digit = np.divmod(np.arange(clients * digits), digits)
    data = pd.DataFrame({"client": client + 1, "digit": digit, "samples": counts.ravel().astype(int)})
    sizes = counts.sum(1)
    few = (counts.max(1) / np.maximum(sizes, 1)).mean()
    text = (
        f"Bubbles of samples by client and {what}, first seed: {clients} clients with {sizes.min():.0f} to "
        f"{sizes.max():.0f} samples; on average {100 * few:.0f} % of a client's samples are of one {what}."
    )
    most = int(10 * np.ceil(counts.max() / 10))
    return Figure(title, look_for, text, spec=_spec(clients, most, what), data=data)


@lru_cache(maxsize=64)
def _spec(clients: int, most: int, what: str) -> dict[str, Any]:
    bubbles = (
        alt.Chart()
        .mark_circle(color=BLUE, opacity=0.9)
        .encode(
            x=alt.X("digit:O", title=what, axis=alt.Axis(labelAngle=0, ticks=False, grid=True)),
            y=alt.Y(
                "client:O",
                title="client",
                scale=alt.Scale(domain=list(range(1, clients + 1))),
                axis=alt.Axis(
                    ticks=False, grid=True, labelOverlap=False, labelFontSize=8 + 2 * (clients < 13)
                ),
            ),
            size=alt.Size(
                "samples:Q",
                scale=alt.Scale(domain=[0, most], range=[0, min(340.0, 34e3 / clients**2)]),
                legend=None,
            ),
            tooltip=["client:O", alt.Tooltip("digit:O", title=what), "samples:Q"],
        )
    )
    return specification(bubbles)
