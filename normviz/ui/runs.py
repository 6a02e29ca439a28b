"""Which run a page shows: submit, find again, take up from a link, go on with more seeds."""

from __future__ import annotations

import time
from contextlib import suppress

import streamlit as st

from normviz.engine import StoreError
from normviz.experiments import Experiment, Run
from normviz.knobs import KnobError, Knobs
from normviz.ui.server import engine, store, viewer
from normviz.ui.state import PageState

__all__ = ["RunControl", "has_points", "wait_for_points"]

FIRST_POINTS = 0.3
"""Age in seconds up to which a run's charts wait for its first step: a slider then shows new points at once."""


class RunControl:
    """Which run a page shows; its id stands in the link, so that a reload finds it again.

    Args:
        experiment: the page's experiment.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.state = PageState(experiment.slug)

    @property
    def run_id(self) -> str | None:
        """The id of the run shown, None before the first."""
        return None if self.state.run is None else self.state.run["id"]

    def run(self) -> Run | None:
        """The run shown: live here, live in another process that shares the store, or ended."""
        if self.state.run is None:
            return None
        live = engine().get(self.state.run["id"])
        if live is not None:
            viewer().attach(live.id)
            return live
        loaded: Run | None = self.state.run["loaded"]
        if loaded is not None and loaded.live and (kept := store()) is not None:
            with suppress(StoreError):  # deleted by the other process: what is shown stays
                kept.update(loaded)
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
        if self.run_id not in (None, run.id):
            viewer().leave(str(self.run_id))
        self.state.run = {"id": run.id, "key": (_setting(run.knobs), run.device), "loaded": loaded}
        return self.run()

    def ensure(self, knobs: Knobs, device: str) -> Run:
        """Show a run of these knobs: the present one if they are the same, else a new one in its place.

        A run that was continued with more seeds stays the run of its setting.
        """
        shown, run = self.state.run, self.run()
        if shown is None or run is None or shown["key"] != (_setting(knobs), device):
            return self.start(knobs, device)
        wanted, there = (int(getattr(k, "seeds", 1)) for k in (knobs, run.knobs))
        mine = viewer().owns(run)
        if wanted > there and mine and run.status == "done" and self.extend(run, wanted - there) is None:
            return self.run() or run
        if wanted != there and not (wanted < there and self.state.adding_seeds):
            waits = wanted > there and mine and run.live  # until it is done, then it grows
            return run if waits else self.start(knobs, device)
        return run

    def start(self, knobs: Knobs, device: str) -> Run:
        """Leave what this page was showing, which ends a run that nobody else watches, and start anew."""
        me = viewer()
        if self.run_id is not None:
            me.leave(self.run_id)
        run = engine().submit(self.experiment, knobs, owner=me.visitor, device=device)
        me.attach(run.id)
        self.state.run = {"id": run.id, "key": (_setting(knobs), device), "loaded": None}
        self.state.playing = self.state.adding_seeds = False
        st.query_params["run"] = run.id
        return run

    def extend(self, run: Run, seeds: int) -> str | None:
        """Go on with a run that is done by so many seeds; a sentence if that is not possible."""
        if not viewer().owns(run):
            return "Another visitor started this run: press Again to start your own, then add seeds to that."
        try:
            more = engine().extend(run.id, seeds)
        except (KnobError, ValueError, StoreError) as error:
            return str(error)
        viewer().attach(more.id)
        self.state.run = {"id": more.id, "key": (_setting(more.knobs), more.device), "loaded": None}
        seeds_key = self.state.knob("seeds")
        if seeds_key in st.session_state:
            st.session_state[seeds_key] = int(getattr(more.knobs, "seeds", 1))
        return None


def _setting(knobs: Knobs) -> str:
    """The setting apart from the number of seeds, which may grow within a run."""
    if "seeds" not in type(knobs).model_fields:
        return knobs.key()
    return knobs.model_copy(update={"seeds": 1}).key()


def has_points(run: Run) -> bool:
    """Whether a first step is done: lines begin."""
    return run.log.last_step > 0 or "loss" in run.log.scalar_names


def wait_for_points(run: Run) -> None:
    """Wait until the first step is trained, the run has ended, or it is :data:`FIRST_POINTS` seconds old."""
    while run.live and not has_points(run) and (left := run.created + FIRST_POINTS - time.time()) > 0:
        engine().wait_for_frames(run.id, seen=len(run.log), timeout=min(left, FIRST_POINTS))
