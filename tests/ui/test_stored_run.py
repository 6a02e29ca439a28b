"""A page that shows a run it did not start: one of another process on the same store, one whose server has ended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from streamlit.testing.v1 import AppTest

from normviz.engine import RunStore
from normviz.engine.owner import owner_name
from normviz.experiments import Run, get_experiment
from normviz.frame import Frame
from normviz.ui.server import engine, store
from tests.waiting import wait_until

OpenPage = Callable[..., AppTest]
SLUG = "normalization-statistics"


def begin_elsewhere() -> tuple[RunStore, Run]:
    """A run that another process on the same store has begun."""
    kept = store()
    assert kept is not None
    other = RunStore(kept.path)
    experiment = get_experiment(SLUG)
    run = Run(experiment, experiment.knobs(), device="cpu")
    run.begin()
    other.create(run)
    return other, run


def add(other: RunStore, run: Run, *steps: int) -> None:
    arms = run.knobs.shown_arms().names
    frames = [Frame(step, arm, 0, {"loss": 1.0}) for step in steps for arm in arms]
    run.log.extend(frames)
    other.append(run.id, frames)
    other.close()  # writes at once


def progress(app: AppTest) -> str:
    (bar,) = (element for element in app.get("progress"))
    return str(bar.proto.text)


def button(app: AppTest, end: str) -> object:
    return next(b for b in app.button if b.key == f"{SLUG}-{end}")


def test_run_of_another_process_is_followed_to_its_end(open_page: OpenPage) -> None:
    other, run = begin_elsewhere()
    add(other, run, 0, 1)
    app = open_page(SLUG, run=run.id)
    assert app.session_state[f"{SLUG}/run"]["id"] == run.id
    assert progress(app).startswith("Running: step 1 of")
    assert button(app, "stop").disabled  # type: ignore[attr-defined]
    assert "Another program" in button(app, "stop").proto.help  # type: ignore[attr-defined]
    add(other, run, 2, 3, 4)
    app.run()
    assert progress(app).startswith("Running: step 4 of")
    run.end("cancelled")
    other.finish(run)
    app.run()
    assert progress(app).startswith("Stopped: step 4 of")
    assert not app.exception
    other.delete(run.id)
    app.run()
    assert progress(app).startswith("Stopped: step 4 of"), "what is shown stays"


def test_recorded_charts_stand_for_what_a_live_run_has_not_measured(open_page: OpenPage) -> None:
    other, run = begin_elsewhere()
    add(other, run, 0, 1)  # nothing but the loss
    app = open_page(SLUG, run=run.id)

    def stand_ins() -> list[str]:
        return [m.value for m in app.markdown if "of an earlier run" in m.value]

    stage = run.experiment.sheet(run.knobs).stage
    assert 0 < len(stand_ins()) < len(stage)
    assert len(app.get("vega_lite_chart")) >= len(stage), "no card is empty"
    run.end("cancelled")
    other.finish(run)
    app.run()
    assert not stand_ins(), "a run that has ended shows what it measured"
    other.delete(run.id)


def test_run_whose_server_has_ended_says_so(open_page: OpenPage) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    owner = owner_name(dead.pid)
    dead.wait()
    other, run = begin_elsewhere()
    add(other, run, 0, 1, 2)
    with other._index(write=True) as index:
        index.execute("UPDATE runs SET owner = ? WHERE id = ?", (owner, run.id))
    app = open_page(SLUG, run=run.id)
    assert progress(app).startswith("Stopped: step 2 of")
    assert any("The server ended while this run was going" in info.value for info in app.info)


def test_a_page_that_turns_to_a_stored_run_lets_go_of_its_own(open_page: OpenPage) -> None:
    other, run = begin_elsewhere()
    add(other, run, 0, 1)
    run.end("done")
    other.finish(run)
    app = open_page(SLUG, steps="1000", seeds="5", norms="layer", batch_size="4")
    own = engine().get(app.session_state[f"{SLUG}/run"]["id"])
    assert own is not None
    app.query_params["run"] = run.id
    app.run()
    assert app.session_state[f"{SLUG}/run"]["id"] == run.id
    wait_until(lambda: not own.live, "the end of the run that nobody watches")
    assert own.status == "cancelled"
    assert not app.exception
    other.delete(run.id)
