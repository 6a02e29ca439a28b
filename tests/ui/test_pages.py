"""Every page under AppTest: default, extreme and random knobs, a refused link, a run to its end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from normviz.engine import StoredRun
from normviz.experiments import SLUGS, Run, get_experiment
from normviz.frame import Frame, FrameLog
from normviz.knobs import Control, Knobs
from normviz.ui.history import first_arms
from normviz.ui.server import engine, store
from tests.ui.ended import ended_run

OpenPage = Callable[..., AppTest]


def knobs_of(slug: str, pick: Callable[[Control], object]) -> Knobs:
    """Knobs picked field by field; where their work is too much, as few steps and seeds as there are."""
    schema = get_experiment(slug).knobs
    values = {name: pick(control) for name, control in schema.controls().items()}
    small = {n: c.low for n, c in schema.controls().items() if n in ("steps", "seeds", "depth")}
    knobs, _ = schema.parse_leniently(values)
    if knobs == schema():
        knobs, _ = schema.parse_leniently({**values, **small})
    return knobs


def highest(control: Control) -> object:
    if control.kind in ("int", "float"):
        return control.high
    if control.kind == "choices":
        return control.options
    if control.kind == "choice":
        return control.options[-1]
    return not control.default if control.kind == "bool" else control.default


def lowest(control: Control) -> object:
    if control.kind in ("int", "float"):
        return control.low
    if control.kind == "choices":
        return control.options[: control.min_choices]
    return control.options[0] if control.kind == "choice" else control.default


def test_home_lists_all_papers(open_page: OpenPage) -> None:
    app = open_page()
    text = " ".join(m.value for m in app.markdown)
    assert text.count("https://arxiv.org/abs/") == 31


@pytest.mark.parametrize("slug", SLUGS)
def test_default_page_has_every_part(slug: str, open_page: OpenPage) -> None:
    app = open_page(slug)
    experiment = get_experiment(slug)
    assert app.title[0].value == experiment.title
    assert any(experiment.question in m.value for m in app.markdown)
    assert [tab.label for tab in app.tabs][-3:] == ["Claims", "Maths and code", "Take it with you"]
    stage = experiment.sheet(experiment.knobs()).stage
    assert 1 <= len(stage) <= 6
    assert "Presets" in [group.label for group in app.get("button_group")]
    assert not app.error


@pytest.mark.parametrize("slug", SLUGS)
def test_every_tab_opens(slug: str, open_page: OpenPage) -> None:
    app = open_page(slug)
    names = [tab.label for tab in app.tabs]
    for name in names:
        app.session_state[f"{slug}/tabs"] = name
        app.run()
        assert not app.exception, name
        if name == "Maths and code":
            assert app.code, "the method's source is shown"
        if name == "Claims":
            assert len(app.dataframe) == 1


@pytest.mark.parametrize("slug", SLUGS)
def test_every_preset_opens_from_a_link(slug: str, open_page: OpenPage) -> None:
    experiment = get_experiment(slug)
    for preset in list(experiment.presets.values())[1:]:
        app = open_page(slug, preset=preset.slug)
        assert not app.warning, [w.value for w in app.warning]
        setting = experiment.setting(preset)
        if (
            lacking := setting.missing()
        ):  # an extra that is not installed here: the page says which, and runs nothing
            assert lacking in [error.value for error in app.error]
        else:
            assert app.session_state[f"{slug}/knobs"] == setting
        assert app.session_state[f"{slug}/preset"] == preset.slug


def test_the_sidebar_keeps_its_places(open_page: OpenPage) -> None:
    """With and without a preset's sentence: a widget that changes its place is on the page twice for a moment."""
    slug = SLUGS[0]
    app = open_page(slug, steps="40")

    def places() -> list[str]:
        return [f"{place}: {block.type}" for place, block in app.sidebar.children.items()]

    without = places()
    assert app.session_state[f"{slug}/preset"] is None
    app.session_state[f"{slug}/knob/steps"] = get_experiment(slug).knobs().steps  # type: ignore[attr-defined]
    app.run()
    assert app.session_state[f"{slug}/preset"] is not None
    assert places() == without


