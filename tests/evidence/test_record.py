"""Evidence on disk: whole or not at all, read back as it was, refused when damaged; fingerprints; counts."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from normviz.claims import Effect
from normviz.evidence import (
    Evidence,
    evidence_folder,
    fingerprint,
    read_evidence,
    summary_of,
    verdicts_table,
    write_evidence,
)
from normviz.evidence import record as records
from normviz.evidence import summary as summaries
from normviz.evidence.record import rounded
from normviz.evidence.reproduce import reproduce
from normviz.experiments import Experiment
from normviz.presets import Grid, Preset, Presets
from tests.evidence.conftest import HereAndNow
from tests.evidence.lab import EXPERIMENT, LabKnobs


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return reproduce(EXPERIMENT, HereAndNow(), seeds=5).evidence


def test_reads_what_was_written(evidence: Evidence, evidence_at: Path) -> None:
    assert evidence_folder() == evidence_at
    assert read_evidence("lab") is None
    infinite = evidence.claims[0].model_copy(
        update={
            "intervals": (
                evidence.claims[0]
                .intervals[0]
                .model_copy(update={"low": -math.inf, "per_seed": {0: math.inf, 1: math.nan, 2: 0.25}}),
            )
        }
    )
    written = evidence.model_copy(update={"claims": (infinite, *evidence.claims[1:])})
    assert write_evidence(written) == evidence_at / "lab.json"
    back = read_evidence("lab")
    assert back is not None
    interval = back.claims[0].intervals[0]
    assert (interval.low, interval.per_seed[0], interval.per_seed[2]) == (-math.inf, math.inf, 0.25)
    assert math.isnan(interval.per_seed[1])
    assert back.claims[1:] == written.claims[1:]
    assert back.presets == written.presets
    assert [path.name for path in evidence_at.iterdir()] == ["lab.json"]


def test_another_folder(evidence: Evidence, tmp_path: Path) -> None:
    assert write_evidence(evidence, tmp_path / "x") == tmp_path / "x" / "lab.json"
    assert read_evidence("lab", tmp_path / "x") == evidence


@pytest.mark.parametrize("damage", ["{", "[]", '{"slug": "lab"}', "\x00\xff"])
def test_damaged_evidence_is_not_there(damage: str, evidence_at: Path) -> None:
    evidence_at.mkdir()
    (evidence_at / "lab.json").write_text(damage, encoding="latin-1")
    assert read_evidence("lab") is None


def test_evidence_of_another_page_and_of_any_size_is_not_there(
    evidence: Evidence, evidence_at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_evidence(evidence)
    (evidence_at / "lab.json").rename(evidence_at / "other.json")
    assert read_evidence("other") is None
    write_evidence(evidence)
    monkeypatch.setattr(records, "GREATEST", 10)
    assert read_evidence("lab") is None


def test_a_full_disk_leaves_the_old_evidence(
    evidence: Evidence, evidence_at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_evidence(evidence)
    before = (evidence_at / "lab.json").read_bytes()

    def full(*args: object, **options: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_evidence(evidence)
    assert (evidence_at / "lab.json").read_bytes() == before


def test_numbers_have_seven_digits() -> None:
    assert rounded({0: 1 / 3, 1: 123456789.0, 2: math.inf}) == {0: 0.3333333, 1: 123456800.0, 2: math.inf}
    assert math.isnan(rounded({0: math.nan})[0])


def test_fingerprint_changes_with_whatever_decides() -> None:
    claim = EXPERIMENT.claims[0]
    before = fingerprint(EXPERIMENT, claim)
    assert len(before) == 16
    changed = (
        replace(claim, rule=Effect("below", floor=0.02)),
        replace(claim, rule=Effect("above", floor=0.01)),
        replace(claim, statement="Another."),
        replace(claim, measured="another number"),
        replace(claim, preset="tuned"),
        replace(claim, unit="bits"),
        replace(claim, resolution=0.1),
        replace(claim, given={"steps": 20}),
    )
    prints = [fingerprint(EXPERIMENT, other) for other in changed]
    assert len({before, *prints}) == len(changed) + 1
    assert fingerprint(EXPERIMENT, replace(claim, caveat="A remark.")) == before

    def lab(presets: list[Preset]) -> Experiment:
        return Experiment("lab", "L", "?", (), LabKnobs, "tests.evidence.lab", Presets(presets))

    plain, tuned, aside = EXPERIMENT.presets.values()
    at_tuned = replace(claim, preset="tuned")
    base = fingerprint(lab([plain, tuned]), at_tuned)
    assert base == prints[4]
    assert fingerprint(lab([plain, replace(tuned, knobs={"steps": 30})]), at_tuned) != base
    assert (
        fingerprint(lab([plain, replace(tuned, grid=Grid("learning_rate", (0.1,), "loss"))]), at_tuned)
        != base
    )
    more_seeds = replace(tuned, knobs={**tuned.knobs, "seeds": 7})
    assert fingerprint(lab([plain, more_seeds]), at_tuned) == base, "a verdict has its own number of seeds"
    assert fingerprint(lab([plain, replace(tuned, name="T", sentence="Other words.")]), at_tuned) == base
    assert fingerprint(lab([plain, tuned, aside]), at_tuned) == base


def test_summary_counts_identities_apart(evidence: Evidence) -> None:
    summary = summary_of(EXPERIMENT, evidence)
    assert summary.outcomes == Counter({"reproduced": 2, "no effect": 1})
    assert (summary.holding, summary.identities, summary.seeds) == (1, 1, 5)
    assert sum(summary.corrected.values()) == 3


def test_table_of_the_readme(evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "get_experiment", lambda slug: EXPERIMENT)
    assert verdicts_table(["lab"], tmp_path).startswith("No evidence")
    write_evidence(evidence, tmp_path)
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in verdicts_table(["lab"], tmp_path).splitlines()
    ]
    assert rows[0][:3] == ["page", "reproduced", "weaker than claimed"]
    assert rows[2] == ["Lab", "2", "0", "1", "0", "0", "1 of 1", "5", evidence.date]
    assert rows[3] == ["all", "2", "0", "1", "0", "0", "1 of 1", "", ""]
    assert {len(row) for row in rows} == {9}
