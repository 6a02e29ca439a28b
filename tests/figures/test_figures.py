"""Figures: what they draw from a log, in words and in data."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from normviz.arms import DASHES, SYMBOLS, Arms
from normviz.figures import (
    Figure,
    colours,
    dashes,
    line_figure,
    profile_figure,
    ridge_figure,
    seed_bands,
    symbols,
)
from normviz.frame import Frame, FrameLog

ARMS = ["LayerNorm", "BatchNorm"]


def log_of(steps: int = 30, seeds: int = 3) -> FrameLog:
    rng = np.random.default_rng(0)
    return FrameLog(
        Frame(
            step, arm, seed, {"loss": float(rng.uniform(1, 2)), "h": rng.random((2, 4)), "p": rng.random(5)}
        )
        for step in range(steps)
        for arm in ARMS
        for seed in range(seeds)
    )


def test_seed_bands_are_mean_and_range_of_each_seeds_bin_mean() -> None:
    table = log_of(25).scalars("loss")
    bands = seed_bands(table, max_points=10)
    width = 3
    for row in bands.itertuples():
        part = table[(table.arm == row.arm) & (table.step // width == row.step // width)]
        means = part.groupby("seed")["value"].mean()
        assert row.mean == pytest.approx(means.mean())
        assert (row.low, row.high, row.seeds) == pytest.approx((means.min(), means.max(), 3))
    assert bands.groupby("arm").size().tolist() == [9, 9]


def test_seed_bands_leave_out_infinities_and_missing_seeds() -> None:
    table = pd.DataFrame(
        {"step": [0, 0, 1, 1], "arm": ["A"] * 4, "seed": [0, 1, 0, 1], "value": [1.0, 3.0, 2.0, np.inf]}
    )
    bands = seed_bands(table)
    assert bands["mean"].tolist() == [2.0, 2.0]
    assert bands["seeds"].tolist() == [2, 1]
    assert seed_bands(table[:0]).empty


def test_line_figure_says_its_newest_values() -> None:
    log = FrameLog([Frame(0, "A", 0, {"x": 1.0}), Frame(1, "A", 0, {"x": 2.5})])
    figure = line_figure(log, "x", title="T", y="y", look_for="l")
    assert figure.alt.endswith("Newest values: A 2.5.")
    assert figure.data is not None
    assert figure.data["mean"].tolist() == [1.0, 2.5]


def test_spec_holds_no_data_and_is_stable_while_data_grow() -> None:
    log = log_of(5)
    first = line_figure(log, "loss", title="T", y="y", look_for="l", last=30)
    log.extend(log_of(9).frames)
    second = line_figure(log, "loss", title="T", y="y", look_for="l", last=30)
    assert first.spec == second.spec
    assert "data" not in json.dumps(first.spec).replace("datum", "")


def test_cursor_stands_at_the_scrubbed_step() -> None:
    figure = line_figure(log_of(5), "loss", title="T", y="y", look_for="l", step=3)
    assert figure.spec is not None
    assert {"name": "cursor", "value": 3} in figure.spec["params"]


def test_log_scale_leaves_out_what_is_not_positive() -> None:
    log = FrameLog([Frame(0, "A", 0, {"x": -1.0}), Frame(1, "A", 0, {"x": 1.0})])
    figure = line_figure(log, "x", title="T", y="y", look_for="l", log_scale=True)
    assert figure.data is not None
    assert figure.data["step"].tolist() == [1]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.2, 0.7, {"0.2", "0.5", "1"}),
        (0.02, 0.7, {"0.02", "0.05", "0.1", "0.2", "0.5", "1"}),
        (2e-4, 30, {"1e-4", "0.001", "0.01", "0.1", "1", "10", "100"}),
    ],
)
def test_log_axis_has_round_labels(low: float, high: float, labels: set[str]) -> None:
    log = FrameLog([Frame(0, "A", 0, {"x": low}), Frame(9, "A", 0, {"x": high})])
    svg = line_figure(log, "x", title="T", y="y", look_for="l", log_scale=True, last=9).to_svg()
    axis = svg[svg.index("Y-axis") :]
    shown = re.findall(r">([\d.e−-]+)</text>", axis[: axis.index("role-mark")])
    assert labels == set(shown)


def test_ridges_average_seeds_and_show_the_moment() -> None:
    log = log_of(10)
    figure = ridge_figure(
        log, "h", low=-1, high=1, title="T", x="x", look_for="l", layer_names=["in", "out"], step=4
    )
    assert (figure.title, figure.moment) == ("T", "step 4")
    assert "T (step 4)" in figure.to_html()
    assert figure.data is not None
    part = figure.data[(figure.data.arm == "LayerNorm") & (figure.data.layer == "out")]
    expected = np.mean([e.value[1] for e in log.arrays("h", 4) if e.arm == "LayerNorm"], axis=0)
    np.testing.assert_allclose(part["density"], expected, rtol=1e-6)


def test_profile_is_mean_and_range_over_seeds() -> None:
    log = log_of(3)
    figure = profile_figure(log, "p", title="T", x="x", y="y", look_for="l")
    assert figure.data is not None
    part = figure.data[figure.data.arm == "BatchNorm"]
    stack = np.stack([e.value for e in log.arrays("p") if e.arm == "BatchNorm"])
    np.testing.assert_allclose(part["mean"], stack.mean(0), rtol=1e-6)
    np.testing.assert_allclose(part["high"], stack.max(0), rtol=1e-6)


def test_an_arm_has_one_colour_whatever_stands_beside_it() -> None:
    looks = Arms.of({"LayerNorm": 3, "PowerNorm": 1})
    assert colours(looks)[0] == colours(looks.ordered(["PowerNorm", "LayerNorm"]))[1]
    product = Arms.product({"LayerNorm": 0, "PowerNorm": 1}, {"": "64", ", batch 4": "4"})
    assert colours(product) == colours(Arms.of({"LayerNorm": 0, "PowerNorm": 1})) * 2
    assert dashes(product)[0] == dashes(product)[1] != dashes(product)[2]
    ten = Arms.of(f"arm {i}" for i in range(10))
    assert len(set(colours(ten))) == 10
    assert len({tuple(dash) for dash in dashes(ten)}) == DASHES
    assert len(set(symbols(ten))) == SYMBOLS
    assert colours(Arms.of({"a": 13})) == colours(Arms.of({"a": 3})), "slots start again from the first"


def test_exports() -> None:
    figure = line_figure(log_of(5), "loss", title="<T>", y="y", look_for="l")
    assert figure.to_svg().startswith("<svg")
    assert "vega" in figure.to_html()
    chart = figure.chart.to_dict()
    assert chart["title"]["text"] == "<T>"


def test_plotly_figures_export_html_but_no_svg() -> None:
    import plotly.graph_objects as go

    figure = Figure("<b>", "l", "a", plotly=go.Figure(go.Heatmap(z=[[1, 2]])))
    assert "&lt;b&gt;" in figure.to_html()
    with pytest.raises(TypeError, match="to_html"):
        figure.to_svg()


def test_a_figure_is_one_kind() -> None:
    with pytest.raises(ValueError, match="either spec with data or plotly"):
        Figure("t", "l", "a")
    with pytest.raises(ValueError, match="either spec with data or plotly"):
        Figure("t", "l", "a", spec={})


def test_line_figure_leaves_out_what_is_above_its_ceiling() -> None:
    log = FrameLog(
        Frame(step, arm, 0, {"loss": value})
        for arm, values in (("LayerNorm", [3.0, 2.0]), ("BatchNorm", [1e14, 5.0]))
        for step, value in enumerate(values)
    )
    figure = line_figure(log, "loss", title="T", y="y", look_for="l", log_scale=True, ceiling=100)
    assert figure.data is not None
    assert sorted(figure.data["mean"]) == [2.0, 3.0, 5.0]


def test_a_chart_with_a_slider_is_as_high_as_its_neighbours() -> None:
    plain = {"mark": "point", "params": [{"name": "cursor", "value": -1}]}
    bound = {"mark": "point", "params": [{"name": "level", "value": 1, "bind": {"input": "range"}}]}
    heights = []
    for spec in (plain, bound):
        figure = Figure("A", "b", "c", spec=spec, data=pd.DataFrame({"x": [1.0]}))
        heights.append(figure.shown(height=190).spec["height"])
    assert heights[0] == 190
    assert 150 <= heights[1] < 170
    many = Figure("A", "b", "c", spec={"params": bound["params"] * 9}, data=pd.DataFrame({"x": [1.0]}))
    assert many.shown(height=100).spec["height"] == 80
