"""Which server owns a stored run, and whether that server still lives."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

__all__ = ["is_alive", "owner_name"]

_GIVE_UP_SECONDS = 3600.0


def owner_name(pid: int) -> str:
    """This machine, a process, and the time it started, which tells it from a later one with the same number."""
    return f"{socket.gethostname()}:{pid}:{_start_time(pid)}"


def is_alive(owner: object, touched: float) -> bool:
    """Whether a server still runs; one on another machine counts as ended if its run had no frame for an hour.

    Args:
        owner: :func:`owner_name` of the server; what is none was damaged, and nobody answers to it.
        touched: when its run had its last frame, in seconds since the epoch.
    """
    host, pid, start = (
        owner.rsplit(":", 2) if isinstance(owner, str) and owner.count(":") > 1 else ("", "", "")
    )
    if not (pid.isascii() and pid.isdecimal() and len(pid) < 10):
        return False
    if host != socket.gethostname() or os.name != "posix":
        return time.time() - touched < _GIVE_UP_SECONDS
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _start_time(int(pid)) == start


def _start_time(pid: int) -> str:
    """When a process started, in the system's own ticks; empty if it is dead, though nobody has waited for it yet."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, IndexError):  # no such process, or no such system
        return ""
    return "" if fields[0] == "Z" else fields[19]
