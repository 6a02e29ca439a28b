"""From an Altair chart without data to a plain Vega-Lite specification in the style that all charts share.

The title of a vertical axis stands above it, horizontal and left-aligned, where it is readable and never cut off; long
titles have several lines. A chart is as wide as its card, and its height holds all of it (axes and legend too).
"""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from normviz.figures.legends import HEIGHT

__all__ = ["specification", "style_legends", "units"]

LETTERS = 44
"""Most letters in a line of an axis title: what a card of 350 pixels has room for."""

ABOVE: dict[str, Any] = {
    "titleAngle": 0,
    "titleAlign": "left",
    "titleBaseline": "bottom",
    "titleX": 0,
}
"""A vertical axis' title above its upper end."""
GAP, ROW = 7, 13
"""Pixels between such a title and the plot, and of each of its lines."""

AXIS: dict[str, Any] = {
    "titleFontWeight": "normal",
    "titleFontSize": 11,
    "titlePadding": 4,
    "labelFontSize": 10,
    "labelPadding": 4,
}
LEGEND: dict[str, Any] = {
    "titleFontWeight": "normal",
    "titleFontSize": 11,
    "titlePadding": 5,
    "labelFontSize": 11,
    "padding": 0,
    "symbolStrokeWidth": 2,
}
PADDING = {"left": 2, "right": 8, "top": 4, "bottom": 5}
"""Small letters and margins, whatever the theme of the page says: the room is for what is drawn."""


def specification(chart: Any) -> dict[str, Any]:
    """The validated specification of a chart that was built without data, with every trace of data removed.

    The table is handed over beside the specification, so that a live chart keeps its specification while its data
    change. Width (the card's), height and fitting are set where the chart says nothing of them.
    """
    spec: dict[str, Any] = chart.to_dict()
    for key in ("$schema", "config", "datasets"):
        spec.pop(key, None)
    _drop_data(spec)
    _style_axes(spec)
    style_legends(spec)
    spec.setdefault("width", "container")
    spec.setdefault("height", HEIGHT)
    spec.setdefault("padding", dict(PADDING))
    spec.setdefault("autosize", {"type": "fit", "contains": "padding"})
    return spec


def _drop_data(node: Any) -> None:
    if isinstance(node, dict):
        node.pop("data", None)
        for key, child in node.items():
            if key in ("layer", "spec", "hconcat", "vconcat", "concat"):
                _drop_data(child)
    elif isinstance(node, list):
        for child in node:
            _drop_data(child)


def style_legends(spec: dict[str, Any]) -> None:
    """Make legends small, and move those above the plot so far up that the vertical axis' title stands between."""
    rows = 0
    for unit in units(spec):
        title = unit.get("encoding", {}).get("y", {}).get("title")
        rows = max(rows, len(title) if isinstance(title, list) else 1 if title else 0)
    for unit in units(spec):
        for channel in unit.get("encoding", {}).values():
            legend = channel.get("legend") if isinstance(channel, dict) else None
            if not legend:
                continue
            legend.update({**LEGEND, **legend})
            if legend.get("orient") == "top":
                legend["offset"] = GAP + ROW * rows


def units(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A view and the layers in it."""
    yield node
    for child in node.get("layer", ()):
        yield from units(child)


def _style_axes(node: dict[str, Any]) -> None:
    encoding = node.get("encoding", {})
    for name in ("x", "y"):
        channel = encoding.get(name)
        if not isinstance(channel, dict) or ("field" not in channel and "axis" not in channel):
            continue
        if channel.get("axis", ...) is None:
            continue
        axis = {**AXIS, **channel.get("axis", {})}
        title = channel.get("title", axis.get("title"))
        if isinstance(title, str):
            lines = wrap(title, LETTERS)
            channel["title"] = title if len(lines) < 2 else lines
            axis.pop("title", None)
            if name == "y":
                axis = {**ABOVE, "titleY": -GAP - ROW * (len(lines) - 1), **axis}
        channel["axis"] = axis
    for child in node.get("layer", ()):
        _style_axes(child)
