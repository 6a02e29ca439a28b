"""What the server process holds for all visitors: the engine with its warm workers, the run store, tidy memory."""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import dataclass, field
from uuid import uuid4

import streamlit as st

from normviz.engine import RunStore, StoreError, WorkerEngine, default_store_path

__all__ = ["Viewer", "engine", "store", "tidy_memory", "viewer"]

COLLECT_EVERY = 300.0
"""Seconds between two full garbage collections; Streamlit's own, after every script run, is switched off."""


@st.cache_resource(show_spinner=False)
def store() -> RunStore | None:
    """The run store, or None where it cannot be opened; :func:`store_trouble` says why."""
    try:
        return RunStore(default_store_path())
    except StoreError as error:
        _store_trouble().append(str(error))
        return None


@st.cache_resource(show_spinner=False)
def _store_trouble() -> list[str]:
    return []


def store_trouble() -> str | None:
    """One sentence why runs are not being kept, or None."""
    if store() is None:
        return _store_trouble()[-1]
    return engine().store_message()


@st.cache_resource(show_spinner=False)
def engine() -> WorkerEngine:
    """The worker pool, started once for the whole server."""
    return WorkerEngine(store=store())


@st.cache_resource(show_spinner=False)
def tidy_memory() -> threading.Thread:
    """Freeze what the imports left behind and collect garbage every few minutes in the background."""
    gc.collect()
    gc.freeze()

    def collect() -> None:
        while True:
            time.sleep(COLLECT_EVERY)
            gc.collect()

    thread = threading.Thread(target=collect, name="normviz-gc", daemon=True)
    thread.start()
    return thread


@dataclass
class Viewer:
    """One browser tab: whose runs are attached to it, so that they can be let go when it closes."""

    id: str = field(default_factory=lambda: uuid4().hex)
    runs: set[str] = field(default_factory=set)

    def attach(self, run_id: str) -> None:
        """Watch a run; harmless to repeat."""
        if engine().attach(run_id, self.id) is not None:
            self.runs.add(run_id)

    def release(self) -> None:
        """Let go of every run: those nobody watches end after the engine's grace period."""
        for run_id in self.runs:
            engine().detach(run_id, self.id)
        self.runs.clear()


def _release(viewer: Viewer) -> None:
    viewer.release()


@st.cache_resource(show_spinner=False, scope="session", on_release=_release)
def _session_viewer() -> Viewer:
    return Viewer()


def viewer() -> Viewer:
    """This tab's viewer. It is let go when the tab closes, and also on a lost connection: polling attaches again."""
    return _session_viewer()
