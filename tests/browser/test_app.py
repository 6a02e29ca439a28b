"""The app as a visitor meets it, in Chromium."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable
from urllib.parse import parse_qs, urlparse

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from normviz.engine import RunStore
from normviz.experiments import SLUGS, get_experiment
from tests import waiting
from tests.app_server import Server
from tests.own_files import plants

pytestmark = pytest.mark.browser

SLUG = "normalization-statistics"
SMALL = "steps=40&seeds=1&norms=layer&reference=false&batch_size=4"
LONG = "steps=1000&seeds=5&norms=layer&reference=false&batch_size=4"
POINTS = re.compile(r"Newest values: .+\d")


def run_of(page: Page) -> str:
    """The run's id in the link."""
    return parse_qs(urlparse(page.evaluate("location.href")).query).get("run", [""])[0]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    waiting.wait_until(condition, what, pause=0.1)


def chart_texts(page: Page) -> list[str]:
    """Textual alternatives of the charts on the page, read in one go: charts come and go while a run is live."""
    texts: list[str] = page.locator(
        "[data-testid=stVegaLiteChart], [data-testid=stPlotlyChart]"
    ).evaluate_all("""charts => charts.map(e => e.outerHTML.match(/aria-label="([^"]*)"/)?.[1] ?? '')""")
    return texts


def wait_for_points(page: Page) -> None:
    wait_until(lambda: any(text.strip() for text in chart_texts(page)), "a chart with points")


def wait_for_status(page: Page, pattern: str) -> None:
    wait_until(page.get_by_text(re.compile(pattern)).first.is_visible, f"the status {pattern!r}")


def stop_if_live(page: Page) -> None:
    """End the run; a short one may have ended by itself, and its button is then disabled for ever."""
    button = page.get_by_role("button", name="Stop")
    ended = page.get_by_text(re.compile(r"^(Stopped|Done)")).first

    def over() -> bool:
        if ended.is_visible():
            return True
        if button.is_enabled():
            button.evaluate("e => e.click()")
        return False

    waiting.wait_until(over, "the run's end", pause=0.5)


def status_of(server: Server, run_id: str) -> str:
    return next((run.status for run in RunStore(server.data).list() if run.id == run_id), "")


@pytest.mark.parametrize("slug", SLUGS)
def test_page_opens_and_draws_points(slug: str, server: Server, page: Page) -> None:
    page.goto(f"{server.url}/{slug}")
    expect(page.get_by_role("heading", name=get_experiment(slug).title, exact=True)).to_be_visible()
    wait_for_points(page)
    assert run_of(page)
    assert page.locator("[data-testid=stException]").count() == 0
    stop_if_live(page)


