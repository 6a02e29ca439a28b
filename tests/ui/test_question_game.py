"""The page *Active learning*: twenty questions, by clicks."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from normviz.adaptive.animal_table import ANIMAL_TABLE, ANIMALS, QUESTIONS
from normviz.experiments.active_learning.question_game import BUDGET
from normviz.ui.panels.active_learning import ANSWERED, GUESS, HIDDEN, MODE, PREFIX, QUESTION

PANEL = "from normviz.ui.panels.active_learning import question_panel\nquestion_panel()"


@pytest.fixture
def game() -> AppTest:
    return AppTest.from_string(PANEL, default_timeout=60).run()


def test_answers_lead_to_the_animal_and_can_be_taken_back(game: AppTest) -> None:
    animal = ANIMALS.index("owl")
    for _ in range(BUDGET):
        question = game.session_state[ANSWERED].next_question()
        assert any(QUESTIONS[question] in text.value for text in game.markdown)
        game.button(key=f"{PREFIX}/{'yes' if ANIMAL_TABLE[animal][question] else 'no'}").click().run()
        assert not game.exception
        if game.success:
            break
    assert "owl" in game.success[0].value
    asked = len(game.session_state[ANSWERED].history)
    game.button(key=f"{PREFIX}/back").click().run()
    assert len(game.session_state[ANSWERED].history) == asked - 1
    game.button(key=f"{PREFIX}/forget").click().run()
    assert game.session_state[ANSWERED].history == []
    assert game.button(key=f"{PREFIX}/back").disabled


def test_the_reader_guesses_against_the_policy(game: AppTest) -> None:
    game.session_state[MODE] = "guess"
    game.run()
    assert not game.exception
    hidden = game.session_state[HIDDEN]
    game.selectbox(key=QUESTION).set_value(2).run()
    game.button(key=f"{PREFIX}/ask").click().run()
    assert len(hidden.reader.history) == len(hidden.policy.history) == 1
    game.selectbox(key=GUESS).set_value(hidden.animal).run()
    game.button(key=f"{PREFIX}/guess-now").click().run()
    assert not game.exception
    assert "You are right" in game.success[0].value
    assert game.button(key=f"{PREFIX}/ask").disabled
    game.button(key=f"{PREFIX}/hide").click().run()
    assert game.session_state[HIDDEN].seed == hidden.seed + 1
    wrong = (game.session_state[HIDDEN].animal + 1) % len(ANIMALS)
    game.selectbox(key=GUESS).set_value(wrong).run()
    game.button(key=f"{PREFIX}/guess-now").click().run()
    assert "You are wrong" in game.error[0].value


def test_spent_questions_are_said(game: AppTest) -> None:
    for t in range(BUDGET):
        game.session_state[ANSWERED].tell(t, t % 2 == 0)
    game.run()
    assert not game.exception
    assert game.button(key=f"{PREFIX}/yes").disabled
    assert any("All 20 questions are asked" in text.value for text in (*game.warning, *game.success))
