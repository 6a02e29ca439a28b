from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from normviz.cli import app as app_command
from normviz.cli import browser, main


class Health(BaseHTTPRequestHandler):
    """Answers as the app does, from the third time on."""

    asked = 0

    def do_GET(self) -> None:
        Health.asked += 1
        self.send_response(200 if Health.asked > 2 else 503)
        self.end_headers()
        self.wfile.write(b"ok" if Health.asked > 2 and self.path == "/_stcore/health" else b"starting")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Health.asked = 0
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_opens_when_the_server_answers(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(browser, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(browser.webbrowser, "open", lambda u: opened.append(u) or True)
    assert browser.wait_and_open(url)
    assert opened == [url]
    assert Health.asked == 3


def test_gives_up_when_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "_PATIENCE_SECONDS", -1.0)
    monkeypatch.setattr(browser.webbrowser, "open", lambda u: pytest.fail("nothing answers there"))
    assert not browser.wait_and_open("http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("display", "terminal", "remote", "expected"),
    [(":0", True, "", True), ("", True, "", False), (":0", False, "", False), (":0", True, "a b", False)],
)
def test_where_somebody_can_see_it(
    monkeypatch: pytest.MonkeyPatch, display: str, terminal: bool, remote: str, expected: bool
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setenv("WAYLAND_DISPLAY", "")
    monkeypatch.setenv("SSH_CONNECTION", remote)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert browser.has_display() is expected


@pytest.mark.parametrize(("flags", "expected"), [((), 1), (("--no-browser",), 0)])
def test_the_command_opens_the_address_it_serves(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], expected: int
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(app_command, "has_display", lambda: True)
    monkeypatch.setattr(app_command, "open_when_it_answers", opened.append)
    monkeypatch.setattr(app_command, "check_port", lambda address, port: None)
    monkeypatch.setattr(app_command.os, "execv", lambda path, command: None)
    monkeypatch.setattr(app_command.subprocess, "call", lambda command: 0)
    main(["app", "--port", "8999", "--address", "0.0.0.0", *flags])
    assert opened == ["http://127.0.0.1:8999"] * expected
