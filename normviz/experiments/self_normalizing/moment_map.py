"""The moment map of self-normalizing networks as a picture to play with (Klambauer et al., arXiv 1706.02515).

It reacts in the browser while a slider or the start of the path is dragged, computed there by the Vega expressions of
``selu_expressions``. What the paper's theorems say is in ``moment_bounds``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

import altair as alt
import numpy as np
import pandas as pd

from normviz.experiments.self_normalizing.moment_bounds import BOX, CONTRACTS, EXPANDS
from normviz.experiments.self_normalizing.selu_expressions import (
    Calculation,
    jacobian_steps,
    map_steps,
    solved_selu,
)
from normviz.figures.figure import Figure
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["moment_map_figure"]

Drawn = TypeVar("Drawn", alt.Chart, alt.LayerChart)

LAYERS = 32
"""Layers of the path."""
NEWTON = 6
"""Newton steps from the end of the path to the fixed point."""
FAR = 80.0
"""Variance at which a path that runs away is held; it has left the picture by then."""

WIDE = (-1.2, 2.0, 0.02, 30.0)
"""Means and variances shown."""
CLOSE = (-0.2, 0.2, 0.6, 1.8)
"""The same, when zoomed in."""
START = (0.85, 0.9)
"""Where the path begins, as shares of width and height."""
CELLS, ARROWS, PLACES = (36, 24), (18, 13), (48, 36)
"""Grids (columns, rows) of the shading, of the arrows, and of the places where the path can begin."""

FIELD, PATH, FIXED = "#8a8a8a", "#0a85d1", "#c3659c"
REGIONS = ["contracts (norm of J < 1)", "does not"]


def moment_map_figure() -> Figure:
    """The vector field of the moment map, a path through the layers from a start that is dragged, where it contracts.

    Sliders below the chart set the weights (omega, tau) and SELU, by its alpha and lambda or by the fixed point that
    they are solved for. Everything is computed in the browser.
    """
    return Figure(
        "What one layer does to mean and variance",
        "Press and drag in the chart to move the start of the blue path; move a slider and watch the field bend.",
        "Vector field of SELU's moment map over mean and variance. Arrows lead from every start towards the fixed "
        "point, mean 0 and variance 1 with the standard alpha and lambda; green marks where the map contracts.",
        spec=_map_spec(),
        data=_places(),
        wide=True,
    )


@lru_cache(maxsize=1)
def _places() -> pd.DataFrame:
    """Rows by part, placed by shares of width and height (u, w)."""

    def grid(part: str, columns: int, rows: int) -> pd.DataFrame:
        u, w = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
        return pd.DataFrame({"part": part, "u": u.ravel(), "w": w.ravel()})

    one = pd.DataFrame({"part": ["one"], "u": [START[0]], "w": [START[1]]})
    parts = (grid("cell", *CELLS), grid("arrow", *ARROWS), grid("place", *PLACES), one)
    return pd.concat(parts, ignore_index=True)


def _mean_at(u: str) -> str:
    return f"xlow + {u} * (xhigh - xlow)"


def _variance_at(w: str) -> str:
    return f"exp(log(ylow) + {w} * log(yhigh / ylow))"


def _params() -> list[Any]:
    chosen = alt.binding_radio(options=["α and λ", "fixed point"], name="SELU given by its")
    view = [
        alt.param(name=name, expr=f"close ? {CLOSE[i]} : {WIDE[i]}")
        for i, name in enumerate(("xlow", "xhigh", "ylow", "yhigh"))
    ]
    solved = [
        alt.param(name=c.name, expr=c.expression) for c in solved_selu("fixmean", "fixvar", "omega", "tau")
    ]
    return [
        slider("omega", "weights: sum ω", 0.0, -1.0, 1.0, 0.01),
        slider("tau", "squares: sum τ", 1.0, 0.5, 3.0, 0.01),
        alt.param(name="chosen", value="α and λ", bind=chosen),
        slider("alpha", "α", 1.6733, 0.3033, 4.0033, 0.01),
        slider("lambda", "λ", 1.0507, 0.5007, 1.6007, 0.01),
        slider("fixmean", "fixed mean", 0.0, -0.6, 0.6, 0.01),
        slider("fixvar", "fixed variance", 1.0, 0.1, 4.0, 0.01),
        alt.param(name="close", value=False, bind=alt.binding_checkbox(name="zoom to theorem 1's box")),
        *view,
        *solved,
        alt.param(name="A", expr="chosen == 'fixed point' ? q_alpha : alpha"),
        alt.param(name="L", expr="chosen == 'fixed point' ? q_scale : lambda"),
    ]


def _path() -> list[Calculation]:
    """Fields ``t0mu t0nu ... t<LAYERS>nu``, unrolled because Vega has no loop."""
    u, w = (f"(isDefined(start.{f}) ? start.{f}[0] : {v})" for f, v in zip("uw", START, strict=True))
    steps = [Calculation("t0mu", _mean_at(u)), Calculation("t0nu", _variance_at(w))]
    for layer in range(1, LAYERS + 1):
        m = f"(clamp(datum.t{layer - 1}mu, -20, 20) * omega)"
        v = f"(clamp(datum.t{layer - 1}nu, 1e-4, {FAR}) * tau)"
        steps += map_steps(f"t{layer}", m, v, "A", "L")
    return steps


def _fixed_point() -> list[Calculation]:
    """Fields ``fmu fnu``, ``fnorm fradius`` of J there, and ``found``.

    By Newton's method from the path's end, or from the fixed point that was asked for, which may repel the path.
    """
    asked = "chosen == 'fixed point'"
    steps = [
        Calculation("n0x", f"{asked} ? fixmean : clamp(datum.t{LAYERS}mu, -20, 20)"),
        Calculation("n0y", f"{asked} ? fixvar : clamp(datum.t{LAYERS}nu, 1e-3, {FAR})"),
    ]
    for i in range(NEWTON):
        p = f"n{i}"
        x, y, det, a, b, c, d = (f"datum.{p}{f}" for f in ("x", "y", "newton", "Ja", "Jb", "Jc", "Jd"))
        steps += map_steps(p, f"({x} * omega)", f"({y} * tau)", "A", "L")
        steps += jacobian_steps(p, f"({x} * omega)", "omega", "tau", "A", "L")
        dx, dy = f"(datum.{p}mu - {x})", f"(datum.{p}nu - {y})"
        move_x, move_y = (
            f"((1 - {d}) * {dx} + {b} * {dy}) / {det}",
            f"({c} * {dx} + (1 - {a}) * {dy}) / {det}",
        )
        steps += [
            Calculation(f"{p}newton", f"(1 - {a}) * (1 - {d}) - {b} * {c}"),
            Calculation(f"n{i + 1}x", f"{x} + clamp({move_x}, -2, 2)"),
            Calculation(f"n{i + 1}y", f"clamp({y} + {move_y}, {y} / 3, {y} * 3)"),
        ]
    x, y = f"datum.n{NEWTON}x", f"datum.n{NEWTON}y"
    steps += map_steps("f", f"({x} * omega)", f"({y} * tau)", "A", "L")
    steps += jacobian_steps("f", f"({x} * omega)", "omega", "tau", "A", "L")
    residual = f"abs(datum.fmu - {x}) + abs(datum.fnu - {y})"
    return [*steps, Calculation("found", f"{residual} < 1e-6 * (1 + {y}) && {y} < {FAR / 2} && {y} > 2e-3")]


def _report() -> list[Calculation]:
    """Three short lines of text for the reader."""
    kind = "(datum.fradius < 1 ? ' attracts' : ' repels')"
    point = f"'fixed point (' + format(datum.fmu, '.3f') + ', ' + format(datum.fnu, '.3f') + ')' + {kind}"
    norms = "'norm of J ' + format(datum.fnorm, '.3f') + ', radius ' + format(datum.fradius, '.3f')"
    lost = "isValid(A) ? 'no fixed point: the path runs away' : 'no SELU has its fixed point there'"
    return [
        Calculation("line1", "'α = ' + format(A, '.4f') + ', λ = ' + format(L, '.4f')"),
        Calculation("line2", f"datum.found ? {point} : ({lost})"),
        Calculation("line3", f"datum.found ? {norms} : ''"),
    ]


def _apply(chart: Drawn, steps: Sequence[Calculation]) -> Drawn:
    for step in steps:
        chart = chart.transform_calculate(**{step.name: step.expression})
    return chart


def _part(name: str) -> alt.Chart:
    return alt.Chart().transform_filter(f"datum.part == '{name}'")


X_SCALE = alt.Scale(domain=[{"expr": "xlow"}, {"expr": "xhigh"}], nice=False, zero=False)
Y_SCALE = alt.Scale(type="log", domain=[{"expr": "ylow"}, {"expr": "yhigh"}], nice=False)


def _x(field: str) -> alt.X:
    return alt.X(f"{field}:Q", title="mean μ", scale=X_SCALE, axis=alt.Axis(format="~g", grid=False))


def _y(field: str) -> alt.Y:
    axis = alt.Axis(format="~g", tickCount=6, grid=False)
    return alt.Y(f"{field}:Q", title="variance ν (log scale)", scale=Y_SCALE, axis=axis)


def _shading() -> alt.Chart:
    m = "(datum.mu * omega)"
    half_u, half_w = 0.5 / CELLS[0], 0.5 / CELLS[1]
    steps = [
        Calculation("mu", _mean_at("datum.u")),
        Calculation("nu", _variance_at("datum.w")),
        *map_steps("g", m, "(datum.nu * tau)", "A", "L"),
        *jacobian_steps("g", m, "omega", "tau", "A", "L"),
        Calculation("left", _mean_at(f"(datum.u - {half_u})")),
        Calculation("right", _mean_at(f"(datum.u + {half_u})")),
        Calculation("low", _variance_at(f"(datum.w - {half_w})")),
        Calculation("high", _variance_at(f"(datum.w + {half_w})")),
        Calculation("region", f"datum.gnorm < 1 ? '{REGIONS[0]}' : '{REGIONS[1]}'"),
        Calculation("strength", "0.06 + 0.3 * min(1, 1.5 * abs(datum.gnorm - 1))"),
    ]
    shaded = _apply(_part("cell"), steps).transform_filter("isValid(datum.gnorm)")
    colour = alt.Color(
        "region:N",
        title=None,
        scale=alt.Scale(domain=REGIONS, range=[CONTRACTS, EXPANDS]),
        legend=alt.Legend(orient="bottom", symbolOpacity=0.5, labelLimit=200),
    )
    chart: alt.Chart = shaded.mark_rect(clip=True, strokeWidth=0).encode(
        x=_x("left"),
        x2="right:Q",
        y=_y("low"),
        y2="high:Q",
        color=colour,
        opacity=alt.Opacity("strength:Q", scale=None),
    )
    return chart


def _theorem_box() -> alt.Chart:
    corners = zip(("box_left", "box_right", "box_low", "box_high"), map(str, BOX), strict=True)
    boxed = _apply(_part("one"), [Calculation(*corner) for corner in corners])
    chart: alt.Chart = boxed.mark_rect(
        fillOpacity=0, stroke=CONTRACTS, strokeWidth=1.5, strokeDash=[4, 3], clip=True
    ).encode(x=_x("box_left"), x2="box_right:Q", y=_y("box_low"), y2="box_high:Q")
    return chart


def _field() -> alt.LayerChart:
    """Arrows in pixels: longer where the layer moves the moments further, never longer than 24."""
    steps = [
        Calculation("mu", _mean_at("datum.u")),
        Calculation("nu", _variance_at("datum.w")),
        *map_steps("g", "(datum.mu * omega)", "(datum.nu * tau)", "A", "L"),
        Calculation("dx", "(datum.gmu - datum.mu) / (xhigh - xlow) * width"),
        Calculation("dy", "log(max(datum.gnu, 1e-9) / datum.nu) / log(yhigh / ylow) * height"),
        Calculation("size", "sqrt(datum.dx * datum.dx + datum.dy * datum.dy)"),
        Calculation("share", "24 / (datum.size + 24)"),
        Calculation("tip_mu", "datum.mu + datum.share * (datum.gmu - datum.mu)"),
        Calculation("tip_nu", "datum.nu * pow(max(datum.gnu, 1e-9) / datum.nu, datum.share)"),
        Calculation("turn", "atan2(datum.dx, datum.dy) * 180 / PI"),
    ]
    arrows = alt.Chart().encode(x=_x("mu"), y=_y("nu"))
    shaft = arrows.mark_rule(color=FIELD, strokeWidth=1.2, clip=True).encode(x2="tip_mu:Q", y2="tip_nu:Q")
    tip = arrows.mark_point(shape="triangle", filled=True, color=FIELD, size=36, opacity=1, clip=True).encode(
        x=_x("tip_mu"), y=_y("tip_nu"), angle=alt.Angle("turn:Q", scale=None)
    )
    moved = _apply(alt.LayerChart(layer=[shaft, tip]).transform_filter("datum.part == 'arrow'"), steps)
    return moved.transform_filter("isValid(datum.size) && datum.size > 0.5")


def _journey() -> alt.LayerChart:
    """The path, its start, the fixed point and the report: all from one row."""
    pairs = ", ".join(f"[{k}, datum.t{k}mu, datum.t{k}nu]" for k in range(LAYERS + 1))
    unfolded = [
        Calculation("layer", "datum.stops[0]"),
        Calculation("mu", "datum.stops[1]"),
        Calculation("nu", "datum.stops[2]"),
    ]
    stops = alt.Chart().transform_calculate(stops=f"[{pairs}]").transform_flatten(["stops"])
    stops = _apply(stops, unfolded).transform_filter("isValid(datum.nu)").encode(x=_x("mu"), y=_y("nu"))
    line = stops.mark_line(color=PATH, strokeWidth=2, clip=True).encode(order="layer:Q")
    dots = stops.mark_circle(color=PATH, size=30, opacity=1, clip=True)
    begin = alt.Chart().mark_point(shape="circle", size=170, color=PATH, strokeWidth=3, clip=True, opacity=1)
    end = alt.Chart().transform_filter("datum.found")
    star = end.mark_point(shape="cross", angle=45, filled=True, size=150, color=FIXED, opacity=1, clip=True)
    text = alt.Chart().mark_text(align="left", baseline="top", fontSize=13, fontWeight="bold", color=FIXED)
    return _apply(
        alt.LayerChart(
            layer=[
                line,
                dots,
                begin.encode(x=_x("t0mu"), y=_y("t0nu")),
                star.encode(x=_x("fmu"), y=_y("fnu")),
                *(
                    text.encode(x=alt.value(0), y=alt.value(18 * i - 92), text=f"line{i}:N")
                    for i in (1, 2, 3)
                ),
            ]
        ).transform_filter("datum.part == 'one'"),
        [*_path(), *_fixed_point(), *_report()],
    )


def _handles() -> alt.Chart:
    """Invisible places, the nearest of which is where the path begins while the pointer is down."""
    start = alt.selection_point(
        name="start",
        fields=["u", "w"],
        nearest=True,
        on="pointerdown, [pointerdown, window:pointerup] > pointermove",
        value=[dict(zip("uw", START, strict=True))],
        clear=False,
        toggle=False,
    )
    steps = [Calculation("mu", _mean_at("datum.u")), Calculation("nu", _variance_at("datum.w"))]
    places = _apply(_part("place"), steps).mark_point(opacity=0, size=1, tooltip=None)
    chart: alt.Chart = places.encode(x=_x("mu"), y=_y("nu")).add_params(start)
    return chart


@lru_cache(maxsize=1)
def _map_spec() -> dict[str, Any]:
    chart = alt.layer(_shading(), _theorem_box(), _field(), _journey(), _handles())
    return specification(chart.properties(height=430).add_params(*_params()))
