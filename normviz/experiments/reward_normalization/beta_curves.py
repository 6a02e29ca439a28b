"""Pictures of the Beta distribution of the accuracies and of what each method multiplies R - p by."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.arms import Arms, Look
from normviz.experiments.reward_normalization.knobs import ARMS, ESTIMATOR_NAMES
from normviz.figures import Board, Figure, colours
from normviz.figures.encodings import arm_colour, arm_dash, focus_param
from normviz.figures.expressions import log_beta
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.sliders import slider
from normviz.figures.vega import specification
from normviz.frame import Log

__all__ = [
    "accuracy_distribution_figure",
    "beta_density",
    "moment_map_figure",
    "newest_fits",
    "normaliser_figure",
]

Array = NDArray[np.float64]

BNPO, GRPO, BASELINE = (ESTIMATOR_NAMES[name] for name in ("bnpo", "grpo", "reinforce_baseline"))
FITTED = "BNPO, fitted to the run"
CURVES = ARMS.only((BNPO, GRPO, BASELINE)) + Arms((Look(FITTED, 0, 1, 0),))
GRID = np.linspace(0.01, 0.99, 50)
BINS = 20
BAR, FIT, NORMALISER = "accuracies", "Beta(a, b)", "normaliser f"
KINDS = Arms((Look(BAR, 6, 0, 0), Look(FIT, 2, 1, 0), Look(NORMALISER, 0, 0, 0)))
P = Span(0.0, 1.0)
NEAR, FAR = (0.5, 2.5), (0.5, 4.5)
"""alpha and beta on the map of V, and where BNPO's lie further out."""
CELLS = 26


def beta_density(x: Array, alpha: float, beta: float) -> Array:
    """The density of Beta(alpha, beta) at x in (0, 1)."""
    log_b = math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)
    density: Array = np.exp((alpha - 1) * np.log(x) + (beta - 1) * np.log1p(-x) - log_b)
    return density


class Fit(NamedTuple):
    """Beta(a, b) fitted to an arm's accuracies at a step, and BNPO's normaliser Beta(alpha, beta)."""

    step: int
    a: float
    b: float
    alpha: float
    beta: float

    @property
    def proper(self) -> bool:
        """Whether Beta(a, b) is a distribution."""
        return self.a > 0 and self.b > 0


def newest_fits(log: Log, step: int | None) -> dict[str, Fit]:
    """The newest fit of each arm's first seed at or before a step."""
    fits: dict[str, Fit] = {}
    for entry in sorted(log.arrays("fit", step), key=lambda entry: entry.seed):
        fits.setdefault(entry.arm, Fit(entry.step, *entry.value.tolist()))
    return fits


def normaliser_figure(board: Board, reference: str) -> Figure:
    """1/f(p) of BNPO for a and b that are dragged, beside GRPO's and none, and BNPO's for the run's present fit."""
    fit = newest_fits(board.log, board.step).get(reference)
    shapes = {BNPO: (1.0, 1.0), GRPO: (1.5, 1.5), BASELINE: (1.0, 1.0)}
    if fit:
        shapes[FITTED] = (fit.alpha, fit.beta)
    parts = [
        pd.DataFrame(
            {"arm": name, "p": GRID, "dragged": name == BNPO, "weight": 1 / beta_density(GRID, *shape)}
        )
        for name, shape in shapes.items()
    ]
    data = pd.concat(parts, ignore_index=True).round({"p": 3, "weight": 4})
    moment = board.progress.at(fit.step) if fit else ""
    now = f" In the run, a = {fit.a:.2g} and b = {fit.b:.2g} at {moment}." if fit else ""
    text = (
        "Curves of the weight 1/f(p) against the accuracy p of a question: 1 without normaliser, lowest in the middle "
        "and rising to both ends for GRPO. Sliders for a and b move BNPO's: flat at a = b = 0, GRPO's at a = b = 1.5, "
        f"lowest where most questions are.{now}"
    )
    return Figure(
        "What R − p is multiplied by",
        "Drag a and b: is the weight lowest where most questions lie?",
        text,
        spec=_normaliser_spec(),
        data=data,
        moment=moment,
    )


