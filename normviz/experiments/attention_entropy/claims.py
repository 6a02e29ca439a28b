"""What NaLaFormer (arXiv 2506.21137) claims, measured here."""

from __future__ import annotations

import math

import numpy as np

from normviz.claims import Claim, Measure, by_seed, paired_difference
from normviz.experiments.attention_entropy.knobs import Knobs, arm_name
from normviz.experiments.attention_entropy.scales import FIRST
from normviz.frame import Log

__all__ = ["CLAIMS"]

SOFTMAX, ELU, RELU, COSINE, SIGN = (
    arm_name(k) for k in ("softmax", "elu1", "relu", "nala_cosine", "nala_sign")
)
TAIL = 2
"""Evaluations that are averaged for a final score."""


def _curves(log: Log, arm: str) -> dict[int, np.ndarray]:
    """Mean entropy over the norms of the paper's range, by seed."""
    return {
        e.seed: e.value[: len(FIRST)].astype(float) for e in log.arrays("entropy_by_norm") if e.arm == arm
    }


def _largest_step(arm: str) -> Measure:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
        return {seed: float(np.diff(curve).max()) for seed, curve in _curves(log, arm).items()}

    return measure


def _spread(arm: str) -> Measure:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
        return {seed: float(np.ptp(curve)) for seed, curve in _curves(log, arm).items()}

    return measure


def _scalar(name: str, arm: str) -> Measure:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
        table = log.scalars(name)
        return by_seed(table[table["arm"] == arm])

    return measure


def _late(log: Log, name: str, arm: str) -> dict[int, float]:
    """Mean over the second half of the run, for each seed."""
    table = log.scalars(name)
    return by_seed(table[(table["arm"] == arm) & (table["step"] >= log.last_step / 2)])


def _late_mean(name: str, arm: str) -> Measure:
    return lambda log, knobs: _late(log, name, arm)  # noqa: ARG005


def _largest_response(arm: str) -> Measure:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
        table = log.scalars("entropy_response")
        table = table[table["arm"] == arm]
        return by_seed(table.assign(value=table["value"].abs()).groupby("seed")["value"].max().reset_index())

    return measure


def _highest(name: str, arm: str) -> Measure:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
        table = log.scalars(name)
        return by_seed(table[table["arm"] == arm].groupby("seed")["value"].max().reset_index())

    return measure


