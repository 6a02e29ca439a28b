"""The page of stored runs: what is chosen stays chosen, and a damaged run hides no other."""

from __future__ import annotations

from collections.abc import Callable

from streamlit.testing.v1 import AppTest

from normviz.engine import RunStore
from normviz.experiments import Run, get_experiment
from normviz.frame import Frame
from normviz.ui.server import store

OpenPage = Callable[..., AppTest]
SLUG = "normalization-statistics"


def kept() -> RunStore:
    there = store()
    assert there is not None
    return there


def stored(**knobs: object) -> str:
    """The id of a run that is done and stored, made without training."""
    experiment = get_experiment(SLUG)
    run = Run(experiment, experiment.knobs.parse(knobs), device="cpu")
    run.begin()
    kept().create(run)
    arms = run.knobs.shown_arms().names
    run.log.extend(Frame(step, arm, 0, {"loss": 1.0 / (step + 1)}) for step in range(4) for arm in arms)
    kept().append(run.id, run.log.frames)
    run.end("done")
    kept().finish(run)
    return run.id


def test_the_choice_stays_when_a_run_is_renamed(open_page: OpenPage) -> None:
    first, second = stored(), stored(learning_rate=0.01)
    app = open_page("runs")
    app.multiselect(key="runs/chosen").set_value([first]).run()
    app.text_input(key=f"runs/name/{first}").set_value("slow").run()
    app.button(key="runs/rename").click().run()
    assert not app.exception
    assert app.multiselect(key="runs/chosen").value == [first]
    assert sent_again(app)[0].startswith("slow · ")
    assert {row.id: row.name for row in kept().list()}[first] == "slow"
    assert any("**slow**" in text.value for text in app.markdown)
    app.multiselect(key="runs/chosen").set_value([first, second]).run()
    kept().rename(second, "fast")  # in another tab
    app.run()
    assert app.multiselect(key="runs/chosen").value == [first, second]
    assert [title.partition(" · ")[0] for title in sent_again(app)] == ["slow", "fast"]
    app.run()
    assert sent_again(app) == [], "only once"


def sent_again(app: AppTest) -> list[str]:
    """The choice as the server sends it to the browser, which knows it by its titles; nothing if it sends none."""
    element = app.multiselect(key="runs/chosen").proto
    return list(element.raw_values) if element.set_value else []


def test_damaged_runs_are_listed_and_can_be_deleted(open_page: OpenPage) -> None:
    whole, row, frames, knobs = stored(), stored(), stored(), stored()
    with kept()._index(write=True) as index:
        index.execute("UPDATE runs SET created = 'x', knobs = '[' WHERE id = ?", (row,))
        index.execute("UPDATE runs SET knobs = ? WHERE id = ?", ('{"norms": [["layer"], {"a": 1}]}', knobs))
    path = kept()._frames_path(frames)
    path.write_bytes(path.read_bytes()[:-30])
    app = open_page("runs")
    assert {whole, row, frames, knobs} <= set(table_of(app))
    for damaged in (row, frames, knobs):
        app.multiselect(key="runs/chosen").set_value([whole, damaged]).run()
        assert not app.exception
        app.multiselect(key="runs/chosen").set_value([damaged]).run()
        assert not app.exception
    app.multiselect(key="runs/chosen").set_value([row]).run()
    assert any("index is damaged" in caption.value for caption in app.caption)
    app.button(key="runs/delete").click().run()
    assert not app.exception
    assert row not in table_of(app)
    assert whole in table_of(app)
    for left in (whole, frames, knobs):
        kept().delete(left)


def table_of(app: AppTest) -> list[str]:
    """Ids in the table of runs."""
    ids: list[str] = app.dataframe[0].value["id"].tolist()
    return ids
