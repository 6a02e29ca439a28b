"""Six live line charts drawn by Vega-Lite, as on the pages, and by ECharts: what each costs the browser.

Both draw the same numbers four times a second: four arms with their seed bands over up to 240 positions, a logarithmic
axis, a cursor, the values under the pointer. Alternated in one browser; shares of its main thread and kilobytes per
second.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from playwright.sync_api import Browser, sync_playwright

from benchmarks.app import load, received_bytes
from benchmarks.report import report
from normviz.figures import Figure, line_figure
from normviz.frame import Frame, FrameLog
from tests.app_server import running_app
from tests.chromium import FLAGS, find

CHARTS, ARMS, SEEDS, STEPS, POINTS = 6, ("A", "B", "C", "D"), 3, 960, 240
ROUNDS, SECONDS = 3, 8.0
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
APP = """
import time
import streamlit as st
from benchmarks.chart_kinds import draw
st.set_page_config(layout="wide")
kind = st.query_params["kind"]
begin = st.session_state.setdefault("begin", time.monotonic())

@st.fragment(run_every=0.25)
def region():
    draw(kind, time.monotonic() - begin)

region()
"""


@cache
def whole(chart: int) -> Figure:
    """A figure of a whole run: every arm decays towards a level of its own, with noise."""
    noise = np.random.default_rng(chart).normal(size=(POINTS, len(ARMS), SEEDS))
    frames = [
        Frame(
            i * STEPS // POINTS,
            arm,
            seed,
            {"loss": 0.05 * (a + 1) + 2.0 ** (-i / 40) * (1 + 0.05 * float(e))},
        )
        for i in range(POINTS)
        for a, arm in enumerate(ARMS)
        for seed, e in enumerate(noise[i, a])
    ]
    title, look_for = f"Loss {chart}", "Which falls fastest?"
    log, middle = FrameLog(frames), STEPS // 2
    return line_figure(
        log, "loss", title=title, y="nats", look_for=look_for, log_scale=True, step=middle, last=STEPS
    )


def figures(seconds: float) -> dict[str, Figure]:
    """The six figures after so many seconds; they begin anew when the run is at its end."""
    until = int(32 * seconds) % STEPS
    shown = {f"chart{i}": whole(i) for i in range(CHARTS)}
    return {
        name: replace(figure, data=figure.data[figure.data["step"] <= until])
        for name, figure in shown.items()
        if figure.data is not None
    }


def option(figure: Figure) -> dict[str, Any]:
    """The same lines, bands and cursor as an option of ECharts."""
    assert figure.data is not None
    series: list[dict[str, Any]] = []
    for colour, (arm, rows) in zip(COLOURS, figure.data.groupby("arm", sort=False), strict=False):
        table = pd.DataFrame({k: rows[k] for k in ("step", "mean", "low", "high")})
        band = {"type": "line", "stack": arm, "symbol": "none", "silent": True, "lineStyle": {"opacity": 0}}
        series.append({**band, "data": table[["step", "low"]].to_numpy().tolist()})
        height = np.stack([table["step"], table["high"] - table["low"]], 1)
        series.append({**band, "data": height.tolist(), "areaStyle": {"color": colour, "opacity": 0.2}})
        line = {"type": "line", "name": arm, "symbol": "none", "itemStyle": {"color": colour}}
        series.append({**line, "data": table[["step", "mean"]].to_numpy().tolist()})
    series[-1]["markLine"] = {"symbol": "none", "data": [{"xAxis": figure.data["step"].median()}]}
    return {
        "animation": False,
        "tooltip": {"trigger": "axis"},
        "xAxis": {"type": "value", "max": STEPS, "name": "step"},
        "yAxis": {"type": "log"},
        "series": series,
    }


def draw(kind: str, seconds: float) -> None:
    """One poll of the page."""
    import streamlit as st

    from normviz.ui.charts import STAGE_HEIGHT, figure_grid

    found = figures(seconds)
    if kind == "vega":
        figure_grid(found, key="bench", columns=3, height=STAGE_HEIGHT, wordy=False)
        return
    for start in (0, 3):
        for place, (name, figure) in zip(st.columns(3), list(found.items())[start : start + 3], strict=True):
            with place:
                st.echarts_chart(option(figure), height=STAGE_HEIGHT, key=name, alt=figure.alt)


def busy(browser: Browser, url: str) -> tuple[float, float]:
    """Busy share of the main thread, and kilobytes per second, from four seconds after opening."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    received = received_bytes(page)
    page.goto(url, wait_until="commit")
    page.locator("canvas, .vega-embed").nth(CHARTS - 1).wait_for(timeout=60_000)
    page.wait_for_timeout(4000)
    found = load(page, received, SECONDS)
    page.close()
    return found


def main() -> None:
    path = find()
    assert path is not None, "no Chromium: run `make browser`"
    found: dict[str, list[tuple[float, float]]] = {"vega": [], "echarts": []}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        app = Path(folder) / "app.py"
        app.write_text(APP, encoding="utf-8")
        command = (
            sys.executable,
            "-m",
            "streamlit",
            "run",
            str(app),
            "--server.headless",
            "true",
            "--server.port",
        )
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        with running_app(Path(folder), command=command) as server:
            for _ in range(ROUNDS):
                for kind, results in found.items():
                    results.append(busy(browser, f"{server.url}/?kind={kind}"))
        browser.close()
    rows: list[list[object]] = []
    for kind, results in found.items():
        for name, values in zip(
            ("main thread busy, share", "received (kB/s)"), zip(*results, strict=True), strict=True
        ):
            rows.append([f"{kind}: {name}", statistics.median(values), min(values), max(values)])
    report("chart_kinds", "Six live line charts", ("what", "median", "lowest", "highest"), rows)


if __name__ == "__main__":
    main()
