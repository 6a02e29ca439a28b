"""What every experiment keeps to, whatever it shows: one test for all, over the registry.

Beside these, ``tests/test_architecture.py`` holds that an experiment's package loads no PyTorch and what trains no
charts, ``tests/engine/test_experiment_parts.py`` that seeds trained apart have the numbers of the whole run.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import torch

from normviz.catalog import PAGES, papers_of_page
from normviz.claims import LEAST_SEEDS, Effect
from normviz.engine import RunStore
from normviz.evidence.reproduce import TUNING, TUNING_SEEDS, deciding_presets
from normviz.experiments import SLUGS, Experiment, Run, get_experiment, run_experiment
from normviz.figures.board import MOST_ON_STAGE
from normviz.frame import FrameLog
from normviz.knobs import Control, KnobError, Knobs
from normviz.presets import Preset
from tests.engine.members import by_member
from tests.engine.test_experiment_parts import CLOCK, SMALL

PRESETS = [
    pytest.param(slug, name, id=f"{slug}-{name}") for slug in SLUGS for name in get_experiment(slug).presets
]


def preset_of(slug: str, name: str) -> tuple[Experiment, Preset, Knobs]:
    experiment = get_experiment(slug)
    preset = experiment.presets[name]
    return experiment, preset, experiment.setting(preset)


# -- what it is --------------------------------------------------------------------------------------------------------


def test_slugs_are_the_pages_that_have_a_folder() -> None:
    assert [slug for slug in PAGES if slug in SLUGS] == list(SLUGS), "in page order"
    folder = Path(__file__).parents[2] / "normviz" / "experiments"
    found = {path.parent.name.replace("_", "-") for path in folder.glob("*/frames.py")}
    assert found == set(SLUGS), "a folder without a page in the catalog"


@pytest.mark.parametrize("slug", SLUGS)
def test_it_is_its_page(slug: str) -> None:
    experiment, page = get_experiment(slug), PAGES[slug]
    assert (experiment.slug, experiment.title, experiment.question) == (slug, page.title, page.question)
    assert experiment.papers == tuple(paper.slug for paper in papers_of_page(slug))
    assert experiment.package == f"normviz.experiments.{slug.replace('-', '_')}"


@pytest.mark.parametrize("slug", SLUGS)
def test_claims_cover_the_papers_and_are_told_apart(slug: str) -> None:
    experiment = get_experiment(slug)
    counted = Counter(claim.id for claim in experiment.claims)
    assert [name for name, count in counted.items() if count > 1] == []
    assert {claim.paper for claim in experiment.claims} == set(experiment.papers)
    for claim in experiment.claims:
        assert claim.statement.strip().endswith((".", "?")), claim.id
        assert claim.measured.strip(), claim.id
        assert claim.paper_figure.strip(), claim.id
        assert set(claim.given) <= set(experiment.knobs.model_fields), claim.id
        assert claim.given_words or not any(callable(v) for v in claim.given.values()), claim.id


@pytest.mark.parametrize("slug", SLUGS)
def test_most_claims_are_evidence(slug: str) -> None:
    claims = get_experiment(slug).claims
    assert any(isinstance(claim.rule, Effect) for claim in claims)


# -- presets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", SLUGS)
def test_presets_are_a_story(slug: str) -> None:
    presets = get_experiment(slug).presets
    assert 3 <= len(presets) <= 7
    for preset in presets.values():
        assert preset.name.strip()
        assert preset.sentence.strip().endswith((".", "?"))
        assert len(preset.name) <= 30, "it stands on a button"


@pytest.mark.parametrize(("slug", "name"), PRESETS)
def test_a_preset_is_a_setting_of_its_own(slug: str, name: str) -> None:
    experiment, preset, knobs = preset_of(slug, name)
    assert experiment.presets.of(knobs) is preset
    assert experiment.knobs.parse(knobs.to_query()) == knobs, "the link"
    assert experiment.knobs.parse(json.loads(knobs.key())) == knobs, "the store"


@pytest.mark.parametrize(("slug", "name"), PRESETS)
def test_claims_are_measured_at_the_preset_that_decides_them(slug: str, name: str) -> None:
    experiment, preset, knobs = preset_of(slug, name)
    arms = knobs.shown_arms()
    for claim in experiment.claims:
        if claim.preset == preset.slug:
            assert claim.applies(knobs), f"{claim.id} needs {claim.needs(knobs)}"
            missing = [a for m in claim.rivals.values() for a in m.arm_names(knobs) if a not in arms]
            assert not missing, f"{claim.id} needs the arms {missing}"


@pytest.mark.parametrize("slug", SLUGS)
def test_every_claim_names_a_preset(slug: str) -> None:
    experiment = get_experiment(slug)
    assert {claim.preset for claim in experiment.claims} <= set(experiment.presets)


@pytest.mark.parametrize("slug", SLUGS)
def test_presets_that_decide_can_be_reproduced(slug: str) -> None:
    """With the seeds of a verdict, and with every value of a grid on the tuning seeds, within the allowed work."""
    experiment = get_experiment(slug)
    schema = experiment.knobs
    for preset in deciding_presets(experiment):
        whole = {**experiment.setting(preset).model_dump(), "seeds": LEAST_SEEDS}
        schema.parse(whole)
        if (grid := preset.grid) is None:
            continue
        assert grid.better in ("lower", "higher")
        options = whole[grid.arms]
        assert isinstance(options, tuple)
        for value in grid.values:
            tuned = schema.parse({**whole, grid.knob: value, "first_seed": TUNING, "seeds": TUNING_SEEDS})
            for option in options:
                alone = schema.parse({**tuned.model_dump(), grid.arms: (option,)})
                assert alone.shown_arms().names[0] in tuned.shown_arms(), (preset.slug, option)


# -- charts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", SLUGS)
def test_every_chart_of_every_preset_draws_an_empty_log(slug: str) -> None:
    experiment, drawn = get_experiment(slug), set()
    for preset in experiment.presets.values():
        knobs = experiment.setting(preset)
        sheet = experiment.sheet(knobs)
        assert 1 <= len(sheet.stage) <= MOST_ON_STAGE
        assert all(group.strip() and charts for group, charts in sheet.more.items())
        new = [name for name in sheet.drawers if name not in drawn]
        for name, figure in experiment.figures(FrameLog(), knobs, names=new).items():
            assert figure.title.strip(), name
            assert figure.look_for.strip(), name
            assert figure.alt.strip(), name
            assert "(step" not in figure.title, name
        drawn.update(new)
    assert len(drawn) >= MOST_ON_STAGE


# -- frames ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing may be trained: a backward pass is a failure."""
    import_module("torch._dynamo")  # comes with the first optimizer, and looks at the functions below

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("this trains")

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", refuse)
        patch.setattr(torch.autograd, "backward", refuse)
        patch.setattr(torch.autograd, "grad", refuse)
        yield


