"""``normviz sweep``: all combinations of some knobs, one run each, side by side on the cores of the machine."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID

from normviz.cli.engines import check_engine, opened_engine
from normviz.cli.errors import UsageError, complain
from normviz.cli.flags import given_knobs
from normviz.cli.progress import can_redraw, run_bars
from normviz.cli.records import ended_as, sweep_record
from normviz.cli.session import Session
from normviz.cli.settings import combinations, named_experiment, parse_knobs, preset_values
from normviz.cli.sweep_file import SUFFIXES, write_sweep
from normviz.cli.tables import final_values, sweep_table
from normviz.cli.targets import check_target
from normviz.evidence.reproduce import Engine
from normviz.experiments import Experiment, Run
from normviz.knobs import Knobs

__all__ = ["sweep"]

LOOK = 0.5
"""Seconds between two looks at the runs."""


def sweep(arguments: argparse.Namespace) -> int:
    """Run every combination of the grid, with a preset and the knobs that were given for all of them."""
    experiment = named_experiment(arguments.slug)
    if not arguments.grid:
        raise UsageError("A sweep needs at least one --grid knob=value,value,….")
    base, given = preset_values(experiment, arguments.preset), given_knobs(arguments)
    points = list(combinations(experiment.knobs, arguments.grid))
    fixed = sorted(set(given) & set(points[0]))
    if fixed:
        raise UsageError(f"{fixed[0]} is given both as a flag and in --grid.")
    settings = [
        parse_knobs(experiment.knobs, {**base, **given, **point}, _setting(point)) for point in points
    ]
    target = check_target(arguments.out, *SUFFIXES)
    workers = check_engine(arguments)
    session = Session.of(arguments)
    with opened_engine(arguments.ray, workers, session) as engine:
        progress = _SweepProgress(session.err, [_setting(point) for point in points], session.quiet)
        runs = _train(session, engine, experiment, settings, progress)
    session.show(sweep_table(points, runs))
    session.write(target, lambda path: write_sweep(path, experiment, points, runs))
    session.print_json(lambda: sweep_record(experiment, points, runs))
    if session.store is not None:
        session.show(f"The runs are kept in {session.store.path}.")
    return session.close()


def _setting(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={'+'.join(v) if isinstance(v, list) else v}" for name, v in point.items())


def _train(
    session: Session,
    engine: Engine,
    experiment: Experiment,
    settings: Sequence[Knobs],
    progress: _SweepProgress,
) -> list[Run]:
    """Train all settings; after an interruption those that were not started have no frames."""
    runs: list[Run] = []
    try:
        with progress:
            for knobs in settings:
                runs.append(engine.submit(experiment, knobs, owner="", device=session.device))
                progress.report(runs)
            _follow(engine, runs, progress)
    except KeyboardInterrupt:
        session.interrupted = True
        for run in runs:
            engine.cancel(run.id)
        _follow(engine, runs, progress)
        for knobs in settings[len(runs) :]:
            runs.append(Run(experiment, knobs, device=session.device))
            runs[-1].end("cancelled")
        done = sum(run.status == "done" for run in runs)
        kept = "" if session.store is None else f" What was measured is kept in {session.store.path}."
        complain(f"Interrupted after {done} of {len(runs)} runs.{kept}")
    session.failed = any(run.status == "failed" for run in runs)
    return runs


def _follow(engine: Engine, runs: Sequence[Run], progress: _SweepProgress) -> None:
    """Return when all runs have ended."""
    while live := [run for run in runs if run.live]:
        engine.wait_for_frames(live[0].id, seen=1 << 62, timeout=LOOK)
        progress.report(runs)
    progress.report(runs)


@dataclass
class _SweepProgress:
    """One bar for all runs, or a line for each run that has ended where nothing can be redrawn."""

    console: Console
    settings: Sequence[str]
    quiet: bool = False
    _said: set[int] = field(default_factory=set)
    _bar: Progress | None = None
    _task: TaskID = field(default_factory=lambda: TaskID(0))

    def __enter__(self) -> _SweepProgress:
        if not self.quiet and can_redraw(self.console):
            self._bar = run_bars(self.console)
            self._bar.start()
            self._task = self._bar.add_task(f"{len(self.settings)} runs", total=len(self.settings), doing="")
        elif not self.quiet:
            self._say(f"{len(self.settings)} runs: starting")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def report(self, runs: Sequence[Run]) -> None:
        """Show where the runs stand, and say at once which failed."""
        ended = [index for index, run in enumerate(runs) if not run.live and index not in self._said]
        for index in ended:
            self._said.add(index)
            run, setting = runs[index], f"{index + 1}/{len(self.settings)} {self.settings[index]}"
            if run.status == "failed":
                complain(f"The run {setting} failed: {run.error}")
            elif not self.quiet and self._bar is None:
                self._say(f"{setting}: {ended_as(run)} in {run.seconds:.1f} s{_last(run)}")
        if self._bar is not None:
            done = sum(not run.live for run in runs)
            going = sum(run.status == "running" for run in runs)
            self._bar.update(
                self._task,
                completed=sum(run.progress for run in runs),
                doing=f"{done} ended, {going} running",
            )

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _last(run: Run) -> str:
    """The newest value of each arm."""
    name, values = final_values(run)
    return f"; {name}: {', '.join(f'{arm} {value:.3g}' for arm, value in values.items())}" if values else ""
