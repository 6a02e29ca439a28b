"""A figure in a saved notebook: a still picture stands where no script draws the chart."""

from __future__ import annotations

import re
import sys
from base64 import b64decode
from html.parser import HTMLParser
from typing import Any

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normviz.arms import Arms
from normviz.figures import Figure, line_figure
from normviz.figures.stills import with_still
from normviz.frame import Frame, FrameLog


def figure() -> Figure:
    log = FrameLog(Frame(step, arm, 0, {"v": (step + 1) / 7}) for step in range(6) for arm in "AB")
    return line_figure(log, "v", arms=Arms.of("AB"), title="T", y="y", look_for="l")


class Boxes(HTMLParser):
    """The images of a page with the ids of the elements around them."""

    def __init__(self) -> None:
        super().__init__()
        self.around: list[str] = []
        self.images: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "div":
            self.around.append(dict(attrs).get("id") or "")
        elif tag == "img":
            self.images.append((self.around[-1], dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag == "div":
            self.around.pop()


def test_the_picture_stands_in_the_box_that_the_script_fills() -> None:
    drawn = figure()
    page = drawn._repr_mimebundle_()["text/html"]
    boxes = Boxes()
    boxes.feed(page)
    ((box, image),) = boxes.images
    assert re.search(rf'outputDiv = document.getElementById\("{box}"\)', page), "the script's own box"
    assert image["alt"] == drawn.alt
    kind, _, data = str(image["src"]).partition(",")
    assert kind == "data:image/svg+xml;base64"
    svg = b64decode(data).decode()
    assert svg.startswith("<svg")
    assert all(f">{arm}</text>" in svg for arm in "AB")
    whole = drawn.to_svg()
    assert len(svg) < len(whole)
    assert svg.count("<path") == whole.count("<path")
    assert svg.count("<text") == whole.count("<text")
    assert "aria-label" in whole
    assert "aria-label" not in svg


def test_a_bundle_without_a_page_gets_an_image_of_its_own() -> None:
    import altair as alt

    drawn = figure()
    with alt.renderers.enable("mimetype"):
        bundle: Any = drawn._repr_mimebundle_()
    values = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "text/html" not in values
    assert values["image/svg+xml"].startswith("<svg")
    assert any("vegalite" in kind for kind in values)


def test_what_is_no_bundle_stays_as_it_is() -> None:
    assert with_still(None, "<svg/>", "") is None
    assert with_still(({"a": 1}, {"m": 2}), "<svg/>", "") == ({"a": 1, "image/svg+xml": "<svg/>"}, {"m": 2})


@given(st.lists(st.floats(0.0, 1e4), min_size=1, max_size=9))
def test_coordinates_move_less_than_a_tenth_and_words_do_not(numbers: list[float]) -> None:
    path = ",".join(f"{number:.12f}" for number in numbers)
    svg = f'<svg><path d="M{path}"/><text>0.123456789</text></svg>'
    light = with_still({}, svg, "")["image/svg+xml"]
    assert "<text>0.123456789</text>" in light
    cut = [float(n) for n in re.search(r'd="M([^"]*)"', light)[1].split(",")]  # type: ignore[index]
    assert cut == pytest.approx([float(n) for n in path.split(",")], abs=0.1)


def test_without_the_drawing_library_the_live_chart_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normviz.figures.figure.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    page = figure()._repr_mimebundle_()["text/html"]
    assert "vegaEmbed" in page
    assert "<img" not in page


def test_plotly_is_as_it_was() -> None:
    drawn = Figure("T", "l", "a", plotly=go.Figure())
    assert drawn._repr_mimebundle_().keys() == drawn.plotly._repr_mimebundle_().keys()  # type: ignore[union-attr]
