"""Which server owns a stored run, and whether that server still lives."""

from __future__ import annotations

import socket
import time

import psutil

__all__ = ["is_alive", "owner_name"]

_GIVE_UP_SECONDS = 3600.0
_CLOCK_SECONDS = 2.0
"""How far two readings of one process's start may lie apart: systems count it from a start of their own that moves when
the clock is set."""


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
    if host != socket.gethostname():
        return time.time() - touched < _GIVE_UP_SECONDS
    now = _start_time(int(pid))
    try:
        return now != "" and abs(float(now) - float(start)) <= _CLOCK_SECONDS
    except ValueError:  # a damaged name
        return False


def _start_time(pid: int) -> str:
    """When a process started, in seconds since the epoch; empty if it is dead, though nobody has waited for it yet."""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""
