"""The evidence that is kept with the project: whole, valid, and of the claims as they are now."""

from __future__ import annotations

from pathlib import Path

import pytest

from normviz.claims import LEAST_SEEDS, holm
from normviz.evidence import Evidence, fingerprint, read_evidence, recorded_run
from normviz.evidence.recorded import MOST_BYTES
from normviz.evidence.reproduce import TUNING, deciding_presets
from normviz.experiments import SLUGS, get_experiment

FOLDER = Path(__file__).parents[2] / "evidence"
empty = pytest.mark.skipif(not list(FOLDER.glob("*.json")), reason="no evidence has been recorded yet")


@pytest.fixture
def evidence(slug: str) -> Evidence:
    found = read_evidence(slug, FOLDER)
    assert found is not None, f"evidence/{slug}.json is missing or damaged: `normviz reproduce {slug}`"
    return found


@empty
def test_every_page_has_evidence_and_no_other() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {
        f"{slug}.{ending}" for slug in SLUGS for ending in ("json", "parquet")
    }


@empty
@pytest.mark.parametrize("slug", SLUGS)
def test_it_is_of_the_claims_as_they_are(slug: str, evidence: Evidence) -> None:
    experiment = get_experiment(slug)
    claims = {claim.id: claim for claim in experiment.claims}
    recorded = [record.id for record in evidence.claims]
    assert recorded == [name for name in claims if name in recorded], "claims that are no longer there"
    decided = {claim.id for claim in experiment.claims if claim.preset in evidence.presets}
    assert set(recorded) == decided, "every claim of a preset that was run, and no other"
    changed = [
        record.id
        for record in evidence.claims
        for claim in (claims[record.id],)
        if record.fingerprint != fingerprint(experiment, claim) or record.preset != claim.preset
    ]
    assert not changed, f"the claim, its rule or its preset has changed: `normviz reproduce {slug}`"


@empty
@pytest.mark.parametrize("slug", SLUGS)
def test_verdicts_follow_from_its_numbers(slug: str, evidence: Evidence) -> None:
    claims = {claim.id: claim for claim in get_experiment(slug).claims}
    for record in evidence.claims:
        assert record.measured, f"{record.id} is not measured at its preset: {record.reason}"
        again = claims[record.id].judge({i.rival: dict(i.per_seed) for i in record.intervals})
        assert again.outcome == record.outcome, record.id
    corrected = holm(tuple(claims.values()), {r.id: r.verdict() for r in evidence.claims})
    assert {r.id: r.corrected for r in evidence.claims if r.corrected} == corrected


@empty
@pytest.mark.parametrize("slug", SLUGS)
def test_it_says_how_it_was_made(slug: str, evidence: Evidence) -> None:
    experiment = get_experiment(slug)
    deciding = [preset.slug for preset in deciding_presets(experiment)]
    assert list(evidence.presets) == [slug for slug in deciding if slug in evidence.presets]
    assert experiment.presets.default.slug in evidence.presets
    assert evidence.environment["torch"]
    assert evidence.date
    for name, record in evidence.presets.items():
        preset = experiment.presets[name]
        knobs = experiment.knobs.parse(record.knobs)
        assert experiment.presets.of(knobs) is preset, name
        assert record.date, name
        if any(claim.preset == name for claim in experiment.claims):
            assert len(record.seeds) >= LEAST_SEEDS, name
        assert not set(record.seeds) & set(record.tuning_seeds), name
        if preset.grid is not None:
            assert min(record.tuning_seeds) >= TUNING
            assert set(record.best) == set(getattr(knobs, preset.grid.arms))
            for arm, tried in record.grid.items():
                assert list(tried) == [str(value) for value in preset.grid.values], arm


@empty
@pytest.mark.parametrize("slug", SLUGS)
def test_the_recorded_run_is_small_and_draws_the_stage(slug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMVIZ_EVIDENCE", str(FOLDER))
    assert (FOLDER / f"{slug}.parquet").stat().st_size <= MOST_BYTES
    experiment = get_experiment(slug)
    recorded = recorded_run(experiment)
    assert recorded is not None
    assert experiment.presets.of(recorded.run.knobs) is experiment.presets.default
    stage = experiment.sheet(recorded.run.knobs).stage
    figures = recorded.run.figures(None, stage)
    assert not [name for name, figure in figures.items() if "nothing is measured" in figure.alt]
