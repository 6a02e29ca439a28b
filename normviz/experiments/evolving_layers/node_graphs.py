"""Computation graphs: nodes in columns by their depth, from the inputs on the left to the output on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from normviz.arms import Arms
from normviz.figures.encodings import arm_colour
from normviz.figures.figure import Figure
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.vega import specification

__all__ = ["node_graph_figure"]


def node_graph_figure(
    nodes: Mapping[int, tuple[str, str]],
    edges: Sequence[tuple[int, int]],
    *,
    kinds: Arms,
    title: str,
    look_for: str,
    alt_text: str,
    wide: bool = False,
) -> Figure:
    """A directed graph without cycles.

    Args:
        nodes: number -> label and kind.
        edges: from node, to node.
        kinds: all kinds of nodes and their looks, in the order of the legend.
        title: as in :class:`Figure`; also ``look_for`` and ``wide``.
        look_for: see ``title``.
        alt_text: the textual alternative.
        wide: see ``title``.
    """
    columns = ["part", "x", "y", "x2", "y2", "label", "kind"]
    at = _layout(nodes, edges)
    rows: list[tuple[Any, ...]] = [("edge", *at[a], *at[b], "", "") for a, b in edges]
    rows += [("node", *at[i], None, None, label, kind) for i, (label, kind) in nodes.items()]
    data = pd.DataFrame(rows, columns=columns)
    return Figure(title, look_for, alt_text, spec=_spec(kinds), data=data, wide=wide)


def _layout(
    nodes: Mapping[int, tuple[str, str]], edges: Sequence[tuple[int, int]]
) -> dict[int, tuple[float, float]]:
    """Column = longest way from an input; rows spread evenly, ordered by the mean row of what a node reads."""
    depth = dict.fromkeys(nodes, 0)
    for _ in nodes:
        for a, b in edges:
            depth[b] = max(depth[b], depth[a] + 1)
    last = max(depth.values(), default=0)
    at: dict[int, tuple[float, float]] = {}
    for column in range(last + 1):
        members = [i for i in nodes if depth[i] == column]
        read = {i: [at[a][1] for a, b in edges if b == i] for i in members}
        members.sort(key=lambda i: -sum(read[i]) / max(len(read[i]), 1))
        for row, i in enumerate(members):
            at[i] = (column / max(last, 1), 1 - (row + 1) / (len(members) + 1))
    return at


@lru_cache(maxsize=16)
def _spec(kinds: Arms) -> dict[str, Any]:
    hidden = alt.Axis(labels=False, ticks=False, domain=False, grid=False, title=None)
    x = alt.X("x:Q", axis=hidden, scale=alt.Scale(domain=[-0.08, 1.08]))
    y = alt.Y("y:Q", axis=hidden, scale=alt.Scale(domain=[0, 1]))
    colour = arm_colour(kinds, field="kind", legend=legend_above(kinds.names, lines=False))
    edge = (
        alt.Chart()
        .transform_filter("datum.part == 'edge'")
        .mark_rule(strokeWidth=1.5, color=MUTED, opacity=0.8)
        .encode(x=x, y=y, x2="x2:Q", y2="y2:Q")
    )
    half = (  # the arrow head stands in the middle of its edge, where no node covers it
        alt.Chart()
        .transform_filter("datum.part == 'edge'")
        .transform_calculate(
            mx="datum.x + 0.55 * (datum.x2 - datum.x)",
            my="datum.y + 0.55 * (datum.y2 - datum.y)",
            turn="atan2((datum.x2 - datum.x) / 1.16 * width, (datum.y2 - datum.y) * height) * 180 / PI",
        )
        .mark_point(shape="triangle", filled=True, size=45, color=MUTED, opacity=1)
        .encode(
            x=alt.X("mx:Q", scale=alt.Scale(domain=[-0.08, 1.08])),
            y=alt.Y("my:Q", scale=alt.Scale(domain=[0, 1])),
            angle=alt.Angle("turn:Q", scale=None),
        )
    )
    nodes = alt.Chart().transform_filter("datum.part == 'node'").encode(x=x, y=y)
    disc = nodes.mark_circle(size=260, opacity=1).encode(
        color=colour, tooltip=[alt.Tooltip("label:N"), alt.Tooltip("kind:N")]
    )
    text = nodes.mark_text(dy=-15, fontSize=11, fontWeight="bold").encode(text="label:N", color=colour)
    chart = alt.layer(edge, half, disc, text).properties(height=height_below(kinds.names))
    return specification(chart)
