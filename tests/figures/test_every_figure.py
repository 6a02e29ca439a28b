"""What holds for every chart: it is drawn from any log, says the ends of its axes, fades arms out of focus."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from normviz.arms import Arms
from normviz.experiments.attention_entropy.query_norm import entropy_curves_figure, query_row_figure
from normviz.experiments.evolving_layers.norm_responses import norm_response_figure
from normviz.experiments.residual_depth.path_levels import level_growth_figure, level_weights_figure
from normviz.experiments.self_normalizing.moment_bounds import contraction_figure, variance_bounds_figure
from normviz.experiments.self_normalizing.moment_map import moment_map_figure
from normviz.figures import Figure
from normviz.figures.encodings import FAINT
from normviz.frame import FrameLog
from tests.figures.cases import ALONE, ARMS, DRAWN, run_log

vl_convert = pytest.importorskip("vl_convert")

STILL = [
    contraction_figure,
    entropy_curves_figure,
    level_growth_figure,
    level_weights_figure,
    moment_map_figure,
    norm_response_figure,
    query_row_figure,
    variance_bounds_figure,
]
LOGS = {
    "empty": FrameLog(),
    "one moment": run_log(steps=(0,)),
    "plain": run_log(),
    "zero": run_log(0.0),
    "negative": run_log(-1.0),
    "not a number": run_log(math.nan),
    "infinite": run_log(math.inf),
}
CONTINUOUS = {"linear", "log", "pow", "sqrt", "symlog"}


def compiled(figure: Figure) -> dict[str, Any]:
    """The chart as Vega, as the page draws it."""
    assert figure.spec is not None
    vega: dict[str, Any] = vl_convert.vegalite_to_vega({**figure.spec, "width": 330}, show_warnings=True)
    return vega


def check_scales(figure: Figure) -> None:
    """Vega warns of infinite ends where it takes them from data that are empty, and of zero on a log scale."""
    for scale in compiled(figure)["scales"]:
        if scale["type"] not in CONTINUOUS:
            continue
        domain = scale["domain"]
        assert isinstance(domain, list), f"{scale['name']} takes its ends from the data"
        ends = [end for end in domain if isinstance(end, (int, float))]
        assert len(ends) == len(domain) or all(
            "signal" in end for end in domain if not isinstance(end, (int, float))
        )
        assert all(math.isfinite(end) for end in ends)
        assert ends in (sorted(ends), sorted(ends, reverse=True))
        assert len(set(ends)) == len(ends)
        if scale["type"] == "log":
            assert all(end > 0 for end in ends)


@pytest.mark.parametrize("log", LOGS.values(), ids=LOGS)
@pytest.mark.parametrize("name", DRAWN)
def test_ends_of_the_axes_are_said_for_any_numbers(
    name: str, log: FrameLog, capfd: pytest.CaptureFixture[str]
) -> None:
    figure = DRAWN[name](log, ARMS)
    check_scales(figure)
    assert "WARN" not in "".join(capfd.readouterr())
    assert json.loads(json.dumps(figure.spec)) == figure.spec, "plain JSON, no data"
    if not len(log):
        assert "nothing is measured yet" in figure.alt
        assert figure.moment == ""


@pytest.mark.parametrize("name", DRAWN)
def test_every_chart_is_drawn_without_warnings(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    spec = DRAWN[name](run_log(), ARMS).chart.to_dict()
    svg = vl_convert.vegalite_to_svg({**spec, "width": 330}, show_warnings=True)
    assert "WARN" not in "".join(capfd.readouterr())
    legend = 'aria-roledescription="legend"' in svg
    assert legend or name in ALONE
    if name not in ALONE:
        assert all(f">{arm}</text>" in svg for arm in ARMS)


@pytest.mark.parametrize("make", STILL, ids=lambda make: str(make.__name__))
def test_charts_to_play_with_are_quiet(make: Any, capfd: pytest.CaptureFixture[str]) -> None:
    figure = make()
    check_scales(figure)
    few = replace(figure, data=figure.data.head(100)).chart.to_dict()
    vl_convert.vegalite_to_svg({**few, "width": 330}, show_warnings=True)
    assert "WARN" not in "".join(capfd.readouterr())


def encodings(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "encoding" in node:
        yield node["encoding"]
    for child in node.get("layer", ()):
        yield from encodings(child)


@pytest.mark.parametrize("name", DRAWN)
def test_no_chart_has_a_legend_of_the_arms_and_titles_stand_above(name: str) -> None:
    figure = DRAWN[name](run_log(), ARMS)
    assert figure.spec is not None
    for encoding in encodings(dict(figure.spec)):
        for channel in encoding.values():
            if isinstance(channel, dict) and channel.get("field") == "arm" and channel.get("legend"):
                assert channel["legend"]["values"] == ["theory"]
        title = encoding.get("y", {}).get("title") if isinstance(encoding.get("y"), dict) else None
        if title:
            assert encoding["y"]["axis"]["titleAngle"] == 0


@pytest.mark.parametrize("name", DRAWN)
def test_focus_cursor_and_height_change_nothing_else(name: str) -> None:
    figure = DRAWN[name](run_log(), ARMS)
    shown = figure.shown(focus=["B"], cursor=20, height=177)
    assert figure.spec is not None
    assert shown.spec is not None
    assert shown.data is figure.data
    height = 177 if not any("bind" in p for p in figure.spec["params"]) else 148  # a slider takes its part
    assert shown.spec["height"] == height
    before, after = ({p["name"]: p for p in f.spec["params"]} for f in (figure, shown) if f.spec)
    assert before["focus"] == {"name": "focus", "value": []}
    assert after["focus"] == {"name": "focus", "value": ["B"]}
    if name in ("lines", "log lines", "two lines", "areas"):
        assert (before["cursor"]["value"], after["cursor"]["value"]) == (-1, 20)
    kept = {**after, **{key: before[key] for key in ("focus", "cursor") if key in before}}
    assert {**shown.spec, "params": list(kept.values()), "height": figure.spec["height"]} == figure.spec
    again = shown.shown()
    assert again.spec == {**figure.spec, "height": height}


@pytest.mark.parametrize("name", [name for name in DRAWN if name != "areas"])
def test_arms_that_are_not_in_focus_fade(name: str) -> None:
    figure = DRAWN[name](run_log(), ARMS)

    def faint(*focus: str) -> int:
        svg = figure.shown(focus=focus).to_svg()
        return sum(
            svg.count(f'{kind}="{opacity:g}"')
            for kind in ("opacity", "fill-opacity", "stroke-opacity")
            for opacity in (FAINT, 0.08, round(0.35 * FAINT, 3))
        )

    assert faint() == faint("A", "B") < faint("A")


@pytest.mark.parametrize("name", DRAWN)
def test_equal_names_with_other_colours_are_other_charts(name: str) -> None:
    log = run_log()
    first, second, third = (DRAWN[name](log, Arms.of({"A": a, "B": 1})).spec for a in (3, 5, 3))
    assert first == third
    assert first != second or name in ALONE - {"bars"}
