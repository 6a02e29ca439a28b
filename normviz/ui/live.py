"""One live run on a page: submit, poll, pause, scrub, re-attach."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice

import streamlit as st

from normviz.engine import StoreError
from normviz.experiments import Experiment, Run
from normviz.figures import Figure
from normviz.knobs import Knobs
from normviz.ui.charts import figure_grid
from normviz.ui.server import engine, store, viewer

__all__ = ["RunControl", "shared_figures"]

POLL = 0.25
"""Seconds between two polls of a live run."""

FIRST_POINTS = 0.25
"""Seconds that the page waits for a new run's first step before it is drawn: a slider then shows new points at once."""

IN_SIGHT = 2
"""Charts drawn before the rest of the page when it is opened."""

PATIENCE = 3
"""Polls after which the rest of the page is drawn even if no chart has a point yet."""


class _FigureCache:
    """The newest figures of each run and step, built once per new frame and shared by all who watch."""

    def __init__(self, size: int = 64) -> None:
        self._lock = threading.Lock()
        self._made: OrderedDict[tuple[str, int | None], tuple[int, dict[str, Figure]]] = OrderedDict()
        self._size = size

    def get(self, run: Run, step: int | None) -> dict[str, Figure]:
        key = (run.id, step)
        count = len(run.log)
        with self._lock:
            made = self._made.get(key)
        if made is None or made[0] != count:
            made = (count, run.figures(step))
            with self._lock:
                self._made[key] = made
                self._made.move_to_end(key)
                while len(self._made) > self._size:
                    self._made.popitem(last=False)
        return made[1]


@st.cache_resource(show_spinner=False)
def _figure_cache() -> _FigureCache:
    return _FigureCache()


def shared_figures(run: Run, step: int | None = None) -> dict[str, Figure]:
    """A run's figures, built once per new frame for all viewers."""
    return _figure_cache().get(run, step)


