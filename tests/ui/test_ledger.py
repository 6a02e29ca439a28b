"""The ledger and the page on method: the recorded verdict and the reader's own, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from normviz.engine import RunStore, StoredRun
from normviz.evidence import Evidence, write_evidence
from normviz.evidence.reproduce import reproduce
from normviz.experiments import SLUGS, get_experiment
from normviz.ui.ledger import OwnVerdict, best_runs, ledger_rows
from normviz.ui.method import RIVALS, false_alarm_table
from tests.evidence.conftest import HereAndNow
from tests.evidence.lab import EXPERIMENT, LabKnobs

OpenPage = Callable[..., AppTest]


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return reproduce(EXPERIMENT, HereAndNow(), seeds=5).evidence


def kept(run_id: str, created: float, status: str = "done", slug: str = "lab", **knobs: object) -> StoredRun:
    values = json.loads(LabKnobs.parse(knobs).key()) if "stepz" not in knobs else knobs
    return StoredRun(
        run_id,
        slug,
        "p",
        "",
        values,
        "cpu",
        {},
        status,
        None,
        created,
        created,
        created,
        1,
        1,  # type: ignore[arg-type]
    )


def test_the_readers_own_are_runs_at_the_presets_setting() -> None:
    tuned = {"arms": "quick,slow,even"}
    runs = [
        kept("odd", 9.0, seeds=9, steps=21),
        kept("plain-2", 1.0),
        kept("plain-5", 2.0, seeds=5),
        kept("plain-5-newer", 3.0, seeds=5, first_seed=7),
        kept("plain-3", 4.0, seeds=3),
        kept("cancelled", 5.0, status="cancelled", seeds=8),
        kept("other", 5.0, slug="other", seeds=8),
        kept("tuned", 1.0, **tuned),
        kept("tuned-broken", 2.0, breaks=0, **tuned),
        kept("older-version", 9.0, stepz=1),
    ]
    for order in (runs, runs[::-1]):
        assert {preset: run.id for preset, run in best_runs(EXPERIMENT, order).items()} == {
            "plain": "plain-5-newer",
            "tuned": "tuned",
        }
    assert best_runs(EXPERIMENT, []) == {}


def test_rows_have_both_verdicts_and_identities_apart(evidence: Evidence) -> None:
    run = HereAndNow().submit(EXPERIMENT, LabKnobs(), owner="")
    mine = {
        claim.id: OwnVerdict(claim.verdict(run.log.view(), run.knobs), run.id, 2, "2001-02-03")
        for claim in EXPERIMENT.claims
        if claim.preset == "plain"
    }
    rows = ledger_rows(EXPERIMENT, evidence, mine, identities=False)
    assert [row["recorded"] for row in rows] == ["✓ reproduced", "– no effect seen", "✓ reproduced"]
    assert [row["seeds"] for row in rows] == ["5", "5", "5"]
    assert [row["your seeds"] for row in rows] == ["2", "", ""]
    assert rows[0]["yours"].endswith(", so far")
    assert rows[1]["yours"] == ""
    record = evidence.claims[0].intervals[0]
    assert rows[0]["measured"] == f"{record.estimate:.3g} ({record.low:.3g} to {record.high:.3g}) nats"
    assert [row["decided at"] for row in rows] == ["lab?preset=plain", "lab?preset=tuned", "lab?preset=tuned"]
    assert {row["date"] for row in rows} == {evidence.date}
    (exact,) = ledger_rows(EXPERIMENT, evidence, mine, identities=True)
    assert (exact["recorded"], exact["yours"], "corrected" in exact) == ("= holds", "= holds", False)


def test_corrected_outcome_is_shown_where_it_is_another(evidence: Evidence) -> None:
    changed = evidence.claims[0].model_copy(update={"corrected": "undecided"})
    other = evidence.model_copy(update={"claims": (changed, *evidence.claims[1:])})
    rows = ledger_rows(EXPERIMENT, other, {}, identities=False)
    assert [row["corrected"] for row in rows] == ["undecided", "the same", "the same"]


def test_without_evidence_and_runs_nothing_is_recorded() -> None:
    rows = ledger_rows(EXPERIMENT, None, {}, identities=False)
    assert {row["recorded"] for row in rows} == {"not recorded"}
    assert {row["yours"] for row in rows} == {""}


def test_the_page_shows_evidence_on_a_fresh_clone_and_own_runs(
    open_page: OpenPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slug = "self-normalizing"
    experiment = get_experiment(slug)
    monkeypatch.setenv("NORMVIZ_EVIDENCE", str(tmp_path / "evidence"))
    own = RunStore(tmp_path / "runs")  # the server's has whole runs of other tests
    monkeypatch.setattr("normviz.ui.ledger.store", lambda: own)
    app = open_page("reproductions")
    assert [header.value for header in app.subheader] == [get_experiment(s).title for s in SLUGS]
    assert sum("nothing is recorded yet" in m.value for m in app.markdown) == len(SLUGS)

    from normviz.engine import run_inline
    from normviz.evidence.reproduce import _judge, _Plan

    knobs = experiment.knobs(steps=10, seeds=2, depth=2, width=16)
    run = run_inline(experiment, knobs, device="cpu", store=own)
    plan = _Plan(experiment.presets.default, knobs, runs=[run])
    write_evidence(_judge(experiment, [plan], "cpu", None))
    app = open_page("reproductions")
    assert sum("recorded: " in m.value for m in app.markdown) == 1
    assert not any("yours: " in m.value for m in app.markdown), "a run at another setting is no verdict"
    table = app.dataframe[2 * SLUGS.index(slug)].value
    exact = [claim for claim in experiment.claims if claim.identity]
    assert len(table) == len(experiment.claims) - len(exact)
    monkeypatch.setattr(type(experiment.presets), "of", lambda presets, knobs: presets.default)
    app = open_page("reproductions")
    assert sum("yours: " in m.value for m in app.markdown) == 1


def test_the_page_on_method_simulates_the_rule_in_use(open_page: OpenPage) -> None:
    app = open_page("verdicts")
    assert app.title[0].value == "How verdicts are made"
    assert [header.value for header in app.subheader] == [
        "How often they are wrong",
        "How large an effect must be",
        "What they cannot say",
        "The scale of the papers",
    ]
    shown = app.dataframe[0].value
    table = false_alarm_table()
    assert shown["rivals"].tolist() == table["rivals"].tolist() == list(RIVALS)
    wrong = table["called reproduced"] + table["called opposite"]
    assert (wrong <= 0.075).all(), "5 %, and what 1,000 repetitions leave to chance"
    assert (table["different, by the best rival of each seed"][1:] > wrong[1:]).all()
    text = " ".join(m.value for m in app.markdown)
    assert "2 seeds 9.0" in text
