"""The environment variables that set normviz up, listed in :data:`VARIABLES`, each read and checked in one place.

An empty variable is one that is not set.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import platformdirs

__all__ = [
    "VARIABLES",
    "VariableError",
    "check_variables",
    "data_folder",
    "evidence_folder",
    "experiment_packages",
    "grace_seconds",
    "thread_count",
    "worker_count",
]


VARIABLES: dict[str, str] = {
    "NORMVIZ_DATA": "folder for stored runs and uploads; default: the user's data folder",
    "NORMVIZ_WORKERS": "worker processes, 1 to 256; default: one per CPU core, at most 8",
    "NORMVIZ_THREADS": "threads PyTorch uses in each worker, 1 or more; default: the cores shared out evenly",
    "NORMVIZ_GRACE": "seconds a run of the app goes on that nobody watches, 0 or more; default: 10",
    "NORMVIZ_EXPERIMENTS": "packages of experiments of one's own that may be imported, separated by commas",
    "NORMVIZ_EVIDENCE": "folder of the recorded verdicts and runs; default: those that come with normviz",
}
"""Every variable with what it sets; ``normviz --help`` shows this list."""


class VariableError(ValueError):
    """An environment variable has a value that is not allowed; the message names it and what is allowed."""


def evidence_folder() -> Path:
    """Where the recorded verdicts and runs lie.

    Raises:
        VariableError: ``NORMVIZ_EVIDENCE`` names the home of a user who is not there.
    """
    return _folder("NORMVIZ_EVIDENCE") or Path(__file__).parent / "evidence" / "ledger"


def data_folder() -> Path:
    """Where runs and uploads are kept.

    Raises:
        VariableError: ``NORMVIZ_DATA`` names the home of a user who is not there.
    """
    return _folder("NORMVIZ_DATA") or platformdirs.user_data_path("normviz", appauthor=False)


def worker_count() -> int | None:
    """Workers that are asked for; None: as many as suit the machine.

    Raises:
        VariableError: ``NORMVIZ_WORKERS`` is no integer from 1 to 256.
    """
    return _integer("NORMVIZ_WORKERS", 1, 256)


def thread_count() -> int | None:
    """Threads of each worker that are asked for; None: as many as suit the machine.

    Raises:
        VariableError: ``NORMVIZ_THREADS`` is no integer from 1 to 4096.
    """
    return _integer("NORMVIZ_THREADS", 1, 4096)


def grace_seconds(default: float) -> float:
    """Seconds a run goes on without a viewer.

    Raises:
        VariableError: ``NORMVIZ_GRACE`` is no number >= 0.
    """
    given = os.environ.get("NORMVIZ_GRACE")
    if not given:
        return default
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds < math.inf:
        raise VariableError(f"NORMVIZ_GRACE must be a number of seconds >= 0, got {given!r}.")
    return seconds


def experiment_packages() -> tuple[str, ...]:
    """Packages outside of normviz that hold an experiment and may be imported.

    Raises:
        VariableError: ``NORMVIZ_EXPERIMENTS`` has something that is no dotted name.
    """
    given = os.environ.get("NORMVIZ_EXPERIMENTS", "")
    names = tuple(name for part in given.split(",") if (name := part.strip()))
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise VariableError(f"NORMVIZ_EXPERIMENTS must be dotted names of packages, got {name!r}.")
    return names


def check_variables() -> None:
    """Read all of them.

    Raises:
        VariableError: the first that has a value that is not allowed.
    """
    data_folder()
    evidence_folder()
    worker_count()
    thread_count()
    grace_seconds(0.0)
    experiment_packages()


def _folder(name: str) -> Path | None:
    given = os.environ.get(name)
    try:
        return Path(given).expanduser() if given else None
    except RuntimeError as error:
        raise VariableError(f"{name} must be a folder, got {given!r}: there is no such home.") from error


def _integer(name: str, low: int, high: int) -> int | None:
    given = os.environ.get(name)
    if not given:
        return None
    # isdecimal alone takes digits of other scripts, and int() takes underscores and blanks.
    if not (given.isascii() and given.isdecimal() and len(given) < 10 and low <= int(given) <= high):
        raise VariableError(f"{name} must be an integer from {low} to {high}, got {given!r}.")
    return int(given)
