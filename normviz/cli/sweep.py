"""``normviz sweep``: all combinations of some knobs, one run each."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from normviz.cli.errors import UsageError
from normviz.cli.flags import given_knobs
from normviz.cli.session import Session
from normviz.cli.settings import combinations, named_experiment, parse_knobs, preset_values
from normviz.cli.tables import sweep_table
from normviz.experiments import Run

__all__ = ["sweep"]


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
    session = Session.of(arguments)
    runs: list[Run | None] = [None] * len(points)
    for index, (point, knobs) in enumerate(zip(points, settings, strict=True)):
        runs[index] = session.run(experiment, knobs, f"{index + 1}/{len(points)} {_setting(point)}")
        if session.interrupted:
            break
    session.show(sweep_table(points, runs))
    if session.store is not None:
        session.show(f"The runs are kept in {session.store.path}.")
    return session.close()


def _setting(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={'+'.join(v) if isinstance(v, list) else v}" for name, v in point.items())
