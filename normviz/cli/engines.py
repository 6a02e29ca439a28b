"""What trains the runs of ``sweep`` and ``reproduce``: worker processes of this machine, or a Ray cluster."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext

from normviz.cli.errors import UsageError
from normviz.cli.session import Session
from normviz.engine import RayEngine, WorkerEngine

__all__ = ["check_engine", "opened_engine", "positive"]


def positive(flag: str, given: str) -> int:
    """The number that a flag was given.

    Raises:
        UsageError: it is no integer from 1 on.
    """
    if not (given.isascii() and given.isdecimal()) or int(given) < 1:
        raise UsageError(f"{flag} takes 1 or more, got {given!r}.")
    return int(given)


def check_engine(arguments: argparse.Namespace) -> int | None:
    """The number of worker processes that ``--workers`` asks for; None: as many as suit the machine.

    Raises:
        UsageError: it is no number, or ``--ray`` is given too.
    """
    workers = None if arguments.workers is None else positive("--workers", arguments.workers)
    if workers is not None and arguments.ray is not None:
        raise UsageError("--workers and --ray are two ways to run: give one of them.")
    return workers


@contextmanager
def opened_engine(
    address: str | None, workers: int | None, session: Session
) -> Iterator[WorkerEngine | RayEngine]:
    """An engine for as long as a command runs; a failed run's traceback is shown only where it was asked for.

    Args:
        address: of a Ray cluster; "" starts Ray on this machine; None: worker processes of this machine.
        workers: processes of this machine; None: as many as suit it.
        session: whose store keeps the runs.

    Raises:
        UsageError: Ray is not installed or does not answer, or there are more workers than allowed.
    """
    try:
        opened: AbstractContextManager[WorkerEngine | RayEngine]
        if address is None:
            opened = closing(WorkerEngine(workers, store=session.store, nice=0))
        else:
            opened = nullcontext(RayEngine(address or None, store=session.store))
    except ImportError as error:
        raise UsageError(str(error)) from error
    except ValueError as error:
        raise UsageError(str(error) if address is None else _unreachable(address, error)) from error
    except (ConnectionError, RuntimeError) as error:
        raise UsageError(_unreachable(address or "", error)) from error
    logger = logging.getLogger("normviz.engine")
    before = logger.level
    if not session.traceback:
        logger.setLevel(logging.CRITICAL)
    try:
        with opened as engine:
            yield engine
    finally:
        logger.setLevel(before)


def _unreachable(address: str, error: Exception) -> str:
    why = " ".join(str(error).split()).rstrip(".")
    return f"Ray cannot be reached{f' at {address}' if address else ''}: {why}."
