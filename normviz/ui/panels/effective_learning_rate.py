"""The schedule that growing weights set behind a norm, in numbers, and the button that applies it to NaP."""

from __future__ import annotations

import streamlit as st

from normviz.experiments import Run
from normviz.experiments.effective_learning_rate import Knobs
from normviz.experiments.effective_learning_rate.knobs import NAP, REPLAY, normed, variants
from normviz.frame import FrameLog
from normviz.ui.widgets import set_knobs

__all__ = ["effective_rates", "implicit_schedule_panel"]


def effective_rates(log: FrameLog, knobs: Knobs, step: int | None) -> list[float]:
    """Effective over set learning rate of each hidden layer of the norm-only network, mean over seeds; [] before."""
    rates = []
    for layer in range(1, knobs.layers() + 1):
        table = log.scalars(f"elr/{layer}")
        table = table[table["arm"] == normed(knobs)]
        if step is not None:
            table = table[table["step"] <= step]
        if table.empty:
            return []
        rates.append(float(table.sort_values("step").groupby("seed")["value"].last().mean()))
    return rates


def implicit_schedule_panel(run: Run, step: int | None) -> None:
    """Draw the norm-only network's effective rates and the button; the equivalence always has the replay."""
    knobs = run.knobs
    assert isinstance(knobs, Knobs)
    if knobs.task == "equivalence":
        return
    names = {variant.name for variant in variants(knobs)}
    with st.container(border=True, key="implicit-schedule"):
        st.markdown("**The implicit schedule**")
        rates = effective_rates(run.log, knobs, step)
        if rates:
            parts = ", ".join(f"{100 * rate:.0f} % in layer {i}" for i, rate in enumerate(rates, 1))
            st.markdown(
                f"Effective learning rate of {normed(knobs)} by now, as a share of the rate that is set: {parts}."
            )
        if REPLAY in names:
            st.caption(f"{REPLAY}, trained last, is given these rates, step by step and layer by layer.")
        elif normed(knobs) in names:
            st.caption(
                f"Give it to a projected network: everything is trained again, and then {NAP} once more with the "
                "rates that were recorded here."
            )
            if st.button(
                "Re-inject the implicit schedule",
                icon=":material/low_priority:",
                on_click=_replay,
                args=(knobs,),
                key="implicit-schedule/replay",
            ):
                st.rerun()
        else:
            st.caption("To record it, add Norm only to the networks or agents.")


def _replay(knobs: Knobs) -> None:
    set_knobs("effective-learning-rate", knobs.model_copy(update={"replay": True}))
