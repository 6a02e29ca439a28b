"""From a schema of knobs to widgets, and from a link to checked knobs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

import streamlit as st

from normviz.knobs import Control, KnobError, Knobs, Rejection

__all__ = ["CustomWidget", "knob_panel", "load_link", "resend", "reset_knobs", "set_knobs"]

CustomWidget = Callable[[Control, str], None]
"""Draws the widget of one knob under the session key it is given."""


def _key(slug: str, name: str) -> str:
    return f"{slug}/{name}"


def load_link(slug: str, schema: type[Knobs]) -> list[Rejection]:
    """Once per visit: fill the widgets from the link; what the link asked for and is not allowed is returned.

    The rejections stay in the session until the visitor changes a knob or leaves, so that the message can be read.
    """
    if not all(_key(slug, name) in st.session_state for name in schema.controls()):
        remembered = st.session_state.get(f"knobs:{slug}")
        given = {k: v for k, v in st.query_params.to_dict().items() if k != "run"}
        knobs, rejections = schema.parse_leniently(given) if given else (remembered or schema(), [])
        set_knobs(slug, knobs)
        st.session_state[f"rejections:{slug}"] = rejections
    rejected: list[Rejection] = st.session_state.get(f"rejections:{slug}", [])
    return rejected


def set_knobs(slug: str, knobs: Knobs) -> None:
    """Put knobs into the widgets (before they are drawn)."""
    for name, control in knobs.controls().items():
        value = getattr(knobs, name)
        st.session_state[_key(slug, name)] = list(value) if control.kind == "choices" else value


def resend(slug: str, schema: type[Knobs]) -> None:
    """Put the present values into the page's widgets again (before they are drawn).

    A value that the script gives a widget goes to the browser in that one run of the script only. If the next run
    comes before the browser has drawn the first, the browser never sees the value and shows the lowest, or no choice.
    """
    for key in [*(_key(slug, name) for name in schema.controls()), f"{slug}/device", f"scrub:{slug}"]:
        if key in st.session_state:
            st.session_state[key] = st.session_state[key]


def reset_knobs(slug: str, schema: type[Knobs]) -> None:
    """Put the defaults into the widgets; a callback."""
    set_knobs(slug, schema())


def knob_panel(
    slug: str, schema: type[Knobs], custom: Mapping[str, CustomWidget] | None = None
) -> tuple[Knobs | None, str | None]:
    """Draw all widgets, grouped by section, and check them together.

    Returns:
        The knobs, or None and the sentence that says what does not fit.
    """
    controls = list(schema.controls().values())
    unfolded = schema.open_sections({c.name: st.session_state[_key(slug, c.name)] for c in controls})
    shown = _by_section([control for control in controls if not control.hidden])
    for index, (section, group) in enumerate(groupby(shown, key=lambda c: c.section)):
        expanded = index < 2 if unfolded is None else section in unfolded
        with st.expander(section or "Knobs", expanded=expanded, key=f"{slug}/section/{section}/{expanded}"):
            for control in group:
                draw = (custom or {}).get(control.name, _widget)
                draw(control, _key(slug, control.name))
    values = {c.name: st.session_state[_key(slug, c.name)] for c in controls}
    try:
        knobs = schema.parse(values)
    except KnobError as error:
        return None, str(error)
    st.session_state[f"knobs:{slug}"] = knobs
    return knobs, None


def _by_section(controls: list[Control]) -> list[Control]:
    order = list(dict.fromkeys(c.section for c in controls))
    return sorted(controls, key=lambda c: order.index(c.section))


def _widget(control: Control, key: str) -> None:
    label = f"{control.label} ({control.unit})" if control.unit else control.label
    common: dict[str, Any] = {"key": key, "help": control.help}
    if control.kind == "choice" and len(control.options) <= 4:
        st.pills(label, control.options, format_func=control.option_label, required=True, **common)
    elif control.kind == "choice":
        st.selectbox(label, control.options, format_func=control.option_label, **common)
    elif control.kind == "choices":
        st.pills(label, control.options, selection_mode="multi", format_func=control.option_label, **common)
    elif control.kind == "bool":
        st.toggle(label, **common)
    elif control.kind == "text":
        st.text_input(label, max_chars=int(control.high or 100), **common)
    elif control.log:
        options = _log_grid(control, st.session_state[key])
        st.select_slider(label, options, format_func=lambda v: f"{v:.3g}", **common)
    else:
        assert control.low is not None
        assert control.high is not None
        number = int if control.kind == "int" else float
        step = number(control.step or (1 if control.kind == "int" else _fine_step(control)))
        st.slider(label, number(control.low), number(control.high), step=step, **common)


def _fine_step(control: Control) -> float:
    assert control.low is not None
    assert control.high is not None
    return float(10.0 ** math.floor(math.log10((control.high - control.low) / 50)))


def _log_grid(control: Control, current: float) -> list[float]:
    """1, 2, 5 times powers of ten inside the bounds, the bounds, and the current value."""
    assert control.low is not None
    assert control.high is not None
    powers = range(math.floor(math.log10(control.low)), math.ceil(math.log10(control.high)) + 1)
    grid = {float(f"{m}e{p}") for p in powers for m in (1, 2, 5)}
    inside = {v for v in grid if control.low <= v <= control.high}
    return sorted(inside | {float(control.low), float(control.high), float(current)})
