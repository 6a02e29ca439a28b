"""From a schema of knobs to widgets, from presets to buttons, and from a link to checked knobs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

import streamlit as st

from normviz.experiments import Experiment
from normviz.knobs import Control, KnobError, Knobs
from normviz.presets import Preset
from normviz.ui.plain import plain
from normviz.ui.state import PageState

__all__ = [
    "CustomWidget",
    "checked_knobs",
    "knob_panel",
    "knob_widget",
    "load_link",
    "preset_panel",
    "resend",
    "reset_knobs",
    "set_knobs",
]

CustomWidget = Callable[[Control, str], None]
"""Draws the widget of one knob under the session key it is given."""

NOT_KNOBS = frozenset({"run", "preset", "embed", "embed_options"})
"""Names in a link that are no knobs."""

QUOTED = 3
"""Most refused parts of a link that are quoted."""


def load_link(experiment: Experiment) -> list[str]:
    """Once per visit: fill the widgets from the link; what the link asked for and is not allowed is returned.

    A link may name a preset, whose knobs other parts of the link override. The sentences stay until the visitor changes
    a knob or leaves, so that they can be read.
    """
    state, schema = PageState(experiment.slug), experiment.knobs
    if not all(state.knob(name) in st.session_state for name in schema.controls()):
        given = st.query_params.to_dict()
        base: dict[str, Any] = {}
        sentences: list[str] = []
        if preset := given.get("preset"):
            try:
                base = dict(experiment.presets[preset].knobs)
            except KeyError as error:
                sentences.append(plain(str(error.args[0])))
        values = {**base, **{k: v for k, v in given.items() if k not in NOT_KNOBS}}
        if values:
            knobs, rejections = schema.parse_leniently(values)
            sentences += [plain(r.sentence) for r in rejections]
        else:
            knobs = state.knobs or schema()
        set_knobs(experiment.slug, knobs)
        more = len(sentences) - QUOTED
        state.refused = sentences[:QUOTED] + ([f"So were {more} more."] if more > 0 else [])
    return state.refused


def set_knobs(slug: str, knobs: Knobs) -> None:
    """Put knobs into the widgets (before they are drawn)."""
    state = PageState(slug)
    for name, control in knobs.controls().items():
        value = getattr(knobs, name)
        st.session_state[state.knob(name)] = list(value) if control.kind == "choices" else value


def resend(slug: str, schema: type[Knobs]) -> None:
    """Put the present values into the page's widgets again (before they are drawn).

    A value that the script gives a widget goes to the browser in that one run of the script only. If the next run
    comes before the browser has drawn the first, the browser never sees the value and shows the lowest, or no choice.
    """
    state = PageState(slug)
    for key in [*(state.knob(name) for name in schema.controls()), state.device]:
        if key in st.session_state:
            st.session_state[key] = st.session_state[key]


def reset_knobs(slug: str, schema: type[Knobs]) -> None:
    """Put the defaults into the widgets."""
    set_knobs(slug, schema())


def preset_panel(experiment: Experiment) -> None:
    """The presets as buttons, in the order of the story; the one that is set is marked."""
    state = PageState(experiment.slug)
    presets = experiment.presets
    current = _current_preset(experiment)
    st.session_state[state.preset] = current.slug if current else None

    def choose() -> None:
        slug = st.session_state[state.preset]
        if slug is not None:
            knobs = experiment.setting(presets[slug])
            kept = {"seeds": getattr(state.knobs, "seeds", None)} if state.knobs is not None else {}
            if kept.get("seeds") and "seeds" not in presets[slug].knobs:
                knobs = experiment.knobs.parse_leniently({**knobs.model_dump(), **kept})[0]
            set_knobs(experiment.slug, knobs)

    st.pills(
        "Presets",
        list(presets),
        format_func=lambda slug: presets[slug].name,
        key=state.preset,
        on_change=choose,
        help="The page's story, one step each. A preset sets knobs; claims are decided at presets.  \n"
        + "  \n".join(f"**{p.name}**: {p.sentence}" for p in presets.values()),
    )
    # There in any case, so that what follows keeps its place: a widget that moves is on the page twice for a moment.
    sentence = st.container()
    if current is not None:
        sentence.caption(current.sentence)


def _current_preset(experiment: Experiment) -> Preset | None:
    """The preset whose knobs the widgets hold."""
    try:
        return experiment.presets.of(experiment.knobs.parse(_values(experiment)))
    except KnobError:
        return None


def _values(experiment: Experiment) -> dict[str, Any]:
    """What the widgets hold, by knob."""
    state = PageState(experiment.slug)
    return {name: st.session_state[state.knob(name)] for name in experiment.knobs.controls()}


def checked_knobs(experiment: Experiment) -> tuple[Knobs | None, str | None]:
    """The knobs that the widgets hold, drawn or not, or None and the sentence that says what does not fit."""
    try:
        knobs = experiment.knobs.parse(_values(experiment))
    except KnobError as error:
        return None, str(error)
    if sentence := knobs.missing():
        return None, sentence
    PageState(experiment.slug).knobs = knobs
    return knobs, None


def knob_panel(
    experiment: Experiment, custom: Mapping[str, CustomWidget] | None = None
) -> tuple[Knobs | None, str | None]:
    """Draw all widgets, grouped by section, and check them together.

    Returns:
        The knobs, or None and the sentence that says what does not fit.
    """
    state, schema = PageState(experiment.slug), experiment.knobs
    controls = list(schema.controls().values())
    length = st.container()
    unfolded = schema.open_sections(_values(experiment))
    shown = _by_section([control for control in controls if not control.hidden])
    for index, (section, group) in enumerate(groupby(shown, key=lambda c: c.section)):
        expanded = index < 2 if unfolded is None else section in unfolded
        listed = list(group)
        changed = sum(_value(state, c) != c.default for c in listed)
        title = f"{section or 'Knobs'}{f' · {changed} changed' if changed else ''}"
        with st.expander(title, expanded=expanded, key=f"{experiment.slug}/section/{section}/{expanded}"):
            for control in listed:
                draw = (custom or {}).get(control.name, knob_widget)
                draw(control, state.knob(control.name))
    knobs, problem = checked_knobs(experiment)
    if knobs is not None and knobs.work() > 0:
        length.caption(f"A run takes {knobs.estimate()}.")
    return knobs, problem


def _value(state: PageState, control: Control) -> Any:
    value = st.session_state[state.knob(control.name)]
    return tuple(value) if control.kind == "choices" else value


def _by_section(controls: list[Control]) -> list[Control]:
    order = list(dict.fromkeys(c.section for c in controls))
    return sorted(controls, key=lambda c: order.index(c.section))


def knob_widget(control: Control, key: str) -> None:
    """Draw the widget that suits the knob's kind, under that session key."""
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
