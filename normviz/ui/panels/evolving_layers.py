"""The best layer of a search as formula and code, the latest candidates, and the way to train it against others."""

from __future__ import annotations

import streamlit as st

from normviz.experiments import Run
from normviz.experiments.evolving_layers import Knobs
from normviz.experiments.evolving_layers.candidates import (
    MOST_OPERATIONS,
    WRITTEN_OUT,
    Trial,
    best,
    formula,
    from_code,
    operations,
    to_code,
    trials,
)
from normviz.experiments.evolving_layers.expression import layer_latex, simplified_latex
from normviz.experiments.evolving_layers.figures import VERDICT_NAMES
from normviz.norms import graph_to_python
from normviz.ui.widgets import set_knobs

__all__ = ["found_layer_panel"]

LATEST = 8
LONGEST = 100
"""Characters of a candidate's formula that are shown."""


def found_layer_panel(run: Run, step: int | None) -> None:
    """Draw what a search has found so far, or the layer that a comparison was given."""
    knobs = run.knobs
    assert isinstance(knobs, Knobs)
    if knobs.mode == "compare":
        if knobs.found:
            with st.container(border=True, key="found-layer"):
                st.markdown("**The found layer** in this comparison")
                st.latex(layer_latex(from_code(knobs.found)))
        return
    winner = best(run.log, step)
    left, right = st.columns(2)
    with left, st.container(border=True, key="found-layer", height="stretch"):
        _best(winner, knobs)
    with right, st.container(border=True, key="latest-candidates", height="stretch"):
        _latest(trials(run.log, step)[-LATEST:])


def _best(winner: Trial | None, knobs: Knobs) -> None:
    st.markdown("**The best layer as a formula**")
    if winner is None:
        st.caption("No candidate has passed all tests yet.")
        return
    st.caption("As it was found, with γ and β per channel:")
    st.latex(layer_latex(winner.graph))
    written_out = operations(winner.graph)
    if written_out <= WRITTEN_OUT:
        st.caption("What sympy makes of the part between γ and β, guards against zero left out:")
        st.latex(simplified_latex(winner.graph))
    code = to_code(winner.graph)
    longest = Knobs.controls()["found"].high
    assert longest is not None
    fits = written_out <= MOST_OPERATIONS and len(code) <= longest
    with st.container(horizontal=True):
        trained = st.button(
            "Train it against the published layers",
            icon=":material/compare_arrows:",
            on_click=_compare,
            args=(code, knobs.seeds),
            key="found/train",
            disabled=not fits,
            help=None if fits else "This layer is too long to be given to the comparison.",
        )
        st.download_button(
            "Layer as Python",
            lambda: graph_to_python(winner.graph),
            "found_norm.py",
            "text/x-python",
            icon=":material/download:",
            on_click="ignore",
            key="found/download",
        )
    if trained:
        st.rerun()


def _compare(code: str, seeds: int) -> None:
    set_knobs("evolving-layers", Knobs(found=code, seeds=seeds))


def _latest(latest: list[Trial]) -> None:
    st.markdown("**The latest candidates**")
    if not latest:
        st.caption("The first one is being trained.")
    for trial in reversed(latest):
        text = formula(trial.graph)
        shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
        score = f", {100 * trial.mean:.0f} %" if trial.scores else ""
        colour = "green" if trial.scores else "gray"
        st.markdown(
            f":small[{trial.index} · {trial.arm} · :{colour}[{VERDICT_NAMES[trial.verdict]}{score}]]  \n`{shown}`"
        )