@pytest.mark.parametrize(("slug", "name"), PRESETS)
@pytest.mark.usefixtures("untrained")
def test_the_first_frame_comes_without_training(slug: str, name: str) -> None:
    experiment, _, knobs = preset_of(slug, name)
    first = next(iter(experiment.frames(knobs, "cpu")))
    assert first.step == 0
    assert is_shown(first.arm, knobs)
    assert first.seed == knobs.first_seed


def test_an_unknown_device_is_refused_before_anything() -> None:
    for slug in SLUGS:
        with pytest.raises(ValueError, match="device must be"):
            next(iter(get_experiment(slug).frames(get_experiment(slug).knobs(), "abacus")))


def is_shown(arm: str, knobs: Knobs) -> bool:
    """Whether frames of this name belong to an arm: they may say in addition with which value of a grid."""
    return any(arm == name or arm.startswith(f"{name}, ") for name in knobs.shown_arms())


SEARCH = 3
"""The row of a search, which takes as long as all others."""


@cache
def extended(slug: str) -> Run:
    """A small run of one seed that went on with a second."""
    experiment = get_experiment(slug)
    values = [values for i, (name, values) in enumerate(SMALL) if name == slug and i != SEARCH][-1]
    run = run_experiment(
        experiment, experiment.knobs.parse({**values, "seeds": 1, "first_seed": 3}), device="cpu"
    )
    return run.extend(1)


@pytest.mark.slow
@pytest.mark.parametrize("slug", SLUGS)
def test_a_run_that_goes_on_equals_a_longer_one(slug: str) -> None:
    run = extended(slug)
    assert list(run.knobs.seed_range()) == [3, 4]
    whole = by_member(run.experiment.frames(run.knobs, "cpu"), CLOCK)
    assert {seed for _, seed in whole} == {3, 4}
    assert by_member(run.log.frames, CLOCK) == whole


