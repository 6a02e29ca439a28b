"""The limit as pictures that follow their sliders in the browser: rank against norm, spectrum, critical norm.

Hu et al., arXiv 2406.03136. Which degree a radius needs is tabulated by :mod:`degree_table`; head size, scale, length,
error and norm are chosen in the browser, which counts the monomials C(d + g, d) itself.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms, Look
from normviz.experiments.lora_limits.degree_table import KINDS, columns, needed_degrees, relative_errors
from normviz.figures import Figure
from normviz.figures.encodings import arm_colour, arm_dash
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["COLUMNS_OF", "critical_norm_figure", "rank_figure", "spectrum_figure", "spectrum_of"]

NAMES = {"taylor": "Taylor", "chebyshev": "Chebyshev"}
SPECTRUM, THRESHOLD = "singular values", "√log L"
Align = Literal["left", "right"]
AT_DOT: tuple[tuple[str, Align, int, int], ...] = (("Taylor", "right", -8, -10), ("Chebyshev", "left", 8, 12))
AT_CROSSING = (("Taylor", -8, -10), ("Chebyshev", -8, 13))
"""Where the texts of each polynomial stand, in pixels from what they name."""
LOOKS = Arms((Look("Taylor", 0, 0, 0), Look("Chebyshev", 2, 1, 1)))

FINE, COARSE = 0.05, 0.1
"""Steps of the root of the radius, along curves and where a spectrum is tabulated."""
FARTHEST = 3.6
"""Largest root of a radius: above a radius of about 13 the powers cancel to nothing in float64."""
ERRORS = tuple(-k / 2 for k in range(2, 9))
"""log10 of the errors that can be chosen: 0.1 to 1e-4."""
SIZES = (2, 3, 4)
LENGTHS = tuple(range(6, 17))
"""log2 of the lengths."""
NORM = "norm Γ of queries and keys (largest entry)"
TOKENS = 96
SHOWN = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 96)
SMALLEST = 1e-8

COLUMNS_OF = (
    "((datum.g + 1) * (datum.g + 2) / 2 * (d > 2 ? (datum.g + 3) / 3 : 1) * (d > 3 ? (datum.g + 4) / 4 : 1))"
)
"""C(d + g, d) for d = 2, 3, 4, in the browser's language."""
STRETCH = "(scale == '1/√d' ? pow(d, 0.25) : 1)"
"""Root of the radius over Γ: |S| <= τ d Γ², which is Γ² for τ = 1/d and √d Γ² for τ = 1/√d."""


def _params(*, norm: bool = False, length: bool = False) -> list[Any]:
    found = []
    if norm:
        found.append(slider("norm", "norm Γ", 1.2, 0.1, 3.5, 0.05))
    if length:
        found += [
            slider("log2L", "log₂ of the length L", 8, 6, 16, 1),
            alt.param(name="L", expr="pow(2, log2L)"),
        ]
    found += [
        slider("d", "head size d", 2, 2, 4, 1),
        slider("logeps", "log₁₀ of the error ε", -3, -4, -1, 0.5),
        alt.param(
            name="scale", value="1/d", bind=alt.binding_radio(options=["1/d", "1/√d"], name="scale τ ")
        ),
        alt.param(name="stretch", expr=STRETCH),
    ]
    return found


@lru_cache(maxsize=1)
def _degree_rows() -> pd.DataFrame:
    """The degree that each root of a radius needs, by polynomial and error."""
    roots = np.round(np.arange(FINE, FARTHEST + FINE / 2, FINE), 4)
    parts = []
    for kind in KINDS:
        for logeps in ERRORS:
            degrees = needed_degrees(kind, tuple((roots**2).round(8).tolist()), 10**logeps)
            parts.append(pd.DataFrame({"arm": NAMES[kind], "e": logeps, "s": roots, "g": degrees}))
    return pd.concat(parts, ignore_index=True).dropna()


def rank_figure() -> Figure:
    """Columns that the factors need against the norm, with the two limits and where they are crossed."""
    return Figure(
        "Columns needed against the norm",
        "Drag Γ: where does the dot cross the line of L columns?",
        "Staircases of the number of monomials against the norm: they rise faster for a larger head and a smaller "
        "error. A horizontal line marks L columns, a vertical one the root of log L; the norm at which a staircase "
        "crosses the line is marked.",
        spec=_rank_spec(),
        data=_degree_rows(),
        wide=True,
    )


