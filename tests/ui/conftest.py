"""The app under AppTest: one engine with one warm worker and a store of its own for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from normviz.experiments import SLUGS
from normviz.ui import server
from normviz.ui.files import page_file

MAIN = Path(server.__file__).with_name("main.py")


@pytest.fixture(scope="session", autouse=True)
def _engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["NORMVIZ_DATA"] = str(tmp_path_factory.mktemp("data"))
    os.environ["NORMVIZ_WORKERS"] = "1"
    os.environ["NORMVIZ_THREADS"] = "1"
    yield
    server.engine().close()


@pytest.fixture
def open_page() -> Iterator[Callable[..., AppTest]]:
    """Open a page of the app by slug, with a query; it is drawn twice, thus whole. Its runs end with the test."""
    opened: list[AppTest] = []

    def open_(slug: str = "home", *, drawings: int = 2, **query: str) -> AppTest:
        app = AppTest.from_file(str(MAIN), default_timeout=60)
        for name, value in query.items():
            app.query_params[name] = value
        opened.append(app)
        app.run()
        if slug != "home":
            app.switch_page(str(page_file(slug)))
            for name, value in query.items():
                app.query_params[name] = value
            for _ in range(drawings):  # the first draws what is in sight, in a browser a poll draws the rest
                app.run()
        assert not app.exception, app.exception
        return app

    yield open_
    for app in opened:
        for slug in SLUGS:
            if f"{slug}/run" in app.session_state:
                server.engine().cancel(app.session_state[f"{slug}/run"]["id"])
