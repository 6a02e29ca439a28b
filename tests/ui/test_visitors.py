"""Several visitors of one server: a run is stopped by who started it alone, and others' clicks leave it running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from normviz.ui import server
from normviz.ui.server import Viewer, engine
from normviz.ui.visitor import COOKIE, NAME, VisitorCookie

OpenPage = Callable[..., AppTest]
SLUG = "normalization-statistics"


def shown(app: AppTest) -> str:
    run_id: str = app.session_state[f"{SLUG}/run"]["id"]
    return run_id


def button(app: AppTest, end: str) -> Any:
    return next(b for b in app.button if b.key == f"{SLUG}-{end}")


def test_who_opens_anothers_link_watches_and_starts_a_run_of_his_own(
    open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna, ben = Viewer("tab 1", "anna"), Viewer("tab 2", "ben")  # under AppTest all tabs are one session
    monkeypatch.setattr(server, "_session_viewer", lambda: anna)
    first = open_page(SLUG, steps="600")
    run = engine().get(shown(first))
    assert run is not None
    assert run.live
    assert not button(first, "stop").disabled
    monkeypatch.setattr(server, "_session_viewer", lambda: ben)
    guest = open_page(SLUG, run=run.id)
    assert shown(guest) == run.id
    assert button(guest, "stop").disabled
    assert button(guest, "pause").disabled
    assert "Another visitor" in button(guest, "stop").proto.help
    steps = next(s for s in guest.slider if s.key == f"{SLUG}/knob/steps")
    steps.set_value(steps.value + steps.step).run()
    own = shown(guest)
    assert own != run.id
    assert run.live, "the run of the first visitor goes on"
    assert not button(guest, "stop").disabled
    button(guest, "again").click().run()
    assert not engine().get(own).live  # type: ignore[union-attr]
    assert run.live
    engine().cancel(run.id)


async def answer(cookie: str | None, kind: bytes = b"text/html; charset=utf-8") -> list[tuple[bytes, bytes]]:
    """Headers of a response that passed through the middleware."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [] if cookie is None else [(b"cookie", cookie.encode())]
    await VisitorCookie(app)({"type": "http", "headers": headers}, None, send)  # type: ignore[arg-type]
    found: list[tuple[bytes, bytes]] = sent[0]["headers"]
    return found


def test_a_browser_gets_a_name_once_and_with_a_page_only() -> None:
    given = dict(asyncio.run(answer(None)))[b"set-cookie"].decode()
    name = given.removeprefix(f"{COOKIE}=").split(";")[0]
    assert NAME.fullmatch(name)
    assert "HttpOnly" in given
    assert "SameSite=Lax" in given
    assert b"set-cookie" not in dict(asyncio.run(answer(f"a=b; {COOKIE}={name}")))
    assert b"set-cookie" not in dict(asyncio.run(answer(None, b"application/json")))


@pytest.mark.parametrize("cookie", [f"{COOKIE}=mine", f"{COOKIE}=", "=;;=", f'{COOKIE}="'])
def test_a_name_that_is_none_is_replaced(cookie: str) -> None:
    assert b"set-cookie" in dict(asyncio.run(answer(cookie)))
