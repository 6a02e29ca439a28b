"""The part of a page that follows its run: control line, legend, stage and verdicts; it polls while the run is live."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import streamlit as st

from normviz.engine import StoreError
from normviz.evidence import recorded_run
from normviz.experiments import Run
from normviz.figures.figure import Figure
from normviz.ui.charts import STAGE_HEIGHT, figure_grid
from normviz.ui.legend import legend
from normviz.ui.plain import plain
from normviz.ui.runs import RunControl, has_points, wait_for_points
from normviz.ui.server import engine, store, viewer
from normviz.ui.shared import shared_figures
from normviz.ui.verdicts import verdict_strip

__all__ = ["Group", "live_region"]

POLL = 0.25
"""Seconds between two polls of a live run."""

PLAY_TICKS = 40
"""Polls in which *Play* goes from the beginning of a run to its end."""

IN_SIGHT = 2
"""Charts drawn in the first run of the page's script; the others have their titles and places."""

PATIENCE = 5
"""Polls after which the rest of the page is drawn even if no chart has a point yet."""

Group = tuple[str, st.delta_generator.DeltaGenerator]
"""A group of further charts and where it is drawn."""

Panel = Callable[[Run, int | None], None]


@dataclass(frozen=True)
class StandIn:
    """A run that stands in for one that has not measured yet what a chart shows.

    Args:
        run: the earlier run, of the same arms and charts.
        words: where it comes from, said in the status line while all charts are the stand-in's.
    """

    run: Run
    words: str


def live_region(
    control: RunControl, run: Run, *, opening: bool, more: Group | None, panel: Panel | None, device: str
) -> None:
    """Draw what follows the run, again and again while it is live or played; the page once more when that ends.

    Args:
        control: which run is shown.
        run: the run shown.
        opening: draw the first charts only; the whole page with the poll after the one that gave them points, or after
            :data:`PATIENCE` polls.
        more: the open group of further charts, drawn outside of the stage.
        panel: draws below the stage's verdicts what is no chart.
        device: for a run that is started again.
    """
    state = control.state
    live = run.live
    every = POLL if opening or live or state.playing else None
    polls, began = 0, False
    if not opening:
        wait_for_points(run)
    stand_in = _stand_in(run)  # once: a stored run is read from disk

    @st.fragment(run_every=every)
    def region() -> None:
        nonlocal polls, began
        current = control.run() or run
        polls += 1
        if opening and polls > 1 and (began or polls > PATIENCE):
            st.rerun()
        own = stand_in is None or current.id != run.id or _drawable(current)
        shown, label = (current, "") if own or stand_in is None else (stand_in.run, stand_in.words)
        step = _control_line(control, current, device, label)
        focus = legend(state, current.knobs.shown_arms())
        if opening and polls == 1 and own:  # now, while the browser draws what stands above
            wait_for_points(current)
        began = own and _drawable(current)
        sheet = current.experiment.sheet(current.knobs)
        figures = shared_figures(shown, step, sheet.stage)
        if stand_in is not None and current.id == run.id and current.live and step is None:
            figures |= _until_measured(stand_in, figures)
        figure_grid(
            figures,
            key=f"{state.slug}-stage",
            columns=3,
            height=STAGE_HEIGHT,
            focus=focus,
            cursor=step,
            wordy=False,
            first=IN_SIGHT if opening else None,
        )
        verdict_strip(control, current, bare=opening)
        if opening:
            return
        if panel is not None:
            panel(shown, step)
        if more is not None:
            group, place = more
            with place:
                figure_grid(
                    shared_figures(shown, step, sheet.more.get(group, {})),
                    key=f"{state.slug}-more",
                    columns=3,
                    height=STAGE_HEIGHT + 60,
                    focus=focus,
                    cursor=step,
                )
        if live and not current.live:
            st.toast(f"{current.experiment.title}: {_WORDS[current.status].lower()}.", icon=":material/flag:")
            st.rerun()

    region()


_WORDS = {
    "done": "Done",
    "cancelled": "Stopped",
    "failed": "Failed",
    "running": "Running",
    "paused": "Paused",
    "queued": "Starting",
}


_OTHER_VISITOR = "Another visitor started this run. Move a knob or press Again to start your own."
_OTHER_PROGRAM = "Another program on this store runs it. Move a knob or press Again to start your own."


def _control_line(control: RunControl, run: Run, device: str, label: str) -> int | None:
    """Buttons, the moment, progress and messages about the run; returns the moment, None for the newest."""
    state = control.state
    other = _OTHER_PROGRAM if run.live and engine().get(run.id) is None else ""
    other = other or ("" if viewer().owns(run) else _OTHER_VISITOR)
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"{state.slug}-control"):
        if run.status == "paused":
            if st.button(
                "Resume",
                icon=":material/play_arrow:",
                help=other or "Resume training",
                disabled=bool(other),
                key=f"{state.slug}-resume",
            ):
                engine().resume(run.id)
                st.rerun(scope="fragment")
        else:
            st.button(
                "Pause",
                icon=":material/pause:",
                help=other or "Pause training",
                on_click=engine().pause,
                args=(run.id,),
                disabled=bool(other) or not run.live,
                key=f"{state.slug}-pause",
            )
        st.button(
            "Stop",
            icon=":material/stop:",
            help=other or "Stop training; what was measured stays",
            on_click=engine().cancel,
            args=(run.id,),
            disabled=bool(other) or not run.live,
            key=f"{state.slug}-stop",
        )
        if st.button(
            "Again", icon=":material/replay:", help="Run again with these knobs", key=f"{state.slug}-again"
        ):
            control.start(run.knobs, device)
            st.rerun()
        step = _moment(control, run)
    _status(run, label)
    return step


