"""Verdicts: the paper's figure beside the one measured here, and the rule that decides."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from normviz.catalog import PAPERS
from normviz.claims import Claim, Verdict

__all__ = ["OUTCOME_STYLE", "draw_verdicts"]

OUTCOME_STYLE = {
    "reproduced": ("green", ":material/check_circle:"),
    "not reproduced": ("red", ":material/cancel:"),
    "undecided": ("gray", ":material/help:"),
}


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
            f"**{claim.measured_text(verdict)}**",
            f":small[{claim.measured[:1].upper()}{claim.measured[1:]}.]",
            f":gray[:small[{claim.rule} {verdict.reason}{' ' + claim.caveat if claim.caveat else ''}]]",
        ]
        here.markdown("  \n".join(lines))
