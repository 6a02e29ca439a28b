"""Which pages may open a WebSocket to the server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from streamlit import config

from normviz.ui.origin import SameOrigin

HERE = "127.0.0.1:8501"


async def connect(kind: str, headers: dict[str, str]) -> list[str]:
    """What the client gets, the application's answer being "accepted"."""
    sent: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "accepted"})

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await SameOrigin(app)({"type": kind, "headers": encoded}, receive, send)
    return sent


@pytest.mark.parametrize(
    ("origin", "host", "forwarded", "allowed"),
    [
        (f"http://{HERE}", HERE, None, True),
        ("http://localhost:8501", "localhost:8501", None, True),
        ("http://[::1]:8501", "[::1]:8501", None, True),
        ("http://Lab.example", "lab.example", None, True),
        ("https://lab.example", "lab.example:443", None, True),
        ("https://lab.example:8443", "lab.example", None, True),
        ("https://lab.example", HERE, "lab.example", True),
        ("https://lab.example", HERE, "lab.example, proxy.example", True),
        ("http://localhost:9999", "localhost:8501", None, False),
        ("http://localhost:8501", HERE, None, False),
        ("http://localhost", "localhost:8501", None, False),
        ("http://evil.example", HERE, None, False),
        ("http://127.0.0.1.evil.example", HERE, None, False),
        ("http://127.0.0.1:8501@evil.example", HERE, None, False),
        ("http://evil.example#127.0.0.1:8501", HERE, None, False),
        ("http://0.0.0.0", HERE, None, False),
        ("http://evil.example", HERE, "lab.example", False),
        ("null", HERE, None, False),
        ("", "", None, False),
        ("http://a:port", "a:port", None, False),
        ("http://[", "[", None, False),
    ],
)
def test_origin_must_be_the_host_that_was_asked_for(
    origin: str, host: str, forwarded: str | None, allowed: bool
) -> None:
    headers = {"host": host, "origin": origin} | ({"x-forwarded-host": forwarded} if forwarded else {})
    assert asyncio.run(connect("websocket", headers)) == (["accepted"] if allowed else ["websocket.close"])
    assert asyncio.run(connect("http", headers)) == ["accepted"], "pages may be linked to from anywhere"


def test_a_program_that_is_no_browser_sends_no_origin() -> None:
    assert asyncio.run(connect("websocket", {"host": HERE})) == ["accepted"]


def test_two_origins_are_none() -> None:
    headers = {"origin": f"http://{HERE}, http://evil.example", "host": HERE}
    assert asyncio.run(connect("websocket", headers)) == ["websocket.close"]


def test_configuration_may_allow_others(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {
        "server.enableCORS": True,
        "server.corsAllowedOrigins": ["https://portal.example/"],
    }
    monkeypatch.setattr(config, "get_option", given.__getitem__)
    for origin, answer in (
        ("https://portal.example", "accepted"),
        ("https://other.example", "websocket.close"),
    ):
        assert asyncio.run(connect("websocket", {"host": HERE, "origin": origin})) == [answer]
    given["server.enableCORS"] = False
    assert asyncio.run(connect("websocket", {"host": HERE, "origin": "https://other.example"})) == [
        "accepted"
    ]
