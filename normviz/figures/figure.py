"""The figure noun: a chart with its title, a line that says what to look for, and a textual alternative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair
    import plotly.graph_objects

__all__ = ["Figure"]


@dataclass(frozen=True)
class Figure:
    """A chart with the words that belong to it.

    Args:
        chart: an Altair chart (lines, distributions) or a Plotly figure (matrices, spectra, surfaces).
        title: heading above the chart.
        look_for: one line: what the reader should look for.
        alt: what the chart shows at this moment, in a sentence, for readers who cannot see it.
        wide: the chart wants the page's full width.
    """

    chart: altair.TopLevelMixin | plotly.graph_objects.Figure
    title: str
    look_for: str
    alt: str
    wide: bool = False

    @property
    def is_plotly(self) -> bool:
        """Whether the chart is a Plotly figure."""
        return type(self.chart).__module__.partition(".")[0] == "plotly"

    def to_html(self) -> str:
        """A self-contained page with the chart, its title and its line (scripts from a public CDN)."""
        from html import escape

        chart: Any = self.chart
        if self.is_plotly:
            body = chart.to_html(full_html=False, include_plotlyjs="cdn")
            return (
                f"<!doctype html><meta charset='utf-8'><title>{escape(self.title)}</title>"
                f"<h1>{escape(self.title)}</h1><p>{escape(self.look_for)}</p>{body}"
            )
        titled = chart.properties(title={"text": self.title, "subtitle": self.look_for})
        return str(titled.to_html())

    def to_svg(self) -> str:
        """The chart as SVG text.

        Raises:
            TypeError: a Plotly figure (its static export needs a browser); use :meth:`to_html`.
        """
        if self.is_plotly:
            raise TypeError("a Plotly figure has no SVG export here: use to_html().")
        import vl_convert

        chart: Any = self.chart
        return str(vl_convert.vegalite_to_svg(chart.to_json()))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        chart: Any = self.chart
        return chart._repr_mimebundle_(include, exclude)
