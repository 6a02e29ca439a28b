"""What the browser computes for the moment map, against the library; the theorems' pictures."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import numpy as np
import pytest

from normviz.experiments.self_normalizing.moment_bounds import BOX, contraction_figure, variance_bounds_figure
from normviz.experiments.self_normalizing.moment_map import LAYERS, moment_map_figure
from normviz.experiments.self_normalizing.selu_expressions import jacobian_steps, map_steps, solved_selu
from normviz.norms.selu_moments import (
    ALPHA01,
    LAMBDA01,
    fixed_point,
    iterate_moment_map,
    moment_map,
    moment_map_jacobian,
    selu_parameters,
)

vl_convert = pytest.importorskip("vl_convert")


def texts(spec: dict[str, Any]) -> list[str]:
    """The text marks that Vega draws for a Vega-Lite specification, in drawing order."""
    svg = vl_convert.vegalite_to_svg(spec)
    return [html.unescape(t) for t in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def numbers(rows: list[dict[str, float]], steps: list[tuple[str, str]], names: list[str]) -> np.ndarray:
    """Values (rows, names) of calculated fields, with all digits."""
    joined = "join([datum.row, " + ", ".join(f"datum.{n}" for n in names) + "], ' ')"
    spec = {
        "data": {"values": [{"row": i, **row} for i, row in enumerate(rows)]},
        "transform": [*({"calculate": e, "as": n} for n, e in steps), {"calculate": joined, "as": "text"}],
        "mark": "text",
        "encoding": {"text": {"field": "text", "type": "nominal"}},
    }
    values = np.array([[float(v) for v in line.split()] for line in texts(spec)])
    assert values[:, 0].tolist() == list(range(len(rows)))
    return values[:, 1:]


def test_map_and_jacobian_in_vega_are_the_librarys() -> None:
    rng = np.random.default_rng(0)
    points = [
        dict(zip(("mu", "nu", "omega", "tau", "alpha", "scale"), p, strict=True))
        for p in (
            *rng.uniform([-2, 0.02, -1, 0.5, 0.3, 0.5], [2, 30, 1, 3, 4, 1.6], (40, 6)).tolist(),
            (0.0, 1.0, 0.0, 1.0, ALPHA01, LAMBDA01),
            (0.0, 80.0, 0.0, 3.0, ALPHA01, LAMBDA01),
            (0.0, 2000.0, 0.0, 3.0, ALPHA01, LAMBDA01),  # past the range of cumulativeNormal
        )
    ]
    m, v, alpha, scale = "(datum.mu * datum.omega)", "(datum.nu * datum.tau)", "datum.alpha", "datum.scale"
    steps = map_steps("g", m, v, alpha, scale)
    steps += jacobian_steps("g", m, "datum.omega", "datum.tau", alpha, scale)
    found = numbers(points, steps, ["gmu", "gnu", "gJa", "gJb", "gJc", "gJd", "gnorm", "gradius"])
    arguments = np.array([list(p.values()) for p in points]).T
    mean, var = moment_map(*arguments)
    J = moment_map_jacobian(*arguments)
    norm = np.linalg.norm(J, 2, axis=(-2, -1))
    radius = np.abs(np.linalg.eigvals(J)).max(-1)
    expected = np.column_stack([mean, var, J.reshape(-1, 4), norm, radius])
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-8)


@pytest.mark.parametrize(
    ("mean", "var", "omega", "tau"), [(0.0, 1.0, 1.0, 1.0), (-0.1, 2.0, 1.0, 1.0), (0.3, 0.5, 0.0, 1.2)]
)
def test_selu_solved_in_vega_is_the_librarys(mean: float, var: float, omega: float, tau: float) -> None:
    alpha, scale = solved_in_vega(mean, var, omega, tau)
    assert (alpha, scale) == pytest.approx(selu_parameters(mean, var, omega=omega, tau=tau), rel=1e-7)


def test_no_selu_where_the_library_refuses() -> None:
    with pytest.raises(RuntimeError):
        selu_parameters(-1.0, 1.0, omega=0.0)
    assert np.isnan(solved_in_vega(-1.0, 1.0, 0.0, 1.0)).all()


def solved_in_vega(mean: float, var: float, omega: float, tau: float) -> tuple[float, ...]:
    params = [
        {"name": c.name, "expr": c.expression}
        for c in solved_selu(f"({mean})", str(var), str(omega), str(tau))
    ]
    spec = {
        "data": {"values": [{}]},
        "params": params,
        "transform": [{"calculate": "q_alpha + ' ' + q_scale", "as": "text"}],
        "mark": "text",
        "encoding": {"text": {"field": "text", "type": "nominal"}},
    }
    return tuple(float(v) for v in texts(spec)[0].split())


def report(**params: object) -> list[str]:
    """The lines above the chart for other values of its sliders."""
    figure = moment_map_figure()
    assert figure.data is not None
    few = figure.data.groupby("part").head(1)
    spec = json.loads(json.dumps({**figure.spec, "width": 400}))
    assert params.keys() <= {p["name"] for p in spec["params"]}
    spec["params"] = [{**p, "value": params[p["name"]]} if p["name"] in params else p for p in spec["params"]]
    spec["data"] = {"values": few.to_dict(orient="records")}
    return [
        t for t in texts(spec) if t.startswith(("α = ", "fixed point (", "no ", "norm of J 0", "norm of J 1"))
    ]


def test_report_of_the_standard_selu() -> None:
    lines = report()
    assert lines == [
        "α = 1.6733, λ = 1.0507",
        "fixed point (0.000, 1.000) attracts",
        "norm of J 0.788, radius 0.783",
    ]


def test_report_finds_the_fixed_point_of_he_weights_and_none_beyond() -> None:
    mean, var = fixed_point(tau=2.0, alpha=1.6733, scale=1.0507)
    assert f"({mean:.3f}, {var:.3f}) attracts" in report(tau=2.0)[1]
    assert "runs away" in report(tau=2.8)[1]


def test_report_says_when_a_chosen_fixed_point_repels_or_does_not_exist() -> None:
    lines = report(chosen="fixed point", fixmean=-0.1, fixvar=2.0, omega=1.0)
    assert [line.replace("−", "-") for line in lines] == [
        "α = 1.9769, λ = 1.0739",
        "fixed point (-0.100, 2.000) repels",
        "norm of J 1.240, radius 1.108",
    ]
    assert report(chosen="fixed point", fixmean=-0.6, fixvar=0.1)[1] == "no SELU has its fixed point there"


def test_path_is_the_iterated_map() -> None:
    figure = moment_map_figure()
    start = {"u": 0.25, "w": 0.5}
    journey = next(
        layer for layer in json.loads(json.dumps(figure.spec))["layer"] if "line1" in json.dumps(layer)
    )
    last = (
        f"join([datum.t0mu, datum.t0nu, datum.t5mu, datum.t5nu, datum.t{LAYERS}mu, datum.t{LAYERS}nu], ' ')"
    )
    spec = {
        "data": {"values": [{"part": "one"}]},
        "params": [
            *(p for p in figure.spec["params"] if p["name"] != "start"),
            {"name": "start", "value": {"u": [start["u"]], "w": [start["w"]]}},
        ],
        "transform": [*journey["transform"], {"calculate": last, "as": "text"}],
        "mark": "text",
        "encoding": {"text": {"field": "text", "type": "nominal"}},
    }
    found = [float(v) for v in texts(spec)[0].split()]
    path = iterate_moment_map(found[0], found[1], LAYERS, alpha=1.6733, scale=1.0507)
    np.testing.assert_allclose(found, np.concatenate([path[0], path[5], path[LAYERS]]), rtol=1e-6, atol=1e-7)
    assert found[0] == pytest.approx(-1.2 + 0.25 * 3.2)


def test_bounds_hold_in_the_picture() -> None:
    data = variance_bounds_figure().data
    wide, narrow = (data[data["part"] == f"mean within ±{r}"] for r in ("1", "0.1"))
    assert (narrow.loc[narrow["nu"] <= 0.16, "low"] > 1).all()
    assert (wide.loc[wide["nu"] >= 3, "high"] < 1).all()
    assert (wide["low"].to_numpy() <= narrow["low"].to_numpy()).all()
    assert (wide["high"].to_numpy() >= 0.99 * narrow["high"].to_numpy()).all()  # maxima between grid points


def test_box_of_theorem_1_is_mapped_into_itself_in_the_picture() -> None:
    figure = contraction_figure()
    points = figure.data[figure.data["part"] == "image"]
    assert len(points) == 729
    assert points["mu"].between(*BOX[:2]).all()
    assert points["nu"].between(*BOX[2:]).all()
    assert 0.85 < points["norm"].max() < 1
    assert figure.to_svg().startswith("<svg")
