"""The app as a real server process, for the Chromium tests and the benchmarks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Server:
    """A running app: where it answers, where it keeps runs, its process."""

    url: str
    data: Path
    process: subprocess.Popen[bytes]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


TIME_TO_END = 30.0
"""Seconds that a server has to end by itself: it waits for connections that a browser may never close."""


@contextmanager
def running_app(
    data: Path,
    *,
    workers: int = 1,
    grace: float = 2.0,
    command: Sequence[str] = (sys.executable, "-m", "streamlit", "run", "app.py", "--server.port"),
    cwd: Path = ROOT,
) -> Iterator[Server]:
    """Start the app with its own data folder; it is healthy on entry and gone on exit.

    Args:
        data: its data folder; its log is written there too.
        workers: its worker processes.
        grace: seconds a run goes on that nobody watches.
        command: what starts it; the port is its last argument.
        cwd: where it is started.
    """
    port = free_port()
    environment = {
        **os.environ,
        "NORMVIZ_DATA": str(data),
        "NORMVIZ_WORKERS": str(workers),
        "NORMVIZ_GRACE": str(grace),
        "NORMVIZ_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    with (data / "server.log").open("wb") as log:
        process = subprocess.Popen([*command, str(port)], cwd=cwd, env=environment, stdout=log, stderr=log)
        try:
            wait_until(lambda: is_healthy(port, process), "the server to answer", pause=0.2)
            yield Server(f"http://127.0.0.1:{port}", data, process)
        finally:
            process.terminate()
            try:
                process.wait(TIME_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def is_healthy(port: int, process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> bool:
    """Whether an app answers on a port of this machine; its process must live."""
    assert process.poll() is None, "the server ended"
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5) as answer:
            return bool(answer.read() == b"ok")
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