@lru_cache(maxsize=1)
def _normaliser_spec() -> dict[str, Any]:
    sliders = [
        slider(name, f"{name} of the accuracies", value, 0.1, 10, 0.1)
        for name, value in (("a", 4.0), ("b", 2.0))
    ]
    alpha = alt.param(name="alpha", expr="1 + a / 3")
    beta = alt.param(name="beta", expr="1 + b / 3")
    log_norm = alt.param(name="lognorm", expr=log_beta("alpha", "beta"))
    best = alt.param(name="best", expr=f"exp(3 * lognorm - {log_beta('a', 'b')})")
    none = alt.param(name="none", expr="a * b / ((a + b) * (a + b + 1))")
    line = (
        alt.Chart()
        .transform_calculate(
            shown="datum.dragged ? exp(lognorm - (alpha - 1) * log(datum.p) - (beta - 1) * log(1 - datum.p))"
            " : datum.weight"
        )
        .mark_line(strokeWidth=2, clip=True)
        .encode(
            x=across("p", "accuracy p of a question", P),
            y=up("shown", "weight 1/f(p)", Span(0.2, 50.0, log=True)),
            color=arm_colour(CURVES, legend=legend_above(CURVES.names)),
            strokeDash=arm_dash(CURVES),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("p:Q", format=".2f"),
                alt.Tooltip("shown:Q", title="weight", format=".3~g"),
            ],
        )
    )

    def note(expression: str, y: int) -> Any:
        return (
            alt.Chart()
            .transform_aggregate(rows="count()")
            .transform_calculate(text=expression)
            .mark_text(align="center", baseline="top", color=MUTED, fontSize=11)
            .encode(x=alt.value({"expr": "width / 2"}), y=alt.value(y), text="text:N")
        )

    shape = note("'α = ' + format(alpha, '.2f') + ', β = ' + format(beta, '.2f') + '; second moment V:'", 2)
    moment = note(
        "'BNPO ' + format(best, '.3f') + ', GRPO ' + format(PI * PI / 64, '.3f') + ', none ' + format(none, '.3f')",
        17,
    )
    chart = alt.layer(line, shape, moment).properties(height=height_below(CURVES.names) + 60)
    return specification(chart.add_params(*sliders, alpha, beta, log_norm, best, none))


def accuracy_distribution_figure(board: Board, reference: str) -> Figure:
    """Histogram of the exact accuracies of the 300 questions with both Beta densities, first seed.

    Shown is the policy of one arm: of the first that is in focus, else of the reference.
    """
    log, step, arms = board.log, board.step, board.arms
    rows: list[tuple[str, str, Array, Array, Array]] = []  # arm, kind, x, x2, density
    shown = None
    texts = []
    fits = newest_fits(log, step)
    accuracies = {e.arm: e for e in sorted(log.arrays("p", step), key=lambda e: -e.seed) if e.arm in arms}
    for arm in arms:
        if arm not in accuracies or arm not in fits:
            continue
        entry, fit = accuracies[arm], fits[arm]
        shown = max(entry.step, shown or 0)
        density, edges = np.histogram(entry.value, BINS, (0.0, 1.0), density=True)
        cap = 1.2 * float(density.max())
        rows.append((arm, BAR, edges[:-1], edges[1:], density))
        curves = {NORMALISER: (fit.alpha, fit.beta)}
        if fit.proper:
            curves[FIT] = (fit.a, fit.b)
        for kind, shape in curves.items():
            rows.append((arm, kind, GRID, GRID, np.minimum(beta_density(GRID, *shape), cap)))
        texts.append(f"{arm}: mean {entry.value.mean():.2f}, a {fit.a:.2g}, b {fit.b:.2g}")
    sizes = [len(x) for _, _, x, _, _ in rows]
    data = pd.DataFrame(
        {
            "arm": np.repeat(np.array([arm for arm, *_ in rows], dtype=object), sizes),
            "kind": np.repeat(np.array([kind for _, kind, *_ in rows], dtype=object), sizes),
            **{
                name: np.concatenate([row[i] for row in rows] or [np.empty(0)]).round(4)
                for i, name in enumerate(("x", "x2", "density"), start=2)
            },
        }
    )
    moment = "" if shown is None else board.progress.at(shown)
    text = (
        "Histogram of the accuracy of 300 questions; nothing is measured yet."
        if shown is None
        else f"Histogram of the accuracy of 300 questions at {moment}, first seed. {'; '.join(texts)}."
    )
    return Figure(
        "Accuracies of the 300 questions",
        f"{reference}'s policy. Does the Beta follow as it learns?",
        text,
        spec=_distribution_spec(reference, Span.of(data["density"], zero=True)),
        data=data,
        moment=moment,
    )


