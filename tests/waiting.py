"""Wait for what another process does: as long as something moves, however slow the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

QUIET = 60.0
"""Seconds without any movement after which what is waited for will not come."""

WORK = 200.0
"""Seconds of CPU time of the processes started here after which they are busy with something else."""

_LOOK = 0.25


def wait_until(
    condition: Callable[[], object],
    what: str = "it",
    *,
    progress: Callable[[], object] = lambda: None,
    pause: float = 0.005,
) -> None:
    """Return when the condition holds.

    How long that takes depends on what else the machine does, so the wait has no time limit. It goes on as long as the
    processes that this one has started (and those they have started) use CPU time, come or go, or ``progress`` changes.

    Args:
        condition: looked at every few milliseconds.
        what: what is waited for, in the failure's message.
        progress: anything else that shows movement, e.g. how many frames a run has or how long a log file is.
        pause: seconds between two looks.

    Raises:
        AssertionError: nothing has moved for :data:`QUIET` seconds, or the processes have used :data:`WORK` seconds of
            CPU time.
    """
    start = seen = None
    looked = moved = time.monotonic()
    while not condition():
        time.sleep(pause)
        now = time.monotonic()
        if now - looked < _LOOK and start is not None:
            continue
        looked = now
        work, processes = _descendants()
        start = work if start is None else start
        moving = (work, processes, progress())
        if moving != seen:
            seen, moved = moving, now
        assert now - moved < QUIET, f"nothing has moved for {QUIET:g} s while waiting for {what}"
        assert work - start < WORK, f"{WORK:g} s of CPU time were used while waiting for {what}"


def _descendants() -> tuple[float, frozenset[int]]:
    """CPU seconds of all processes below this one, and their ids."""
    used, ids = 0.0, set()
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.Error:  # it has just ended
            continue
        used += times.user + times.system
        ids.add(process.pid)
    return used, frozenset(ids)
