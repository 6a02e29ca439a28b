"""A run from what was written of it: its plain values and its frames, in the store or in a file of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa

from normviz.engine.resolve import find_experiment
from normviz.experiments import Experiment, Run, Status
from normviz.frame import FrameLog
from normviz.knobs import KnobError
from normviz.validation import check_choice

__all__ = ["PLAIN_FIELDS", "StoreError", "cause", "experiment_of", "read_parquet", "restore"]

PLAIN_FIELDS = (
    "id",
    "name",
    "knobs",
    "device",
    "environment",
    "status",
    "error",
    "created",
    "started",
    "finished",
)
"""Attributes of a run that are written as they are."""


class StoreError(Exception):
    """The store cannot do what was asked; the message is a sentence for the reader."""


def read_parquet(path: str | Path, experiment: Experiment | None = None) -> Run:
    """Read a file that :meth:`normviz.experiments.Run.to_parquet` wrote.

    Args:
        path: the file.
        experiment: what it is a run of; default: the experiment whose slug the file holds. A file comes from anywhere,
            so the package it may name is never imported.

    Raises:
        StoreError: it cannot be read, is no such file, or its experiment or knobs are no longer what they were.
    """
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        table.validate(full=True)
        record = json.loads((table.schema.metadata or {})[b"normviz.run"])
        log = FrameLog.from_table(table)
        experiment = experiment or experiment_of(str(record["experiment"]), str(record["id"]))
        record.setdefault("device", record["environment"].get("device", "auto"))
        return restore(record, experiment, log)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} cannot be read: {cause(error)}.") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{path} is no run that normviz wrote.") from error


def experiment_of(name: str, run_id: str) -> Experiment:
    """The experiment of a run, by slug or package.

    Raises:
        StoreError: it is not there, or may not be imported.
    """
    try:
        return find_experiment(name)
    except ValueError as error:
        raise StoreError(f"The run {run_id} belongs to an experiment that is not there: {error}") from error


def restore(record: dict[str, Any], experiment: Experiment, log: FrameLog) -> Run:
    """A run from its plain values and its frames.

    Raises:
        StoreError: it is a run of another experiment, or its knobs are no longer valid.
        ValueError: it has no status that there is.
    """
    if record["experiment"] != experiment.slug:
        raise StoreError(f"The run is one of {record['experiment']!r}, not of {experiment.slug!r}.")
    try:
        knobs = experiment.knobs.parse(record["knobs"], limited=False)
    except KnobError as error:
        raise StoreError(f"The run's setting is no longer possible: {error}") from error
    values = {name: record[name] for name in PLAIN_FIELDS if name != "knobs"}
    check_choice("status", values["status"], get_args(Status))
    return Run(experiment, knobs, log=log, **values)


def cause(error: Exception) -> str:
    """What went wrong, in the system's words, without a full stop."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error).rstrip(".")
