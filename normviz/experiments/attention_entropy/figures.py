"""What is drawn on the page *Attention entropy*."""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.experiments.attention_entropy.attention_maps import attention_maps_figure
from normviz.experiments.attention_entropy.growth import growth_figure
from normviz.experiments.attention_entropy.knobs import Knobs
from normviz.experiments.attention_entropy.recorded import KEYS, NORMS, lengths
from normviz.figures import Board, Figure, Sheet
from normviz.figures.encodings import arm_colour, arm_symbol, faded, focus_param
from normviz.figures.scales import Span, across, up
from normviz.figures.vega import specification

__all__ = ["sheet"]


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    pixels = knobs.task == "pixels"
    trained = knobs.trained_arms()

    def maps(board: Board) -> Figure:
        return attention_maps_figure(
            board.log,
            "attention_map",
            title="Attention maps of the first block",
            look_for="One test example, first seed. Which kernels look at few tokens?",
            arms=trained,
            causal=not pixels,
            step=board.step,
            wide=False,
            progress=board.progress,
        )

    def entropy(board: Board) -> Figure:
        return board.only(trained).lines(
            "entropy",
            title="Entropy of the attention rows",
            y="share of the greatest possible",
            look_for="1: an even look at all tokens. Which kernels learn to focus?",
        )

    def score(board: Board) -> Figure:
        return board.only(trained).lines(
            "accuracy" if pixels else "validation_loss",
            title="Test accuracy" if pixels else "Validation loss",
            y="right answers (%)" if pixels else "nats per character",
            look_for="Only the kernels differ. Do kernels that can focus learn better?",
        )

    def response(board: Board) -> Figure:
        return board.only(trained).lines(
            "entropy_response",
            title="What doubling |q| does to the entropy",
            y="change of the entropy",
            look_for="Below zero: longer queries look more sharply. Which kernels cannot?",
            zero_line=True,
        )

    def by_norm(board: Board) -> Figure:
        return board.only(trained).profile(
            "entropy_by_norm",
            title="Random queries: entropy and norm",
            x="norm of the query |q|",
            y="mean row entropy (nats)",
            look_for="Which curves fall as the query gets longer, and how far?",
            positions=NORMS,
            reference={f"even, log {KEYS}": [math.log(KEYS)] * len(NORMS)},
        )

    def correlation(of: str, title: str, look_for: str, board: Board) -> Figure:
        return board.only(trained).lines(
            f"entropy_{of}_correlation",
            title=title,
            y="Pearson's correlation",
            look_for=look_for,
            zero_line=True,
        )

    def query_norm(board: Board) -> Figure:
        return board.only(trained).lines(
            "query_norm",
            title="Norm of the queries",
            y="mean of |q|",
            look_for="Above 2 NaLa's power hardly grows. Are the queries longer?",
        )

    def cost(name: str, title: str, y: str, look_for: str, factor: float, board: Board) -> Figure:
        return growth_figure(
            board.log,
            name,
            lengths(int(knobs.longest)),
            title=title,
            x="tokens N",
            y=y,
            look_for=look_for,
            arms=board.arms,
            factor=factor,
        )

    def loss(board: Board) -> Figure:
        return board.only(trained).lines(
            "loss",
            title="Training loss",
            y="cross-entropy (nats)",
            look_for="Does any arm diverge, or learn faster than the others?",
        )

    return Sheet(
        stage={
            "maps": maps,
            "entropy": entropy,
            "rows": lambda board: _rows_figure(board.only(trained)),
            "score": score,
            "by_norm": by_norm,
            "response": response,
        },
        more={
            "Norms": {
                "correlation": partial(
                    correlation,
                    "q",
                    "Correlation: query norm and entropy",
                    "Below zero: long queries have sharp rows. Need not be an effect.",
                ),
                "key_correlation": partial(
                    correlation,
                    "k",
                    "Correlation: key norm and entropy",
                    "Is it nearer to zero than that of the query's norm?",
                ),
                "query_norm": query_norm,
            },
            "Time and memory": {
                "seconds": partial(
                    cost,
                    "seconds_by_length",
                    "Time of the attention alone",
                    "milliseconds, one head",
                    "Exponent 2: twice the tokens take four times as long.",
                    1e3,
                ),
                "bytes": partial(
                    cost,
                    "bytes_by_length",
                    "Memory of the attention alone",
                    "megabytes allocated, one head",
                    "Linear and fused attention never hold the N × N matrix.",
                    1e-6,
                ),
            },
            "Training": {"loss": loss},
        },
    )


def _rows_figure(board: Board) -> Figure:
    """A dot per row of attention: norm of its query against its entropy."""
    arms = board.arms
    entries = {e.arm: e for e in reversed(board.log.arrays("entropy_rows", board.step)) if e.arm in arms}
    columns = ["arm", "norm", "entropy"]
    parts = [
        pd.DataFrame(
            {"arm": arm, "norm": entries[arm].value[0], "entropy": entries[arm].value[1].astype(float)}
        )
        for arm in arms
        if arm in entries
    ]
    data = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    moment, text = "", "Scatter chart of row entropy against the norm of the query; nothing is measured yet."
    if parts:
        moment = board.progress.at(max(e.step for e in entries.values()))
        means = ", ".join(f"{arm} {np.mean(entries[arm].value[1]):.3f}" for arm in arms if arm in entries)
        text = f"Scatter chart of row entropy against the norm of the query at {moment}. Means: {means}."
    return Figure(
        "Single rows: query norm and entropy",
        "A cloud that falls to the right: long queries look sharply.",
        text,
        spec=_rows_spec(arms, Span.of(data["norm"]), Span.of(data["entropy"])),
        data=data,
        moment=moment,
    )


@lru_cache(maxsize=64)
def _rows_spec(arms: Arms, width: Span, height: Span) -> dict[str, Any]:
    chart = (
        alt.Chart()
        .mark_point(filled=True, size=34)
        .encode(
            x=across("norm", "norm of the query |q|", width),
            y=up("entropy", "entropy, share of the greatest", height),
            color=arm_colour(arms),
            shape=arm_symbol(arms),
            opacity=faded(0.6),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("norm:Q", title="|q|", format=".3~g"),
                alt.Tooltip("entropy:Q", format=".3~g"),
            ],
        )
    )
    return specification(chart.add_params(focus_param()))
