"""The panel of the page *Effective learning rate* that names the implicit schedule and re-injects it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from normviz.experiments.effective_learning_rate import Knobs
from normviz.frame import Frame, FrameLog
from normviz.ui.panels.effective_learning_rate import effective_rates

OpenPage = Callable[..., AppTest]
SLUG = "effective-learning-rate"


def test_effective_rates_are_the_last_of_the_norm_only_network_up_to_the_step() -> None:
    log = FrameLog()
    for seed, factor in ((0, 1.0), (1, 0.5)):
        for step, rate in ((0, 1.0), (10, 0.8), (20, 0.4)):
            values = {"elr/1": factor * rate, "elr/2": factor * rate / 2}
            log.append(Frame(step, "LayerNorm", seed, values))
        log.append(Frame(20, "NaP", seed, {"elr/1": 9.0, "elr/2": 9.0}))
    knobs = Knobs(depth=2)
    assert effective_rates(log, knobs, None) == pytest.approx([0.3, 0.15])
    assert effective_rates(log, knobs, 15) == pytest.approx([0.6, 0.3])
    assert effective_rates(log, Knobs(depth=3), None) == []
    assert effective_rates(FrameLog(), knobs, None) == []


def test_button_adds_the_replayed_network(open_page: OpenPage) -> None:
    app = open_page(SLUG, phases="1", period="20", seeds="1")
    before = app.session_state[f"{SLUG}/run"]["id"]
    app.button(key="implicit-schedule/replay").click().run()
    assert not app.exception
    assert app.session_state[f"{SLUG}/knob/replay"] is True
    assert app.session_state[f"{SLUG}/run"]["id"] != before
    assert "implicit-schedule/replay" not in [button.key for button in app.button]


def test_no_panel_in_the_equivalence_and_no_button_without_the_network(open_page: OpenPage) -> None:
    app = open_page(SLUG, task="equivalence", phases="1", period="20", seeds="1")
    assert not any("The implicit schedule" in m.value for m in app.markdown)
    app = open_page(SLUG, arms="nap", remedies="", phases="1", period="20", seeds="1")
    assert any("The implicit schedule" in m.value for m in app.markdown)
    assert any("add Norm only" in c.value for c in app.caption)
