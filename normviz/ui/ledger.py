"""The ledger: every claim with the verdict that is kept with the project, and the reader's own beside it.

The reader's own verdict comes from stored runs at the setting of the preset that decides the claim, whatever their
seeds, from the one with the most. A run at any other setting never becomes a verdict here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd
import streamlit as st

from normviz.catalog import PAPERS
from normviz.claims import LEAST_SEEDS, OUTCOMES, Claim, Verdict
from normviz.engine import RunStore, StoredRun, StoreError
from normviz.evidence import ClaimRecord, Evidence, read_evidence
from normviz.experiments import SLUGS, Experiment, get_experiment
from normviz.knobs import KnobError
from normviz.ui.files import page_file
from normviz.ui.server import store, store_trouble
from normviz.ui.style import page_style
from normviz.ui.verdicts import counts

__all__ = ["MARKS", "OwnVerdict", "best_runs", "ledger_page", "ledger_rows"]

MARKS = {"reproduced": "✓", "weaker": "↗", "no effect": "–", "opposite": "✗", "undecided": "?"}
"""The outcomes in one character, beside the words."""

LONGEST = 12
"""Rows of a table that are in sight at once."""


@dataclass(frozen=True)
class OwnVerdict:
    """The verdict of a claim in the reader's best run at the deciding preset.

    Attributes:
        verdict: of that run.
        run: its id.
        seeds: how many it has.
        day: when it was started.
    """

    verdict: Verdict
    run: str
    seeds: int
    day: str


def best_runs(experiment: Experiment, stored: Iterable[StoredRun]) -> dict[str, StoredRun]:
    """For each preset the finished run at its very setting with the most seeds, the newest among equals."""
    best: dict[str, tuple[int, float, StoredRun]] = {}
    for run in stored:
        if run.status != "done" or run.slug != experiment.slug:
            continue
        try:
            knobs = experiment.knobs.parse(run.knobs, limited=False)
        except KnobError:  # stored by a version whose knobs were others
            continue
        preset = experiment.presets.of(knobs)
        candidate = (len(knobs.seed_range()), run.created, run)
        if preset is not None and candidate[:2] > best.get(preset.slug, (0, 0.0))[:2]:
            best[preset.slug] = candidate
    return {slug: run for slug, (_, _, run) in best.items()}


@st.cache_data(show_spinner="Judging stored runs", max_entries=64)
def _own_verdicts(
    slug: str, runs: tuple[tuple[str, str, float], ...], _kept: RunStore
) -> dict[str, OwnVerdict]:
    """The verdicts of each preset's best run; ``runs`` has preset, id and end, so that a longer run is read anew."""
    experiment = get_experiment(slug)
    found: dict[str, OwnVerdict] = {}
    for preset, run_id, _ in runs:
        run = _kept.load(run_id)
        view = run.log.view()
        for claim in experiment.claims:
            if claim.preset == preset:
                day = datetime.fromtimestamp(run.created).date().isoformat()
                seeds = len(run.knobs.seed_range())
                found[claim.id] = OwnVerdict(claim.verdict(view, run.knobs), run_id, seeds, day)
    return found


def ledger_rows(
    experiment: Experiment, evidence: Evidence | None, own: Mapping[str, OwnVerdict], *, identities: bool
) -> list[dict[str, Any]]:
    """One row for each claim, or each identity: the recorded verdict and the reader's own side by side.

    Args:
        experiment: the page's experiment.
        evidence: what is kept with the project; None: nothing.
        own: the reader's verdicts by claim.
        identities: the identities, or all other claims.
    """
    rows = []
    for claim in experiment.claims:
        if claim.identity != identities:
            continue
        record = evidence.claim(claim.id) if evidence is not None else None
        at = evidence.presets.get(claim.preset) if evidence is not None else None
        mine = own.get(claim.id)
        paper = PAPERS[claim.paper]
        row: dict[str, Any] = {"claim": claim.statement, "recorded": "not recorded"}
        if record is not None:
            row["recorded"] = _outcome(claim, record.verdict())
        row["measured"] = "" if record is None else _interval(claim, record.verdict())
        row["seeds"] = "" if at is None else str(len(at.seeds))
        if not identities:
            row["corrected"] = _corrected(record)
        row |= {
            "date": "" if at is None else at.date,
            "yours": "" if mine is None else _own(claim, mine),
            "your number": "" if mine is None else _interval(claim, mine.verdict),
            "your seeds": "" if mine is None else str(mine.seeds),
            "decided at": f"{experiment.slug}?preset={claim.preset}",
            "paper": f"{paper.authors.split(',')[0]}, {paper.year}",
            "in the paper": claim.paper_figure,
        }
        rows.append(row)
    return rows