@lru_cache(maxsize=1)
def _rank_spec() -> dict[str, Any]:
    width, height = Span(0.0, FARTHEST), Span(1.0, 1e5, log=True)
    x, y = (
        across("x", NORM, width),
        up("m", "columns of the factors", height),
    )
    rows = (
        alt.Chart()
        .transform_filter("abs(datum.e - logeps) < 0.1")
        .transform_calculate(x="datum.s / stretch", m=COLUMNS_OF)
        .encode(color=arm_colour(LOOKS, legend=legend_above(LOOKS.names)))
    )
    curve = rows.mark_line(interpolate="step-before", strokeWidth=2, clip=True).encode(
        x=x, y=y, order="x:Q", strokeDash=arm_dash(LOOKS, legend=legend_above(LOOKS.names))
    )
    now = rows.transform_filter(f"abs(datum.s - norm * stretch) <= {FINE / 2}")
    dot = now.transform_aggregate(x="max(x)", m="max(m)", g="max(g)", groupby=["arm"])
    dot = dot.transform_calculate(
        text="'degree ' + datum.g + ', ' + format(datum.m, ',d') + ' columns'", at="norm"
    )
    at_norm = across("at", NORM, width)
    here = dot.mark_point(filled=True, size=90, clip=True).encode(x=at_norm, y=y)
    told = [
        dot.transform_filter(f"datum.arm == '{arm}'")
        .mark_text(align=align, dx=dx, dy=dy, fontSize=12, clip=True)
        .encode(x=at_norm, y=y, text="text:N")
        for arm, align, dx, dy in AT_DOT
    ]
    crossed = rows.transform_filter("datum.m < L").transform_aggregate(x="max(x)", groupby=["arm"])
    crossed = crossed.transform_calculate(m="L", text="'Γ* ' + format(datum.x, '.2f')").transform_filter(
        f"datum.x * stretch < {FARTHEST - FINE}"
    )
    mark = crossed.mark_point(shape="diamond", filled=True, size=120, clip=True).encode(x=x, y=y)
    named = [
        crossed.transform_filter(f"datum.arm == '{arm}'")
        .mark_text(align="right", dx=dx, dy=dy, fontSize=12, clip=True)
        .encode(x=x, y=y, text="text:N")
        for arm, dx, dy in AT_CROSSING
    ]
    one = (
        alt.Chart()
        .transform_aggregate(rows="count()")
        .transform_calculate(
            m="L",
            x="sqrt(log(L))",
            across="'L = ' + format(L, ',d')",
            upright="'√log L = ' + format(sqrt(log(L)), '.2f')",
        )
    )
    limits = [
        one.mark_rule(color=MUTED, strokeDash=[4, 3], clip=True).encode(
            y=y, x=alt.value(0), x2=alt.value("width")
        ),
        one.mark_rule(color=MUTED, strokeDash=[4, 3], clip=True).encode(
            x=x, y=alt.value(0), y2=alt.value("height")
        ),
        one.mark_text(color=MUTED, align="left", dx=4, dy=-6, fontSize=11).encode(
            x=alt.value(0), y=y, text="across:N"
        ),
        one.mark_text(color=MUTED, align="right", dx=-4, fontSize=11).encode(
            x=x, y=alt.value({"expr": "height - 8"}), text="upright:N"
        ),
    ]
    chart = alt.layer(*limits, curve, mark, *named, here, *told).properties(
        height=height_below(LOOKS.names) + 120
    )
    return specification(chart.add_params(*_params(norm=True, length=True)))


def spectrum_of(radius: float, dim: int, tokens: int = TOKENS) -> np.ndarray:
    """Singular values of a softmax matrix whose scores have this radius, relative to the largest.

    Queries and keys are standard normal, scaled so that ``max |q| max |k| = radius``; the same draw for every radius.
    """
    rng = np.random.default_rng([dim, tokens])
    q, k = rng.standard_normal((2, tokens, dim))
    longest = np.linalg.norm(q, axis=1).max() * np.linalg.norm(k, axis=1).max()
    scores = np.exp(radius / longest * (q @ k.T))
    values = np.linalg.svd(scores / scores.sum(axis=1, keepdims=True), compute_uv=False)
    relative: np.ndarray = values / values[0]
    return relative


@lru_cache(maxsize=1)
def _spectrum_rows() -> pd.DataFrame:
    """Singular values by number, and errors of polynomials by degree, for each root of a radius."""
    roots = np.round(np.arange(COARSE, FARTHEST + COARSE / 2, COARSE), 4)
    rows: list[tuple[str, float, int, float, float]] = []
    for s in roots.tolist():
        for dim in SIZES:
            values = spectrum_of(s * s, dim)
            rows += [(SPECTRUM, s, dim, float(k), values[k - 1]) for k in SHOWN]
    for kind in KINDS:
        errors = relative_errors(kind, roots**2, 40)
        for s, by_degree in zip(roots.tolist(), errors, strict=True):
            rows += [(NAMES[kind], s, 0, float(g), e) for g, e in enumerate(by_degree.tolist())]
    data = pd.DataFrame(rows, columns=["arm", "s", "dim", "g", "size"])
    data = data[(data["size"] >= SMALLEST) & (data["size"] <= 10.0)]
    return data.assign(size=[float(f"{v:.3g}") for v in data["size"]]).reset_index(drop=True)


