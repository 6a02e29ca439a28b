"""Verdicts: the strip with the counts and the forest plot, the texts of the claims, more seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from normviz.catalog import PAPERS
from normviz.claims import LEAST_SEEDS, OUTCOMES, Claim, Outcome, Verdict, detectable, holm
from normviz.evidence import read_evidence
from normviz.experiments import Experiment, Run
from normviz.figures.forest import forest_figure
from normviz.knob_fields import MOST_SEEDS
from normviz.ui.runs import RunControl
from normviz.ui.shared import shared_verdicts

__all__ = ["OUTCOME_STYLE", "claims_tab", "counts", "verdict_strip"]

OUTCOME_STYLE: dict[Outcome, tuple[str, str]] = {
    "reproduced": ("green", ":material/check_circle:"),
    "weaker": ("orange", ":material/trending_flat:"),
    "no effect": ("gray", ":material/horizontal_rule:"),
    "opposite": ("red", ":material/cancel:"),
    "undecided": ("blue", ":material/help:"),
}

STEP_OF_SEEDS = 2
"""Seeds that are added at a time, one for each of two cores."""


def counts(claims: tuple[Claim, ...], verdicts: Mapping[str, Verdict]) -> str:
    """The outcomes of the measured claims in a line of Markdown, identities apart."""
    measured = [c for c in claims if c.id in verdicts and verdicts[c.id].measured]
    tally = Counter(verdicts[c.id].outcome for c in measured if not c.identity)
    parts = [f":{OUTCOME_STYLE[o][0]}[**{tally[o]}** {words}]" for o, words in OUTCOMES.items() if tally[o]]
    identities = [c for c in measured if c.identity]
    if identities:
        hold = sum(verdicts[c.id].outcome == "reproduced" for c in identities)
        parts.append(f":gray[{hold} of {len(identities)} identities hold]")
    return " · ".join(parts) or ":gray[no claim is measured yet]"


def verdict_strip(control: RunControl, run: Run, *, bare: bool = False) -> None:
    """Counts and forest plot on one line; while the run is live, what was recorded before, labelled.

    Args:
        control: of the page.
        run: the run judged.
        bare: leave the plot's place empty.
    """
    experiment = run.experiment
    with st.container(border=True, key=f"card-{experiment.slug}-verdicts"):
        left, right = st.columns([3, 7], vertical_alignment="center", gap="small")
        if run.live:
            evidence = read_evidence(experiment.slug)
            verdicts = {c.id: c.verdict() for c in evidence.claims} if evidence else {}
            when = f"recorded on {evidence.date}" if evidence else "judged when the run has ended"
            left.markdown(f"**Verdicts** :gray[:small[{when}]]  \n{counts(experiment.claims, verdicts)}")
        else:
            verdicts = shared_verdicts(run)
            seeds = len(run.log.seeds)
            note = "" if seeds >= LEAST_SEEDS else f" :gray[:small[so far, {seeds} seed{'s' * (seeds > 1)}]]"
            left.markdown(f"**Verdicts**{note}  \n{counts(experiment.claims, verdicts)}")
            with left:
                _more_seeds(control, run, verdicts)
        if bare:
            return
        figure = forest_figure(experiment.claims, verdicts).shown(height=104)
        if figure.data is None or figure.data.empty:
            right.caption("Each claim's interval is drawn here.")
            return
        spec: Any = figure.spec
        picked = right.vega_lite_chart(
            figure.data,
            spec,
            key=f"{experiment.slug}-forest-{'live' if run.live else run.id}-{len(figure.data)}",
            alt=figure.alt,
            width="stretch",
            on_select="rerun",
            selection_mode="claim",
        )
        chosen = _picked(picked)
        claim = next((c for c in experiment.claims if c.id == chosen), None)
        if claim is not None:
            _dialog(experiment, claim, verdicts[claim.id])


def _picked(state: Any) -> str | None:
    """The claim that was clicked."""
    selection = getattr(state, "selection", None) or {}
    points = selection.get("claim") if hasattr(selection, "get") else None
    return str(points[0].get("id")) if points else None


@st.dialog("Claim", width="large")
def _dialog(experiment: Experiment, claim: Claim, verdict: Verdict) -> None:
    _claim_card(experiment, claim, verdict, corrected=None)


def _more_seeds(control: RunControl, run: Run, verdicts: Mapping[str, Verdict]) -> None:
    """A button that goes on with the same run, seed by seed, until every claim is decided or ten seeds are reached."""
    experiment, state = run.experiment, control.state
    open_ = [
        c for c in experiment.claims if verdicts[c.id].measured and verdicts[c.id].outcome == "undecided"
    ]
    there = int(getattr(run.knobs, "seeds", MOST_SEEDS))
    if run.status != "done" or not experiment.divisible or not open_ or there >= MOST_SEEDS:
        state.adding_seeds = False
        return
    more = min(STEP_OF_SEEDS, MOST_SEEDS - there)
    text = (
        f"Go on with this run: {more} more seeds at a time, until every claim is decided or {MOST_SEEDS} seeds are "
        "reached. Undecided now: " + " ".join(c.statement for c in open_[:4])
    )
    pressed = st.button(
        f"More seeds ({len(open_)} undecided)",
        icon=":material/add:",
        help=text,
        key=f"{experiment.slug}-more-seeds",
    )
    if pressed or state.adding_seeds:
        state.adding_seeds = True
        refused = control.extend(run, more)
        if refused is None:
            st.rerun()
        state.adding_seeds = False
        st.caption(refused)


def claims_tab(experiment: Experiment, run: Run) -> None:
    """All claims: a compact table, then the text of each, with the button that opens the preset that decides it."""
    verdicts = {} if run.live else shared_verdicts(run)
    evidence = read_evidence(experiment.slug)
    corrected = holm(experiment.claims, verdicts)
    seeds = len(run.log.seeds)
    if seeds >= 2:
        st.caption(
            f"With {seeds} seeds an effect must be {detectable(seeds):.1f} standard deviations (over seeds) large "
            "for its interval to exclude no effect. A verdict that counts needs "
            f"{LEAST_SEEDS} seeds or more. *Reproductions* has the verdicts that are kept with the project."
        )
    rows = []
    for n, claim in enumerate(experiment.claims, start=1):
        verdict = verdicts.get(claim.id)
        record = evidence.claim(claim.id) if evidence else None
        rows.append(
            {
                "n": n,
                "claim": claim.statement,
                "here": "identity: " * claim.identity + OUTCOMES[verdict.outcome]
                if verdict is not None and verdict.measured
                else "not measured",
                "measured": claim.measured_text(verdict) if verdict is not None else "",
                "corrected for all claims": OUTCOMES[corrected[claim.id]] if claim.id in corrected else "",
                "recorded": OUTCOMES[record.outcome] if record else "",
                "decided at": experiment.presets[claim.preset].name,
            }
        )
    text = f"Table of {len(rows)} claims with their outcomes in this run and in the recorded evidence."
    st.caption("Choose a row to read the claim, the paper's own figure, what was measured and the rule.")
    picked = st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        alt=text,
        height=min(38 + 35 * len(rows), 420),
        on_select="rerun",
        selection_mode="multi-row",
        key=f"{experiment.slug}/claims",
    )
    for n in picked.selection.rows:
        claim = experiment.claims[n]
        _claim_card(experiment, claim, verdicts.get(claim.id), corrected.get(claim.id))
    with st.expander("All claims in full"):
        for claim in experiment.claims:
            _claim_card(experiment, claim, verdicts.get(claim.id), corrected.get(claim.id))


def _claim_card(
    experiment: Experiment, claim: Claim, verdict: Verdict | None, corrected: Outcome | None
) -> None:
    measured = verdict is not None and verdict.measured
    with st.container(border=True):
        head, paper, here = st.columns([4, 3, 4])
        with head:
            if claim.identity:
                holds = "holds" if verdict is None or verdict.outcome == "reproduced" else "fails"
                st.badge(
                    f"identity {holds}" if measured else "identity", icon=":material/equal:", color="gray"
                )
            elif verdict is not None and measured:
                colour, icon = OUTCOME_STYLE[verdict.outcome]
                st.badge(f"{OUTCOMES[verdict.outcome]} here", icon=icon, color=colour)  # type: ignore[arg-type]
            reference = PAPERS[claim.paper]
            st.markdown(
                f"{claim.statement}  \n:gray[:small[[{reference.authors}, {reference.year}]({reference.url})]]"
            )
        paper.markdown(f":gray[In the paper]  \n{claim.paper_figure}")
        with here:
            if verdict is not None and measured:
                lines = [":gray[Measured here]", f"**{claim.measured_text(verdict)}**"]
                if corrected is not None and corrected != verdict.outcome:
                    lines.append(f":small[Corrected for the number of claims: {OUTCOMES[corrected]}.]")
                lines.append(f":small[{verdict.reason}]")
            else:
                why = verdict.reason if verdict is not None else "Judged when the run has ended."
                lines = [f":gray[{why}]"]
            preset = experiment.presets[claim.preset]
            lines += [
                f":small[{claim.measured[:1].upper()}{claim.measured[1:]}.]",
                f":gray[:small[{claim.rule_text}{' ' + claim.caveat if claim.caveat else ''}]]",
            ]
            st.markdown("  \n".join(lines))
            st.page_link(
                _page_of(experiment),
                label=f"Decided at the preset *{preset.name}*",
                icon=":material/tune:",
                query_params={"preset": preset.slug},
            )


def _page_of(experiment: Experiment) -> Any:
    from normviz.ui.files import page_file

    return page_file(experiment.slug)