@pytest.mark.slow
@pytest.mark.parametrize("slug", SLUGS)
def test_what_a_run_shows_and_says(slug: str) -> None:
    run = extended(slug)
    assert all(is_shown(arm, run.knobs) for arm in run.log.arms)
    assert run.log.last_step >= run.knobs.total_steps() - 1, "a run is told from one that was cut short"
    figures = run.figures()
    assert list(figures) == list(run.experiment.sheet(run.knobs).drawers)
    stage = run.experiment.sheet(run.knobs).stage
    first = figures[next(iter(stage))]
    assert "nothing is measured" not in first.alt, "the page's picture is there"
    verdicts = run.verdicts()
    assert list(verdicts) == [claim.id for claim in run.experiment.claims]
    for claim in run.experiment.claims:
        assert verdicts[claim.id].reason.endswith("."), claim.id
        if claim.applies(run.knobs):
            assert claim.measured_text(verdicts[claim.id])


@pytest.mark.slow
@pytest.mark.parametrize("slug", SLUGS)
def test_a_stored_run_from_before_a_knob_existed_is_read(slug: str, tmp_path: Path) -> None:
    run = extended(slug)
    store = RunStore(tmp_path)
    store.create(run)
    store.append(run.id, run.log.frames)
    store.finish(run)
    same = store.load(run.id)
    assert same.knobs == run.knobs
    assert by_member(same.log.frames) == by_member(run.log.frames)
    store.close()
    controls = run.experiment.knobs.controls()
    values = json.loads(run.knobs.key())
    older = {name: value for name, value in values.items() if _text(value) != _text(controls[name].default)}
    with sqlite3.connect(tmp_path / "runs.sqlite") as index:
        index.execute("UPDATE runs SET knobs = ?", (json.dumps(older, sort_keys=True),))
    index.close()
    assert RunStore(tmp_path).load(run.id).knobs == run.knobs


def _text(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


# -- knobs -------------------------------------------------------------------------------------------------------------


def extremes(control: Control) -> list[object]:
    """The ends of a slider, every option, all options and the fewest."""
    if control.kind in ("int", "float"):
        return [control.low, control.high]
    if control.kind == "bool":
        return [True, False]
    if control.kind == "choice":
        return list(control.options)
    if control.kind == "choices":
        return [
            control.options,
            control.options[: control.min_choices],
            control.options[-max(control.min_choices, 1) :],
        ]
    return []


@pytest.mark.parametrize("slug", SLUGS)
def test_every_end_of_every_knob_has_arms_and_charts(slug: str) -> None:
    experiment = get_experiment(slug)
    tried = 0
    for name, control in experiment.knobs.controls().items():
        for value in extremes(control):
            knobs, refused = experiment.knobs.parse_leniently({name: value})
            assert all(r.name == "work" for r in refused), [r.sentence for r in refused]
            if refused:
                knobs, _ = experiment.knobs.parse_leniently({**_least(experiment.knobs), name: value})
            tried += 1
            assert len(knobs.shown_arms()) >= 1, (name, value)
            assert knobs.total_steps() > 0, (name, value)
            assert knobs.members() > 0, (name, value)
            assert knobs.work() <= knobs.work_limit
            assert experiment.sheet(knobs).stage, (name, value)
    assert tried > 10


def _least(schema: type[Knobs]) -> dict[str, object]:
    return {n: c.low for n, c in schema.controls().items() if n in ("steps", "seeds", "batch_size", "depth")}


@pytest.mark.parametrize("slug", SLUGS)
def test_what_is_refused_for_its_work_has_advice_that_fits(slug: str) -> None:
    schema = get_experiment(slug).knobs
    most = {
        name: control.options if control.kind == "choices" else control.high
        for name, control in schema.controls().items()
        if control.kind in ("int", "float", "choices") and name not in ("first_seed", "learning_rate")
    }
    try:
        knobs = schema.parse(most)
    except KnobError as error:
        text = str(error)
        assert text.endswith(".")
        if "the limit is 10 minutes" in text:
            changes = re.findall(r"(\w+) = (\d+)", text)
            assert changes or "Lower several of these: " in text, "it says what to lower"
            for name, value in changes:
                assert schema.parse({**most, name: value}).work() <= schema.work_limit
    else:
        assert knobs.work() <= knobs.work_limit
