"""The shape every experiment page has, so that a page file holds its prose and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import streamlit as st

from normviz.catalog import PAPERS
from normviz.experiments import Run, get_experiment
from normviz.figures import Figure
from normviz.knobs import Knobs
from normviz.ui.charts import figure_grid
from normviz.ui.live import RunControl
from normviz.ui.server import store_trouble
from normviz.ui.source import Maths, maths_beside_source
from normviz.ui.takeaway import draw_takeaway
from normviz.ui.verdicts import draw_verdicts
from normviz.ui.widgets import CustomWidget, knob_panel, load_link, resend, reset_knobs, set_knobs

__all__ = ["Exact", "experiment_page"]


@dataclass(frozen=True)
class Exact:
    """Charts of closed forms: no run behind them; those with parameters react in the browser during the drag.

    Args:
        title: heading of the section.
        text: Markdown above the charts.
        figures: makes the charts, by name.
        panel: draws widgets and what follows from them below the charts, for what the browser cannot compute by itself.
    """

    title: str
    text: str
    figures: Callable[[], Mapping[str, Figure]]
    panel: Callable[[], None] | None = None


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
    """Draw an experiment's page: question, knobs, live charts, scrubber, verdicts, maths beside source, take-away.

    Args:
        slug: of the experiment.
        intro: Markdown below the question: what a newcomer must know to read the charts.
        reading: Markdown below the charts: how to read them, what to try.
        maths: equations and the code that computes them.
        widgets: special widgets by knob.
        exact: charts that need no run, below the reading.
        panel: draws below the live charts what is no chart, from the run and the moment shown; runs with every poll.
    """
    experiment = get_experiment(slug)
    control = RunControl(experiment)
    papers = [PAPERS[p] for p in experiment.papers]
    st.title(experiment.title)
    st.markdown(f"#### {experiment.question}")
    links = " · ".join(f"[{p.title}]({p.url}) ({p.authors.split(',')[0]} et al., {p.year})" for p in papers)
    st.markdown(f":small[{links}]")
    with st.expander("What is this about?", icon=":material/school:", key=f"{slug}/intro"):
        st.markdown(intro)

    linked = st.query_params.get("run")
    if linked and control.run_id != linked and (adopted := control.adopt(linked)) is not None:
        set_knobs(slug, adopted.knobs)
        st.session_state[f"{slug}/device"] = adopted.device
        st.session_state[f"rejections:{slug}"] = []
    if st.session_state.get(f"{slug}/resend"):
        resend(slug, experiment.knobs)
    rejections = load_link(slug, experiment.knobs)
    if rejections:
        replaced = " ".join(r.sentence for r in rejections)
        st.warning(
            f"Part of the link was not used. {replaced} The default stands in its place.",
            icon=":material/link_off:",
        )
    if trouble := store_trouble():
        st.warning(trouble, icon=":material/save:")

    left, right = st.columns([3, 9], gap="medium")
    with left:
        knobs, problem = knob_panel(slug, experiment.knobs, widgets)
        device = _device_choice(slug)
    with right:
        if problem:
            st.error(problem, icon=":material/tune:")
        usable = knobs or st.session_state.get(f"knobs:{slug}") or experiment.knobs()
        run = control.ensure(usable, device)
        _write_link(usable, run.id)
        control.buttons(
            run,
            restart=lambda: _restart(control, usable, device),
            reset=lambda: reset_knobs(slug, experiment.knobs),
        )
        step = control.scrubber(run)
        opening = control.opening()
        control.live_region(run, step, panel, opening=opening)
    if opening:
        st.session_state[f"{slug}/resend"] = True
        return
    st.markdown(reading)
    if exact is not None:
        st.header(exact.title, anchor="exact")
        st.markdown(exact.text)
        figure_grid(exact.figures(), key=f"{slug}-exact")
        if exact.panel is not None:
            exact.panel()

    st.header("Do the papers' claims hold here?", anchor="claims")
    if run.live:
        st.info("The claims are judged when the run has ended.", icon=":material/hourglass_top:")
    else:
        if run.status != "done":
            st.warning(
                f"This run ended at step {run.log.last_step} of {run.knobs.total_steps()}: "
                "the verdicts judge what there is.",
                icon=":material/timer_off:",
            )
        draw_verdicts(experiment.claims, run.verdicts())
    st.header("The maths beside the code that ran", anchor="maths")
    maths_beside_source(maths)
    st.header("Take it with you", anchor="take-away")
    base = (st.context.url or "").partition("?")[0]
    draw_takeaway(run, base=base, step=step)
    # Not before: a run of the script that was cut short may have sent nothing.
    st.session_state[f"{slug}/resend"] = False


def _restart(control: RunControl, knobs: Knobs, device: str) -> None:
    control.start(knobs, device)


def _device_choice(slug: str) -> str:
    options = {"auto": "Best there is", "cpu": "CPU", "cuda": "CUDA GPU", "mps": "Apple GPU"}
    with st.expander("Machine", key=f"{slug}/section/machine"):
        choice: str = st.selectbox(
            "Device",
            list(options),
            format_func=lambda d: options[d],
            key=f"{slug}/device",
            help="Where the networks are trained. A device that this machine lacks is refused with a message.",
        )
    return choice


def _write_link(knobs: Knobs, run_id: str) -> None:
    wanted = {**knobs.to_query(), "run": run_id}
    if st.query_params.to_dict() != wanted:
        st.query_params.from_dict(wanted)
