"""The widget for data of the reader's own, under AppTest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from normviz.own_tables import keep_table
from tests.own_files import plants, shapes

OpenPage = Callable[..., AppTest]

PAGES: dict[str, dict[str, str]] = {
    "self-normalizing": {"arms": "snn", "depth": "2", "width": "16", "steps": "10", "seeds": "1"},
    "evolving-layers": {"layers": "S0", "batch_sizes": "8", "steps": "10", "seeds": "1"},
    "shifting-statistics": {"methods": "tbn", "images": "64", "seeds": "1"},
    "residual-depth": {"methods": "plain", "depth": "4", "steps": "10", "seeds": "1"},
    "schedule-refinement": {"task": "digits", "schedules": "flat", "rates": "1", "steps": "20", "seeds": "1"},
    "adaptive-batch-size": {"task": "digits", "arms": "small", "samples": "1000", "seeds": "1"},
    "federated-pruning": {"arms": "dense", "clients": "2", "rounds": "3"},
}
FILES = {
    "own_table": ("plants.csv", plants(), "text/csv"),
    "own_images": ("shapes.zip", shapes(80), "application/zip"),
}
READ = {
    "own_table": "plants.csv\\: 120 rows, 4 inputs, 3 classes\\: fern 40, moss 40, reed 40.",
    "own_images": "shapes.zip\\: 240 images, 3 classes\\: class 0 80, class 1 80, class 2 80.",
}


def kind_of(slug: str) -> str:
    return (
        "own_images"
        if slug in ("evolving-layers", "shifting-statistics", "federated-pruning")
        else "own_table"
    )


def bring(app: AppTest, slug: str, file: tuple[str, bytes, str]) -> None:
    uploader = app.get_by_key(f"{slug}/knob/own/file")
    uploader.set_value(file)
    app.run()
    assert not app.exception


def choose(app: AppTest, slug: str, name: str, value: Any) -> None:
    app.session_state[f"{slug}/knob/{name}"] = value
    app.run()
    assert not app.exception


def errors(app: AppTest) -> list[str]:
    return [error.value for error in app.error]


@pytest.mark.parametrize("slug", PAGES)
def test_a_file_is_asked_for_and_a_good_one_is_run(slug: str, open_page: OpenPage) -> None:
    app = open_page(slug, **PAGES[slug])
    assert not app.file_uploader
    choose(app, slug, "data", "own")
    assert [text for text in errors(app) if text.startswith("Bring a ")]
    bring(app, slug, FILES[kind_of(slug)])
    assert errors(app) == []
    assert READ[kind_of(slug)] in [caption.value for caption in app.caption]
    knobs = app.session_state[f"{slug}/knobs"]
    assert knobs.data == "own"
    assert getattr(knobs, kind_of(slug)).startswith(("table-", "images-"))
    choose(app, slug, "data", "digits")
    assert getattr(app.session_state[f"{slug}/knobs"], kind_of(slug)) == ""
    choose(app, slug, "data", "own")
    assert app.session_state[f"{slug}/knobs"] == knobs, "it is there again"


@pytest.mark.parametrize("slug", PAGES)
def test_a_refused_file_says_why_and_changes_nothing(slug: str, open_page: OpenPage) -> None:
    app = open_page(slug, **PAGES[slug])
    choose(app, slug, "data", "own")
    bring(app, slug, FILES[kind_of(slug)])
    before = app.session_state[f"{slug}/knobs"]
    ending = FILES[kind_of(slug)][0][-4:]
    bring(app, slug, (f"**bad**{ending}", b"a,b\n1,2\n1,2,3\n", "text/csv"))
    assert len(errors(app)) == 1
    assert errors(app)[0].startswith("\\*\\*bad\\*\\*"), "its name has no meaning as Markdown"
    assert app.session_state[f"{slug}/knobs"] == before
    bring(app, slug, FILES[kind_of(slug)])
    assert errors(app) == []


def test_the_target_is_chosen_among_the_columns_that_can_be_one(open_page: OpenPage) -> None:
    slug = "self-normalizing"
    app = open_page(slug, **PAGES[slug])
    choose(app, slug, "data", "own")
    bring(app, slug, FILES["own_table"])
    (target,) = [box for box in app.selectbox if box.label == "Target"]
    assert target.options == ["colour", "species"]
    assert target.value == "species"
    target.set_value("colour").run()
    assert not app.exception
    assert app.session_state[f"{slug}/knobs"].target == "colour"
    assert any("2 classes\\: blue" in caption.value for caption in app.caption)


def test_a_page_that_takes_both_has_one_at_a_time(open_page: OpenPage) -> None:
    slug = "residual-depth"
    app = open_page(slug, **PAGES[slug])
    choose(app, slug, "data", "own")
    bring(app, slug, FILES["own_images"])
    assert errors(app) == []
    assert app.session_state[f"{slug}/knobs"].own_images.startswith("images-")
    bring(app, slug, FILES["own_table"])
    knobs = app.session_state[f"{slug}/knobs"]
    assert (knobs.own_images, knobs.target) == ("", "species")
    bring(app, slug, ("shapes.zip", b"PK", "application/zip"))
    assert errors(app) == ["shapes.zip is no zip that can be read\\: File is not a zip file."]
    assert app.session_state[f"{slug}/knobs"] == knobs


def test_a_link_opens_a_kept_table_and_a_wrong_target_is_said(open_page: OpenPage) -> None:
    slug, key = "self-normalizing", keep_table(plants(), "plants.csv")
    link = {**PAGES[slug], "data": "own", "own_table": key}
    app = open_page(slug, **link, target="colour")
    assert errors(app) == []
    assert (app.session_state[f"{slug}/knobs"].own_table, app.session_state[f"{slug}/knobs"].target) == (
        key,
        "colour",
    )
    assert any(caption.value.startswith(key.replace("-", "\\-")) for caption in app.caption)
    app = open_page(slug, **link, target="colours")
    assert any("there is no column 'colours'. Nearest: colour" in text for text in errors(app))
    app = open_page(slug, **{**link, "own_table": "table-0123456789ab"}, target="colour")
    assert errors(app) == ["The table table-0123456789ab is not on this machine: upload it again."]
