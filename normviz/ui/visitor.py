"""Who a visitor is: a random name that the browser keeps in a cookie, so that all of its tabs are one visitor.

Runs belong to visitors: only the one who started a run stops or pauses it, and visitors, not tabs, take turns in the
queue. The name says nothing about a person. Who knows it can stop the runs of its browser: scripts cannot read it, and
what is stored with a run is a name that follows from it.
"""

from __future__ import annotations

import re
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from typing import Any
from uuid import uuid4

import streamlit as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["COOKIE", "VisitorCookie", "visitor_name"]

COOKIE = "normviz-visitor"
ONE_YEAR = 365 * 24 * 3600
NAME = re.compile(r"[0-9a-f]{32}")


def visitor_name(otherwise: str) -> str:
    """The visitor of the present session: a name that follows from the cookie's, and from which that does not follow.

    Args:
        otherwise: where the browser keeps no cookie: a name for this tab alone.
    """
    name = str(st.context.cookies.get(COOKIE, ""))
    return sha256((name if NAME.fullmatch(name) else otherwise).encode()).hexdigest()[:16]


class VisitorCookie:
    """ASGI middleware that gives a browser its name with the first page.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or NAME.fullmatch(_sent(scope)):
            await self._app(scope, receive, send)
            return
        value = f"{COOKIE}={uuid4().hex}; Path=/; Max-Age={ONE_YEAR}; HttpOnly; SameSite=Lax".encode()

        async def named(message: Message) -> None:
            headers = message.get("headers", [])
            if message["type"] == "http.response.start" and _is_page(headers):
                message = {**message, "headers": [*headers, (b"set-cookie", value)]}
            await send(message)

        await self._app(scope, receive, named)


def _sent(scope: Scope) -> str:
    """The name that the browser sent, or nothing."""
    lines = [value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"]
    try:
        cookie: SimpleCookie = SimpleCookie("; ".join(lines))
    except CookieError:
        return ""
    return cookie[COOKIE].value if COOKIE in cookie else ""


def _is_page(headers: Any) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/html") for name, value in headers)
