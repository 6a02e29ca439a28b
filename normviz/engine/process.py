"""The server's side of one worker process: start it, talk to it, notice its end and say in words what ended it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from normviz.engine.control import ControlBlock
from normviz.engine.protocol import ProtocolError, read_message, write_message

__all__ = ["WorkerProcess", "cause_of_death"]

logger = logging.getLogger("normviz.engine")

_TAIL = 4096
_PATIENCE = 2.0


class WorkerProcess:
    """One running ``python -m normviz.engine.worker``.

    Its messages are passed to ``on_message`` and its end to ``on_exit`` by a thread of its own, in that order.

    Args:
        threads: threads PyTorch uses in it.
        nice: how much its priority is lowered (POSIX).
        interval: seconds between two batches of frames.
        on_message: called with this worker, the header and the payload of each message.
        on_exit: called once with this worker and the reason in words.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(
        self,
        *,
        threads: int,
        nice: int,
        interval: float,
        on_message: Callable[[WorkerProcess, dict[str, Any], bytes], None],
        on_exit: Callable[[WorkerProcess, str], None],
    ) -> None:
        self.ready = False
        self.control = ControlBlock()
        self._on_message, self._on_exit = on_message, on_exit
        self._tail = bytearray()
        self._writing = threading.Lock()
        # -P and this path: the worker finds modules where the server does and nowhere else.
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        count = str(threads)
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        command = [sys.executable, "-P", "-m", "normviz.engine.worker", "--control", str(self.control.path)]
        command += ["--threads", count, "--nice", str(nice), "--interval", str(interval)]
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                command,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                env=environment,
                pass_fds=self.control.inherited,
            )
        except OSError:
            self.control.close()
            raise
        self._reader = threading.Thread(target=self._read, name=f"worker-{self.pid}", daemon=True)
        self._listener = threading.Thread(target=self._listen, name=f"stderr-{self.pid}", daemon=True)

    def start(self) -> None:
        """Begin to pass on messages."""
        self._listener.start()
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, header: dict[str, Any]) -> None:
        """Send a request; if the worker is dead, ``on_exit`` tells."""
        assert self._process.stdin is not None
        with self._writing, suppress(OSError, ValueError):
            write_message(self._process.stdin, header)  # type: ignore[arg-type]

    def forget_words(self) -> None:
        """A run begins: what the process wrote to standard error before has nothing to do with it."""
        self._tail = bytearray()

    def kill(self) -> None:
        """End it now."""
        self._process.kill()

    def close(self) -> None:
        """Let it end by itself: it does when its standard input closes, whatever it is doing."""
        assert self._process.stdin is not None
        with self._writing, suppress(OSError):
            self._process.stdin.close()

    def join(self, timeout: float = _PATIENCE) -> None:
        """Wait until it has ended and ``on_exit`` has run; kill it if it takes too long."""
        self._reader.join(timeout)
        if self._reader.is_alive():
            self.kill()
            self._reader.join(timeout)

    def _read(self) -> None:
        assert self._process.stdout is not None
        broken = ""
        try:
            with self._process.stdout as stream:
                while (message := read_message(stream)) is not None:  # type: ignore[arg-type]
                    self._on_message(self, *message)
        except ProtocolError as error:
            broken = f"The worker process sent something unreadable: {error}"
        except Exception:
            logger.exception("a message of worker %s could not be handled", self.pid)
            broken = "A message of the worker process could not be handled (see the log of the server)."
        if broken:
            self.kill()
        self.close()
        code = self._wait()
        self._listener.join(_PATIENCE)
        self._on_exit(self, broken or cause_of_death(code, self._tail.decode(errors="replace")))
        self.control.close()

    def _wait(self) -> int:
        try:
            return self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:  # it closed its pipe but lives on
            self.kill()
            return self._process.wait()

    def _listen(self) -> None:
        """Drain standard error, so that it never blocks the worker, and keep its end."""
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            while chunk := os.read(stream.fileno(), 1 << 16):
                self._tail = (self._tail + chunk)[-_TAIL:]
                logger.debug("worker %s: %s", self.pid, chunk.decode(errors="replace").rstrip())


def cause_of_death(code: int, stderr: str = "") -> str:
    """What ended a process, in words.

    Args:
        code: its return code; minus the number of the signal that ended it, if one did.
        stderr: the end of what it wrote to standard error; its last line is quoted.
    """
    if code < 0:
        known = {number.value: number.name for number in signal.Signals}
        name = known.get(-code, f"signal {-code}")
        verb = "was killed" if name in ("SIGKILL", "SIGTERM") else "crashed"
        lack = ", perhaps for lack of memory" if name == "SIGKILL" else ""
        cause = f"The worker process {verb} ({name}){lack}."
    else:
        cause = f"The worker process ended unexpectedly (exit code {code})."
    last = next((line.strip() for line in reversed(stderr.split("\n")) if line.strip()), "")
    return f"{cause} Last line of its standard error: {last[-200:]}" if last else cause
