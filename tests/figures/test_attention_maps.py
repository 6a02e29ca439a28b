"""Attention maps: shares of an even look, full and causal, and where the maps stand."""

from __future__ import annotations

import numpy as np
import pytest

from normviz.arms import Arms
from normviz.experiments.attention_entropy.attention_maps import ABREAST, attention_maps_figure
from normviz.figures import Figure
from normviz.frame import Frame, FrameLog


def drawn(weights: np.ndarray, arms: tuple[str, ...], causal: bool) -> Figure:
    log = FrameLog()
    for arm in arms:
        log.append(Frame(3, arm, 0, {"map": weights}))
    return attention_maps_figure(log, "map", title="Maps", look_for="", arms=Arms.of(arms), causal=causal)


def test_an_even_look_is_one_everywhere_it_may_look() -> None:
    full = drawn(np.full((4, 4), 0.25), ("a",), False).data
    assert full is not None
    assert full["share"].to_numpy() == pytest.approx(np.ones(16))
    even = np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None]
    causal = drawn(even, ("a",), True).data
    assert causal is not None
    assert causal["share"].to_numpy().reshape(4, 4) == pytest.approx(np.tril(np.ones((4, 4))), abs=2e-3)


def test_more_than_a_row_of_maps_goes_to_a_second_row_and_none_overlap() -> None:
    arms = tuple("abcdef")
    figure = drawn(np.eye(3), arms, False)
    assert figure.data is not None
    boxes = figure.data.groupby("arm").agg(
        left=("left", "min"), right=("right", "max"), top=("top", "min"), bottom=("bottom", "max")
    )
    assert set(boxes["top"] // 1) == {0, 1}
    assert list(boxes["left"]) == [i % ABREAST for i in range(6)]
    assert (boxes["right"] < boxes["left"] + 1).all()
    assert (boxes["bottom"] <= boxes["top"] // 1 + 1).all()
    single = drawn(np.eye(3), ("a",), False)
    assert figure.spec is not None
    assert single.spec is not None
    assert figure.spec["height"] > single.spec["height"]


def test_empty_log_says_so() -> None:
    figure = attention_maps_figure(FrameLog(), "map", title="Maps", look_for="", arms=Arms.of("a"))
    assert "nothing is measured yet" in figure.alt