def test_slider_starts_a_new_run_and_stops_the_old(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/{SLUG}?{LONG}")
    wait_for_points(page)
    old = run_of(page)
    slider = page.locator("[data-testid=stSlider]").filter(has_text="Batch size").locator("input")
    slider.focus()
    slider.press("ArrowRight")
    wait_until(lambda: run_of(page) not in ("", old), "a new run in the link")
    wait_for_points(page)
    wait_until(lambda: "batch_size=5" in page.evaluate("location.href"), "the new knob in the link")
    wait_until(lambda: status_of(server, old) == "cancelled", "the old run's end")
    page.get_by_role("button", name="Stop").click()


def test_run_to_its_end_scrub_verdicts_and_downloads(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/{SLUG}?{SMALL}")
    wait_for_status(page, r"^Done: step 40 of 40")
    expect(page.get_by_text(re.compile(r"^Verdicts")).first).to_be_visible()

    def at_the_beginning() -> bool:
        return any(re.search(r"\bstep 0\b", text) for text in chart_texts(page))

    # The status line is drawn before the charts: those may still show an earlier moment.
    wait_until(lambda: any(chart_texts(page)) and not at_the_beginning(), "charts of the newest moment")
    newest = chart_texts(page)
    scrubber = page.locator("[data-testid=stSlider]").filter(has_text="step 40").locator("input")
    scrubber.focus()
    scrubber.press("Home")
    wait_until(at_the_beginning, "charts at step 0")
    assert chart_texts(page) != newest
    page.get_by_role("tab", name="Take it with you").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Scalars as CSV").click()
    with open(download.value.path(), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 40
    assert {"step", "arm", "seed", "loss"} <= rows[0].keys()


def test_reload_finds_the_running_run_again(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/{SLUG}?{LONG}")
    wait_for_points(page)
    before = run_of(page)
    page.reload()
    wait_for_points(page)
    assert run_of(page) == before
    time.sleep(3)
    assert status_of(server, before) in ("running", "done"), "a reload stops no run"
    stop_if_live(page)


def test_closed_tab_ends_its_run_after_the_grace_period(server: Server, browser: Browser) -> None:
    tab = browser.new_page()
    tab.goto(f"{server.url}/{SLUG}?{LONG}")
    wait_for_points(tab)
    run_id = run_of(tab)
    assert status_of(server, run_id) == "running"
    tab.close()
    wait_until(lambda: status_of(server, run_id) == "cancelled", "the abandoned run's end")


def test_killed_worker_fails_its_run_only_and_the_next_works(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/{SLUG}?{LONG}")
    wait_for_points(page)
    children = psutil.Process(server.process.pid).children(recursive=True)
    workers = [c for c in children if "normviz.engine.worker" in c.cmdline()]
    assert workers
    for worker in workers:
        worker.kill()
    expect(page.get_by_text("This run failed")).to_be_visible()
    expect(page.get_by_text("SIGKILL")).to_be_visible()
    failed = run_of(page)
    page.get_by_role("button", name="Again", exact=True).click()
    wait_until(lambda: run_of(page) not in ("", failed), "a new run")
    wait_for_status(page, r"^Running: step [1-9]\d* of 1000")
    page.get_by_role("button", name="Stop").click()
    wait_for_status(page, r"^Stopped")


def test_two_visitors_have_their_own_runs_and_the_second_sees_its_place(
    server: Server, browser: Browser
) -> None:
    first, second = (browser.new_context().new_page() for _ in range(2))
    first.goto(f"{server.url}/{SLUG}?{LONG}")
    wait_for_points(first)
    second.goto(f"{server.url}/{SLUG}?{LONG}&learning_rate=0.01")
    wait_for_status(second, r"Waiting for a free worker: place \d|Starting")
    assert run_of(first) != run_of(second)
    first.get_by_role("button", name="Stop").click()
    wait_for_status(second, r"^Running: step [1-9]\d* of 1000")
    second.get_by_role("button", name="Stop").click()
    wait_for_status(second, r"^Stopped")
    first.context.close()
    second.context.close()


def test_refused_link_names_the_knob_and_the_range(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/{SLUG}?steps=banana&norms=leyer")
    message = page.get_by_text("Part of the link was not used.")
    expect(message).to_contain_text("steps = banana is not allowed: it takes 10 to 1000.")
    expect(message).to_contain_text("Nearest: layer.")
    wait_for_points(page)
    page.get_by_role("button", name="Stop").click()


def test_refused_upload_says_why_and_nothing_is_kept(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/{SLUG}?{SMALL}")
    page.locator("summary").filter(has_text="Data").click()
    expect(page.locator("input[type=file]")).to_have_count(1)
    page.locator("input[type=file]").set_input_files(
        {"name": "photo.txt", "mimeType": "text/plain", "buffer": b"\x89PNG\0\0" * 1000}
    )
    expect(page.get_by_text("photo.txt is not")).to_be_visible()
    assert not list(server.data.glob("uploads/*"))


def test_a_table_of_ones_own_is_trained_on(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/self-normalizing?arms=snn&depth=2&width=16&steps=20&seeds=1")
    page.get_by_role("combobox", name="Data").click()
    page.get_by_role("option", name="Your own", exact=True).click()
    expect(page.get_by_text("Bring a CSV table to train on, and choose its target.")).to_be_visible()
    page.locator("input[type=file]").set_input_files(
        {"name": "plants.csv", "mimeType": "text/csv", "buffer": plants()}
    )
    expect(page.get_by_text("120 rows, 4 inputs, 3 classes: fern 40, moss 40, reed 40.")).to_be_visible()
    page.get_by_role("combobox", name="Target").click()
    page.get_by_role("option", name="colour", exact=True).click()
    read = page.get_by_text(re.compile(r"120 rows, 5 inputs, 2 classes: blue \d+, red \d+\."))
    expect(read).to_be_visible()
    wait_until(lambda: "target=colour" in page.evaluate("location.href"), "the target in the link")
    wait_until(lambda: status_of(server, run_of(page)) == "done", "the end of the run on that target")
    wait_for_status(page, r"^Done: step 20 of 20")


def test_runs_page_lists_stored_runs(server: Server, page: Page) -> None:
    for rate in ("0.001", "0.01"):
        page.goto(f"{server.url}/{SLUG}?{SMALL}&learning_rate={rate}")
        wait_for_status(page, r"^Done: step 40 of 40")
    page.goto(f"{server.url}/runs")
    expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
    expect(page.locator("[data-testid=stDataFrame]")).to_be_visible()


def test_narrow_screen_has_no_sideways_scroll(server: Server, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    tab = context.new_page()
    tab.goto(f"{server.url}/{SLUG}?{SMALL}")
    wait_for_points(tab)
    overflow = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0
    context.close()
