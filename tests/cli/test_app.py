"""``normviz app``: the server is started on a port that is free, or it is said why not."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from normviz.cli import app as app_command
from normviz.cli import main
from normviz.cli.errors import UsageError
from tests.app_server import is_healthy
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
Refused = Callable[..., str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    commands: list[list[str]] = []
    monkeypatch.setattr(app_command.os, "execv", lambda path, command: commands.append(command))
    monkeypatch.setattr(
        app_command.subprocess, "call", lambda command, **options: commands.append(command) or 0
    )
    return commands


def test_app_starts_streamlit_in_the_checkout(executed: list[list[str]]) -> None:
    port = free_port()
    main(["app", "--port", str(port)])
    assert executed[0][:4] == [sys.executable, "-m", "streamlit", "run"]
    assert Path(executed[0][4]).resolve() == ROOT / "app.py"
    assert executed[0][5:] == ["--server.address", "127.0.0.1", "--server.port", str(port)]


def test_app_on_a_port_in_use(executed: list[list[str]], refused: Refused) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        sentence = refused("app", "--port", str(port))
        said = re.fullmatch(rf"Port {port} is in use: run `normviz app --port (\d+)`\.", sentence)
        assert said is not None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", int(said[1])))
        elsewhere = refused("app", "--port", str(port), "--address", "0.0.0.0")
        assert "`normviz app --address 0.0.0.0 --port " in elsewhere
    assert executed == []


def test_app_without_streamlit(
    monkeypatch: pytest.MonkeyPatch, executed: list[list[str]], refused: Refused
) -> None:
    monkeypatch.setattr(app_command, "find_spec", lambda name: None)
    assert refused("app") == "The app needs Streamlit: pip install 'normviz[app]'."
    assert executed == []


def test_port_that_may_not_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def trouble(address: str, port: int) -> OSError | None:
        return PermissionError(13, "Permission denied") if port < 1024 else None

    monkeypatch.setattr(app_command, "_trouble", trouble)
    with pytest.raises(
        UsageError, match="Port 80 may not be used by this user: run `normviz app --port 1024`"
    ):
        app_command.check_port("127.0.0.1", 80)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_app_serves_and_stops(data_folder: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "normviz.cli", "app", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            wait_until(lambda: is_healthy(port, server), "the server to answer", pause=0.2)
            server.send_signal(signal.SIGINT)
            said, _ = server.communicate()
            assert f"URL: http://127.0.0.1:{port}" in said
            assert "Traceback" not in said
            app_command.check_port("127.0.0.1", port)
        finally:
            server.kill()
