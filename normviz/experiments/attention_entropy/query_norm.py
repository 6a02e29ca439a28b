"""The norm of the query as a handle: entropy curves and one row of weights that follow sliders, in the browser.

NaLaFormer, arXiv 2506.21137, section 3.2, against softmax and other kernels, on Gaussian keys. Curves: entropies were
computed for a grid of *powers* p; since the norm enters NaLa only through p(r) = lam (tau + tanh r), the browser places
each of them at the norm r = atanh(p / lam - tau). Row: all of it is computed in the browser.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.arms import Arms
from normviz.figures.encodings import arm_colour, arm_dash
from normviz.figures.figure import Figure
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["entropy_curves", "entropy_curves_figure", "query_row_figure"]

LOOKS = Arms.of({"Softmax": 0, "elu+1": 1, "ReLU": 6, "FLatten": 8, "NaLa cosine": 2, "NaLa sign": 3})
KINDS = LOOKS.names
KEYS = (16, 64, 128)
POWERS = (1, 2, 3, 4, 5)
STEEPNESS = (5, 20)
DRAWS, DIRECTIONS, WIDTH = 2, 60, 16
"""Draws of the keys, unit directions per draw, and the width of both."""
NORMS = np.linspace(0.05, 4.0, 40)
STEP, TOP = 0.05, 2.55
"""Grid of p / lam."""
Array = NDArray[np.float64]

ROW_KEYS, ROW_WIDTH, ROW_QUERIES = 24, 8, 6
"""Of the single row: keys, width, query directions to choose from."""


def entropy_curves_figure() -> Figure:
    """Mean row entropy against the norm of the query, with sliders for NaLa's constants and the number of keys."""
    return Figure(
        "Entropy against the norm of the query",
        "Drag λ and τ: NaLa's curve bends between p = λτ at |q| = 0 and λ(τ + 1). Dashed: an even look, log N.",
        "Line chart of mean row entropy against the norm of the query for six kernels. Softmax falls from log N "
        "towards zero, NaLa falls and flattens beyond a norm of 2, elu+1 hardly falls, ReLU and FLatten are flat.",
        spec=_curves_spec(),
        data=entropy_curves(),
    )


def query_row_figure() -> Figure:
    """The weights of one row while the norm of its query is dragged."""
    return Figure(
        "One row of weights",
        "Drag |q|. Keys are sorted by q · k. The height of a bar is the square root of its weight.",
        "Bars of the weights that one query gives to 24 keys with six kernels. As the norm of the query grows, the row "
        "of softmax becomes one bar, those of NaLa sharpen, those of ReLU and FLatten do not move.",
        spec=_row_spec(),
        data=_row_data(),
    )


# ------------------------------------------------------------------------------------------------------------- curves


def _entropy(scores: Array) -> Array:
    """Mean entropy in nats over the rows of non-negative scores (..., rows, keys)."""
    p = scores / np.maximum(scores.sum(-1, keepdims=True), 1e-300)
    out: Array = -(p * np.log(np.maximum(p, 1e-300))).sum(-1).mean(-1)
    return out


def _elu1(x: Array) -> Array:
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def _drawn(keys: int) -> Iterator[tuple[Array, Array]]:
    """Unit directions (DIRECTIONS, WIDTH) and keys (keys, WIDTH)."""
    for draw in range(DRAWS):
        rng = np.random.default_rng((draw, keys))
        d = rng.normal(size=(DIRECTIONS, WIDTH))
        yield d / np.linalg.norm(d, axis=1, keepdims=True), rng.normal(size=(keys, WIDTH))


def _focused(x: Array) -> Array:
    """FLatten's map up to a factor per query: the positive part cubed, at unchanged length."""
    positive = np.maximum(x, 0)
    cubed = positive**3
    length = np.linalg.norm(positive, axis=1) / np.maximum(np.linalg.norm(cubed, axis=1), 1e-300)
    out: Array = cubed * length[:, None]
    return out


def _signs(x: Array, steepness: int | None) -> tuple[Array, Array]:
    """The two factors beside |x|^p: cosine and sine of the angle, or the indicators of both signs."""
    if steepness is None:
        return (x > 0).astype(float), (x < 0).astype(float)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    angle = np.pi / 4 * np.tanh(steepness * unit)
    return np.cos(angle), np.sin(angle)


def _nala(d: Array, k: Array, lam: int, powers: Array, steepness: int | None) -> Array:
    """Mean entropy at each power of the query's direction."""
    raised = np.abs(d)[None] ** powers[:, None, None]  # (powers, rows, WIDTH)
    key = np.abs(k) ** lam
    scores = sum(
        (raised * of_q) @ (key * of_k).T
        for of_q, of_k in zip(_signs(d, steepness), _signs(k, steepness), strict=True)
    )
    return _entropy(np.asarray(scores))


