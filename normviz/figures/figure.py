"""The figure noun: a chart with its title, a line that says what to look for, and a textual alternative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["Figure"]


_SLIDER_HEIGHT = 29
"""Pixels of one slider below a chart."""


@dataclass(frozen=True, repr=False)
class Figure:
    """A chart with the words that belong to it: either a Vega-Lite specification with its data, or a Plotly figure.

    Specification and data are apart, so that a live chart sends and validates the specification once and then only
    the data.

    Args:
        title: heading above the chart.
        look_for: one line: what the reader should look for.
        alt: what the chart shows at this moment, in a sentence, for readers who cannot see it.
        spec: Vega-Lite specification without data.
        data: the tidy table it draws.
        plotly: a Plotly figure instead (matrices, spectra, surfaces).
        wide: the chart wants the page's full width.
        moment: when the data were taken, where a chart shows one moment of a run, e.g. ``"step 110"``.

    Raises:
        ValueError: not exactly one of ``spec`` (with ``data``) and ``plotly``.
    """

    title: str
    look_for: str
    alt: str
    spec: Mapping[str, Any] | None = None
    data: pd.DataFrame | None = None
    plotly: go.Figure | None = None
    wide: bool = False
    moment: str = ""

    def __post_init__(self) -> None:
        if (self.spec is None) == (self.plotly is None) or (self.spec is None) != (self.data is None):
            raise ValueError("a figure takes either spec with data or plotly.")

    def __repr__(self) -> str:
        """The title and what the chart shows, short enough for a notebook."""
        return f"Figure({self.title!r}: {self.alt})"

    def shown(
        self, *, focus: Sequence[str] = (), cursor: int | None = None, height: int | None = None
    ) -> Figure:
        """This figure as one viewer wants to see it; only parameters and height differ, the rest is shared.

        Args:
            focus: arms that stand out, the others fade; empty: all.
            cursor: position of the cursor on the progress axis; None: no cursor.
            height: pixels of the whole chart with its sliders; None: as it was drawn.

        Returns:
            The figure with these values; a Plotly figure, which has no such parameters, as it is.
        """
        if self.spec is None:
            return self
        values: dict[str, Any] = {"focus": list(focus), "cursor": -1 if cursor is None else cursor}
        spec = dict(self.spec)
        if "params" in spec:
            spec["params"] = [
                {**p, "value": values[p["name"]]} if p["name"] in values else p for p in spec["params"]
            ]
        if height is not None:
            sliders = sum("bind" in p for p in spec.get("params", ()))
            spec["height"] = max(height - _SLIDER_HEIGHT * sliders, round(0.8 * height))
        return replace(self, spec=spec)

    @property
    def full_title(self) -> str:
        """The title with the moment, for a chart that stands alone."""
        return f"{self.title} ({self.moment})" if self.moment else self.title

    @property
    def chart(self) -> Any:
        """The chart as an Altair or Plotly object, for a notebook: with its title and the legend of its arms."""
        if self.plotly is not None:
            return self.plotly
        import altair as alt

        from normviz.figures.exports import with_legends

        assert self.spec is not None
        assert self.data is not None
        drawn = set(self.data["arm"]) if "arm" in self.data else None
        title = {"text": self.full_title, "subtitle": self.look_for, "anchor": "start"}
        records = self.data.to_dict(orient="records")
        return alt.Chart.from_dict(
            {"title": title, **with_legends(self.spec, drawn), "padding": 8, "data": {"values": records}}
        )

    def to_html(self) -> str:
        """A page with the chart, its title and its line; it loads the drawing library from a public CDN."""
        from html import escape

        if self.plotly is not None:
            body = self.plotly.to_html(full_html=False, include_plotlyjs="cdn")
            return (
                f"<!doctype html><meta charset='utf-8'><title>{escape(self.full_title)}</title>"
                f"<h1>{escape(self.full_title)}</h1><p>{escape(self.look_for)}</p>{body}"
            )
        return str(self.chart.to_html())

    def to_svg(self) -> str:
        """The chart as SVG text.

        Raises:
            TypeError: a Plotly figure (its static export needs a browser); use :meth:`to_html`.
        """
        if self.plotly is not None:
            raise TypeError("a Plotly figure has no SVG export here: use to_html().")
        import vl_convert

        spec = self.chart.to_dict()
        if spec.get("width") == "container":
            spec["width"] = 560
        return str(vl_convert.vegalite_to_svg(spec))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        """What a notebook shows and keeps: the live chart, and a still picture of it for where no script runs."""
        bundle = self.chart._repr_mimebundle_(include, exclude)
        if self.plotly is not None or find_spec("vl_convert") is None:
            return bundle
        from normviz.figures.stills import with_still

        return with_still(bundle, self.to_svg(), self.alt)
