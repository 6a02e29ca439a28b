"""The run that a page shows, once it has ended."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest

from normviz.experiments import Run
from normviz.ui.server import engine
from tests.waiting import wait_until


def ended_run(app: AppTest, slug: str) -> Run:
    """The page's run when its worker has done it, however long that takes.

    Raises:
        AssertionError: the run has failed or was stopped, or nothing moves any more.
    """
    run = engine().get(app.session_state[f"{slug}/run"]["id"])
    assert run is not None
    wait_until(lambda: not run.live, f"the run of {slug}", progress=lambda: len(run.log))
    assert run.status == "done", run.error
    return run
