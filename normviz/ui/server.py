"""What the server process holds for all visitors: the engine with its warm workers, the run store, tidy memory."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import streamlit as st
from streamlit import App

from normviz.engine import RunStore, StoredRun, StoreError, WorkerEngine, default_store_path
from normviz.experiments import Run
from normviz.ui.visitor import visitor_name
from normviz.variables import grace_seconds

__all__ = ["Viewer", "engine", "lifespan", "store", "store_trouble", "viewer"]

GRACE = 10.0
"""Seconds a run goes on that nobody watches any more (``NORMVIZ_GRACE`` overrides): a reload finds it again."""

COLLECT_EVERY = 300.0
"""Seconds between two full garbage collections; Streamlit's own, after every script run, is switched off."""


class _Server:
    """Store, engine and collector of this process, made once; :mod:`normviz.variables` has what can be set.

    Raises:
        VariableError: an environment variable has a value that is not allowed.
    """

    def __init__(self) -> None:
        self.trouble: str | None = None
        self.store: RunStore | None = None
        try:
            self.store = RunStore(default_store_path())
        except StoreError as error:
            self.trouble = str(error)
        self.engine = WorkerEngine(store=self.store, grace=grace_seconds(GRACE))
        threading.Thread(target=_collect, name="normviz-gc", daemon=True).start()


def _collect() -> None:
    gc.collect()
    gc.freeze()
    while True:
        time.sleep(COLLECT_EVERY)
        gc.collect()


_made: list[_Server] = []
_making = threading.Lock()


def _server() -> _Server:
    with _making:
        if not _made:
            _made.append(_Server())
        return _made[0]


def store() -> RunStore | None:
    """The run store, or None where it cannot be opened; :func:`store_trouble` says why."""
    return _server().store


def store_trouble() -> str | None:
    """One sentence why runs are not being kept, or None."""
    server = _server()
    return server.trouble or server.engine.store_message()


def engine() -> WorkerEngine:
    """The worker pool, started once for the whole server."""
    return _server().engine


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:  # noqa: ARG001
    """Start the workers with the server and end them with it."""
    started = _server().engine
    try:
        yield
    finally:
        started.close()


@dataclass
class Viewer:
    """One browser tab: whose runs are attached to it, so that they can be let go when it closes.

    Attributes:
        id: of the tab.
        visitor: of the browser, who owns the runs that its tabs start.
        runs: that the tab watches.
    """

    id: str = field(default_factory=lambda: uuid4().hex)
    visitor: str = ""
    runs: set[str] = field(default_factory=set)

    def attach(self, run_id: str) -> None:
        """Watch a run; harmless to repeat."""
        if engine().attach(run_id, self.id) is not None:
            self.runs.add(run_id)

    def leave(self, run_id: str) -> None:
        """Turn to another run: this one ends unless somebody else watches it."""
        engine().leave(run_id, self.id)
        self.runs.discard(run_id)

    def owns(self, run: Run | StoredRun) -> bool:
        """Whether this visitor may stop, rename or delete the run: who started it may, or anyone if nobody did."""
        return run.visitor in (self.visitor, "")

    def release(self) -> None:
        """Let go of every run: those nobody watches end after the engine's grace period."""
        for run_id in self.runs:
            engine().detach(run_id, self.id)
        self.runs.clear()


def _release(viewer: Viewer) -> None:
    viewer.release()


@st.cache_resource(show_spinner=False, scope="session", on_release=_release)
def _session_viewer() -> Viewer:
    tab = uuid4().hex
    return Viewer(tab, visitor_name(tab))


def viewer() -> Viewer:
    """This tab's viewer. It is let go when the tab closes, and also on a lost connection: polling attaches again."""
    return _session_viewer()