def _query_over_key(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
    q, k = (_late(log, f"entropy_{x}_correlation", SOFTMAX) for x in "qk")
    return {seed: abs(q[seed]) - abs(k[seed]) for seed in q.keys() & k.keys()}


def _score(task: str, arm: str, baseline: str) -> Measure:
    name = "accuracy" if task == "pixels" else "validation_loss"

    def measure(log: Log, knobs: Knobs) -> dict[int, float]:
        return paired_difference(log, name, arm, baseline, window=TAIL) if knobs.task == task else {}

    return measure


def _saved(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
    """Memory of NaLa less than that of softmax with its matrix at the longest sequence, in percent."""
    last = {(e.arm, e.seed): float(e.value[-1]) for e in log.arrays("bytes_by_length")}
    return {
        seed: 100 * (1 - last[COSINE, seed] / last[SOFTMAX, seed])
        for arm, seed in last
        if arm == COSINE and (SOFTMAX, seed) in last
    }


def _time_saved(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
    last = {(e.arm, e.seed): float(e.value[-1]) for e in log.arrays("seconds_by_length")}
    return {
        seed: math.log10(last[COSINE, seed] / last[SOFTMAX, seed])
        for arm, seed in last
        if arm == COSINE and (SOFTMAX, seed) in last
    }


PAPER = "nalaformer"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="softmax-slope",
        paper=PAPER,
        statement="The entropy of a softmax row falls with the query norm c: dH/dc = −c Var(s) ≤ 0.",
        paper_figure="Exact (derived).",
        measured="largest difference of the two sides over 50 rows, float64",
        measure=_scalar("slope_error", SOFTMAX),
        threshold=1e-6,
        unit="nats",
        exact=True,
        needs="Softmax",
    ),
    Claim(
        id="relu-forgets-the-norm",
        paper=PAPER,
        statement="With ReLU features the entropy does not depend on the query norm.",
        paper_figure="Exact: the norm cancels.",
        measured="spread of the mean entropy over |q| = 0.1 to 3",
        measure=_spread(RELU),
        threshold=1e-3,
        unit="nats",
        exact=True,
        needs="ReLU",
    ),
    *(
        Claim(
            id=f"{name}-falls",
            paper=PAPER,
            statement=f"NaLa's mean entropy falls with the query norm ({name} form).",
            paper_figure="Qualitative: the norm as an exponent gives the falling entropy back.",
            measured="largest change of the mean entropy from one of |q| = 0.1, 0.3, 1, 2, 3 to the next",
            measure=_largest_step(arm),
            unit="nats",
            exact=True,
            needs=arm,
        )
        for name, arm in (("cosine", COSINE), ("sign", SIGN))
    ),
    Claim(
        id="softmax-correlates",
        paper=PAPER,
        statement="In trained softmax attention the row entropy correlates negatively with the query norm.",
        paper_figure="Figure 1, qualitative.",
        measured="correlation of |q| and row entropy, second half of the run",
        measure=_late_mean("entropy_q_correlation", SOFTMAX),
        needs="Softmax",
    ),
    Claim(
        id="keys-matter-less",
        paper=PAPER,
        statement="In softmax attention the entropy correlates with the query norm, hardly with the key norm.",
        paper_figure="Figure 1, qualitative.",
        measured="|correlation with |q|| minus |correlation with |k||, second half of the run",
        measure=_query_over_key,
        side="above",
        needs="Softmax",
    ),
    Claim(
        id="softmax-sharpens",
        paper=PAPER,
        statement="In the trained softmax network longer queries have sharper rows.",
        paper_figure="Exact for every row.",
        measured="highest mean change of the entropy when every query is doubled, over the run",
        measure=_highest("entropy_response", SOFTMAX),
        exact=True,
        needs="Softmax",
    ),
    Claim(
        id="relu-does-not-sharpen",
        paper=PAPER,
        statement="In the trained ReLU network the length of a query changes nothing.",
        paper_figure="Exact up to the 1e-6 in the denominator.",
        measured="largest |change of the mean entropy| when every query is doubled, over the run",
        measure=_largest_response(RELU),
        threshold=1e-3,
        exact=True,
        needs="ReLU",
    ),
    *(
        Claim(
            id=f"{name}-sharpens",
            paper=PAPER,
            statement=f"In the trained NaLa network longer queries have sharper rows ({name} form).",
            paper_figure="Qualitative.",
            measured="change of the entropy when every query is doubled, second half of the run",
            measure=_late_mean("entropy_response", arm),
            needs=arm,
            caveat="Queries of a trained network are often longer than 2, where the power has saturated.",
        )
        for name, arm in (("cosine", COSINE), ("sign", SIGN))
    ),
    Claim(
        id="nala-correlates",
        paper=PAPER,
        statement="In trained NaLa attention the row entropy correlates negatively with the query norm.",
        paper_figure="Qualitative.",
        measured="correlation of |q| and row entropy, second half of the run",
        measure=_late_mean("entropy_q_correlation", COSINE),
        needs="NaLa cosine",
    ),
    *(
        Claim(
            id=f"beats-{name}",
            paper=PAPER,
            statement=f"NaLa is more accurate than linear attention with {arm} features.",
            paper_figure="ImageNet: up to 7.5 % over comparable linear attentions (abstract of v3; 4.2 % in v1).",
            measured=f"test accuracy on digits, NaLa cosine minus {arm}, last evaluations",
            measure=_score("pixels", COSINE, arm),
            side="above",
            unit="percentage points",
            needs=f"the digits task with NaLa cosine and {arm}",
        )
        for name, arm in (("elu", ELU), ("relu", RELU))
    ),
    *(
        Claim(
            id=f"language-beats-{name}",
            paper=PAPER,
            statement=f"As a causal language model NaLa is better than {arm}.",
            paper_figure="340M parameters, best among linear attentions (abstract; numbers unconfirmed).",
            measured=f"validation loss, NaLa cosine minus {arm}, nats per character",
            measure=_score("text", COSINE, arm),
            unit="nats",
            needs=f"the text task with NaLa cosine and {arm}",
        )
        for name, arm in (("elu", ELU), ("softmax", SOFTMAX))
    ),
    Claim(
        id="recurrent-equals-parallel",
        paper=PAPER,
        statement="Generating token by token from a state of fixed size gives the same logits as the whole text.",
        paper_figure="Exact by construction.",
        measured="largest difference of the trained network's logits",
        measure=_scalar("generation_gap", COSINE),
        threshold=1e-2,
        exact=True,
        needs="the text task with NaLa cosine, run to its end",
        caveat="Rows in which every coordinate has the opposite sign rest on rounding and the 1e-6 in the denominator.",
    ),
    Claim(
        id="linear-time",
        paper=PAPER,
        statement="The time of norm-aware attention grows linearly with the number of tokens.",
        paper_figure="O(N): exponent 1.",
        measured="exponent of the fitted power law, 512 tokens to the longest",
        measure=_scalar("time_exponent", COSINE),
        threshold=1.1,
        needs="NaLa cosine, run to its end",
    ),
    Claim(
        id="quadratic-time",
        paper=PAPER,
        statement="The time of softmax attention grows quadratically with the number of tokens.",
        paper_figure="O(N²): exponent 2.",
        measured="exponent of the fitted power law, softmax that forms its matrix",
        measure=_scalar("time_exponent", SOFTMAX),
        threshold=1.8,
        side="above",
        needs="Softmax, run to its end",
    ),
    Claim(
        id="faster-at-length",
        paper=PAPER,
        statement="On long sequences norm-aware attention is faster than softmax attention.",
        paper_figure="Qualitative.",
        measured="log10 of its time over that of softmax with its matrix, longest sequence",
        measure=_time_saved,
        unit="orders of magnitude",
        needs="Softmax and NaLa cosine, run to its end",
    ),
    Claim(
        id="saves-memory",
        paper=PAPER,
        statement="Norm-aware attention saves most of the memory on long sequences.",
        paper_figure="−92.3 % peak memory in super-resolution with more than 70 000 tokens (abstract of v3).",
        measured="bytes allocated less than by softmax with its matrix, longest sequence",
        measure=_saved,
        threshold=92.3,
        side="above",
        unit="%",
        exact=True,
        needs="Softmax and NaLa cosine, run to its end",
        caveat="Here: the attention alone, the sum of what its operators allocate; there: a network's peak.",
    ),
)