@lru_cache(maxsize=1)
def entropy_curves() -> pd.DataFrame:
    """The table behind the curves: ``kind, keys, entropy`` with ``norm``, or with ``lam, steepness, power`` for NaLa.

    ``steepness`` is 0 for the sign form. Means over ``DRAWS`` draws of the keys; softmax takes plain products q · k.
    """
    parts = []
    grid = np.arange(STEP, TOP + STEP / 2, STEP)
    for n in KEYS:
        draws = list(_drawn(n))
        plain = {
            "Softmax": [_entropy(np.exp(NORMS[:, None, None] * (d @ k.T))) for d, k in draws],
            "elu+1": [_entropy(_elu1(NORMS[:, None, None] * d) @ _elu1(k).T) for d, k in draws],
            "ReLU": [_entropy(np.maximum(d, 0) @ np.maximum(k, 0).T) for d, k in draws],
            "FLatten": [_entropy(np.maximum(d, 0) ** 3 @ _focused(k).T) for d, k in draws],
        }
        for kind, curves in plain.items():
            entropy = np.broadcast_to(np.mean(curves, axis=0), NORMS.shape)
            parts.append(pd.DataFrame({"kind": kind, "keys": n, "norm": NORMS, "entropy": entropy}))
        for lam in POWERS:
            for steepness in (None, *STEEPNESS):
                entropy = np.mean([_nala(d, k, lam, lam * grid, steepness) for d, k in draws], axis=0)
                rows = {
                    "kind": "NaLa sign" if steepness is None else "NaLa cosine",
                    "keys": n,
                    "lam": lam,
                    "steepness": steepness or 0,
                    "power": lam * grid,
                    "entropy": entropy,
                }
                parts.append(pd.DataFrame(rows))
    return pd.concat(parts, ignore_index=True).round(5)


@lru_cache(maxsize=1)
def _curves_spec() -> dict[str, Any]:
    share = "datum.power / datum.lam - tau"  # tanh of the norm at which this power is reached
    chosen = (
        "datum.keys == count && (!isValid(datum.power) || (datum.lam == lam && (datum.steepness == 0 || "
        f"datum.steepness == alpha) && {share} > -{STEP} && {share} < 1 + {STEP}))"
    )
    place = (
        f"!isValid(datum.power) ? datum.norm : {share} <= 0 ? 0 : {share} >= {np.tanh(NORMS[-1]):.6f} ? "
        f"{NORMS[-1]} : 0.5 * log((1 + {share}) / (1 - ({share})))"
    )
    legend = legend_above(KINDS)
    entropies = alt.Scale(domain=[0, {"expr": "1.05 * log(count)"}], nice=False)
    base = (
        alt.Chart()
        .transform_filter(chosen)
        .transform_calculate(r=place)
        .encode(
            x=across("r", "norm of the query |q|", Span(0, 4)),
            y=alt.Y(
                "entropy:Q", title="mean row entropy (nats)", scale=entropies, axis=alt.Axis(tickCount=5)
            ),
            color=arm_colour(LOOKS, field="kind", legend=legend),
        )
    )
    lines = base.mark_line(strokeWidth=2, clip=True).encode(
        strokeDash=arm_dash(LOOKS, field="kind", legend=legend),
        tooltip=[
            alt.Tooltip("kind:N"),
            alt.Tooltip("r:Q", title="|q|", format=".2f"),
            alt.Tooltip("entropy:Q", format=".3f"),
        ],
    )
    even = (
        alt.Chart()
        .transform_aggregate(anchor="count()")
        .transform_calculate(even="log(count)")
        .mark_rule(color=MUTED, strokeDash=[4, 4])
        .encode(y=alt.Y("even:Q", scale=entropies))
    )
    params = [
        slider("lam", "power λ", 3, POWERS[0], POWERS[-1], 1),
        slider("tau", "floor τ", 0.5, 0.1, 1.5, 0.05),
        alt.param(
            name="alpha",
            value=STEEPNESS[-1],
            bind=alt.binding_radio(options=list(STEEPNESS), name="steepness α (cosine) "),
        ),
        alt.param(name="count", value=64, bind=alt.binding_radio(options=list(KEYS), name="keys N ")),
    ]
    chart = alt.layer(even, lines).properties(height=height_below(KINDS) + 40)
    return specification(chart.add_params(*params))


# ---------------------------------------------------------------------------------------------------------------- row


