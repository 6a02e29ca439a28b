"""The page that the browser loads first, told where its server is.

Opened by a deep link, Streamlit's script first looks for its server below the page's own path, gets two 404 answers,
and then looks one level up. A line in the page's head says where the server is, which saves the detour.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config

__all__ = ["ServerAddress"]

HEAD = b"<head>"


def _line() -> bytes:
    """The line for the head; the browser knows its own origin, a proxy's path comes from the configuration."""
    base = str(config.get_option("server.baseUrlPath") or "").strip("/")
    path = f"/{base}/" if base else "/"
    return (
        f'<script>window.__streamlit={{BACKEND_BASE_URL:location.origin+"{path}",'
        f'MAIN_PAGE_BASE_URL:location.origin+"{path}"}}</script>'
    ).encode()


class ServerAddress:
    """ASGI middleware that adds the line to every HTML page.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "GET" or not _asks_for_a_page(scope):
            await self._app(scope, receive, send)
            return
        # Uncompressed, so that the line can be put in; the page has eight kilobytes.
        scope = {**scope, "headers": [h for h in scope["headers"] if h[0] != b"accept-encoding"]}
        started: Message | None = None
        body = b""

        async def changed(message: Message) -> None:
            nonlocal started, body
            if message["type"] == "http.response.start" and _is_page(message):
                started = message
            elif started is not None and message["type"] == "http.response.body":
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    await send(_with_length(started, len(page := body.replace(HEAD, HEAD + _line(), 1))))
                    await send({**message, "body": page})
            else:
                await send(message)

        await self._app(scope, receive, changed)


def _asks_for_a_page(scope: Scope) -> bool:
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])


def _is_page(message: Message) -> bool:
    """Whether a response is an HTML page that is sent as it is."""
    headers = dict(message.get("headers", []))
    plain = b"content-encoding" not in headers
    return message["status"] == 200 and plain and headers.get(b"content-type", b"").startswith(b"text/html")


def _with_length(message: Message, length: int) -> Message:
    kept = [(name, value) for name, value in message["headers"] if name not in (b"content-length", b"etag")]
    return {**message, "headers": [*kept, (b"content-length", str(length).encode())]}
