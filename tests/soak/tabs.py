"""Tabs that run again and again: the server's memory stays where it is."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import psutil
from streamlit.testing.v1 import AppTest

from normviz.ui import server
from normviz.ui.files import page_file
from tests.soak.trial import Trial
from tests.waiting import wait_until

__all__ = ["many_tabs"]

MAIN = Path(server.__file__).with_name("main.py")
SLUG = "self-normalizing"
SMALL = {"steps": "10", "seeds": "1", "depth": "2", "width": "16"}
ALLOWED = 0.05
"""Growth of the memory that is let pass, as a share, from the middle of the trial to its end."""

LONG = 40
"""Presses in a tab from which on memory is judged: before, caches still fill."""


def _memory() -> float:
    gc.collect()
    return psutil.Process(os.getpid()).memory_info().rss / 2**20


def many_tabs(reruns: int, tabs: int) -> Trial:
    """In every tab *Again* is pressed many times: no page fails, and memory does not grow in the second half."""
    trial = Trial(f"{reruns} presses of Again in each of {tabs} tabs")
    opened = []
    for _ in range(tabs):
        app = AppTest.from_file(str(MAIN), default_timeout=120)
        app.run()
        app.switch_page(str(page_file(SLUG)))
        for name, value in SMALL.items():
            app.query_params[name] = value
        app.run()
        opened.append(app.run())
    half = 0.0
    for n in range(reruns):
        for app in opened:
            again = next(b for b in app.button if b.key == f"{SLUG}-again")
            again.click().run()
            trial.tried += 1
            trial.expect(not app.exception, f"the page failed: {[e.value for e in app.exception]}")
            run_id = app.session_state[f"{SLUG}/run"]["id"]
            run = server.engine().get(run_id)
            wait_until(lambda run=run: run is None or not run.live, f"the end of run {run_id}")
        if n + 1 == max(1, reruns // 2):
            half = _memory()
    end = _memory()
    trial.measured = f"{half:.0f} MB in the middle, {end:.0f} MB at the end"
    if reruns >= LONG:
        trial.expect(end <= half * (1 + ALLOWED), f"memory grew from {half:.0f} to {end:.0f} MB")
    return trial
