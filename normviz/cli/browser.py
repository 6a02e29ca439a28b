"""Open the app in the reader's browser once its server answers: a process of its own beside the server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser

__all__ = ["has_display", "open_when_it_answers", "wait_and_open"]

_PATIENCE_SECONDS = 120.0
"""How long a server may take to start."""
_PAUSE_SECONDS = 0.3


def has_display() -> bool:
    """Whether somebody sits before this machine: the command was typed into a terminal, and windows can be shown."""
    windows = os.name == "nt" or sys.platform == "darwin"
    shown = windows or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return shown and sys.stdout.isatty() and not os.environ.get("SSH_CONNECTION")


def open_when_it_answers(url: str) -> None:
    """Start the process that waits for the server and then opens its address; it ends by itself."""
    subprocess.Popen(
        [sys.executable, "-m", "normviz.cli.browser", url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_and_open(url: str) -> bool:
    """Open an address as soon as the app answers there.

    Returns:
        Whether a browser was opened; False if nothing answered in time or there is no browser.
    """
    end = time.monotonic() + _PATIENCE_SECONDS
    while not _answers(url):
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE_SECONDS)
    return webbrowser.open(url)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_stcore/health", timeout=5) as answer:
            return bool(answer.read() == b"ok")
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


if __name__ == "__main__":
    sys.exit(0 if wait_and_open(sys.argv[1]) else 1)
