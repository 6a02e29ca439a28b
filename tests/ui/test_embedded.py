"""A page inside another site: the stage alone, with the knobs of its link."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlsplit

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from normviz.experiments import Run, get_experiment
from normviz.ui.takeaway import frame_of
from tests.ui.ended import ended_run

OpenPage = Callable[..., AppTest]
SLUG = "normalization-statistics"


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(st.context), "is_embedded", property(lambda context: True))


@pytest.mark.usefixtures("embedded")
def test_the_stage_alone_is_drawn(open_page: OpenPage) -> None:
    app = open_page(SLUG, steps="40")
    assert not app.title
    assert not app.tabs
    assert app.session_state[f"{SLUG}/knobs"].steps == 40
    ended_run(app, SLUG)
    app.run()
    assert len(app.get("vega_lite_chart")) > 2


def test_the_frame_names_the_page_and_its_knobs() -> None:
    experiment = get_experiment(SLUG)
    found: dict[str, str | None] = {}

    class Frame(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag == "iframe"
            found.update(attrs)

    Frame().feed(frame_of(Run(experiment, experiment.knobs(steps=40)), "https://host/x"))
    address = urlsplit(str(found["src"]))
    query = parse_qs(address.query)
    assert (address.netloc, query["embed"], query["steps"]) == ("host", ["true"], ["40"])
    assert found["title"] == experiment.title
