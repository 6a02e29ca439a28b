"""The shape every experiment page has, so that a page file holds its prose and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import streamlit as st

from normviz.catalog import PAPERS
from normviz.experiments import Run, get_experiment
from normviz.figures.figure import Figure
from normviz.knobs import Knobs
from normviz.ui.charts import figure_grid
from normviz.ui.live import Group, live_region
from normviz.ui.runs import RunControl
from normviz.ui.server import store_trouble
from normviz.ui.source import Maths, maths_beside_source
from normviz.ui.style import page_style
from normviz.ui.takeaway import draw_takeaway
from normviz.ui.verdicts import claims_tab
from normviz.ui.widgets import (
    CustomWidget,
    checked_knobs,
    knob_panel,
    load_link,
    preset_panel,
    resend,
    reset_knobs,
    set_knobs,
)

__all__ = ["Exact", "experiment_page"]


@dataclass(frozen=True)
class Exact:
    """Charts of closed forms: no run behind them; those with parameters react in the browser while a slider is dragged.

    Args:
        title: name of the tab.
        text: Markdown above the charts.
        figures: makes the charts, by name.
        panel: draws widgets and what follows from them below the charts, for what the browser cannot compute by itself.
    """

    title: str
    text: str
    figures: Callable[[], Mapping[str, Figure]]
    panel: Callable[[], None] | None = None


MORE, READ, CLAIMS, MATHS, TAKE = (
    "More charts",
    "How to read it",
    "Claims",
    "Maths and code",
    "Take it with you",
)


TAB_MARKS = {"queued": "● ", "running": "● ", "paused": "‖ ", "done": "✓ ", "failed": "✗ "}
"""What the browser's tab shows before the title: whether the run goes on, to be seen from another tab."""


AUTO = "auto"
"""The device that is chosen until the visitor chooses one."""


