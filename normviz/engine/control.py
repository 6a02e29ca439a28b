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

SHARED_MEMORY = Path("/dev/shm")
_BY_NUMBER = Path("/proc/self/fd")
"""Where a process finds its open files by number, if the system has it (Linux)."""


class ControlBlock:
    """A memory-mapped file of two 64-bit numbers, written by the server and read by one worker.

    On Linux the file never has a name for longer than it takes to make it, so that no sudden death leaves it behind:
    the worker inherits it open. Elsewhere it has one until both sides have it open.

    Args:
        path: the file that the server made; None (the server): make one.

    Attributes:
        path: what the worker opens.
        inherited: numbers of open files that the worker must inherit for that.

    Raises:
        OSError: the file cannot be made or opened.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.inherited: tuple[int, ...] = ()
        if path is None:
            shared = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
            descriptor, path = tempfile.mkstemp(prefix="normviz-", suffix=".control", dir=shared)
            os.write(descriptor, bytes(_SIZE))
            if (numbered := _BY_NUMBER / str(descriptor)).exists():
                os.unlink(path)
                path, self.inherited = numbered, (descriptor,)
        else:
            descriptor = os.open(path, os.O_RDWR)
        self.path = Path(path)
        try:
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            if not self.inherited:
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
        """Let nobody else open the file, once both sides have: its name or its number is given back."""
        numbers, self.inherited = self.inherited, ()
        for number in numbers:
            os.close(number)
        if self.path.parent != _BY_NUMBER:
            with suppress(OSError):  # gone already, or a system that keeps the names of open files
                self.path.unlink()

    def close(self) -> None:
        """Give the memory back."""
        self._cells.release()
        self._map.close()
        self.unlink()
