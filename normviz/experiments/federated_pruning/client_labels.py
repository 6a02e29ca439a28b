"""Who has which digits: a row per client, a column per digit, the number of samples in the cell."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.figures import Board, Figure
from normviz.figures.vega import specification

__all__ = ["label_figure"]

SHADES = ["#eef3f6", "#0a66b8"]


def label_figure(board: Board) -> Figure:
    """The clients of the first seed."""
    title, look_for = "Who has which digits", "One row per client. How many digits does each one know?"
    entries = board.log.arrays("labels", board.step)
    if not entries:
        data = pd.DataFrame(columns=["client", "digit", "samples"])
        return Figure(
            title, look_for, "Table of labels; nothing is measured yet.", spec=_spec(10, 100), data=data
        )
    counts = min(entries, key=lambda entry: entry.seed).value
    clients, digits = counts.shape
    client, digit = np.divmod(np.arange(clients * digits), digits)
    data = pd.DataFrame({"client": client + 1, "digit": digit, "samples": counts.ravel().astype(int)})
    sizes = counts.sum(1)
    few = (counts.max(1) / np.maximum(sizes, 1)).mean()
    text = (
        f"Table of samples by client and digit, first seed: {clients} clients with {sizes.min():.0f} to "
        f"{sizes.max():.0f} samples; on average {100 * few:.0f} % of a client's samples are of one digit."
    )
    most = int(10 * np.ceil(counts.max() / 10))
    return Figure(title, look_for, text, spec=_spec(clients, most), data=data)


@lru_cache(maxsize=64)
def _spec(clients: int, most: int) -> dict[str, Any]:
    base = alt.Chart().encode(
        x=alt.X("digit:O", title="digit", axis=alt.Axis(labelAngle=0, ticks=False, domain=False)),
        y=alt.Y(
            "client:O",
            title="client",
            scale=alt.Scale(domain=list(range(1, clients + 1))),
            axis=alt.Axis(ticks=False, domain=False),
        ),
    )
    cells = base.mark_rect(stroke=None).encode(
        color=alt.Color(
            "samples:Q", scale=alt.Scale(domain=[0, most], range=SHADES, clamp=True), legend=None
        ),
        tooltip=["client:O", "digit:O", "samples:Q"],
    )
    numbers = (
        base.transform_filter("datum.samples > 0")
        .mark_text(fontSize=9 if clients > 12 else 10)
        .encode(
            text="samples:Q",
            color=alt.when(f"datum.samples > {0.5 * most}")
            .then(alt.value("#ffffff"))
            .otherwise(alt.value("#303030")),
        )
    )
    return specification(alt.layer(cells, numbers).resolve_scale(color="independent"))
