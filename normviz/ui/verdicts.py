"""Verdicts: the paper's figure beside the one measured here, and the rule that decides."""

from __future__ import annotations

import math
from collections.abc import Mapping

import streamlit as st

from normviz.catalog import PAPERS
from normviz.claims import Claim, Verdict

__all__ = ["OUTCOME_STYLE", "draw_verdicts", "measured_text"]

OUTCOME_STYLE = {
    "reproduced": ("green", ":material/check_circle:"),
    "not reproduced": ("red", ":material/cancel:"),
    "undecided": ("gray", ":material/help:"),
}


def measured_text(claim: Claim, verdict: Verdict) -> str:
    """The measured number with its interval and the number of seeds, in words."""
    if not verdict.per_seed:
        return "not measured"
    unit = f" {claim.unit}" if claim.unit else ""
    seeds = f"{len(verdict.per_seed)} seed{'s' if len(verdict.per_seed) > 1 else ''}"
    text = f"{verdict.estimate:.3g}{unit}"
    if claim.exact:
        return f"{text} (exact, {seeds})"
    if math.isinf(verdict.low) and math.isinf(verdict.high):
        return f"{text} ({seeds})"
    return f"{text} (95 % interval {verdict.low:.3g} to {verdict.high:.3g}, {seeds})"


def draw_verdicts(claims: tuple[Claim, ...], verdicts: Mapping[str, Verdict]) -> None:
    """One row per claim that this run measured; the others are listed below with what they need."""
    measured = [c for c in claims if verdicts[c.id].per_seed]
    for claim in measured:
        _draw(claim, verdicts[claim.id])
    others = [c for c in claims if not verdicts[c.id].per_seed]
    if others:
        with st.expander(f"{len(others)} more claims that this setting does not test"):
            for claim in others:
                st.markdown(f"- {claim.statement} :gray[Needs {claim.needs}.]")


def _draw(claim: Claim, verdict: Verdict) -> None:
    colour, icon = OUTCOME_STYLE[verdict.outcome]
    with st.container(border=True):
        head, paper, here = st.columns([4, 3, 4])
        with head:
            st.badge(f"{verdict.outcome} here", icon=icon, color=colour)  # type: ignore[arg-type]
            reference = PAPERS[claim.paper]
            st.markdown(
                f"{claim.statement}  \n:gray[:small[[{reference.authors}, {reference.year}]({reference.url})]]"
            )
        paper.markdown(f":gray[In the paper]  \n{claim.paper_figure}")
        lines = [
            ":gray[Measured here]",
            f"**{measured_text(claim, verdict)}**",
            f":small[{claim.measured[:1].upper()}{claim.measured[1:]}.]",
            f":gray[:small[{claim.rule} {verdict.reason}{' ' + claim.caveat if claim.caveat else ''}]]",
        ]
        here.markdown("  \n".join(lines))
