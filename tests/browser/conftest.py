"""A real server and a real Chromium, both shared by the browser tests of a file.

Not by all of them: Playwright leaves an event loop running in its thread, and tests of other files that come after it
in the same process could not start one of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.app_server import Server, running_app
from tests.chromium import FLAGS, find

HARMLESS = re.compile(r"status of 404|Infinite extent")
"""Streamlit itself looks for two of its own addresses below a page's path first and gets a 404."""

PATIENCE = 240_000.0
"""Milliseconds Playwright tries an action or an expectation: as long as a test may take, for a busy machine."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_app(tmp_path_factory.mktemp("server")) as app:
        yield app


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find()
    assert path is not None, "no Chromium: run `make browser`"
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh tab of 1440 x 900; the console must be clean when the test is over."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and not HARMLESS.search(message.text):
            complaints.append(message.text)

    tab.on("console", note)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    yield tab
    context.close()
    assert complaints == []
