"""Keep runs in a store as long as that works, and run on without it when it does not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from normviz.engine.store import RunStore, StoreError
from normviz.experiments import Run
from normviz.frame import Frame

__all__ = ["Keeper"]

logger = logging.getLogger("normviz.engine")


class Keeper:
    """Passes runs to a store; a store that fails is reported by :attr:`message` and never stops a run.

    Args:
        store: where to keep runs; None keeps nothing and reports nothing.
    """

    def __init__(self, store: RunStore | None) -> None:
        self._store = store
        self._kept: set[str] = set()
        self._refused: set[str] = set()
        self._lock = threading.Lock()
        self._message: str | None = None

    @property
    def message(self) -> str | None:
        """Why runs are not being kept, in one sentence; None if they are or need not be."""
        return self._message

    def begin(self, run: Run) -> None:
        """A run has started. If the store does not take it now, it is asked again when the run has ended."""
        if self._store is not None and not self._open(run, self._store.create):
            with self._lock:
                self._refused.add(run.id)

    def go_on(self, run: Run) -> None:
        """A run that was kept has started again, with more seeds."""
        if self._store is not None:
            self._open(run, self._store.reopen)

    def add(self, run_id: str, frames: Sequence[Frame]) -> None:
        """A run has new frames."""
        if self._store is not None and run_id in self._kept:
            try:
                self._store.append(run_id, frames)
            except StoreError as error:
                self._complain(error)

    def end(self, run: Run) -> None:
        """A run has ended."""
        if self._store is not None and run.id in self._refused:
            with self._lock:
                self._refused.discard(run.id)
            if self._open(run, self._store.create):
                self.add(run.id, run.log.frames)
        if self._store is not None and run.id in self._kept:
            with self._lock:
                self._kept.discard(run.id)
            try:
                self._store.finish(run)
            except StoreError as error:
                self._complain(error)

    def _open(self, run: Run, opening: Callable[[Run], None]) -> bool:
        """Whether the store takes a run."""
        try:
            opening(run)
        except StoreError as error:
            self._complain(error)
            return False
        with self._lock:
            self._kept.add(run.id)
            self._message = None
        return True

    def _complain(self, error: StoreError) -> None:
        message = f"Runs are not being kept: {error}"
        if message != self._message:
            logger.warning(message)
        self._message = message