def test_an_unknown_preset_is_said_and_the_page_works(open_page: OpenPage) -> None:
    app = open_page(SLUGS[0], preset="langauge", steps="20")
    assert "There is no preset" in app.warning[0].value
    assert app.session_state[f"{SLUGS[0]}/knobs"].steps == 20


def test_text_from_a_link_has_no_meaning_as_markdown(open_page: OpenPage) -> None:
    app = open_page(
        SLUGS[0], **{"![x](https://example.org/x.png)": "1", "a": "1", "b": "1", "c": "1", "d": "1"}
    )
    text = app.warning[0].value
    assert "![x](" not in text
    assert "2 more" in text


@pytest.mark.parametrize("pick", [lowest, highest], ids=["lowest", "highest"])
@pytest.mark.parametrize("slug", SLUGS)
def test_extreme_knobs(slug: str, pick: Callable[[Control], object], open_page: OpenPage) -> None:
    app = open_page(slug, **knobs_of(slug, pick).to_query())
    assert not app.exception


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("slug", SLUGS)
def test_random_knobs(slug: str, seed: int, open_page: OpenPage) -> None:
    rng = np.random.default_rng(seed)

    def pick(control: Control) -> object:
        if control.kind == "int":
            return int(rng.integers(int(control.low or 0), int(control.high or 0) + 1))
        if control.kind == "float":
            return float(rng.uniform(control.low or 0.0, control.high or 1.0))
        if control.kind == "choice":
            return str(rng.choice(control.options))
        if control.kind == "choices":
            count = int(rng.integers(control.min_choices, len(control.options) + 1))
            return tuple(rng.permutation(control.options)[:count].tolist())
        return bool(rng.integers(2)) if control.kind == "bool" else control.default

    app = open_page(slug, **knobs_of(slug, pick).to_query())
    assert not app.exception


@pytest.mark.parametrize("slug", SLUGS)
def test_refused_link_says_so_and_page_stays_usable(slug: str, open_page: OpenPage) -> None:
    app = open_page(slug, steps="999999", nonsense="1")
    warnings = " ".join(w.value for w in app.warning)
    assert "nonsense" in warnings
    if "steps" in get_experiment(slug).knobs.controls():
        assert "steps = 999999 is not allowed" in warnings


