"""The tab "Maths and code" calls a function "the code that ran": a run of the page must have called it.

For every page the named functions are looked for among those that were called: by the first frames of every preset,
by the page's charts of closed forms and what is drawn below them, by the charts of the runs, by every other option of a
knob, and by short runs to their end. The search ends as soon as every name was called. A function that is called
nowhere needs a label of its own, such as "the formula" or "the reference".
"""

from __future__ import annotations

import runpy
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import normviz.ui
from normviz.experiments import SLUGS, Experiment, get_experiment
from normviz.frame import FrameLog
from normviz.knobs import KnobError, Knobs
from normviz.ui import Exact, Maths
from normviz.ui.files import page_file
from normviz.ui.source import ROOT

THE_CODE_THAT_RAN = next(field.default for field in fields(Maths) if field.name == "label")
FIRST_FRAMES, SHORT_RUN = 30, 300
"""Frames of a setting that is only begun, and the most of a short run: a search would go on for thousands."""

Name = tuple[str, str]


def declared_by(slug: str, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What a page's file hands to the page's shape: its maths, its exact charts and its panel."""
    given: dict[str, Any] = {"exact": None, "panel": None}
    with monkeypatch.context() as patch:
        patch.setattr(normviz.ui, "experiment_page", lambda page, **parts: given.update(parts, slug=page))
        runpy.run_path(str(page_file(slug)))
    assert given["slug"] == slug
    return SimpleNamespace(**given)


class Calls:
    """The code objects of all Python functions that were called while it watched, in this thread and in new ones."""

    def __init__(self) -> None:
        self.code: set[CodeType] = set()

    @contextmanager
    def watched(self) -> Iterator[None]:
        add = self.code.add

        def note(frame: FrameType, event: str, arg: object) -> None:
            if event == "call":
                add(frame.f_code)

        before = sys.getprofile()
        threading.setprofile(note)
        sys.setprofile(note)
        try:
            yield
        finally:
            sys.setprofile(before)
            threading.setprofile(None)

    def missing(self, wanted: set[Name]) -> set[Name]:
        """Names of which nothing was called; a class counts as called if one of its methods was."""
        called = {(code.co_filename, code.co_qualname) for code in self.code}
        paths = {str(ROOT / file) for file, _ in wanted}
        names = {(path, name) for path, name in called if path in paths}

        def was_called(file: str, name: str) -> bool:
            path = str(ROOT / file)
            return any(p == path and (n == name or n.startswith(f"{name}.")) for p, n in names)

        return {(file, name) for file, name in wanted if not was_called(file, name)}


def shortened(knobs: Knobs) -> Knobs:
    """One seed, and the least of every whole number that decides where the progress axis ends."""
    for name, control in knobs.controls().items():
        if control.kind != "int" or name == "first_seed" or control.low is None:
            continue
        for value in range(int(control.low), int(control.low) + 4):
            values = {**knobs.model_dump(), name: value}
            try:
                less = type(knobs).parse(values)
            except KnobError:
                continue
            if less.total_steps() < knobs.total_steps() or name == "seeds":
                knobs = less
            break
    return knobs


def other_options(experiment: Experiment) -> Iterator[Knobs]:
    """The defaults with one choice changed at a time: every other option, all options together, every switch."""
    for name, control in experiment.knobs.controls().items():
        options: list[object] = []
        if control.kind == "bool":
            options = [not control.default]
        elif control.kind == "choice":
            options = [option for option in control.options if option != control.default]
        elif control.kind == "choices":
            options = [control.options]
        for option in options:
            knobs, refused = experiment.knobs.parse_leniently({name: option})
            if not (refused or knobs.missing()):
                yield knobs


def activities(experiment: Experiment, exact: Exact | None) -> Iterator[Callable[[], object]]:
    """What a page can do, the quickest first."""
    logs: list[tuple[FrameLog, Knobs]] = []
    drawn: set[str] = set()

    def run(knobs: Knobs, most: int) -> Callable[[], None]:
        def go() -> None:
            part = knobs.for_seeds([knobs.first_seed])
            try:
                logs.append((FrameLog(islice(experiment.frames(part, "cpu"), most)), part))
            except ImportError as error:
                if "normviz[" not in str(error):  # otherwise a data set of an extra that is not installed
                    raise

        return go

    def draw_new_charts() -> None:
        for log, knobs in logs:
            new = [name for name in experiment.sheet(knobs).drawers if name not in drawn]
            experiment.figures(log, knobs, names=new)
            drawn.update(new)

    def draw_all() -> None:
        for log, knobs in logs:
            experiment.figures(log, knobs)

    presets = [experiment.setting(preset) for preset in experiment.presets.values()]
    options = list(other_options(experiment))
    yield from (run(knobs, FIRST_FRAMES) for knobs in presets)
    if exact is not None:
        yield exact.figures
        if (panel := exact.panel) is not None:
            yield AppTest.from_string(
                f"from {panel.__module__} import {panel.__name__}\n{panel.__name__}()"
            ).run
    yield draw_new_charts
    yield from (run(knobs, FIRST_FRAMES) for knobs in options)
    yield from (run(shortened(knobs), SHORT_RUN) for knobs in (*presets, *options))
    yield draw_all


def uncalled(experiment: Experiment, exact: Exact | None, wanted: set[Name]) -> set[Name]:
    """The names that nothing on the page calls."""
    calls, missing = Calls(), set(wanted)
    for act in activities(experiment, exact):
        if not missing:
            break
        with calls.watched():
            act()
        missing = calls.missing(missing)
    return missing


@pytest.mark.slow
@pytest.mark.parametrize("slug", SLUGS)
def test_the_code_that_ran_was_called(slug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = declared_by(slug, monkeypatch)
    wanted = {
        (part.file, name) for part in page.maths if part.label == THE_CODE_THAT_RAN for name in part.names
    }
    missing = uncalled(get_experiment(slug), page.exact, wanted)
    assert not missing, f"nothing on this page calls {sorted(missing)}: say what they are by Maths(label=...)"


def test_names_that_nothing_calls_are_found() -> None:
    calls = Calls()
    with calls.watched():
        Path("a").with_suffix(".b")
        shortened(get_experiment(SLUGS[0]).knobs())
    before = set(calls.code)
    shortened(get_experiment(SLUGS[0]).knobs())
    assert calls.code == before, "it watches no longer"
    wanted = {
        ("knobs.py", "Knobs.parse"),
        ("knobs.py", "Knobs"),
        ("knobs.py", "Knobs.key"),
        ("knobs.py", "Kno"),
    }
    assert calls.missing(wanted) == {("knobs.py", "Knobs.key"), ("knobs.py", "Kno")}
