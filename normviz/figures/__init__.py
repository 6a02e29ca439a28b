"""Reusable charts: a frame log in, a figure (Vega-Lite or Plotly) out; no PyTorch."""

from normviz.figures.areas import area_figure
from normviz.figures.bars import bar_figure
from normviz.figures.board import Board, Drawer, Sheet
from normviz.figures.curves import curve_figure
from normviz.figures.digit_gallery import digit_gallery_figure
from normviz.figures.dots import dot_figure
from normviz.figures.figure import Figure
from normviz.figures.gallery import gallery_figure, signal_gallery_figure
from normviz.figures.lines import line_figure, seed_bands
from normviz.figures.palette import colours, dashes, symbols
from normviz.figures.profiles import profile_figure
from normviz.figures.ridges import ridge_figure
from normviz.figures.strips import strips_figure

__all__ = [
    "Board",
    "Drawer",
    "Figure",
    "Sheet",
    "area_figure",
    "bar_figure",
    "colours",
    "curve_figure",
    "dashes",
    "digit_gallery_figure",
    "dot_figure",
    "gallery_figure",
    "line_figure",
    "profile_figure",
    "ridge_figure",
    "seed_bands",
    "signal_gallery_figure",
    "strips_figure",
    "symbols",
]
