"""Twenty questions: the reader thinks of an animal and answers, or guesses against the policy."""

from __future__ import annotations

import streamlit as st

from normviz.adaptive.animal_table import ANIMALS, QUESTIONS
from normviz.experiments.active_learning.game_figures import belief_figure
from normviz.experiments.active_learning.question_game import BUDGET, Asker, QuestionGame
from normviz.ui.charts import draw_figure

__all__ = ["question_panel"]

PREFIX = "active-learning/game"
MODE, NOISE, ANSWERED, HIDDEN, QUESTION, GUESS = (
    f"{PREFIX}/{name}" for name in ("mode", "noise", "answered", "hidden", "question", "guess")
)
MODES = {"answer": "You think of an animal", "guess": "You guess against the policy"}
SURE = 0.9
"""Belief from which the policy names its animal."""
SHOWN = 6
"""Answers that are listed."""


@st.fragment
def question_panel() -> None:
    """Both games, chosen by a switch."""
    with st.container(border=True, key="question-game"):
        st.markdown(
            f"**Twenty questions**  \n:gray[:small[{len(ANIMALS)} animals, {len(QUESTIONS)} questions. The policy is "
            "binary search that expects some wrong answers: it asks what splits its belief most evenly.]]"
        )
        mode = st.segmented_control(
            "Game", list(MODES), format_func=lambda m: MODES[m], default="answer", required=True, key=MODE
        )
        noise = st.slider(
            "Wrong answers (%)" if mode == "guess" else "Wrong answers that the policy expects (%)",
            0,
            40,
            10,
            5,
            key=NOISE,
        )
        if mode == "answer":
            _you_answer(noise / 100)
        else:
            _you_guess(noise / 100)


# ------------------------------------------------------------------------------------------------ the reader answers


def _you_answer(eps: float) -> None:
    asker: Asker = st.session_state.setdefault(ANSWERED, Asker(0.1))
    asker.eps = max(eps, 0.02)
    belief, asked = asker.belief(), len(asker.history)
    left, right = st.columns(2)
    with left:
        likeliest = ANIMALS[asker.guess()]
        if belief.max() >= SURE:
            st.success(
                f"I think it is the **{likeliest}** ({100 * belief.max():.0f} % sure).",
                icon=":material/pets:",
            )
        elif asked >= BUDGET:
            st.warning(
                f"All {BUDGET} questions are asked. My best guess: the **{likeliest}**.",
                icon=":material/block:",
            )
        else:
            listed = ", ".join(ANIMALS)
            st.caption(f"Think of one of these and answer truly, or lie now and then: {listed}.")
        question = asker.next_question()
        if asked < BUDGET:
            st.markdown(f"**{asked + 1}. {QUESTIONS[question]}**")
        with st.container(horizontal=True):
            for label, answer in (("Yes", True), ("No", False)):
                st.button(
                    label,
                    on_click=_tell,
                    args=(question, answer),
                    key=f"{PREFIX}/{label.lower()}",
                    type="primary",
                    disabled=asked >= BUDGET,
                    shortcut=label[0],
                )
            st.button("Take back", on_click=_back, key=f"{PREFIX}/back", disabled=not asked)
            st.button("New game", icon=":material/refresh:", on_click=_forget, key=f"{PREFIX}/forget")
        _listed(asker)
    with right:
        draw_figure("belief", belief_figure({"the policy": asker}), key=PREFIX, height=380)


def _tell(question: int, answer: bool) -> None:
    st.session_state[ANSWERED].tell(question, answer)


def _back() -> None:
    st.session_state[ANSWERED].back()


def _forget() -> None:
    st.session_state[ANSWERED] = Asker(0.1)


# ------------------------------------------------------------------------------------------------- the reader guesses


def _you_guess(noise: float) -> None:
    game: QuestionGame | None = st.session_state.get(HIDDEN)
    if game is None or game.noise != noise:
        game = QuestionGame(noise, 0 if game is None else game.seed + 1)
        st.session_state[HIDDEN] = game
    left, right = st.columns(2)
    with left:
        st.caption(
            "An animal is hidden. You and the policy ask in turn; each answer may be wrong. Guess first!"
        )
        st.selectbox("Your question", range(len(QUESTIONS)), format_func=lambda j: QUESTIONS[j], key=QUESTION)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.button("Ask", on_click=_ask, key=f"{PREFIX}/ask", type="primary", disabled=game.over)
            st.button(
                "New animal", icon=":material/refresh:", on_click=_hide, args=(noise,), key=f"{PREFIX}/hide"
            )
        st.selectbox("Your guess", range(len(ANIMALS)), format_func=lambda j: ANIMALS[j], key=GUESS)
        st.button("Guess", on_click=_guess, key=f"{PREFIX}/guess-now", disabled=game.guessed is not None)
        columns = st.columns(2)
        columns[0].metric("Questions", f"{len(game.reader.history)} of {BUDGET}")
        sure = 100 * game.policy.belief().max()
        columns[1].metric("The policy is sure", f"{sure:.0f} %")
        if game.guessed is not None:
            _outcome(game)
        elif game.over:
            st.warning("No question is left: guess.", icon=":material/block:")
        _listed(game.reader)
    with right:
        players = {"your answers": game.reader}
        if game.guessed is not None:
            players["the policy's"] = game.policy
        draw_figure("race", belief_figure(players), key=PREFIX, height=380)


def _outcome(game: QuestionGame) -> None:
    """Who was right, once the reader has guessed."""
    animal, policy = ANIMALS[game.animal], ANIMALS[game.policy.guess()]
    you = "You are right" if game.guessed == game.animal else "You are wrong"
    it = "so is the policy" if (game.guessed == game.animal) == (policy == animal) else "the policy is not"
    say = st.success if game.guessed == game.animal else st.error
    say(f"{you}, {it}: it is the **{animal}**. The policy says {policy}.", icon=":material/pets:")


def _ask() -> None:
    st.session_state[HIDDEN].ask(st.session_state[QUESTION])


def _guess() -> None:
    st.session_state[HIDDEN].guess(st.session_state[GUESS])


def _hide(noise: float) -> None:
    st.session_state[HIDDEN] = QuestionGame(noise, st.session_state[HIDDEN].seed + 1)


def _listed(asker: Asker) -> None:
    """The newest answers."""
    lines = [
        rf"{i}\. {QUESTIONS[question]} **{'Yes' if answer else 'No'}**"
        for i, (question, answer) in enumerate(asker.history, start=1)
    ]
    if lines:
        st.markdown("  \n".join(reversed(lines[-SHOWN:])))
