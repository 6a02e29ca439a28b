"""The page *Adaptive data analysis*: the reader as the analyst, by clicks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from normviz.experiments.adaptive_data_analysis.analyst_game import BUDGET, FEATURES
from normviz.ui.panels.adaptive_data_analysis import GAME, KIND, PICKS, PREFIX, REAL

OpenPage = Callable[..., AppTest]
SLUG = "adaptive-data-analysis"


@pytest.fixture
def game_page(open_page: OpenPage) -> AppTest:
    app = open_page(SLUG, rows="200", queries="100", seeds="1")
    app.session_state[f"{SLUG}/tabs"] = "Formulas and a game"
    return app.run()


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def test_best_answers_are_picked_asked_and_compared_with_the_truth(game_page: AppTest) -> None:
    app = game_page
    assert not app.exception
    assert metrics(app)["Questions asked"] == str(FEATURES)
    assert metrics(app)["The holdout says"] == "–"
    app.button(key=f"{PREFIX}/best").click().run()
    assert not app.exception
    game = app.session_state[GAME]
    assert len(app.session_state[PICKS]) == 12
    report = game.history[-1]
    shown = metrics(app)
    assert shown["The holdout says"] == f"{100 * report.reported:.1f} %"
    assert shown["True"] == f"{100 * report.true:.1f} %"
    assert shown["Questions asked"] == str(FEATURES + 1)
    app.run()
    assert len(game.history) == 1, "the same vote is not asked again"
    app.toggle(key=REAL).set_value(True).run()
    assert not app.exception
    app.button(key=f"{PREFIX}/none").click().run()
    assert app.session_state[PICKS] == []
    app.button(key=f"{PREFIX}/new").click().run()
    assert app.session_state[GAME].seed == game.seed + 1
    assert app.session_state[GAME].history == []


def test_a_spent_budget_is_said(game_page: AppTest) -> None:
    app = game_page
    app.session_state[KIND] = "thresholdout"
    app.run()
    game = app.session_state[GAME]
    assert game.kind == "thresholdout"
    for count in range(2000):
        if game.budget_left == 0:
            break
        game.ask([count % FEATURES, (7 * count + 1) % FEATURES])
    app.session_state[PICKS] = [0, 1, 2]
    app.run()
    assert not app.exception
    assert metrics(app)["Budget left"] == f"0 of {BUDGET}"
    assert any("its budget is spent" in warning.value for warning in app.warning)
