"""How the app feels in Chromium on a warm server, and what it costs: seconds, updates per second, megabytes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.report import report
from tests.app_server import Server, running_app
from tests.chromium import FLAGS, find

PAGE = "normalization-statistics?seeds=1&norms=layer&reference=false&steps=1000"
CHARTS = "[...document.querySelectorAll('[data-testid=stVegaLiteChart]')]"
POINTS = f"""() => {CHARTS}.some(e => /Newest values/.test(e.outerHTML))
  && !/first point comes/.test(document.body.innerText)"""
"""A chart has points, and they are not those of a recorded run that stands there until the run has its own."""
COUNT = """() => {
  window.updates = 0; let last = '';
  const texts = () => [...document.querySelectorAll('[data-testid=stVegaLiteChart]')].map(
    e => (e.outerHTML.match(/Newest values[^"<]*/) || [''])[0]).join('|');
  last = texts();
  setInterval(() => { const now = texts(); if (now !== last) { window.updates += 1; last = now; } }, 20);
}"""
LOSS = f"""(() => {{
  for (const e of {CHARTS}) {{
    const found = e.outerHTML.match(/cross-entropy[^"]*Newest values: LayerNorm ([\\d.]+)/);
    if (found) return parseFloat(found[1]);
  }}
  return NaN;
}})()"""
"""The newest training loss on the page; a new run is told by its going up again."""

REPEATS = 5

LIVE = {
    "normalization-statistics?steps=1000": "normalization statistics",
    "optimizer-spectra?steps=600": "optimizer spectra",
}
"""The first page and the heaviest, with runs that last longer than the measurement."""


def first_point(browser: Browser, server: Server, *, cold: bool) -> list[float]:
    """Seconds from opening the page to the first point; ``cold``: with an empty browser cache."""
    times = []
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    if not cold:
        page = context.new_page()
        _open(page, server)
        _stop(page)
    for _ in range(REPEATS):
        if cold:
            context = browser.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        times.append(_open(page, server))
        _stop(page)
    return times


def _open(page: Page, server: Server) -> float:
    start = time.perf_counter()
    page.goto(f"{server.url}/{PAGE}", wait_until="commit")
    page.wait_for_function(POINTS, timeout=60_000, polling=10)
    return time.perf_counter() - start


def _stop(page: Page) -> None:
    """Free the worker for the next page."""
    page.get_by_role("button", name="Stop").click()
    page.wait_for_timeout(500)
    page.close()


def slider(browser: Browser, server: Server) -> tuple[list[float], float]:
    """Seconds from moving a slider to the new run's first point, and chart updates per second while it runs."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    _open(page, server)
    handle = page.locator("[data-testid=stSlider]").filter(has_text="Batch size").locator("input")
    times = []
    for _ in range(REPEATS):
        page.wait_for_timeout(1500)
        handle.focus()
        before = page.evaluate(LOSS)
        start = time.perf_counter()
        handle.press("ArrowRight")
        page.wait_for_function(f"() => {LOSS} > {before} + 0.3", timeout=30_000, polling=10)
        times.append(time.perf_counter() - start)
    page.wait_for_timeout(2000)
    page.evaluate(COUNT)
    page.wait_for_timeout(5000)
    updates = float(page.evaluate("window.updates")) / 5
    _stop(page)
    return times, updates


def live(browser: Browser, server: Server, address: str) -> tuple[float, float, float]:
    """A page while it runs: busy share of the browser's main thread, kilobytes received per second, updates per second.

    Measured over five seconds that begin three seconds after the first point.
    """
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    received = received_bytes(page)
    page.goto(f"{server.url}/{address}", wait_until="commit")
    page.wait_for_function(POINTS, timeout=60_000, polling=50)
    page.wait_for_timeout(3000)
    page.evaluate(COUNT)
    share, kilobytes = load(page, received, 5.0)
    updates = float(page.evaluate("window.updates")) / 5
    _stop(page)
    return share, kilobytes, updates


def received_bytes(page: Page) -> list[int]:
    """What the page's socket receives from now on, in one number that grows; before it is opened."""
    received = [0]

    def count(payload: str | bytes) -> None:
        received[0] += len(payload)

    page.on("websocket", lambda socket: socket.on("framereceived", count))
    return received


def load(page: Page, received: list[int], seconds: float) -> tuple[float, float]:
    """Busy share of the browser's main thread and kilobytes per second, over the next seconds."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def busy() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(float(m["value"]) for m in metrics if m["name"] == "TaskDuration")

    before, start, had = busy(), time.perf_counter(), received[0]
    page.wait_for_timeout(1000 * seconds)
    passed = time.perf_counter() - start
    return (busy() - before) / passed, (received[0] - had) / 1000 / passed


def megabytes(server: Server) -> float:
    """Resident memory of the server process, workers not counted."""
    return float(psutil.Process(server.process.pid).memory_info().rss) / 2**20


def import_seconds(statement: str) -> float:
    """Median seconds of an import in a fresh interpreter, less those of an empty one."""

    def run(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    return statistics.median(run(statement) - run("pass") for _ in range(5))


def main() -> None:
    rows: list[list[object]] = []

    def row(label: str, values: list[float], goal: str) -> None:
        rows.append([label, statistics.median(values), min(values), max(values), goal])

    row("import normviz (s)", [import_seconds("import normviz")], "0.05")
    path = find()
    assert path is not None, "no Chromium: run `make browser`"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        start = time.perf_counter()
        with running_app(Path(folder)) as server:
            page = browser.new_page()
            page.goto(server.url, wait_until="commit")
            page.get_by_role("heading", name="normviz").wait_for(timeout=60_000)
            row("server start to first page (s)", [time.perf_counter() - start], "")
            page.close()
            time.sleep(6)
            idle = megabytes(server)
            row("server memory, idle (MB)", [idle], "")
            row("load to first point, cold browser cache (s)", first_point(browser, server, cold=True), "")
            row("load to first point, warm browser (s)", first_point(browser, server, cold=False), "1.0")
            times, updates = slider(browser, server)
            row("slider to first new point (s)", times, "0.3")
            row("chart updates per second", [updates], "4")
            for address, name in LIVE.items():
                share, kilobytes, updates = live(browser, server, address)
                row(f"{name}: main thread busy, share", [share], "0.6")
                row(f"{name}: received (kB/s)", [kilobytes], "")
                row(f"{name}: chart updates per second", [updates], "4")
            before = megabytes(server)
            pages = [browser.new_page() for _ in range(3)]
            for p in pages:
                _open(p, server) if p is pages[0] else p.goto(f"{server.url}/{PAGE}")
            pages[0].wait_for_timeout(3000)
            row("server memory per live session (MB)", [(megabytes(server) - before) / 3], "")
        browser.close()
    report("app", "The app in Chromium", ("what", "median", "lowest", "highest", "goal"), rows)


if __name__ == "__main__":
    main()
