"""Several visitors of one server: a run is stopped by who started it alone, and others' clicks leave it running."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from normviz.engine import RunStore
from normviz.experiments import Run, get_experiment
from normviz.ui import history, server
from normviz.ui.plain import SPECIAL, plain
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


def test_the_page_of_runs_has_own_ones_first_and_others_to_read(
    open_page: OpenPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = RunStore(tmp_path)
    experiment = get_experiment(SLUG)
    link = "![beacon](http://host/x.png)"
    runs = {}
    for visitor in ("anna", "ben"):
        run = Run(experiment, experiment.knobs(), visitor=visitor, name=f"{visitor} {link}")
        run.begin()
        kept.create(run)
        run.end("done")
        kept.finish(run)
        runs[visitor] = run.id
    assert {row.id: row.visitor for row in kept.list()} == {id: name for name, id in runs.items()}
    assert kept.load(runs["ben"]).visitor == "ben"
    monkeypatch.setattr(history, "store", lambda: kept)
    monkeypatch.setattr(server, "_session_viewer", lambda: Viewer("tab 1", "anna"))
    app = open_page("runs")
    assert app.multiselect[0].options
    assert len(app.multiselect[0].options) == 1
    app.segmented_control(key="runs/whose").set_value("Everyone's").run()
    assert len(app.multiselect[0].options) == 2
    for visitor, others in (("anna", False), ("ben", True)):
        app.multiselect(key="runs/chosen").set_value([runs[visitor]]).run()
        assert not app.exception
        assert app.text_input(key=f"runs/name/{runs[visitor]}").disabled is others
        assert any("Another visitor" in caption.value for caption in app.caption) is others
        shown = " ".join(element.value for element in (*app.markdown, *app.caption))
        assert link not in shown
        assert plain(link) in shown


@given(st.text(max_size=400))
def test_plain_text_has_no_meaning_as_markdown(text: str) -> None:
    shown = plain(text)
    assert len(shown) <= 2 * 300
    unescaped = re.sub(rf"\\([{re.escape(SPECIAL)}])", r"\1", shown)
    assert unescaped == " ".join(text[:300].split())
    for special in "*_`[]<>$#|~:!":
        assert shown.count(special) == shown.count(f"\\{special}")


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