def experiment_page(
    slug: str,
    *,
    intro: str,
    reading: str,
    maths: tuple[Maths, ...],
    widgets: Mapping[str, CustomWidget] | None = None,
    exact: Exact | None = None,
    panel: Callable[[Run, int | None], None] | None = None,
) -> None:
    """Draw an experiment's page: knobs beside the stage, one control line, one legend, verdicts, tabs.

    With ``?embed=true`` in its link, inside another site, it is the stage alone; the knobs are those of the link.

    Args:
        slug: of the experiment.
        intro: Markdown behind *About*: what a newcomer must know to read the charts.
        reading: Markdown of the tab *How to read it*.
        maths: equations and the code that computes them.
        widgets: special widgets by knob.
        exact: charts that need no run, a tab of their own.
        panel: draws below the stage what is no chart, from the run and the moment shown; runs with every poll.
    """
    experiment = get_experiment(slug)
    control = RunControl(experiment)
    state = control.state
    page_style()

    linked = st.query_params.get("run")
    if linked and control.run_id != linked and (adopted := control.adopt(linked)) is not None:
        set_knobs(slug, adopted.knobs)
        state.knobs = adopted.knobs  # shown even if it takes longer than a new run may
        st.session_state[state.device] = adopted.device
        state.refused = []
    if state.resend:
        resend(slug, experiment.knobs)
    refused = load_link(experiment)
    opening, state.opened = not state.opened, True
    knobs, problem = checked_knobs(experiment)
    device = st.session_state.get(state.device, AUTO)
    # A new run begins now, while the page is drawn.
    run = control.ensure(knobs or state.knobs or experiment.knobs(), device)
    if opening:  # a dozen widgets would keep the browser from drawing the first charts for half a second
        st.sidebar.caption("Knobs")
    else:
        with st.sidebar:
            preset_panel(experiment)
            knobs, problem = knob_panel(experiment, widgets)
            device = _device_choice(control)
            st.button(
                "Default knobs",
                icon=":material/restart_alt:",
                on_click=reset_knobs,
                args=(slug, experiment.knobs),
                help="Set every knob to its default",
            )
        # A widget may have changed its knob while it was drawn, by a file that was brought.
        run = control.ensure(knobs or state.knobs or experiment.knobs(), device)
    embedded = bool(st.context.is_embedded)
    if not embedded:
        _header(experiment.title, experiment.question, intro, experiment.papers)
    with st.container():  # there in any case, so that the stage keeps its place
        if refused:
            st.warning(
                f"Part of the link was not used. {' '.join(refused)} The default stands in its place.",
                icon=":material/link_off:",
            )
        if trouble := store_trouble():
            st.warning(trouble, icon=":material/save:")
        if problem:
            st.error(problem, icon=":material/tune:")
    _write_link(run.knobs, run.id)
    st.set_page_config(page_title=f"{TAB_MARKS.get(run.status, '')}{experiment.title}")
    stage = st.container(key=f"{slug}-live")
    more: Group | None = None
    if not opening and not embedded:
        names = [MORE, READ, *([exact.title] if exact is not None else []), CLAIMS, MATHS, TAKE]
        tabs = dict(zip(names, st.tabs(names, key=state.tabs, on_change="rerun"), strict=True))
        if tabs[MORE].open:
            with tabs[MORE]:
                more = _groups(control, run)
        if tabs[READ].open:
            tabs[READ].markdown(reading)
        if exact is not None and tabs[exact.title].open:
            with tabs[exact.title]:
                st.markdown(exact.text)
                figure_grid(exact.figures(), key=f"{slug}-exact")
                if exact.panel is not None:
                    exact.panel()
        if tabs[CLAIMS].open:
            with tabs[CLAIMS]:
                claims_tab(experiment, run)
        if tabs[MATHS].open:
            with tabs[MATHS]:
                maths_beside_source(maths)
        if tabs[TAKE].open:
            with tabs[TAKE]:
                base = (st.context.url or "").partition("?")[0]
                draw_takeaway(run, base=base, step=None)
    with stage:
        live_region(control, run, opening=opening, more=more, panel=panel, device=device)
    # Not before: a run of the script that was cut short may have sent nothing.
    state.resend = opening


def _header(title: str, question: str, intro: str, papers: tuple[str, ...]) -> None:
    """Title and question on one line, with what a newcomer must know behind a button."""
    with st.container(horizontal=True, vertical_alignment="center", key="head"):
        st.title(title, width="content", anchor=False)
        st.markdown(f":gray[{question}]", width="stretch")
        with st.popover("About", icon=":material/school:", width="content"):
            st.markdown(intro)
            for slug in papers:
                paper = PAPERS[slug]
                first = paper.authors.split(",")[0]
                st.markdown(f":small[[{paper.title}]({paper.url}), {first} et al., {paper.year}]")


def _groups(control: RunControl, run: Run) -> Group | None:
    """The group of further charts that is chosen, and an empty place for them."""
    groups = list(run.experiment.sheet(run.knobs).more)
    if not groups:
        st.caption("All charts of this page are on the stage.")
        return None
    group = st.segmented_control(
        "Group",
        groups,
        default=groups[0],
        required=True,
        key=f"{control.state.slug}/group",
        label_visibility="collapsed",
    )
    return (group if group in groups else groups[0]), st.container()


def _device_choice(control: RunControl) -> str:
    options = {AUTO: "Best there is", "cpu": "CPU", "cuda": "CUDA GPU", "mps": "Apple GPU"}
    with st.expander("Machine", key=f"{control.state.slug}/section/machine"):
        choice: str = st.selectbox(
            "Device",
            list(options),
            format_func=lambda d: options[d],
            key=control.state.device,
            help="Where the networks are trained. A device that this machine lacks is refused with a message.",
        )
    return choice


def _write_link(knobs: Knobs, run_id: str) -> None:
    wanted = {**knobs.to_query(), "run": run_id}
    if st.query_params.to_dict() != wanted:
        st.query_params.from_dict(wanted)
