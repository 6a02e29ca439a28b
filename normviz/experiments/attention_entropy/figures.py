"""What is drawn on the page *Attention entropy*."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.experiments.attention_entropy.knobs import Knobs, arm_name, arm_names
from normviz.experiments.attention_entropy.scales import FUSED, KEYS, NORMS, lengths
from normviz.figures import Figure, colours, line_figure, profile_figure
from normviz.figures.attention_maps import attention_maps_figure
from normviz.figures.growth import growth_figure
from normviz.figures.legends import height_below, legend_above
from normviz.figures.vega import specification
from normviz.frame import Log

__all__ = ["draw"]


def draw(log: Log, knobs: Knobs, step: int | None = None) -> dict[str, Figure]:
    """All figures for what the log holds, with the cursor at ``step``."""
    arms = arm_names(knobs)
    timed = [a for arm in arms for a in ((arm, FUSED) if arm == arm_name("softmax") else (arm,))]
    pixels = knobs.task == "pixels"
    at = lengths(int(knobs.longest))
    over_time = partial(line_figure, log, arms=arms, step=step, last=knobs.steps)
    return {
        "entropy": over_time(
            "entropy",
            title="Entropy of the attention rows",
            y="share of the greatest possible",
            look_for="1: every token looks at all others alike. Which kernels learn to look at few tokens?",
        ),
        "score": over_time(
            "accuracy" if pixels else "validation_loss",
            title="Test accuracy" if pixels else "Validation loss",
            y="right answers (%)" if pixels else "cross-entropy (nats per character)",
            look_for="The arms differ in the kernel alone. Does being able to sharpen pay?",
        ),
        "response": over_time(
            "entropy_response",
            title="What doubling |q| does to the entropy",
            y="change of the entropy",
            look_for="The network's own rows, with every query twice as long. ReLU and FLatten stay at zero by "
            "construction; below zero: longer means sharper.",
            zero_line=True,
        ),
        "correlation": over_time(
            "entropy_q_correlation",
            title="Correlation of query norm and row entropy",
            y="Pearson's correlation",
            look_for="Below zero: tokens with long queries have sharp rows. A correlation need not be an effect of "
            "the norm; the chart of doubling tells.",
            zero_line=True,
        ),
        "rows": _rows_figure(log, arms, step),
        "by_norm": profile_figure(
            log,
            "entropy_by_norm",
            title="Random queries: entropy against their norm",
            x="norm of the query |q|",
            y="mean row entropy (nats)",
            look_for="The gap to the dashed line is what a kernel can focus. Softmax sharpens without end, NaLa until "
            "its power saturates, ReLU is flat.",
            arms=arms,
            positions=NORMS,
            reference={f"even, log {KEYS}": [math.log(KEYS)] * len(NORMS)},
        ),
        "maps": attention_maps_figure(
            log,
            "attention_map",
            title="Attention maps of the first block",
            look_for="One test example, seed 0, mean over the heads. Yellow: eight times an even look"
            + (", or more." if pixels else " at the tokens so far, or more.")
            + " Move the moment of training.",
            arms=arms,
            causal=not pixels,
            step=step,
        ),
        "query_norm": over_time(
            "query_norm",
            title="Norm of the queries",
            y="mean of |q|",
            look_for="NaLa's power λ(τ + tanh|q|) hardly grows beyond |q| = 2: above it, the norm says no more.",
        ),
        "key_correlation": over_time(
            "entropy_k_correlation",
            title="Correlation of key norm and row entropy",
            y="Pearson's correlation",
            look_for="The norm of the same token's key. Is it nearer to zero than that of the query?",
            zero_line=True,
        ),
        "seconds": growth_figure(
            log,
            "seconds_by_length",
            at,
            title="Time of the attention alone",
            x="tokens N",
            y="milliseconds, one head",
            look_for="Measured after the training. An exponent of 2: twice the tokens, four times the time.",
            arms=timed,
            factor=1e3,
        ),
        "bytes": growth_figure(
            log,
            "bytes_by_length",
            at,
            title="Memory of the attention alone",
            x="tokens N",
            y="megabytes allocated, one head",
            look_for="Linear attention never forms the N × N matrix; fused softmax does not keep it either.",
            arms=timed,
            factor=1e-6,
        ),
        "loss": over_time(
            "loss",
            title="Training loss",
            y="cross-entropy (nats)",
            look_for="Does any arm stop (diverge) or learn faster than the others?",
        ),
    }


def _rows_figure(log: Log, arms: Sequence[str], step: int | None) -> Figure:
    """A dot per row of attention: norm of its query against its entropy."""
    entries = {e.arm: e for e in reversed(log.arrays("entropy_rows", step)) if e.arm in arms}
    parts = [
        pd.DataFrame(
            {"arm": arm, "norm": entries[arm].value[0], "entropy": entries[arm].value[1].astype(float)}
        )
        for arm in arms
        if arm in entries
    ]
    data = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["arm", "norm", "entropy"])
    title = "Single rows: query norm and entropy"
    text = "Scatter chart of row entropy against the norm of the query; nothing is measured yet."
    if parts:
        shown = max(e.step for e in entries.values())
        means = ", ".join(f"{arm} {np.mean(entries[arm].value[1]):.3f}" for arm in arms if arm in entries)
        title = f"{title} (step {shown})"
        text = f"Scatter chart of row entropy against the norm of the query at step {shown}. Means: {means}."
    look_for = "Rows of the first block and head, seed 0. A cloud that falls to the right: long queries look sharply."
    return Figure(title, look_for, text, spec=_rows_spec(tuple(arms)), data=data)


@lru_cache(maxsize=64)
def _rows_spec(arms: tuple[str, ...]) -> dict[str, Any]:
    scale = alt.Scale(domain=list(arms), range=colours(arms))
    shapes = [
        "circle",
        "square",
        "triangle-up",
        "diamond",
        "cross",
        "triangle-down",
        "triangle-left",
        "triangle-right",
    ]
    chart = (
        alt.Chart()
        .mark_point(filled=True, size=34, opacity=0.6)
        .encode(
            x=alt.X("norm:Q", title="norm of the query |q|", scale=alt.Scale(zero=False)),
            y=alt.Y("entropy:Q", title="entropy, share of the greatest", scale=alt.Scale(zero=False)),
            color=alt.Color("arm:N", title=None, scale=scale, legend=legend_above(arms, lines=False)),
            shape=alt.Shape(
                "arm:N", title=None, scale=alt.Scale(domain=list(arms), range=shapes[: len(arms)])
            ),
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("norm:Q", title="|q|", format=".3~g"),
                alt.Tooltip("entropy:Q", format=".3~g"),
            ],
        )
    )
    return specification(chart.properties(width="container", height=height_below(arms)))
