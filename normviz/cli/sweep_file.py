"""The file of a sweep: the last values of all its runs as CSV or Parquet, or everything as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normviz.cli.records import as_json, ended_as, last_values, sweep_record
from normviz.cli.targets import write_whole
from normviz.experiments import Experiment, Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SUFFIXES", "sweep_values", "write_sweep"]

SUFFIXES = (".csv", ".parquet", ".json")
"""Endings of the files that can be written."""


def write_sweep(
    path: Path, experiment: Experiment, points: Sequence[Mapping[str, Any]], runs: Sequence[Run]
) -> None:
    """Write a sweep, whole or not at all.

    Args:
        path: ends in one of :data:`SUFFIXES`. ``.csv`` and ``.parquet`` have the table of :func:`sweep_values`,
            ``.json`` the document of :func:`normviz.cli.records.sweep_record`.
        experiment: what was run.
        points: the values of the grid's knobs, one mapping for each run.
        runs: in the same order.

    Raises:
        OSError: it cannot be written.
    """
    if path.suffix == ".json":
        write_whole(path, as_json(sweep_record(experiment, points, runs)))
        return
    table = sweep_values(points, runs)
    if path.suffix == ".csv":
        write_whole(path, table.to_csv(index=False))
    else:
        encoded = BytesIO()
        table.to_parquet(encoded, index=False)
        write_whole(path, encoded.getvalue())


def sweep_values(points: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> pd.DataFrame:
    """The last value of every scalar, one row for each run, arm and seed; one row for a run that has none.

    Columns: ``run`` (its id), ``status``, ``error``, ``seconds``; ``knob_NAME`` for each knob of the grid, several
    options joined by "+"; ``arm``, ``seed``, ``step`` (the last of this arm and seed); ``last_NAME`` for each scalar.
    The two prefixes keep knobs and scalars of equal names apart.

    Args:
        points: the values of the grid's knobs, one mapping for each run.
        runs: in the same order.
    """
    import pandas as pd

    scalars = dict.fromkeys(name for run in runs for name in run.log.scalar_names)
    rows = [row for run in runs for row in _rows(run, list(points[0]))]
    return pd.DataFrame(
        {
            "run": [row["run"] for row in rows],
            "status": [row["status"] for row in rows],
            "error": [row["error"] for row in rows],
            "seconds": [row["seconds"] for row in rows],
            **{f"knob_{axis}": [row[f"knob_{axis}"] for row in rows] for axis in points[0]},
            "arm": [row["arm"] for row in rows],
            "seed": pd.array([row["seed"] for row in rows], dtype="Int64"),
            "step": pd.array([row["step"] for row in rows], dtype="Int64"),
            **{f"last_{name}": [row.get(f"last_{name}") for row in rows] for name in scalars},
        }
    )


def _rows(run: Run, axes: Sequence[str]) -> list[dict[str, Any]]:
    knobs = run.knobs.model_dump(mode="json")
    about = {
        "run": run.id,
        "status": ended_as(run),
        "error": run.error,
        "seconds": run.seconds,
        **{f"knob_{axis}": _cell(knobs[axis]) for axis in axes},
    }
    last = {name: last_values(run, name) for name in run.log.scalar_names}
    rows = []
    for (arm, seed), step in run.log.members.items():
        values = {f"last_{name}": found[arm, seed] for name, found in last.items() if (arm, seed) in found}
        rows.append({**about, "arm": arm, "seed": seed, "step": step, **values})
    return rows or [{**about, "arm": None, "seed": None, "step": None}]


def _cell(value: Any) -> Any:
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else value
