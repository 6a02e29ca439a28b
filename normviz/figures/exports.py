"""A chart that stands alone: the legend of its arms, which the page has once for all charts, put back into it."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["with_legends"]

CHANNELS = ("color", "stroke", "fill", "strokeDash", "shape")


def with_legends(spec: Mapping[str, Any], names: Collection[str] | None = None) -> dict[str, Any]:
    """A copy of a specification in which every encoding of the field ``arm`` without a legend has one above the plot.

    A part of the chart that names its arms along an axis gets none.

    Args:
        spec: a Vega-Lite specification.
        names: the arms that are drawn; None: all of the scale.
    """
    from normviz.figures.legends import ROW, legend_above
    from normviz.figures.vega import style_legends, units

    whole: dict[str, Any] = copy.deepcopy(dict(spec))
    found = [channel for unit in units(whole) for channel in _bare(unit)]
    if not found:
        return whole
    domain = max((channel["scale"]["domain"] for _, channel in found), key=len)
    shown = [name for name in domain if names is None or name in names]
    kinds = {name for name, _ in found}
    lines = "strokeDash" in kinds and "shape" not in kinds
    legend = legend_above(shown, lines=lines).to_dict()
    for _, channel in found:
        channel["legend"] = {**legend, "values": shown}
    style_legends(whole)
    if isinstance(whole.get("height"), int):
        whole["height"] += ROW * -(-len(shown) // legend["columns"])
    return whole


def _bare(unit: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Encodings of the arm whose legend is missing, or names only what is no arm."""
    encoding = unit.get("encoding", {})
    if any(encoding.get(place, {}).get("field") == "arm" for place in ("x", "y")):
        return []
    return [
        (name, encoding[name])
        for name in CHANNELS
        if isinstance(encoding.get(name), dict)
        and encoding[name].get("field") == "arm"
        and "legend" in encoding[name]
        and (encoding[name]["legend"] is None or "values" in encoding[name]["legend"])
    ]
