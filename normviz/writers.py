"""Writers: the log of a run handed to TensorBoard or to Weights & Biases, for those who keep their runs there.

::

    run = ns.run(ns.Knobs(steps=200))
    to_tensorboard(run.log, "runs/first")
    to_wandb(run.log, project="normviz")

Both take the log of a run (``run.log``), of a watched model (``watch.log``), or a view of one. Positions are those of
the experiment's progress axis, for most experiments optimizer steps. Neither package is needed to import this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np

from normviz.frame import Log

__all__ = ["WandbRun", "log_to_wandb", "to_tensorboard", "to_wandb"]


class WandbRun(Protocol):
    """What is used of a run of Weights & Biases."""

    summary: Any

    def log(self, data: dict[str, Any], step: int | None = None) -> object:
        """Add values at a step."""


def to_tensorboard(log: Log, folder: str | Path, *, arrays: bool = True) -> list[Path]:
    """Write a log as TensorBoard event files; ``tensorboard --logdir FOLDER`` shows them.

    Each arm and seed is a run of TensorBoard of its own, so that one chart has all arms. Scalars become scalars with
    their values as 32-bit numbers, as TensorBoard keeps them; arrays become histograms of their finite entries; events
    become texts with the tag ``event``.

    Args:
        log: what was measured.
        folder: made if it is not there; files that are in it stay.
        arrays: whether arrays are written too; they take most of the space.

    Returns:
        The folder of each arm and seed, in the log's order: ``FOLDER/ARM/seed N``. Characters of an arm that do not
        belong in a file's name are percent-encoded.

    Raises:
        ImportError: TensorBoard is not installed.
        OSError: the folder cannot be written.
    """
    try:
        tensorboard = import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise ImportError("to_tensorboard needs TensorBoard: pip install 'normviz[tensorboard]'.") from error
    log = log.view()
    folders = {member: Path(folder) / _file_name(member[0]) / f"seed {member[1]}" for member in log.members}
    for member, place in folders.items():
        place.mkdir(parents=True, exist_ok=True)
        writer = tensorboard.SummaryWriter(log_dir=str(place))
        try:
            for name, step, value in _scalars(log, member):
                writer.add_scalar(name, value, step)
            for name, step, array in _arrays(log, member) if arrays else ():
                finite = array[np.isfinite(array)]
                if finite.size:
                    writer.add_histogram(name, finite, step)
            for event in log.events:
                if (event.arm, event.seed) == member:
                    writer.add_text("event", event.text, event.step)
        finally:
            writer.close()
    return list(folders.values())


def to_wandb(log: Log, *, arrays: bool = True, **options: Any) -> None:
    """Send a log to Weights & Biases as one new run, and finish that run.

    Args:
        log: what was measured.
        arrays: whether arrays are sent too, as histograms.
        **options: of ``wandb.init``: ``project``, ``name``, ``config``, ``mode="offline"``, ….

    Raises:
        ImportError: wandb is not installed.
    """
    try:
        wandb = import_module("wandb")
    except ImportError as error:
        raise ImportError("to_wandb needs wandb: pip install 'normviz[wandb]'.") from error
    run = wandb.init(**options)
    try:
        log_to_wandb(log, run, histogram=wandb.Histogram if arrays else None)
    finally:
        run.finish()


def log_to_wandb(
    log: Log, run: WandbRun, *, histogram: Callable[[np.ndarray[Any, Any]], Any] | None = None
) -> None:
    """Add a log to a run of Weights & Biases that is open.

    Values have the names ``ARM/seed N/NAME``. They are sent in ascending order of steps, one call for each step:
    Weights & Biases takes no step that lies behind, so use a run to which nothing else was logged. The last event of
    each arm and seed is in the run's summary as ``ARM/seed N/event``.

    Args:
        log: what was measured.
        run: what ``wandb.init`` returned.
        histogram: makes of an array's finite entries what is sent, e.g. ``wandb.Histogram``; None: arrays are left out.
    """
    log = log.view()
    by_step: dict[int, dict[str, Any]] = {}
    for member in log.members:
        name_of = f"{member[0]}/seed {member[1]}"
        for name, step, value in _scalars(log, member):
            by_step.setdefault(step, {})[f"{name_of}/{name}"] = value
        for name, step, array in _arrays(log, member) if histogram is not None else ():
            finite = array[np.isfinite(array)]
            if histogram is not None and finite.size:
                by_step.setdefault(step, {})[f"{name_of}/{name}"] = histogram(finite)
    for step in sorted(by_step):
        run.log(by_step[step], step=step)
    for event in log.events:
        run.summary[f"{event.arm}/seed {event.seed}/event"] = event.text


def _scalars(log: Log, member: tuple[str, int]) -> Iterator[tuple[str, int, float]]:
    """Name, step and value of every scalar of an arm and seed."""
    for name in log.scalar_names:
        table = log.scalars(name)
        own = table[(table["arm"] == member[0]) & (table["seed"] == member[1])]
        for step, value in zip(own["step"].tolist(), own["value"].tolist(), strict=True):
            yield name, step, value


def _arrays(log: Log, member: tuple[str, int]) -> Iterator[tuple[str, int, np.ndarray[Any, Any]]]:
    """Name, step and entries of every array of an arm and seed."""
    for name in log.array_names:
        for entry in log.array_history(name):
            if (entry.arm, entry.seed) == member:
                yield name, entry.step, entry.value


def _file_name(arm: str) -> str:
    name = quote(arm, safe=" ()+,=@")
    return name.replace(".", "%2E") if set(name) == {"."} else name
