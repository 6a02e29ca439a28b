"""The control block: two numbers in shared memory by which the server stops or pauses what a worker is doing.

A worker reads them between two frames, which costs a memory access and no system call, so a cancellation takes effect
within one training step and needs no signal and no kill. Each number names the job it is meant for, so what was meant
for an earlier job never touches a later one.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from contextlib import suppress
from pathlib import Path

__all__ = ["ControlBlock"]

_CANCEL, _PAUSE = 0, 1
_SIZE = 16


class ControlBlock:
    """A memory-mapped file of two 64-bit numbers, written by the server and read by one worker.

    Args:
        path: the file that the server made; None (the server): make one.

    Raises:
        OSError: the file cannot be made or opened.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        if path is None:
            shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
            descriptor, path = tempfile.mkstemp(prefix="normviz-", suffix=".control", dir=shared)
            os.write(descriptor, bytes(_SIZE))
        else:
            descriptor = os.open(path, os.O_RDWR)
        self.path = Path(path)
        try:
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        # An aligned 64-bit cell is read and written as a whole, so no lock is needed between the processes.
        self._cells = memoryview(self._map).cast("q")

    def cancel(self, job: int) -> None:
        """Ask the worker to end this job."""
        self._cells[_CANCEL] = job

    def pause(self, job: int) -> None:
        """Ask the worker to wait in this job; 0 lets it go on."""
        self._cells[_PAUSE] = job

    def cancelled(self, job: int) -> bool:
        """Whether this job is to end."""
        return self._cells[_CANCEL] == job

    def paused(self, job: int) -> bool:
        """Whether this job is to wait."""
        return self._cells[_PAUSE] == job

    def unlink(self) -> None:
        """Remove the file's name once both sides have it open, so that no crash leaves it behind."""
        with suppress(OSError):  # gone already, or a system that keeps the names of open files
            self.path.unlink()

    def close(self) -> None:
        """Give the memory back."""
        self._cells.release()
        self._map.close()
        self.unlink()
