"""Reusable charts: a frame log in, a figure (Vega-Lite or Plotly) out; no PyTorch."""

from normviz.figures.areas import area_figure
from normviz.figures.dots import dot_figure
from normviz.figures.figure import Figure
from normviz.figures.lines import line_figure, seed_bands
from normviz.figures.palette import colours, dashes
from normviz.figures.profiles import profile_figure
from normviz.figures.ridges import ridge_figure
from normviz.figures.strips import strips_figure

__all__ = [
    "Figure",
    "area_figure",
    "colours",
    "dashes",
    "dot_figure",
    "line_figure",
    "profile_figure",
    "ridge_figure",
    "seed_bands",
    "strips_figure",
]
