"""The few style rules that the theme has no setting for."""

from __future__ import annotations

import streamlit as st

__all__ = ["page_style"]

# The least heights are those of the finished cards: what stands below keeps its place while charts are loaded.
_PAGE = """
<style>
.stMainBlockContainer { padding: 4rem 1.25rem 2rem; }
[class$="-live"], [class*="-live "] { gap: 0.6rem; }
[data-testid="stSidebarUserContent"] { padding-top: 0.25rem; }
[data-testid="stSidebar"] [data-testid="stVerticalBlock"] { gap: 0.6rem; }
.st-key-head [data-testid="stHeading"] h1 { font-size: 1.35rem; padding: 0; white-space: nowrap; }
.st-key-head p, .st-key-control p, .st-key-legend p { margin-bottom: 0; }
[class*="st-key-card-"] { padding: 0.5rem 0.7rem 0.35rem; gap: 0.15rem; }
[class*="st-key-card-"][class*="-stage-"] { min-height: 238px; }
[class*="st-key-card-"][class*="-verdicts"] { min-height: 126px; }
[class*="st-key-card-"] p { font-size: 0.88rem; line-height: 1.25; }
[class*="-control"] button { min-height: 2rem; padding: 0.1rem 0.6rem; }
[class*="-control"] [style*="left: 100%"] [data-testid="stSliderThumbValue"] p { font-size: 0; }
[class*="-control"] [style*="left: 100%"] [data-testid="stSliderThumbValue"] p::after { content: "newest";
  font-size: 0.875rem; }
.st-key-legend button { min-height: 1.7rem; padding: 0.1rem 0.6rem 0.1rem 2.3rem; background-repeat: no-repeat;
  background-position: 0.4rem center; }
.stVegaLiteChart .vega-bindings { margin: 0; padding: 0; font-size: 0.8rem; }
.stVegaLiteChart .vega-bind { margin: 0; padding: 0; }
.stVegaLiteChart .vega-bind label { display: flex; flex-wrap: nowrap; align-items: center; gap: 0.5rem; width: 100%; }
.stVegaLiteChart .vega-bind label span { flex: 0 1 auto; width: auto; min-width: 0; line-height: 1.1; }
.stVegaLiteChart .vega-bind label span:last-child { min-width: 2.2rem; }
.stVegaLiteChart .vega-bind input[type="range"] { flex: 1 1 5rem; width: auto; min-width: 5rem; margin: 0; }
@media (prefers-reduced-motion: reduce) { [class*="-play"] { display: none; } }
@media (max-width: 640px) { .st-key-head [data-testid="stHeading"] h1 { white-space: normal; } }
</style>
"""


def page_style() -> None:
    """Send the rules of every page."""
    st.html(_PAGE)