class RunControl:
    """Which run a page shows, and the parts of the page that follow it.

    The run's id stands in the link, so that a reload finds it again.

    Args:
        experiment: the page's experiment.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._state = f"run:{experiment.slug}"

    @property
    def run_id(self) -> str | None:
        """The id of the run shown, None before the first."""
        value: str | None = st.session_state.get(self._state, {}).get("id")
        return value

    def run(self) -> Run | None:
        """The run shown: live, or from the store."""
        if self.run_id is None:
            return None
        live = engine().get(self.run_id)
        if live is not None:
            viewer().attach(live.id)
            return live
        loaded: Run | None = st.session_state[self._state].get("loaded")
        return loaded

    def adopt(self, run_id: str) -> Run | None:
        """Show a run that exists already (from a link): live if it is, else from the store; None if unknown."""
        run = engine().get(run_id)
        loaded = None
        if run is None and (kept := store()) is not None:
            try:
                run = loaded = kept.load(run_id)
            except StoreError:
                return None
        if run is None or run.experiment.slug != self.experiment.slug:
            return None
        st.session_state[self._state] = {"id": run.id, "key": (run.knobs.key(), run.device), "loaded": loaded}
        return self.run()

    def ensure(self, knobs: Knobs, device: str) -> Run:
        """Show a run of these knobs: the present one if they are the same, else a new one in its place."""
        state = st.session_state.get(self._state)
        run = self.run()
        if state is None or run is None or state["key"] != (knobs.key(), device):
            run = self.start(knobs, device)
        return run

    def start(self, knobs: Knobs, device: str) -> Run:
        """Cancel what this page was running and start anew."""
        if self.run_id is not None:
            engine().cancel(self.run_id)
        me = viewer()
        run = engine().submit(self.experiment, knobs, owner=me.id, device=device)
        me.attach(run.id)
        st.session_state[self._state] = {"id": run.id, "key": (knobs.key(), device), "loaded": None}
        st.session_state.pop(f"scrub:{self.experiment.slug}", None)
        st.query_params["run"] = run.id
        _wait_for_points(run)
        return run

    def buttons(self, run: Run, restart: Callable[[], None], reset: Callable[[], None]) -> None:
        """Pause or resume, stop, run again, default knobs."""
        slug = self.experiment.slug
        with st.container(horizontal=True, key=f"{slug}-buttons"):
            if run.status == "paused":
                st.button("Resume", icon=":material/play_arrow:", on_click=engine().resume, args=(run.id,))
            else:
                st.button(
                    "Pause",
                    icon=":material/pause:",
                    on_click=engine().pause,
                    args=(run.id,),
                    disabled=not run.live,
                )
            st.button(
                "Stop",
                icon=":material/stop:",
                on_click=engine().cancel,
                args=(run.id,),
                disabled=not run.live,
            )
            st.button("Run again", icon=":material/replay:", on_click=restart)
            st.button("Default knobs", icon=":material/restart_alt:", on_click=reset)

    def scrubber(self, run: Run) -> int | None:
        """The moment all charts show; the right end follows the newest."""
        total = run.knobs.total_steps()
        key = f"scrub:{self.experiment.slug}"
        if key not in st.session_state or st.session_state[key] > total:
            st.session_state[key] = total
        step: int = st.slider(
            "Moment of the training shown on all charts (right end: the newest)",
            0,
            total,
            key=key,
            help="Drag back to see every chart as it was at that step; the grey line is the cursor.",
        )
        return None if step >= total else step

    def opening(self) -> bool:
        """True in the first run of the page's script for a visitor.

        It draws what is in sight only, so that the browser shows the first point before it works on the rest; a poll
        soon draws the whole page.
        """
        key = f"opened:{self.experiment.slug}"
        opened: bool = st.session_state.get(key, False)
        st.session_state[key] = True
        return not opened

    def live_region(
        self,
        run: Run,
        step: int | None,
        panel: Callable[[Run, int | None], None] | None = None,
        *,
        opening: bool = False,
    ) -> None:
        """Status, charts and panel; polls while the run is live and redraws the page once when it has ended.

        Args:
            run: the run shown.
            step: the moment shown; None: the newest.
            panel: draws below the charts.
            opening: draw the first charts only; when they have points, or after :data:`PATIENCE` polls, the whole page.
        """
        live = run.live
        polls, seen = 0, False

        @st.fragment(run_every=2 * POLL if opening else POLL if live else None)
        def region() -> None:
            nonlocal polls, seen
            current = self.run() or run
            if opening and (seen or polls == PATIENCE):
                st.rerun()
            polls, seen = polls + 1, _has_points(current) or not current.live
            status_line(current)
            shown, label = _with_points(current)
            if label:
                st.caption(label)
            figures = shared_figures(shown, step)
            if opening:
                figures = dict(islice(figures.items(), IN_SIGHT))
            figure_grid(figures, key=self.experiment.slug)
            if panel is not None and not opening:
                panel(shown, step)
            if live and not current.live:
                st.rerun()

        region()


def _has_points(run: Run) -> bool:
    """Whether a training step is done: lines begin."""
    return run.log.last_step > 0 or "loss" in run.log.scalar_names


def _wait_for_points(run: Run) -> None:
    """Wait until the first step is trained, the run has ended, or :data:`FIRST_POINTS` seconds are over."""
    deadline = time.monotonic() + FIRST_POINTS
    while run.live and not _has_points(run) and (left := deadline - time.monotonic()) > 0:
        engine().wait_for_frames(run.id, seen=len(run.log), timeout=left)


def _with_points(run: Run) -> tuple[Run, str]:
    """The run, or, while it has no point yet, the latest stored run of the same knobs, labelled as such."""
    if run.log.last_step or run.log.scalar_names or not run.live:
        return run, ""
    kept = store()
    if kept is None:
        return run, ""
    try:
        stored = kept.latest(run.experiment.slug, run.knobs.key())
        if stored is None:
            return run, ""
        return kept.load(
            stored.id
        ), "Shown until the first point arrives: the latest stored run of the same knobs."
    except StoreError:
        return run, ""


def status_line(run: Run) -> None:
    """Progress, speed and time left in one line; what went wrong, if anything did."""
    seeds = max(len(run.log.seeds), 1) * max(len(run.log.arms), 1)
    done = run.log.progress_step * seeds
    speed = done / run.seconds if run.seconds > 0 else 0.0
    total = run.knobs.total_steps()
    if run.status == "queued":
        place = engine().place(run.id)
        text = "Starting" if place <= 1 else f"Waiting for a free worker: place {place} in the queue"
    elif run.live:
        left = (total * seeds - done) / speed if speed else None
        remaining = f", about {left:.0f} s left" if left is not None else ""
        word = "Paused" if run.status == "paused" else "Running"
        text = f"{word}: step {run.log.progress_step:.0f} of {total}, {speed:.3g} network steps/s{remaining}"
    else:
        word = {"done": "Done", "cancelled": "Stopped", "failed": "Failed"}[run.status]
        text = f"{word}: step {run.log.last_step} of {total} in {run.seconds:.1f} s"
    st.progress(run.progress, text=text)
    if run.status == "failed":
        st.error(f"This run failed: {run.error} Change a knob or press *Run again*.", icon=":material/error:")
    if events := run.log.events[-6:]:
        lines = [f"{event.arm}, seed {event.seed}: {event.text}" for event in events]
        st.warning("  \n".join(lines), icon=":material/warning:")
