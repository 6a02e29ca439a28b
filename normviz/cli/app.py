"""``normviz app``: ``streamlit run app.py``, in a checkout or as installed, on a port that is free."""

from __future__ import annotations

import argparse
import errno
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from normviz.cli.browser import has_display, open_when_it_answers
from normviz.cli.errors import UsageError

__all__ = ["check_port", "open_app", "start_app"]

_APP_FILE = Path(__file__).parents[1] / "ui" / "serve" / "app.py"
"""What ``streamlit run`` is given; the app's settings of Streamlit lie beside it."""
_TRIED = 200
"""Ports above the one that is taken that are tried before giving up on a suggestion."""


def open_app(arguments: argparse.Namespace) -> int:
    """Serve the app at the address and port that were asked for."""
    if not arguments.port.isdecimal() or not 1 <= int(arguments.port) <= 65535:
        raise UsageError(f"--port takes 1 to 65535, got {arguments.port!r}.")
    browser = has_display() and not arguments.no_browser
    return start_app(arguments.address, int(arguments.port), browser=browser)


def start_app(address: str, port: int, *, browser: bool = False) -> int:
    """Serve the app until it is interrupted.

    Args:
        address: the address it listens on; "127.0.0.1" is this machine alone, "0.0.0.0" the whole network.
        port: the port it listens on.
        browser: open it in the reader's browser when it answers.

    Returns:
        The server's exit code.

    Raises:
        UsageError: Streamlit is not there, or the port cannot be had.
    """
    if find_spec("streamlit") is None:
        raise UsageError("The app needs Streamlit: pip install 'normviz[app]'.")
    check_port(address, port)
    if browser:
        open_when_it_answers(f"http://{'127.0.0.1' if address == '0.0.0.0' else address}:{port}")
    options = ["--server.address", address, "--server.port", str(port)]
    command = [sys.executable, "-m", "streamlit", "run", str(_APP_FILE), *options]
    if os.name == "posix":  # in place of this process, so that its signals reach the server
        sys.stdout.flush()
        os.execv(sys.executable, command)
    return subprocess.call(command)


def check_port(address: str, port: int) -> None:
    """Return if the port can be listened on.

    Raises:
        UsageError: it cannot; names a command with one that can, if that is what is wrong.
    """
    trouble = _trouble(address, port)
    if trouble is None:
        return
    if trouble.errno not in (errno.EADDRINUSE, errno.EACCES):
        raise UsageError(f"The app cannot listen on {address}: {trouble.strerror or trouble}.")
    why = "is in use" if trouble.errno == errno.EADDRINUSE else "may not be used by this user"
    above = range(max(port, 1023) + 1, min(max(port, 1023) + _TRIED, 65535) + 1)
    free = next((p for p in above if _trouble(address, p) is None), None)
    if free is None:
        raise UsageError(f"Port {port} {why}, and so are those above it: choose another with --port.")
    where = "" if address == "127.0.0.1" else f" --address {address}"
    raise UsageError(f"Port {port} {why}: run `normviz app{where} --port {free}`.")


def _trouble(address: str, port: int) -> OSError | None:
    """Why nothing can listen there, None if something can."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            if os.name == "posix":  # as the server does: a port whose last connections still linger is free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
            probe.listen(1)
    except OSError as error:
        return error
    return None