@lru_cache(maxsize=64)
def _distribution_spec(reference: str, height: Span) -> dict[str, Any]:
    legend = legend_above(KINDS.names, columns=3)
    base = (
        alt.Chart()
        .transform_filter(f"datum.arm == (length(focus) ? focus[0] : '{reference}')")
        .encode(color=arm_colour(KINDS, field="kind", legend=legend))
    )
    x, y = across("x", "accuracy p of a question", P), up("density", "density", height)
    bars = (
        base.transform_filter(f"datum.kind == '{BAR}'")
        .transform_calculate(floor="0")
        .mark_rect(opacity=0.5)
        .encode(
            x=x,
            x2="x2:Q",
            y=y,
            y2="floor:Q",
            tooltip=[alt.Tooltip("x:Q", title="from", format=".2f"), alt.Tooltip("density:Q", format=".2f")],
        )
    )
    lines = (
        base.transform_filter(f"datum.kind != '{BAR}'")
        .mark_line(strokeWidth=2)
        .encode(x=x, y=y, strokeDash=arm_dash(KINDS, field="kind", legend=legend))
    )
    chart = alt.layer(bars, lines).properties(height=height_below(KINDS.names, columns=3))
    return specification(chart.add_params(focus_param()))


def moment_map_figure(board: Board, reference: str) -> Figure:
    """V(alpha, beta) for the a and b of the moment, with the three methods as points; hatched where it is infinite."""
    fit = newest_fits(board.log, board.step).get(reference)
    if fit is None or not fit.proper:
        return _moment_map(None, "")
    return _moment_map(fit, board.progress.at(fit.step))


@lru_cache(maxsize=64)
def _moment_map(fit: Fit | None, moment: str) -> Figure:
    import plotly.graph_objects as go

    title = "Second moment V over α and β"
    look_for = "Does BNPO's star lie in the valley? Hatched: V is infinite."
    span = NEAR if fit is None or max(fit.alpha, fit.beta) < NEAR[1] else FAR
    layout: dict[str, Any] = {
        "height": 400,
        "margin": {"l": 50, "r": 10, "t": 40, "b": 45},
        "xaxis": {"title": {"text": "α"}, "range": list(span)},
        "yaxis": {"title": {"text": "β"}, "range": list(span)},
        "uirevision": "keep",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    }
    if fit is None:
        text = "Map of V over alpha and beta; there is no Beta with a, b > 0 to draw it for yet."
        return Figure(title, look_for, text, plotly=go.Figure(layout=layout))
    axis = np.linspace(*span, CELLS)
    V = second_moment(axis[None, :], axis[:, None], fit.a, fit.b)
    z = np.log10(np.where(np.isfinite(V), V, np.nan))
    rows, columns = np.nonzero(np.isnan(z))
    points = {BNPO: (fit.alpha, fit.beta), GRPO: (1.5, 1.5), BASELINE: (1.0, 1.0)}
    values = {
        name: float(second_moment(np.array(x), np.array(y), fit.a, fit.b)) for name, (x, y) in points.items()
    }
    hatch = {"symbol": "line-ne-open", "size": 8, "color": "#8a8a8a"}
    figure = go.Figure(
        layout=layout,
        data=[
            go.Heatmap(
                x=axis,
                y=axis,
                z=z,
                colorscale="Viridis",
                hoverongaps=False,
                colorbar={"title": {"text": "log10 V"}, "thickness": 12},
            ),
            go.Scatter(
                x=axis[columns],
                y=axis[rows],
                mode="markers",
                marker=hatch,
                hoverinfo="skip",
                showlegend=False,
            ),
            *(
                go.Scatter(
                    x=[x],
                    y=[y],
                    mode="markers",
                    name=f"{name} {values[name]:.3f}",
                    marker={
                        "size": 13,
                        "color": colours(ARMS.ordered(points))[i],
                        "symbol": ("star", "square", "circle")[i],
                        "line": {"width": 1.5, "color": "#ffffff"},
                    },
                )
                for i, (name, (x, y)) in enumerate(points.items())
            ),
        ],
    )
    listed = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
    text = f"Map of V over alpha and beta for a = {fit.a:.3g}, b = {fit.b:.3g} at {moment}. V of {listed}."
    return Figure(title, look_for, text, plotly=figure, moment=moment)


def second_moment(alpha: Array, beta: Array, a: float, b: float) -> Array:
    """V(alpha, beta) as :func:`normviz.weighting.gradient_second_moment` has it, infinite outside its domain."""
    from scipy.special import betaln

    rest_1, rest_2 = a + 3 - 2 * alpha, b + 3 - 2 * beta
    inside = (rest_1 > 0) & (rest_2 > 0)
    log_v = (
        2 * betaln(alpha, beta)
        + betaln(np.where(rest_1 > 0, rest_1, 1), np.where(rest_2 > 0, rest_2, 1))
        - betaln(a, b)
    )
    value: Array = np.where(inside, np.exp(log_v), np.inf)
    return value