def spectrum_figure() -> Figure:
    """Singular values of f beside the errors of polynomials with as many columns, at a norm that is dragged."""
    return Figure(
        "How many columns would do?",
        "Drag Γ: the best possible factors against the polynomials'.",
        "Singular values of a softmax matrix against their number, and the largest relative error of polynomials "
        "against the columns of their factors. Larger norms lift all of them; polynomials need more columns.",
        spec=_spectrum_spec(),
        data=_spectrum_rows(),
    )


@lru_cache(maxsize=1)
def _spectrum_spec() -> dict[str, Any]:
    looks = Arms((Look(SPECTRUM, 3, 0, 0), *LOOKS.looks))
    width, height = Span(1.0, 1e4, log=True), Span(SMALLEST, 10.0, log=True)
    rows = (
        alt.Chart()
        .transform_filter(
            f"abs(datum.s - norm * stretch) <= {COARSE / 2} && (datum.dim == 0 || datum.dim == d)"
        )
        .transform_joinaggregate(nearest="max(s)")
        .transform_filter("datum.s == datum.nearest")
        .transform_calculate(m=f"datum.dim == 0 ? {COLUMNS_OF} : datum.g")
    )
    x = across("m", "columns (number of the singular value)", width)
    y = up("size", "singular value ÷ largest; error of the polynomial", height)
    colour = arm_colour(looks, legend=legend_above(looks.names))
    line = rows.mark_line(strokeWidth=2, clip=True).encode(
        x=x, y=y, color=colour, strokeDash=arm_dash(looks, legend=legend_above(looks.names))
    )
    points = rows.mark_point(filled=True, size=16, clip=True).encode(
        x=x,
        y=y,
        color=colour,
        tooltip=[
            alt.Tooltip("arm:N"),
            alt.Tooltip("m:Q", title="columns", format=",d"),
            alt.Tooltip("size:Q", format=".2~g"),
        ],
    )
    one = alt.Chart().transform_aggregate(rows="count()").transform_calculate(size="pow(10, logeps)")
    wanted = one.mark_rule(color=MUTED, strokeDash=[4, 3], clip=True).encode(
        y=y, x=alt.value(0), x2=alt.value("width")
    )
    chart = alt.layer(wanted, line, points).properties(height=height_below(looks.names) + 60)
    return specification(chart.add_params(*_params(norm=True)))


@lru_cache(maxsize=1)
def _critical_rows() -> pd.DataFrame:
    """The root of the critical radius by polynomial, head size, error and length; NaN beyond float64 is left out."""
    table = _degree_rows()
    rows: list[tuple[str, float, int, int, float]] = []
    for (arm, logeps), part in table.groupby(["arm", "e"], sort=False):
        roots, degrees = part["s"].to_numpy(float), part["g"].to_numpy(float)
        for dim in SIZES:
            needed = np.array([columns(dim, g) for g in degrees])
            for k in LENGTHS:
                below = roots[needed < 2**k]
                if below.size and below[-1] < roots[-1]:
                    rows.append((str(arm), float(str(logeps)), dim, k, float(below[-1])))
    thresholds = [(THRESHOLD, 0.0, 0, k, float(np.sqrt(k * np.log(2)))) for k in LENGTHS]
    return pd.DataFrame([*rows, *thresholds], columns=["arm", "e", "dim", "k", "s"])


def critical_norm_figure() -> Figure:
    """The norm at which the factors have L columns, against the length, beside the root of log L."""
    return Figure(
        "Largest norm with fewer than L columns",
        "Does it grow with L? Its constant differs from √log L.",
        "Curves of the critical norm against the length, by polynomial, beside the root of log L. All grow slowly; "
        "larger heads and smaller errors lower them. Curves end where float64 does.",
        spec=_critical_spec(),
        data=_critical_rows(),
    )


@lru_cache(maxsize=1)
def _critical_spec() -> dict[str, Any]:
    looks = Arms((*LOOKS.looks, Look(THRESHOLD, 6, 2, 2)))
    width, height = Span(6.0, 16.0), Span(0.0, 4.0)
    line = (
        alt.Chart()
        .transform_filter("datum.dim == 0 || (datum.dim == d && abs(datum.e - logeps) < 0.1)")
        .transform_calculate(x="datum.k", norm="datum.dim == 0 ? datum.s : datum.s / stretch")
        .mark_line(strokeWidth=2, clip=True, point=alt.OverlayMarkDef(size=18))
        .encode(
            x=across("x", "log₂ of the length L", width),
            y=up("norm", "norm Γ", height),
            color=arm_colour(looks, legend=legend_above(looks.names)),
            strokeDash=arm_dash(looks, legend=legend_above(looks.names)),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("x:Q", title="log₂ L"),
                alt.Tooltip("norm:Q", format=".2f"),
            ],
        )
        .properties(height=height_below(looks.names) + 60)
    )
    return specification(line.add_params(*_params()))
