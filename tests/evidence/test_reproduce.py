"""Making evidence: which settings are trained, on which seeds, what is reused, how verdicts follow."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from normviz.claims import Interval, holm
from normviz.engine import RunStore
from normviz.evidence import Evidence, fingerprint
from normviz.evidence import reproduce as making
from normviz.evidence.reproduce import TUNING, Stage, deciding_presets, reproduce
from normviz.evidence.sources import sources_digest
from normviz.experiments import Experiment
from normviz.knobs import KnobError
from normviz.presets import Preset, Presets
from tests.evidence.conftest import HereAndNow
from tests.evidence.lab import BEST, EXPERIMENT, LabKnobs


def with_knobs(**values: object) -> Experiment:
    """The lab with other knobs at all its presets."""
    presets = [
        Preset(p.slug, p.name, p.sentence, {} if i == 0 else {**p.knobs, **values}, p.grid)
        for i, p in enumerate(EXPERIMENT.presets.values())
    ]
    return Experiment(
        EXPERIMENT.slug,
        EXPERIMENT.title,
        EXPERIMENT.question,
        EXPERIMENT.papers,
        EXPERIMENT.knobs,
        EXPERIMENT.package,
        Presets(presets),
        EXPERIMENT.claims,
    )


@pytest.fixture(scope="module")
def made() -> tuple[Evidence, HereAndNow]:
    engine = HereAndNow()
    return reproduce(EXPERIMENT, engine, seeds=5).evidence, engine


def test_presets_that_decide_nothing_are_left_out_but_for_the_default() -> None:
    assert [preset.slug for preset in deciding_presets(EXPERIMENT)] == ["plain", "tuned"]
    alone = Experiment("lab", "L", "?", (), LabKnobs, "tests.evidence.lab", EXPERIMENT.presets)
    assert [preset.slug for preset in deciding_presets(alone)] == ["plain"]


def test_what_is_trained(made: tuple[Evidence, HereAndNow]) -> None:
    trained = [k for k in made[1].trained if isinstance(k, LabKnobs)]
    tuning = [k for k in trained if k.first_seed >= TUNING]
    verdict = [k for k in trained if k.first_seed < TUNING]
    assert [(k.learning_rate, k.arms, list(k.seed_range())) for k in tuning] == [
        (rate, ("quick", "slow", "even"), [TUNING, TUNING + 1]) for rate in (0.1, 0.2, 0.4)
    ]
    assert sorted((k.learning_rate, k.arms) for k in verdict) == [
        (0.1, ("quick",)),
        (0.2, ("even",)),
        (0.2, ("quick", "slow")),
        (0.4, ("slow",)),
    ]
    assert all(list(k.seed_range()) == [0, 1, 2, 3, 4] for k in verdict)


def test_every_arm_is_judged_at_its_own_best(made: tuple[Evidence, HereAndNow]) -> None:
    evidence, _ = made
    tuned = evidence.presets["tuned"]
    assert tuned.best == {arm: str(rate) for arm, rate in BEST.items()}
    assert tuned.tuning_seeds == (TUNING, TUNING + 1)
    assert tuned.seeds == (0, 1, 2, 3, 4)
    for arm, tried in tuned.grid.items():
        assert list(tried) == ["0.1", "0.2", "0.4"]
        assert min(tried, key=lambda rate: tried[rate]) == str(BEST[arm])
    # By formula: at its best rate an arm's floor is its base, and what depends on the seed alone cancels in pairs.
    record = evidence.claim("all-best")
    assert record is not None
    expected = {
        "slow": {s: -0.1 + 0.001 * (((s * 31 + 68) % 11) - ((s * 31 + 68) % 11)) for s in range(5)},
        "quick": {s: 0.001 * (((s * 31 + 68) % 11) - ((s * 31 + 85) % 11)) for s in range(5)},
    }
    for interval in record.intervals:
        assert interval.per_seed == pytest.approx(expected[interval.rival], abs=1e-6)
    outcomes = {interval.rival: interval.outcome for interval in record.intervals}
    assert outcomes == {"slow": "reproduced", "quick": "no effect"}
    assert record.outcome == "no effect", "all rivals must be beaten"


def test_verdicts_follow_from_the_numbers_that_are_written(made: tuple[Evidence, HereAndNow]) -> None:
    evidence, _ = made
    claims = {claim.id: claim for claim in EXPERIMENT.claims}
    assert [record.id for record in evidence.claims] == list(claims)
    for record in evidence.claims:
        numbers = {i.rival: dict(i.per_seed) for i in record.intervals}
        again = claims[record.id].judge(numbers)
        assert (again.outcome, again.reason) == (record.outcome, record.reason)
        assert record.verdict().intervals == tuple(Interval(**i.model_dump()) for i in record.intervals)
        assert record.fingerprint == fingerprint(EXPERIMENT, claims[record.id])
    assert {record.id: record.outcome for record in evidence.claims} == {
        "quick-wins": "reproduced",
        "all-best": "no effect",
        "stays-small": "reproduced",
        "exact": "reproduced",
    }
    corrected = {record.id: record.corrected for record in evidence.claims}
    assert corrected.pop("exact") == "", "identities take no part in the correction"
    assert corrected == holm(EXPERIMENT.claims, {r.id: r.verdict() for r in evidence.claims})


def test_recorded_is_the_run_of_the_default_preset() -> None:
    made = reproduce(EXPERIMENT, HereAndNow(), seeds=3)
    assert made.recorded is not None
    assert made.recorded.knobs == LabKnobs(seeds=3)
    assert reproduce(EXPERIMENT, HereAndNow(), presets=["tuned"]).recorded is None


def test_a_default_with_a_grid_is_recorded_as_it_is() -> None:
    tuned = EXPERIMENT.presets["tuned"]
    presets = Presets(
        [Preset("first", "F", "S.", {}, tuned.grid), Preset("plain", "P", "S.", {"steps": 30}), tuned]
    )
    lab = Experiment("lab", "L", "?", (), LabKnobs, "tests.evidence.lab", presets, EXPERIMENT.claims)
    made = reproduce(lab, HereAndNow(), seeds=3)
    assert made.recorded is not None
    assert made.recorded.knobs == LabKnobs()
    assert made.evidence.presets["first"].best == {"quick": "0.1", "slow": "0.4"}


def test_diverged_seeds_are_named_and_count() -> None:
    lab = with_knobs(breaks=TUNING)
    evidence = reproduce(lab, HereAndNow(), seeds=5).evidence
    assert evidence.presets["tuned"].grid["slow"] == dict.fromkeys(("0.1", "0.2", "0.4"), math.inf)
    lab = with_knobs(breaks=2)
    record = reproduce(lab, HereAndNow(), seeds=5).evidence.claim("all-best")
    assert record is not None
    assert record.diverged == ("slow, seed 2",)
    against = {interval.rival: interval for interval in record.intervals}
    assert against["slow"].per_seed[2] == -math.inf, "divergence counts against the arm that failed"
    assert against["slow"].outcome == "undecided"
    assert against["quick"].per_seed[2] == pytest.approx(0.001 * ((130 % 11) - (147 % 11)), abs=1e-6)


def test_some_presets_only_keep_the_others_evidence(made: tuple[Evidence, HereAndNow]) -> None:
    former = made[0]
    old = former.presets["tuned"].model_copy(update={"date": "2001-01-01"})
    former = former.model_copy(update={"presets": {**former.presets, "tuned": old}})
    engine = HereAndNow()
    evidence = reproduce(EXPERIMENT, engine, seeds=3, presets=["plain"], former=former).evidence
    assert len(engine.trained) == 1
    assert list(evidence.presets) == ["plain", "tuned"]
    assert evidence.presets["plain"].seeds == (0, 1, 2)
    assert evidence.presets["tuned"] == old
    assert [record.id for record in evidence.claims] == [claim.id for claim in EXPERIMENT.claims]
    assert evidence.claim("stays-small") == former.claim("stays-small")
    changed = with_knobs(steps=40)
    evidence = reproduce(changed, HereAndNow(), seeds=3, presets=["plain"], former=former).evidence
    assert [record.id for record in evidence.claims] == ["quick-wins", "exact"], (
        "evidence of another setting goes"
    )


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(KeyError, match="no preset 'plane'"):
        reproduce(EXPERIMENT, HereAndNow(), presets=["plane"])
    with pytest.raises(KnobError, match="seeds = 11"):
        reproduce(EXPERIMENT, HereAndNow(), seeds=11)
    engine = HereAndNow()
    with pytest.raises(RuntimeError, match="A run of lab has failed: the sum is odd"):
        reproduce(with_knobs(fails=True), engine)
    assert len(engine.cancelled) == len(engine.trained), "what is still going is ended"


def test_reports_tell_where_every_preset_stands() -> None:
    heard: list[list[Stage]] = []
    reproduce(EXPERIMENT, HereAndNow(), report=lambda stages: heard.append(list(stages)))
    assert [stage.preset for stage in heard[0]] == ["plain", "tuned"]
    assert heard[0][1] == Stage("tuned", "tuning", 1.0)
    assert heard[-1] == [Stage("plain", "done", 1.0), Stage("tuned", "done", 1.0)]


# -- going on --------------------------------------------------------------------------------------------------------


def test_finished_runs_are_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RunStore(tmp_path)
    tally = tmp_path / "tally"
    lab = with_knobs(tally=str(tally))
    first = reproduce(lab, HereAndNow(store), store=store).evidence
    lines = tally.read_text().splitlines()
    assert len(lines) == 3 * 2 + 3 * 5, "three rates on two seeds, three arms on five"
    engine = HereAndNow(store)
    again = reproduce(lab, engine, store=store).evidence
    assert engine.trained == []
    assert again.claims == first.claims
    assert again.presets["tuned"].best == first.presets["tuned"].best

    newest = store.list("lab")[0]
    store.delete(newest.id)
    engine = HereAndNow(store)
    reproduce(lab, engine, store=store)
    assert len(engine.trained) == 1, "what is missing is trained, and nothing else"

    monkeypatch.setattr(making, "sources_digest", lambda experiment, device: "another")
    engine = HereAndNow(store)
    reproduce(lab, engine, store=store)
    assert len(engine.trained) == 7, "runs of other sources are not evidence"
    store.close()


def test_a_run_of_a_visitor_is_no_evidence(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    engine = HereAndNow(store)
    engine.submit(EXPERIMENT, LabKnobs(seeds=5), owner="visitor")
    reproduce(EXPERIMENT, engine, store=store, presets=["plain"])
    assert len(engine.trained) == 2
    store.close()


def test_sources_are_what_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = tmp_path / "copied"
    lab.mkdir()
    for name in ("__init__.py", "frames.py", "figures.py", "claims.py"):
        (lab / name).write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    experiment = Experiment("copied", "C", "?", (), LabKnobs, "copied")
    before = sources_digest(experiment)
    (lab / "claims.py").write_text("x = 2\n")
    (lab / "figures.py").write_text("x = 2\n")
    assert sources_digest(experiment) == before, "judging and drawing change no numbers"
    assert sources_digest(experiment, "cuda") != before
    (lab / "frames.py").write_text("x = 2\n")
    assert sources_digest(experiment) != before
