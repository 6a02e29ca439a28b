"""One legend for all charts of a page: a click lets an arm stand out everywhere.

Arms that are a product have two short lists: the colour says one factor, dash and symbol say the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import streamlit as st

from normviz.arms import Arms
from normviz.figures.palette import colours, dashes, symbols
from normviz.ui.state import PageState

__all__ = ["chosen_arms", "is_product", "legend"]

Swatch = tuple[str, tuple[int, ...] | Sequence[int], str | None]
"""Colour, dash and symbol (None: only the line)."""

NEUTRAL = "#8a8f98"
"""The line of a list that says the dash only; it is read on light and on dark ground."""

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


def is_product(arms: Arms) -> bool:
    """Whether the arms are every base with every variant, two or more of each."""
    bases = {look.base for look in arms.looks}
    variants = {look.variant for look in arms.looks}
    complete = len({(look.base, look.variant) for look in arms.looks}) == len(bases) * len(variants)
    return min(len(bases), len(variants)) > 1 and complete and "" not in bases | variants


def chosen_arms(arms: Arms, bases: Sequence[str], variants: Sequence[str]) -> list[str]:
    """The arms of the chosen bases and variants; an empty choice of one factor means all of it.

    Nothing chosen at all gives an empty list: no arm stands out.
    """
    if not bases and not variants:
        return []
    return [
        look.name
        for look in arms.looks
        if (not bases or look.base in bases) and (not variants or look.variant in variants)
    ]


def legend(state: PageState, arms: Arms) -> list[str]:
    """Draw the legend; returns the names of the arms that stand out."""
    if not len(arms):
        return []
    drawn = list(zip(colours(arms), dashes(arms), symbols(arms), strict=True))
    if not is_product(arms):
        with st.container(key="legend", horizontal=True, gap="small"):
            return _pills("Arms (choose some to let them stand out)", "arms", arms.names, drawn, state.focus)
    first = {look.base: i for i, look in reversed(list(enumerate(arms.looks)))}
    bases = list(dict.fromkeys(look.base for look in arms.looks))
    other = {look.variant: i for i, look in reversed(list(enumerate(arms.looks)))}
    variants = list(dict.fromkeys(look.variant for look in arms.looks))
    with st.container(key="legend", horizontal=True, gap="medium"):
        chosen = _pills(
            "Colours (choose some to let them stand out)",
            "bases",
            bases,
            [(drawn[first[base]][0], (), None) for base in bases],
            state.focus,
        )
        also = _pills(
            "Dashes (choose some to let them stand out)",
            "variants",
            variants,
            [(NEUTRAL, *drawn[other[variant]][1:]) for variant in variants],
            state.focus_variants,
        )
    return chosen_arms(arms, chosen, also)


def _pills(label: str, part: str, names: Sequence[str], swatches: Sequence[Swatch], key: str) -> list[str]:
    """One list of the legend; a choice that is no longer there is forgotten."""
    if key in st.session_state:
        st.session_state[key] = [name for name in st.session_state[key] if name in names]
    with st.container(key=f"legend-{part}", width="content"):
        _style(part, swatches)
        chosen = st.pills(label, list(names), selection_mode="multi", key=key, label_visibility="collapsed")
    return list(chosen or [])


def _style(part: str, swatches: Sequence[Swatch]) -> None:
    """Send the swatch of every entry: its line with colour and dash, and its symbol, before the n-th pill."""
    rules = []
    for i, (colour, dash, symbol) in enumerate(swatches, start=1):
        pattern = " ".join(str(d) for d in dash)
        shape = "" if symbol is None else _SHAPES.get(symbol, _SHAPES["circle"])
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" width="26" height="12">'
            f'<path d="M0 6H26" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{pattern}"/>'
            f'<g fill="{colour}">{shape}</g></svg>'
        )
        rules.append(
            f".st-key-legend-{part} button:nth-of-type({i}) "
            f'{{ background-image: url("data:image/svg+xml,{quote(svg)}"); }}'
        )
    st.html(f"<style>{' '.join(rules)}</style>")
