"""Charts and verdicts of a run, made once per new frame for all who watch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

import streamlit as st

from normviz.claims import Verdict
from normviz.experiments import Run
from normviz.figures.figure import Figure

__all__ = ["shared_figures", "shared_verdicts"]


class _Shared:
    """The newest value of each key with the number of frames it was made from."""

    def __init__(self, size: int = 512) -> None:
        self._lock = threading.Lock()
        self._made: OrderedDict[tuple[object, ...], tuple[int, object]] = OrderedDict()
        self._size = size

    def get(self, key: tuple[object, ...], frames: int) -> object | None:
        with self._lock:
            made = self._made.get(key)
            return made[1] if made is not None and made[0] == frames else None

    def put(self, key: tuple[object, ...], frames: int, value: object) -> None:
        with self._lock:
            self._made[key] = (frames, value)
            self._made.move_to_end(key)
            while len(self._made) > self._size:
                self._made.popitem(last=False)


@st.cache_resource(show_spinner=False)
def _shared() -> _Shared:
    return _Shared()


def shared_figures(run: Run, step: int | None, names: Iterable[str]) -> dict[str, Figure]:
    """Some of a run's charts, in the order of the names."""
    kept, frames, listed = _shared(), len(run.log), list(names)
    setting = run.knobs.key()
    found = {name: kept.get((run.id, setting, step, name), frames) for name in listed}
    missing = [name for name, figure in found.items() if figure is None]
    for name, figure in run.figures(step, missing).items() if missing else ():
        kept.put((run.id, setting, step, name), frames, figure)
        found[name] = figure
    return {name: figure for name, figure in found.items() if isinstance(figure, Figure)}


def shared_verdicts(run: Run) -> dict[str, Verdict]:
    """A run's verdicts by claim."""
    kept, key, frames = _shared(), (run.id, run.knobs.key(), "verdicts"), len(run.log)
    found = kept.get(key, frames)
    if not isinstance(found, dict):
        found = run.verdicts()
        kept.put(key, frames, found)
    return found
