"""The recorded run: small, drawn as it was, not there when damaged."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from normviz.evidence import recorded as recording
from normviz.evidence import recorded_run, write_recorded
from normviz.evidence.recorded import HISTORY, MOST_BYTES, POINTS
from normviz.experiments import Run, run_experiment
from tests.evidence.lab import EXPERIMENT, LabKnobs


@pytest.fixture(scope="module")
def run() -> Run:
    return run_experiment(EXPERIMENT, LabKnobs(steps=150, seeds=3))


def test_stage_is_drawn_as_it_was(run: Run, evidence_at: Path) -> None:
    target = write_recorded(run)
    assert target == evidence_at / "lab.parquet"
    assert target.stat().st_size <= MOST_BYTES
    back = recorded_run(EXPERIMENT)
    assert back is not None
    assert back.run.knobs == run.knobs
    assert back.run.status == "done"
    assert back.date.split()[-1].isdigit()
    ours, theirs = back.run.figures(), run.figures()
    assert list(ours) == ["loss", "map", "unseen"]
    assert all(figure.data is not None and len(figure.data) for figure in ours.values())
    points, whole = ours["loss"].data, theirs["loss"].data
    assert points is not None
    assert whole is not None
    last = points[points["step"] == points["step"].max()]
    same = whole[whole["step"] == whole["step"].max()]
    pd.testing.assert_frame_equal(
        last[["arm", "mean"]].reset_index(drop=True), same[["arm", "mean"]].reset_index(drop=True), rtol=1e-5
    )


def test_what_is_kept(run: Run, evidence_at: Path) -> None:
    write_recorded(run)
    back = recorded_run(EXPERIMENT)
    assert back is not None
    log = back.run.log
    loss = log.scalars("loss")
    for _, member in loss.groupby(["arm", "seed"]):
        assert len(member) <= POINTS
        assert {member["step"].min(), member["step"].max()} == {0, 150}
    drawn = {e.step for e in log.array_history("map") if (e.arm, e.seed) == ("quick", 0)}
    assert 3 < len(drawn) <= HISTORY + 1, "a chart of the stage draws its history"
    assert {e.step for e in log.array_history("unseen")} == {150}, "no chart of the stage draws it"


def test_a_large_run_loses_first_what_the_stage_does_not_draw(
    run: Run, evidence_at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = write_recorded(run).stat().st_size
    kept: list[tuple[bool, int]] = []
    for limit in range(size - 1, 0, -250):
        monkeypatch.setattr(recording, "MOST_BYTES", limit)
        try:
            target = write_recorded(run)
        except ValueError:
            break
        assert target.stat().st_size <= limit
        back = recorded_run(EXPERIMENT)
        assert back is not None
        log = back.run.log
        kept.append(("unseen" in log.array_names, len(log.seeds)))
        assert len(back.run.knobs.seed_range()) == len(log.seeds)
        figures = back.run.figures(None, ["loss", "map"])
        assert all(figure.data is not None and len(figure.data) for figure in figures.values())
    assert kept[0] == (False, 3)
    assert kept[-1] == (False, 1)
    assert kept == sorted(kept, reverse=True), "seeds go last"
    with pytest.raises(ValueError, match=f"at most {limit:,} bytes"):
        write_recorded(run)


def test_divergence_is_kept(evidence_at: Path) -> None:
    broken = run_experiment(EXPERIMENT, LabKnobs(steps=150, breaks=0))
    write_recorded(broken)
    back = recorded_run(EXPERIMENT)
    assert back is not None
    assert back.run.log.diverged == {("slow", 0)}


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"\x00" * 500])
def test_a_damaged_one_is_not_there(damage: bytes, evidence_at: Path) -> None:
    assert recorded_run(EXPERIMENT) is None
    evidence_at.mkdir()
    (evidence_at / "lab.parquet").write_bytes(damage)
    assert recorded_run(EXPERIMENT) is None


def test_one_of_other_knobs_and_one_that_is_cut_short_are_not_there(run: Run, evidence_at: Path) -> None:
    target = write_recorded(run)
    whole = target.read_bytes()
    target.write_bytes(whole[: len(whole) // 2])
    assert recorded_run(EXPERIMENT) is None
    run.to_parquet(target)  # another record, of which the knobs are the same
    assert recorded_run(EXPERIMENT) is not None
    import json

    import pyarrow.parquet as pq

    for record in ({"knobs": {"stepz": 1}, "created": 0}, {"knobs": "no"}, {"created": 0}, [], 5):
        table = pq.read_table(target).replace_schema_metadata({"normviz.run": json.dumps(record)})
        pq.write_table(table, target)
        assert recorded_run(EXPERIMENT) is None, record
