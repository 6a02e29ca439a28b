"""From an Altair chart without data to a plain Vega-Lite specification."""

from __future__ import annotations

from typing import Any

__all__ = ["specification"]


def specification(chart: Any) -> dict[str, Any]:
    """The validated specification of a chart that was built without data, with every trace of data removed.

    The table is handed over beside the specification, so that a live chart keeps its specification while its data
    change.
    """
    spec: dict[str, Any] = chart.to_dict()
    for key in ("$schema", "config", "datasets"):
        spec.pop(key, None)
    _drop_data(spec)
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
