"""The page on method: how verdicts are made, with the rates of false alarms simulated for the very rule in use."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from normviz.claims import LEAST_SEEDS, detectable
from normviz.evidence.false_alarms import outcome_rates, per_seed_best_rate
from normviz.ui.style import page_style

__all__ = ["false_alarm_table", "method_page"]

RIVALS = (1, 2, 3, 5)
REPETITIONS = 1000


@st.cache_data(show_spinner="Simulating false alarms")
def false_alarm_table() -> pd.DataFrame:
    """For some numbers of rivals: how often equal methods are called different, by the rule in use and by another."""
    rows = []
    for rivals in RIVALS:
        rates = outcome_rates(rivals, repetitions=REPETITIONS)
        rows.append(
            {
                "rivals": rivals,
                "called reproduced": rates["reproduced"] + rates["weaker"],
                "called opposite": rates["opposite"],
                "undecided or no effect": rates["undecided"] + rates["no effect"],
                "different, by the best rival of each seed": per_seed_best_rate(
                    rivals, repetitions=REPETITIONS
                ),
            }
        )
    return pd.DataFrame(rows)


def method_page(rules: str, limits: str, scale: str) -> None:
    """Draw the page.

    Args:
        rules: Markdown: how a verdict is made.
        limits: Markdown: what verdicts cannot say.
        scale: Markdown: the scale of the papers beside the scale here.
    """
    page_style()
    st.title("How verdicts are made", anchor=False)
    st.markdown(rules)
    st.subheader("How often they are wrong", anchor="wrong")
    table = false_alarm_table()
    st.markdown(
        f"Simulated now, {REPETITIONS:,} times, with the rule that the pages use: equal methods, nothing but noise, "
        f"{LEAST_SEEDS} seeds. They are called different in at most 5 % of the cases. The last column shows why a "
        "claim about several rivals is not judged against the best rival of each seed: the best of several noisy "
        "numbers is better than each of them, so that a method loses which is no worse."
    )
    shares = [name for name in table.columns if name != "rivals"]
    st.dataframe(
        table.assign(**{name: 100 * table[name] for name in shares}),
        hide_index=True,
        alt=f"Table of false alarms for {', '.join(map(str, RIVALS))} rivals.",
        column_config={name: st.column_config.NumberColumn(format="%.1f %%") for name in shares},
    )
    st.subheader("How large an effect must be", anchor="power")
    powers = {n: detectable(n) for n in (2, 3, 5, 10)}
    listed = ", ".join(f"{n} seeds {size:.1f}" for n, size in powers.items())
    st.markdown(
        "The spread over seeds decides what can be seen. For its interval to exclude no effect, an effect must be so "
        f"many standard deviations (over seeds) large: {listed}. With two seeds only very large effects are decided, "
        "and *undecided* says nothing about a claim."
    )
    st.subheader("What they cannot say", anchor="limits")
    st.markdown(limits)
    st.subheader("The scale of the papers", anchor="scale")
    st.markdown(scale)
