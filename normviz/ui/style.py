"""The few style rules that the theme has no setting for, and the swatches of the legend."""

from __future__ import annotations

from urllib.parse import quote

import streamlit as st

from normviz.arms import Arms
from normviz.figures.palette import colours, dashes, symbols

__all__ = ["legend_style", "page_style"]

_PAGE = """
<style>
.stMainBlockContainer { padding: 3.6rem 1.25rem 2rem; }
[data-testid="stSidebarUserContent"] { padding-top: 0.25rem; }
[data-testid="stSidebar"] [data-testid="stVerticalBlock"] { gap: 0.6rem; }
.st-key-head [data-testid="stHeading"] h1 { font-size: 1.35rem; padding: 0; white-space: nowrap; }
.st-key-head p, .st-key-control p, .st-key-legend p { margin-bottom: 0; }
[class*="st-key-card-"] { padding: 0.5rem 0.7rem 0.35rem; gap: 0.15rem; }
[class*="st-key-card-"] p { font-size: 0.88rem; line-height: 1.25; }
[class*="-control"] button { min-height: 2rem; padding: 0.1rem 0.6rem; }
.st-key-legend button { min-height: 1.7rem; padding: 0.1rem 0.6rem 0.1rem 2.3rem; background-repeat: no-repeat;
  background-position: 0.4rem center; }
@media (prefers-reduced-motion: reduce) { [class*="-play"] { display: none; } }
@media (max-width: 640px) { .st-key-head [data-testid="stHeading"] h1 { white-space: normal; } }
</style>
"""

_SHAPES = {
    "circle": '<circle cx="13" cy="6" r="3.4"/>',
    "square": '<rect x="9.8" y="2.8" width="6.4" height="6.4"/>',
    "triangle-up": '<path d="M13 2 L17 9.5 L9 9.5 Z"/>',
    "diamond": '<path d="M13 1.6 L17 6 L13 10.4 L9 6 Z"/>',
    "cross": '<path d="M11.6 2h2.8v2.6h2.6v2.8h-2.6V10h-2.8V7.400h-2.600V4.600h2.600Z"/>',
    "triangle-down": '<path d="M13 10 L17 2.500 L9 2.500 Z"/>',
    "triangle-right": '<path d="M17 6 L9.5 2 L9.5 10 Z"/>',
    "triangle-left": '<path d="M9 6 L16.5 2 L16.5 10 Z"/>',
}
"""The symbols of charts as they stand in the legend, 26 x 12 pixels."""


def page_style() -> None:
    """Send the rules of every page."""
    st.html(_PAGE)


def legend_style(arms: Arms) -> None:
    """Send the swatch of every arm: its line with colour and dash, and its symbol, before the n-th pill."""
    rules = []
    drawn = zip(colours(arms), dashes(arms), symbols(arms), strict=True)
    for i, (colour, dash, symbol) in enumerate(drawn, start=1):
        pattern = " ".join(str(d) for d in dash)
        shape = _SHAPES.get(symbol, _SHAPES["circle"])
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" width="26" height="12">'
            f'<path d="M0 6H26" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{pattern}"/>'
            f'<g fill="{colour}">{shape}</g></svg>'
        )
        rules.append(
            f".st-key-legend button:nth-of-type({i}) "
            f'{{ background-image: url("data:image/svg+xml,{quote(svg)}"); }}'
        )
    st.html(f"<style>{' '.join(rules)}</style>")