def test_a_setting_that_needs_another_package_starts_no_run(
    open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normviz.validation.find_spec", lambda package: None)
    app = open_page("evolving-layers", data="mnist")
    assert not app.exception
    said = " ".join(element.value for element in (*app.error, *app.warning, *app.info))
    assert "pip install 'normviz[data]'" in said
    assert "data" not in app.query_params, "the run that is shown has the default"


def test_values_of_a_link_are_sent_again_with_the_whole_page(open_page: OpenPage) -> None:
    app = open_page("sample-reweighting", task="regression", steps="400", redundant="0.3")

    def share() -> tuple[bool, list[float]]:
        proto = next(s for s in app.slider if s.label == "Redundant share").proto
        return proto.set_value, list(proto.value)

    assert share() == (True, [0.3])  # the browser may have skipped what the first run of the script sent
    moment = next(s for s in app.slider if s.label == "Moment")
    assert (moment.value, list(moment.proto.default)) == (400, [400])
    app.run()
    assert not share()[0]  # and later runs leave the slider to the visitor


@pytest.mark.parametrize("slug", SLUGS)
def test_run_to_its_end_gives_charts_and_verdicts(slug: str, open_page: OpenPage) -> None:
    schema = get_experiment(slug).knobs
    short = ("steps", "seeds", "phases", "period")
    few = {name: str(control.low) for name, control in schema.controls().items() if name in short}
    app = open_page(slug, **few)
    run = ended_run(app, slug)
    app.run()
    assert not app.exception
    assert app.get("vega_lite_chart") or app.get("plotly_chart")
    assert not any("judged when the run has ended" in m.value for m in app.markdown)
    assert run.figures()
    assert set(run.verdicts()) == {c.id for c in run.experiment.claims}


@pytest.mark.parametrize(("slug", "title"), [("runs", "Runs"), ("reproductions", "Reproductions")])
def test_pages_over_the_store(slug: str, title: str, open_page: OpenPage) -> None:
    app = open_page(slug)
    assert app.title[0].value == title
    assert not app.exception


def stored_run(open_page: OpenPage, slug: str = SLUGS[0], **query: str) -> str:
    """The id of a short run that has ended and is stored."""
    return ended_run(open_page(slug, **query), slug).id


SHORT = {"steps": "10", "seeds": "1", "norms": "layer", "reference": "false"}


def test_runs_overlay_rename_and_delete(open_page: OpenPage) -> None:
    first, second = (stored_run(open_page, **SHORT, learning_rate=rate) for rate in ("0.001", "0.01"))
    app = open_page("runs")
    app.multiselect(key="runs/chosen").set_value([first, second]).run()
    assert not app.exception
    assert any("Overlay" in m.value for m in app.markdown)
    assert app.selectbox(key="runs/what").value == "loss"
    assert len(app.get("vega_lite_chart")) == 1
    assert [c.value[:7] for c in app.caption[-2:]] == ["**run A", "**run B"]

    app.multiselect(key="runs/chosen").set_value([first]).run()
    app.text_input(key=f"runs/name/{first}").set_value("slow").run()
    app.button(key="runs/rename").click().run()
    app.multiselect(key="runs/chosen").set_value([second]).run()
    app.text_input(key=f"runs/name/{second}").set_value("fast").run()
    app.button(key="runs/rename").click().run()
    app.multiselect(key="runs/chosen").set_value([first, second]).run()
    assert [c.value[:8] for c in app.caption[-2:]] == ["**slow**", "**fast**"]

    app.multiselect(key="runs/chosen").set_value([first]).run()
    app.button(key="runs/delete").click().run()
    assert not app.exception
    assert first not in app.multiselect(key="runs/chosen").options
    assert first not in {run.id for run in kept_runs()}
    assert second in {run.id for run in kept_runs()}


def kept_runs() -> list[StoredRun]:
    kept = store()
    assert kept is not None
    return kept.list()


def test_runs_of_two_pages_are_not_overlaid(open_page: OpenPage) -> None:
    first = stored_run(open_page, **SHORT)
    second = stored_run(open_page, "self-normalizing", steps="10", seeds="1")
    app = open_page("runs")
    app.multiselect(key="runs/chosen").set_value([first, second]).run()
    assert any("Only runs of one page" in i.value for i in app.info)


def test_overlay_begins_with_an_arm_of_every_run() -> None:
    experiment = get_experiment(SLUGS[0])

    def run(*arms: str) -> Run:
        return Run(
            experiment, experiment.knobs(), log=FrameLog(Frame(0, arm, 0, {"loss": 1.0}) for arm in arms)
        )

    assert first_arms([run("A", "B"), run("B", "C")]) == ["B"]
    assert first_arms([run("A"), run("C", "D")]) == ["A", "C"]


def test_first_drawing_has_charts_and_the_second_the_knobs_of_the_link(open_page: OpenPage) -> None:
    slug = SLUGS[0]
    app = open_page(slug, drawings=1, steps="40", seeds="1", norms="layer")
    assert not app.sidebar.slider
    assert app.session_state[f"{slug}/knobs"].steps == 40
    run_id = app.session_state[f"{slug}/run"]["id"]
    app.run()
    steps = app.sidebar.slider(key=f"{slug}/knob/steps")
    assert steps.value == 40
    assert steps.proto.set_value, "the browser would show the default"
    assert app.session_state[f"{slug}/run"]["id"] == run_id


def test_link_to_a_run_shows_that_run_on_its_device(open_page: OpenPage) -> None:
    slug = SLUGS[0]
    run = engine().submit(
        get_experiment(slug),
        get_experiment(slug).knobs(steps=10, seeds=1, norms=("layer",)),
        owner="cli",
        device="cpu",
    )
    app = open_page(slug, run=run.id)
    assert app.session_state[f"{slug}/run"]["id"] == run.id
    assert app.selectbox(key=f"{slug}/device").value == "cpu"
