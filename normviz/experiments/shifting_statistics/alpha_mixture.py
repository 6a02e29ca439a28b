r"""alpha-BN's mixture of source and test statistics, as pictures that react while alpha is dragged.

You, Li, Zhao, arXiv 2110.04065. The error of the mixed mean is measured along the stream (three numbers per layer, see
``layer_statistics``); what the mixture does to a shifted channel, and why something between the ends can be best, are
closed forms. All is computed in the browser.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms, Look
from normviz.figures import Board, Figure
from normviz.figures.encodings import arm_colour, arm_dash
from normviz.figures.legends import height_below, legend_above
from normviz.figures.palette import MUTED
from normviz.figures.scales import Span, across, up
from normviz.figures.sliders import slider
from normviz.figures.vega import specification

__all__ = ["LAYERS", "channel_figure", "mixture_figure", "trade_off_figure"]

LAYERS = Arms.of({"layer 1": 0, "layer 2": 1, "layer 3": 2})
"""The norms of the source network."""
GRID = np.linspace(0.0, 1.0, 41)
CURVES = Arms(
    (
        Look("as trained", 6, 1, 0),
        Look("test batch", 1, 0, 0),
        Look("after the norm", 0, 0, 0),
    )
)
ERRORS = Arms(
    (Look("both", 0, 0, 0), Look("from the source", 6, 1, 0), Look("from the small batch", 1, 2, 0))
)
VALUES = np.linspace(-6.0, 6.0, 121)


def mixture_figure(board: Board, alpha: float) -> Figure:
    """How far the mixed mean is from that of the whole stream, against alpha, by layer; mean over seeds.

    Args:
        board: log and moment.
        alpha: where the slider begins.
    """
    entries = board.log.arrays("mixture", board.step)
    rows = []
    if entries:
        products = np.mean(
            [entry.value for entry in entries if entry.value.shape == entries[0].value.shape], axis=0
        )
        for layer, (aa, ab, bb) in zip(LAYERS, products.astype(float).tolist(), strict=False):
            rows += [(layer, aa, ab, bb, float(at)) for at in GRID]
    data = pd.DataFrame(rows, columns=["arm", "aa", "ab", "bb", "at"])
    moment = board.progress.at(max(entry.step for entry in entries)) if entries else ""
    top = float(np.sqrt(data[["aa", "bb"]].to_numpy(dtype=float).max(initial=0.0))) if rows else 1.0
    if rows:
        ends = "; ".join(
            f"{layer} {bb**0.5:.2g} at 0 and {aa**0.5:.2g} at 1" for layer, aa, _, bb, at in rows if at == 0
        )
        text = (
            f"Curves of the error of the mixed mean against alpha at {moment}: {ends}. A slider sets alpha."
        )
    else:
        text = "Curves of the error of the mixed mean against alpha; nothing is measured yet."
    return Figure(
        "Error of the mixed mean, by layer",
        "Drag α: does the least error lie between the ends?",
        text,
        spec=_mixture_spec(Span.of([top], zero=True), round(alpha, 2)),
        data=data,
        moment=moment,
    )


def _error(at: str) -> str:
    return f"sqrt({at} * {at} * datum.aa + 2 * {at} * (1 - {at}) * datum.ab + (1 - {at}) * (1 - {at}) * datum.bb)"


@lru_cache(maxsize=64)
def _mixture_spec(height: Span, alpha: float) -> dict[str, Any]:
    y = up("error", "error of the mean (standard deviations)", height)
    x = across("at", "α (0: test batch, 1: source)", Span(0.0, 1.0))
    colour = arm_colour(LAYERS, legend=legend_above(LAYERS.names, columns=3))
    curve = (
        alt.Chart()
        .transform_calculate(error=_error("datum.at"))
        .mark_line(strokeWidth=2)
        .encode(
            x=x, y=y, color=colour, strokeDash=arm_dash(LAYERS, legend=legend_above(LAYERS.names, columns=3))
        )
    )
    here = (
        alt.Chart()
        .transform_filter("datum.at == 0")
        .transform_calculate(error=_error("alpha"), place="alpha")
    )
    dot = here.mark_point(filled=True, size=70, opacity=1).encode(x="place:Q", y=y, color=colour)
    value = here.mark_text(dx=7, dy=4, baseline="top", align="left", fontWeight="bold", fontSize=11).encode(
        x="place:Q", y=y, color=colour, text=alt.Text("error:Q", format=".2f")
    )
    rule = here.mark_rule(color=MUTED, strokeDash=[3, 3]).encode(x="place:Q")
    chart = alt.layer(curve, rule, dot, value).properties(height=height_below(LAYERS.names, columns=3) + 20)
    return specification(chart.add_params(slider("alpha", "α", alpha, 0.0, 1.0, 0.01)))


def channel_figure() -> Figure:
    """A channel of the test batch, normal with mean b and deviation s, before and after it is normalised.

    The source has mean 0 and deviation 1, so that the mixture has mean (1 - alpha) b and variance alpha + (1 - alpha)
    s^2, and the test batch leaves the norm with mean alpha b and deviation s, each over the root of that variance.
    """
    data = pd.DataFrame(
        {"arm": np.repeat(list(CURVES.names), len(VALUES)), "value": np.tile(VALUES, len(CURVES))}
    )
    text = (
        "Bell curves of one channel: as trained (mean 0, deviation 1), of the test batch, and of the test batch after "
        "the norm. Sliders set alpha, the shift and the spread of the test batch; at alpha 0 the last is the first."
    )
    return Figure(
        "One channel between source and test batch",
        "Drag α: at 0 the blue bell lies on the grey one.",
        text,
        spec=_channel_spec(),
        data=data,
    )


@lru_cache(maxsize=1)
def _channel_spec() -> dict[str, Any]:
    mixed = "sqrt(alpha + (1 - alpha) * s * s)"
    mean = f"datum.arm == 'as trained' ? 0 : datum.arm == 'test batch' ? b : alpha * b / {mixed}"
    spread = f"datum.arm == 'as trained' ? 1 : datum.arm == 'test batch' ? s : s / {mixed}"
    curve = (
        alt.Chart()
        .transform_calculate(mu=mean, sd=spread)
        .transform_calculate(density="densityNormal((datum.value - datum.mu) / datum.sd) / datum.sd")
        .mark_line(strokeWidth=2, clip=True)
        .encode(
            x=across("value", "value of the channel", Span(-6.0, 6.0)),
            y=up("density", "density", Span(0.0, 1.2)),
            color=arm_colour(CURVES, legend=legend_above(CURVES.names, columns=3)),
            strokeDash=arm_dash(CURVES, legend=legend_above(CURVES.names, columns=3)),
        )
    )
    chart = curve.properties(height=height_below(CURVES.names, columns=3) + 20)
    return specification(
        chart.add_params(
            slider("alpha", "α", 0.7, 0.0, 1.0, 0.01),
            slider("b", "shift of the test batch", 2.0, -4.0, 4.0, 0.1),
            slider("s", "its spread", 0.5, 0.2, 3.0, 0.05),
        )
    )


def trade_off_figure() -> Figure:
    """Root mean square error of the mixed mean for a shift b and batches of n independent values of deviation 1.

    The source is wrong by b in every batch, the batch by a random part of variance 1/n: the mean square error of the
    mixture is alpha^2 b^2 + (1 - alpha)^2 / n, least at alpha = 1 / (1 + n b^2).
    """
    data = pd.DataFrame({"arm": np.repeat(list(ERRORS.names), len(GRID)), "at": np.tile(GRID, len(ERRORS))})
    text = (
        "Curves of the error of the mixed mean against alpha: the part from the source grows, that of the small "
        "batch falls, their sum is least in between, at 1 / (1 + n b²). Sliders set the shift b and the batch size n."
    )
    return Figure(
        "Why the middle can be best",
        "Drag the batch size: where is the least error?",
        text,
        spec=_trade_off_spec(),
        data=data,
    )


@lru_cache(maxsize=1)
def _trade_off_spec() -> dict[str, Any]:
    source, batch = "datum.at * datum.at * b * b", "(1 - datum.at) * (1 - datum.at) / n"
    error = (
        f"datum.arm == 'both' ? sqrt({source} + {batch}) : "
        f"datum.arm == 'from the source' ? sqrt({source}) : sqrt({batch})"
    )
    x = across("at", "α (0: test batch, 1: source)", Span(0.0, 1.0))
    y = up("error", "error of the mean (standard deviations)", Span(0.0, 1.0))
    line = (
        alt.Chart()
        .transform_calculate(error=error)
        .mark_line(strokeWidth=2, clip=True)
        .encode(
            x=x,
            y=y,
            color=arm_colour(ERRORS, legend=legend_above(ERRORS.names, columns=3)),
            strokeDash=arm_dash(ERRORS, legend=legend_above(ERRORS.names, columns=3)),
        )
    )
    best = (
        alt.Chart()
        .transform_filter("datum.at == 0 && datum.arm == 'both'")
        .transform_calculate(
            at="1 / (1 + n * b * b)", words="'least at α = ' + format(1 / (1 + n * b * b), '.2f')"
        )
    )
    rule = best.mark_rule(color=MUTED, strokeDash=[3, 3]).encode(x="at:Q")
    words = best.mark_text(baseline="top", fontWeight="bold", color=MUTED).encode(
        x=alt.value({"expr": "width / 2"}), y=alt.value(2), text="words:N"
    )
    chart = alt.layer(line, rule, words).properties(height=height_below(ERRORS.names, columns=3) + 20)
    return specification(
        chart.add_params(
            slider("b", "shift b", 0.5, 0.0, 1.0, 0.01), slider("n", "batch size n", 4, 1, 64, 1)
        )
    )
