"""The ledger: every claim of every built page with the verdict of the best run that is stored here."""

from __future__ import annotations

from datetime import datetime

import pandas as pd
import streamlit as st

from normviz.catalog import PAPERS
from normviz.claims import Claim, Verdict
from normviz.engine import RunStore, StoreError
from normviz.experiments import SLUGS, Run, get_experiment
from normviz.ui.server import store, store_trouble

__all__ = ["best_verdicts", "ledger_page"]

CANDIDATES = 12
"""Newest finished runs of a page that are looked through for each claim."""

MARKS = {"reproduced": "✓ reproduced", "not reproduced": "✗ not reproduced", "undecided": "? undecided"}


def best_verdicts(claims: tuple[Claim, ...], runs: list[Run]) -> dict[str, tuple[Verdict, Run]]:
    """For each claim the verdict of the run that measured it with the most seeds, the newest among equals."""
    best: dict[str, tuple[Verdict, Run]] = {}
    for run in sorted(runs, key=lambda r: r.created):
        verdicts = run.verdicts()
        for claim in claims:
            verdict = verdicts[claim.id]
            if verdict.per_seed and len(verdict.per_seed) >= len(
                best[claim.id][0].per_seed if claim.id in best else ()
            ):
                best[claim.id] = verdict, run
    return best


@st.cache_data(show_spinner="Judging stored runs", max_entries=64)
def _rows(slug: str, run_ids: tuple[str, ...], _kept: RunStore) -> list[dict[str, str]]:
    experiment = get_experiment(slug)
    best = best_verdicts(experiment.claims, [_kept.load(run_id) for run_id in run_ids])
    rows = []
    for claim in experiment.claims:
        verdict, run = best.get(claim.id, (None, None))
        rows.append(
            {
                "verdict": MARKS[verdict.outcome] if verdict else "not measured yet",
                "claim": claim.statement,
                "paper": f"{PAPERS[claim.paper].authors.split(',')[0]} et al., {PAPERS[claim.paper].year}",
                "in the paper": claim.paper_figure,
                "measured here": claim.measured_text(verdict) if verdict else f"needs {claim.needs}",
                "run": f"{run.id}, {datetime.fromtimestamp(run.created):%d %b %H:%M}" if run else "",
            }
        )
    return rows


def ledger_page() -> None:
    """Draw the page."""
    st.title("Reproductions")
    st.markdown(
        "Every claim that the built pages test, with the verdict of the stored run that measured it with the most "
        "seeds. `normviz reproduce --seeds 5` fills this page from the command line."
    )
    kept = store()
    if trouble := store_trouble():
        st.warning(trouble, icon=":material/save:")
    if kept is None:
        return
    for slug in SLUGS:
        experiment = get_experiment(slug)
        st.header(experiment.title, anchor=slug)
        try:
            done = [run.id for run in kept.list(slug) if run.status == "done"][:CANDIDATES]
            rows = _rows(slug, tuple(done), kept)
        except StoreError as error:
            st.error(str(error), icon=":material/save:")
            continue
        table = pd.DataFrame(rows)
        measured = int((table["verdict"] != "not measured yet").sum())
        text = f"{measured} of {len(rows)} claims of {experiment.title} measured."
        st.dataframe(table, hide_index=True, alt=text, row_height=56, height=min(38 + 56 * len(rows), 520))