def _moment(control: RunControl, run: Run) -> int | None:
    """The slider of the moment with its play button; the right end follows the newest."""
    state, total = control.state, run.knobs.total_steps()
    progress, key = run.knobs.progress(), control.state.moment(run.id)
    given: int | None = total
    if state.playing:
        here = int(st.session_state.get(key, 0)) + max(1, total // PLAY_TICKS)
        st.session_state[key] = min(here, total)
        state.playing = here < total
        given = None
    word, icon, text = (
        ("Halt", ":material/stop_circle:", "Stop playing")
        if state.playing
        else ("Play", ":material/slideshow:", "Play the training from its beginning")
    )
    if st.button(word, icon=icon, help=text, disabled=not run.log.last_step, key=f"{state.slug}-play"):
        state.playing = not state.playing
        st.session_state[key] = 0 if state.playing else total
        st.rerun()
    step: int = st.slider(
        "Moment",
        0,
        max(total, 1),
        value=given,
        key=key,
        format=f"{progress.one} %d",
        help="All charts show this moment; the right end is the newest. The grey line is the cursor.",
        label_visibility="collapsed",
    )
    return None if step >= total else step


def _status(run: Run, label: str) -> None:
    """Progress, speed, device and time left in one line; what went wrong, if anything did."""
    progress, total = run.knobs.progress(), run.knobs.total_steps()
    members = max(len(run.log.members), 1)
    done = run.log.progress_step * members
    speed = done / run.seconds if run.seconds > 0 else 0.0
    word = _WORDS[run.status]
    device = (
        engine().device_name(run.device) if engine().get(run.id) is not None else ""
    )  # else another machine's
    where = f" on {device}" if device else ""
    if run.status == "queued":
        place = engine().place(run.id)
        text = word if place <= 1 else f"Waiting for a free worker: place {place} in the queue"
    elif run.live:
        share = run.progress
        left = run.seconds * (1 - share) / share if share > 0 else None
        remaining = f", about {left:.0f} s left" if left is not None else ""
        at = progress.at(run.log.progress_step)
        text = f"{word}: {at} of {total}, {speed:.3g} {progress.many}/s over all networks{where}{remaining}"
    else:
        text = f"{word}: {progress.at(run.log.last_step)} of {total} in {run.seconds:.1f} s{where}"
    st.progress(run.progress, text=f"{text}. {label}" if label else text)
    # In a place that is there in any case: charts that move by one place are drawn anew.
    with st.container():
        if run.status == "failed":
            st.error(
                f"This run failed: {plain(run.error or '')} Change a knob or run it again.",
                icon=":material/error:",
            )
        elif run.error and not run.live:
            st.info(plain(run.error), icon=":material/info:")
        if events := run.log.events[-4:]:
            lines = [f"{event.arm}, seed {event.seed}: {event.text}" for event in events]
            st.warning("  \n".join(lines), icon=":material/warning:")


def _stand_in(run: Run) -> StandIn | None:
    """An earlier run to show for what a live run has not measured yet; a stored one only before its first point."""
    if not run.live:
        return None
    kept = store()
    if kept is not None and not has_points(run):
        try:
            if (stored := kept.latest(run.experiment.slug, run.knobs.key())) is not None:
                words = "Until the first point comes: the latest stored run of these knobs."
                return StandIn(kept.load(stored.id), words)
        except StoreError:
            pass  # said at the top of the page; the recorded run does as well
    recorded = recorded_run(run.experiment)
    if recorded is None or not _look_alike(recorded.run, run):
        return None
    return StandIn(recorded.run, f"Recorded on {recorded.date}, shown until the first point comes.")


def _until_measured(stand_in: StandIn, figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """The stand-in's charts, marked as such, for those that have nothing to draw yet."""
    empty = [name for name, figure in figures.items() if _has_nothing(figure)]
    return {
        name: replace(
            figure,
            moment="of an earlier run",
            look_for=f"{figure.look_for} Of an earlier run, until this one has measured it.",
            alt=f"Of an earlier run: {figure.alt}",
        )
        for name, figure in shared_figures(stand_in.run, None, empty).items()
        if not _has_nothing(figure)
    }


def _has_nothing(figure: Figure) -> bool:
    """Whether a chart has nothing to draw yet."""
    return figure.data is not None and figure.data.empty


def _drawable(run: Run) -> bool:
    """Whether a run has points of its own, or will have none any more."""
    return has_points(run) or not run.live


def _look_alike(one: Run, other: Run) -> bool:
    """Whether two runs of an experiment have the same arms and charts; a setting may leave some out."""
    sheets = [run.experiment.sheet(run.knobs) for run in (one, other)]
    return one.knobs.shown_arms().names == other.knobs.shown_arms().names and list(sheets[0].drawers) == list(
        sheets[1].drawers
    )
