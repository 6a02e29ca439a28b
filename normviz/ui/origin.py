"""WebSockets are for the pages of this server alone.

A browser lets any page open a WebSocket to any server and says in ``Origin`` where that page comes from. Streamlit
takes every page of this machine for its own, whatever its port; another program's page could then watch and start runs.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit import config

__all__ = ["SameOrigin"]

_PORTS = {"http": 80, "https": 443}


class _Address(NamedTuple):
    scheme: str
    host: str
    port: int | None


class SameOrigin:
    """ASGI middleware that refuses a WebSocket of a page that another host or port has sent.

    The page's origin must be the host that the browser asked for, as ``Host`` says or a proxy's ``X-Forwarded-Host``. A
    host without a port, as proxies pass it on, stands for all ports. What the configuration lists in
    ``server.corsAllowedOrigins`` is allowed, and all origins if ``server.enableCORS`` is off. A program that is no
    browser sends no origin.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "websocket" and not _allowed(scope):
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)


def _allowed(scope: Scope) -> bool:
    given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
    if not given or not config.get_option("server.enableCORS"):
        return True
    origin = _split(given[0])
    listed = {_split(entry) for entry in config.get_option("server.corsAllowedOrigins") or ()}
    asked = [
        _split(f"//{entry.strip()}")
        for name, value in scope["headers"]
        if name in (b"host", b"x-forwarded-host")
        for entry in value.decode("latin-1").split(",")
    ]
    return (
        len(given) == 1 and origin is not None and (origin in listed or any(_is_at(origin, a) for a in asked))
    )


def _split(address: str) -> _Address | None:
    """Scheme, host and port of an address; None if it is none."""
    try:
        parts = urlsplit(address)
        return _Address(parts.scheme, parts.hostname, parts.port) if parts.hostname else None
    except ValueError:  # no port that there is, no IPv6 address
        return None


def _is_at(origin: _Address, asked: _Address | None) -> bool:
    if asked is None or origin.host != asked.host:
        return False
    return asked.port in (None, origin.port or _PORTS.get(origin.scheme))