def _outcome(claim: Claim, verdict: Verdict) -> str:
    if not verdict.measured:
        return "not measured"
    if claim.identity:
        return "= holds" if verdict.outcome == "reproduced" else "✗ fails"
    return f"{MARKS[verdict.outcome]} {OUTCOMES[verdict.outcome]}"


def _own(claim: Claim, mine: OwnVerdict) -> str:
    few = mine.seeds < LEAST_SEEDS and not claim.identity and mine.verdict.measured
    return _outcome(claim, mine.verdict) + (", so far" if few else "")


def _corrected(record: ClaimRecord | None) -> str:
    """The corrected outcome, where it is another."""
    if record is None or record.corrected in ("", record.outcome):
        return "the same" if record is not None and record.corrected else ""
    return OUTCOMES[record.corrected]  # type: ignore[index]


def _interval(claim: Claim, verdict: Verdict) -> str:
    """The number with its interval and unit, short."""
    if not verdict.seeds:
        return ""
    unit = f" {claim.unit}" if claim.unit else ""
    if claim.identity or not math.isfinite(verdict.low) or not math.isfinite(verdict.high):
        return f"{verdict.estimate:.3g}{unit}"
    return f"{verdict.estimate:.3g} ({verdict.low:.3g} to {verdict.high:.3g}){unit}"


def ledger_page() -> None:
    """Draw the page."""
    page_style()
    st.title("Reproductions", anchor=False)
    st.markdown(
        "The verdicts of the pages' claims. *Recorded* is what is kept with the project: every claim at the preset "
        f"that decides it, with {LEAST_SEEDS} seeds or more. *Yours* is your own best run at that preset, if there "
        "is one: open it with the link, let it run, and add seeds. `normviz reproduce` measures a whole page again. "
        "*Corrected* is the outcome when it is corrected for the number of claims that a page judges."
    )
    st.page_link(page_file("verdicts"), label="How verdicts are made", icon=":material/balance:")
    kept = store()
    if trouble := store_trouble():
        st.warning(trouble, icon=":material/save:")
    for slug in SLUGS:
        _page(get_experiment(slug), kept)


def _page(experiment: Experiment, kept: RunStore | None) -> None:
    evidence = read_evidence(experiment.slug)
    own: dict[str, OwnVerdict] = {}
    if kept is not None:
        try:
            best = best_runs(experiment, kept.list(experiment.slug, limit=1000))
            runs = tuple((preset, run.id, run.finished or 0.0) for preset, run in best.items())
            own = _own_verdicts(experiment.slug, runs, kept)
        except StoreError as error:
            st.error(str(error), icon=":material/save:")
    st.subheader(experiment.title, anchor=experiment.slug)
    recorded = {} if evidence is None else {record.id: record.verdict() for record in evidence.claims}
    line = (
        f"recorded: {counts(experiment.claims, recorded)}" if recorded else ":gray[nothing is recorded yet]"
    )
    if own:
        mine = {name: entry.verdict for name, entry in own.items()}
        line += f"  \nyours: {counts(experiment.claims, mine)}"
    st.markdown(f":small[{line}]")
    _table(experiment, ledger_rows(experiment, evidence, own, identities=False), "claims")
    exact = ledger_rows(experiment, evidence, own, identities=True)
    if exact:
        with st.expander(f"Identities ({len(exact)}): true by construction, checked, and no evidence"):
            _table(experiment, exact, "identities")


def _table(experiment: Experiment, rows: list[dict[str, Any]], what: str) -> None:
    judged = sum(row["recorded"] not in ("not recorded", "not measured") for row in rows)
    table = pd.DataFrame(rows)
    st.dataframe(
        table.loc[
            :, (table != "").any()
        ],  # nothing of the reader's own, or nothing recorded: no empty columns
        hide_index=True,
        alt=f"Table of {len(rows)} {what} of {experiment.title}; {judged} have a recorded verdict.",
        height=38 + 35 * min(len(rows), LONGEST),
        column_config={
            "claim": st.column_config.TextColumn(width="large"),
            "decided at": st.column_config.LinkColumn(
                display_text=r"preset=(.*)", help="The preset that decides the claim: opens the page with it"
            ),
        },
    )