@lru_cache(maxsize=1)
def _row_data() -> pd.DataFrame:
    """One line per query, key and coordinate; ``rank`` orders the keys of a query by q · k."""
    rng = np.random.default_rng(4)
    d = rng.normal(size=(ROW_QUERIES, ROW_WIDTH))
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    k = rng.normal(size=(ROW_KEYS, ROW_WIDTH))
    unit, focused = k / np.linalg.norm(k, axis=1, keepdims=True), _focused(k)
    rank = np.argsort(np.argsort(-(d @ k.T), axis=1), axis=1)  # (queries, keys)
    query, key, i = (a.ravel() for a in np.indices((ROW_QUERIES, ROW_KEYS, ROW_WIDTH)))
    return pd.DataFrame(
        {
            "query": query + 1,
            "rank": rank[query, key] + 1,
            "d": d[query, i],
            "k": k[key, i],
            "unit": unit[key, i],
            "focused": focused[key, i],
        }
    ).round(5)


def _tanh(x: str) -> str:
    return f"(1 - 2 / (exp(2 * {x}) + 1))"


@lru_cache(maxsize=1)
def _row_spec() -> dict[str, Any]:
    """Products per coordinate, summed to scores per key; weights; entropy; lanes from top to bottom."""
    elu = "({0} > 0 ? {0} + 1 : exp({0}))".format
    magnitude = f"pow(abs(datum.d), lam * (tau + {_tanh('r')})) * pow(abs(datum.k), lam)"
    angle = f"PI / 4 * ({_tanh('(alpha * datum.d)')} - {_tanh('(alpha * datum.unit)')})"
    products = {
        "dot": "datum.d * datum.k",
        "elu": f"{elu('(r * datum.d)')} * {elu('datum.k')}",
        "relu": "max(datum.d, 0) * max(datum.k, 0)",
        "flatten": "pow(max(datum.d, 0), 3) * datum.focused",
        "cosine": f"{magnitude} * cos({angle})",
        "sign": f"datum.d * datum.k > 0 ? {magnitude} : 0",
    }
    chart = alt.Chart().transform_filter("datum.query == row")
    chart = chart.transform_calculate(**products)
    summed: dict[str, Any] = {f"sum_{name}": f"sum({name})" for name in products}
    chart = chart.transform_aggregate(groupby=["rank"], **summed)
    names = dict(zip(KINDS, products, strict=True))
    scores = {kind: f"datum.sum_{name}" for kind, name in names.items()}
    scores["Softmax"] = "exp(r * datum.sum_dot)"
    chart = chart.transform_calculate(**scores)
    lane = f"{len(KINDS) - 1} - indexof({list(KINDS)!r}, datum.kind)"
    chart = (
        chart.transform_fold(list(KINDS), as_=["kind", "score"])
        .transform_joinaggregate(total="sum(score)", groupby=["kind"])
        .transform_calculate(weight="datum.total > 0 ? datum.score / datum.total : 0")
        .transform_calculate(
            part="datum.weight > 0 ? -datum.weight * log(datum.weight) : 0",
            foot=lane,
            left="datum.rank - 0.4",
            right="datum.rank + 0.4",
        )
        .transform_joinaggregate(entropy="sum(part)", groupby=["kind"])
        .transform_calculate(
            top="datum.foot + 0.86 * sqrt(datum.weight)",
            label="datum.kind + ', entropy ' + format(datum.entropy, '.2f')",
            above="datum.foot + 0.7",
        )
    )
    y_scale = alt.Scale(domain=[0, len(KINDS)], nice=False)
    axis = alt.Axis(labels=False, ticks=False, domain=False, values=list(range(len(KINDS))))
    span = alt.Scale(domain=[0.4, ROW_KEYS + 0.6], nice=False)
    keys = alt.X(
        "left:Q", title="keys, the most similar first", scale=span, axis=alt.Axis(grid=False, labels=False)
    )
    bars = chart.mark_rect(strokeWidth=0).encode(
        x=keys,
        x2="right:Q",
        y=alt.Y("foot:Q", title=None, scale=y_scale, axis=axis),
        y2="top:Q",
        color=arm_colour(LOOKS, field="kind"),
        tooltip=[
            alt.Tooltip("kind:N"),
            alt.Tooltip("rank:Q", title="key"),
            alt.Tooltip("weight:Q", format=".4f"),
            alt.Tooltip("entropy:Q", title="entropy of the row", format=".3f"),
        ],
    )
    labels = (
        chart.transform_filter("datum.rank == 1")
        .mark_text(align="right", fontSize=12, fontWeight="bold")
        .encode(
            x=alt.X(datum=ROW_KEYS + 0.4, scale=span),
            y=alt.Y("above:Q", scale=y_scale),
            text="label:N",
            color=arm_colour(LOOKS, field="kind"),
        )
    )
    params = [
        slider("r", "norm |q|", 1.0, 0.05, 4, 0.05),
        slider("row", "query", 1, 1, ROW_QUERIES, 1),
        slider("lam", "power λ", 3.0, 1, 5, 0.5),
        slider("tau", "floor τ", 0.5, 0.1, 1.5, 0.05),
        slider("alpha", "steepness α", 20, 1, 100, 1),
    ]
    layered = alt.layer(bars, labels).properties(height=380).add_params(*params)
    return specification(layered)
