"""The reader is the analyst: pick features by hand, see what the holdout says and what is true."""

from __future__ import annotations

import math

import streamlit as st

from normviz.experiments.adaptive_data_analysis.analyst_game import (
    BUDGET,
    FEATURES,
    ROWS,
    AnalystGame,
    GameKind,
)
from normviz.experiments.adaptive_data_analysis.game_figures import clues_figure, history_figure
from normviz.ui.charts import draw_figure

__all__ = ["analyst_panel"]

PREFIX = "adaptive-data-analysis/game"
GAME, PICKS, KIND, REAL = (f"{PREFIX}/{name}" for name in ("state", "picks", "kind", "real"))
KINDS: dict[GameKind, str] = {
    "plain": "Plain reuse",
    "gaussian": "Gaussian noise",
    "thresholdout": "Thresholdout",
}
MANY = 12
"""Features that the button picks."""


@st.fragment
def analyst_panel() -> None:
    """The game: answers about features, a vote picked by hand, reports beside the truth."""
    with st.container(border=True, key="analyst-game"):
        st.markdown(
            f"**Now you are the analyst**  \n:gray[:small[{ROWS} rows, {FEATURES} features of which four tell a little "
            "about the label. Pick features: they vote, each in the direction of its answer, and the mechanism is "
            "asked how often the vote is right.]]"
        )
        kind = st.segmented_control(
            "Who answers",
            list(KINDS),
            format_func=lambda k: KINDS[k],
            default="plain",
            required=True,
            key=KIND,
        )
        game = _game(kind)
        with st.container(horizontal=True):
            st.button(
                f"Pick the {MANY} best answers",
                icon=":material/star:",
                on_click=_pick,
                args=(game.best(MANY),),
                key=f"{PREFIX}/best",
                help="What a tempted analyst does",
            )
            st.button(
                "None",
                icon=":material/clear:",
                on_click=_pick,
                args=((),),
                key=f"{PREFIX}/none",
                help="Pick nothing",
            )
            st.button(
                "New data",
                icon=":material/casino:",
                on_click=_renew,
                args=(kind, game.seed + 1),
                key=f"{PREFIX}/new",
                help="Other rows, other real features",
            )
            reveal = st.toggle("Show which features are real", key=REAL)
        picks = st.pills(
            "Features in your vote",
            range(FEATURES),
            format_func=lambda j: str(j + 1),
            selection_mode="multi",
            key=PICKS,
        )
        chosen = tuple(sorted(picks))
        if chosen and (not game.history or game.history[-1].picked != chosen):
            game.ask(chosen)
        _numbers(game)
        left, right = st.columns(2)
        with left:
            draw_figure("clues", clues_figure(game, set(chosen), reveal=reveal), key=PREFIX, height=260)
        with right:
            draw_figure("history", history_figure(game), key=PREFIX, height=260)


def _numbers(game: AnalystGame) -> None:
    """What the mechanism said about the newest vote, what is true, what was asked and spent."""
    last = game.history[-1] if game.history else None
    said = None if last is None or last.reported is None else last.reported
    columns = st.columns(4)
    columns[0].metric("The holdout says", "–" if said is None else f"{100 * said:.1f} %")
    columns[1].metric(
        "True",
        "–" if last is None else f"{100 * last.true:.1f} %",
        None
        if said is None or last is None
        else f"reported {100 * abs(said - last.true):.1f} points too {'much' if said > last.true else 'little'}",
        delta_color="off",
        delta_arrow="off",
    )
    columns[2].metric("Questions asked", game.questions)
    left = game.budget_left
    columns[3].metric("Budget left", "no end" if math.isinf(left) else f"{left:.0f} of {BUDGET}")
    if last is not None and last.reported is None:
        st.warning(
            f"No answer: Thresholdout has looked at the holdout {BUDGET} times, and its budget is spent. An honest "
            "analyst would now need new data.",
            icon=":material/block:",
        )


def _game(kind: GameKind) -> AnalystGame:
    game: AnalystGame | None = st.session_state.get(GAME)
    if game is None or game.kind != kind:
        game = AnalystGame(kind, 0 if game is None else game.seed)
        st.session_state[GAME] = game
    return game


def _pick(features: tuple[int, ...]) -> None:
    st.session_state[PICKS] = list(features)


def _renew(kind: GameKind, seed: int) -> None:
    st.session_state[GAME] = AnalystGame(kind, seed)
    st.session_state[PICKS] = []
