"""What NaLaFormer (arXiv 2506.21137) claims, measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from normviz.claims import Bound, Claim, Effect, Identity
from normviz.experiments.attention_entropy.knobs import arm_name
from normviz.experiments.attention_entropy.recorded import FIRST, FUSED
from normviz.experiments.pools import TEST_DIGITS
from normviz.frame import Log
from normviz.measures import Measure, absolute, array, constant, largest, log10, scalar

__all__ = ["CLAIMS"]

SOFTMAX, ELU, RELU, FLATTEN, COSINE, SIGN = (
    arm_name(k) for k in ("softmax", "elu1", "relu", "focused", "nala_cosine", "nala_sign")
)
FIXED, CLIPPED = arm_name("nala_fixed"), arm_name("nala_clipped")
TAIL = 2
"""Evaluations that are averaged for a final score."""
PAPER = "nalaformer"
POINTS = "percentage points"


def _by_norm(arm: str, of: str) -> Measure:
    """Of the mean entropy at the norms of the paper's range: the largest step up, or the spread."""

    def number(curve: npt.NDArray[np.float64]) -> float:
        shown = curve[: len(FIRST)]
        return float(np.diff(shown).max() if of == "step" else np.ptp(shown))

    def compute(log: Log, knobs: Any) -> Mapping[int, float]:  # noqa: ARG001
        return {e.seed: number(e.value.astype(float)) for e in log.arrays("entropy_by_norm") if e.arm == arm}

    return Measure(compute, (arm,))


def _late(name: str, arm: str) -> Measure:
    """Mean over the second half of the run."""
    return scalar(name, arm, since=0.5)


def _accuracy(arm: str) -> Measure:
    return scalar("accuracy", arm, window=TAIL, bad=-math.inf)


def _more_accurate(*rivals: str) -> dict[str, Measure]:
    return {rival: _accuracy(COSINE) - _accuracy(rival) for rival in rivals}


def _lower_loss(*rivals: str) -> dict[str, Measure]:
    ours = scalar("validation_loss", COSINE, window=TAIL)
    return {rival: ours - scalar("validation_loss", rival, window=TAIL) for rival in rivals}


def _at_longest(name: str, arm: str) -> Measure:
    return array(name, arm, lambda v: float(v[-1]))


def _several(measures: Mapping[str, Measure]) -> Measure | Mapping[str, Measure]:
    return measures if len(measures) > 1 else next(iter(measures.values()))


GAIN = "ImageNet: up to 7.5 % over comparable linear attentions (abstract of v3; 4.2 % in v1)."
LANGUAGE = "340M parameters, best among linear attentions (abstract; numbers unconfirmed)."
KERNEL = "The kernel alone, on 1,348 digits; the paper trains whole networks on ImageNet."

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="softmax-slope",
        paper=PAPER,
        statement="The entropy of a softmax row falls with the query norm c: dH/dc = −c Var(s) ≤ 0.",
        paper_figure="Exact (derived).",
        measured="largest difference of the two sides over 50 rows, float64",
        measure=constant("slope_error", SOFTMAX),
        rule=Identity("below", 1e-6),
        preset="digits",
        unit="nats",
    ),
    Claim(
        id="relu-forgets-the-norm",
        paper=PAPER,
        statement="With ReLU features the entropy does not depend on the query norm.",
        paper_figure="Exact: the norm cancels.",
        measured="spread of the mean entropy over |q| = 0.1 to 3",
        measure=_by_norm(RELU, "spread"),
        rule=Identity("below", 1e-3),
        preset="digits",
        unit="nats",
    ),
    *(
        Claim(
            id=f"{name}-falls",
            paper=PAPER,
            statement=f"NaLa's mean entropy falls with the query norm ({name} form).",
            paper_figure="Qualitative: the norm as an exponent gives the falling entropy back.",
            measured="largest change of the mean entropy from one of |q| = 0.1, 0.3, 1, 2, 3 to the next",
            measure=_by_norm(arm, "step"),
            rule=Effect("below", floor=1e-3),
            preset=preset,
            unit="nats",
        )
        for name, arm, preset in (("cosine", COSINE, "digits"), ("sign", SIGN, "all-kernels"))
    ),
    Claim(
        id="softmax-correlates",
        paper=PAPER,
        statement="In trained softmax attention the row entropy correlates negatively with the query norm.",
        paper_figure="Figure 1, qualitative.",
        measured="correlation of |q| and row entropy, second half of the run",
        measure=_late("entropy_q_correlation", SOFTMAX),
        rule=Effect("below", floor=0.1),
        preset="digits",
    ),
    Claim(
        id="keys-matter-less",
        paper=PAPER,
        statement="In softmax attention the entropy correlates with the query norm, hardly with the key norm.",
        paper_figure="Figure 1, qualitative.",
        measured="|correlation with |q|| minus |correlation with |k||, second half of the run",
        measure=absolute(_late("entropy_q_correlation", SOFTMAX))
        - absolute(_late("entropy_k_correlation", SOFTMAX)),
        rule=Effect("above", floor=0.1),
        preset="digits",
    ),
    Claim(
        id="softmax-sharpens",
        paper=PAPER,
        statement="In the trained softmax network longer queries have sharper rows.",
        paper_figure="Exact for every row.",
        measured="highest mean change of the entropy when every query is doubled, over the run",
        measure=scalar("entropy_response", SOFTMAX, reduce="max", since=0.0),
        rule=Identity("below", 0.0),
        preset="digits",
    ),
    Claim(
        id="relu-does-not-sharpen",
        paper=PAPER,
        statement="In the trained ReLU network the length of a query changes nothing.",
        paper_figure="Exact up to the 1e-6 in the denominator.",
        measured="largest |change of the mean entropy| when every query is doubled, over the run",
        measure=largest(
            absolute(scalar("entropy_response", RELU, reduce="max", since=0.0)),
            absolute(scalar("entropy_response", RELU, reduce="min", since=0.0)),
        ),
        rule=Identity("below", 1e-3),
        preset="digits",
    ),
    *(
        Claim(
            id=f"{name}-sharpens",
            paper=PAPER,
            statement=f"In the trained NaLa network longer queries have sharper rows ({name} form).",
            paper_figure="Qualitative.",
            measured="change of the entropy (share of the greatest) when every query is doubled, second half",
            measure=_late("entropy_response", arm),
            rule=Effect("below", floor=0.01),
            preset=preset,
            caveat="Queries of a trained network are often longer than 2, where the power hardly grows.",
        )
        for name, arm, preset in (("cosine", COSINE, "digits"), ("sign", SIGN, "all-kernels"))
    ),
    Claim(
        id="nala-correlates",
        paper=PAPER,
        statement="In trained NaLa attention the row entropy correlates negatively with the query norm.",
        paper_figure="Qualitative.",
        measured="correlation of |q| and row entropy, second half of the run",
        measure=_late("entropy_q_correlation", COSINE),
        rule=Effect("below", floor=0.1),
        preset="digits",
    ),
    Claim(
        id="beats-linear",
        paper=PAPER,
        statement="NaLa is more accurate than linear attention with elu+1, ReLU and FLatten's features.",
        paper_figure=GAIN,
        measured="test accuracy on digits, NaLa cosine minus each rival, each at its best learning rate",
        measure=_more_accurate(ELU, RELU, FLATTEN),
        rule=Effect("above", floor=1.0),
        preset="best-rates",
        given={"task": "pixels"},
        unit=POINTS,
        resolution=100 / TEST_DIGITS,
        caveat=KERNEL,
    ),
    Claim(
        id="long-beats-linear",
        paper=PAPER,
        statement="On longer sequences too, NaLa is more accurate than linear attention with elu+1 and ReLU features.",
        paper_figure="Long Range Arena: best among linear attentions (abstract; numbers unconfirmed).",
        measured="test accuracy on digits of 256 pixels, NaLa cosine minus each rival, each at its best learning rate",
        measure=_more_accurate(ELU, RELU),
        rule=Effect("above", floor=1.0),
        preset="long-sequences",
        given={"task": "pixels", "side": "16"},
        unit=POINTS,
        resolution=100 / TEST_DIGITS,
        caveat="256 tokens; Long Range Arena has 1,000 to 16,000.",
    ),
    *(
        Claim(
            id=name,
            paper=PAPER,
            statement=statement,
            paper_figure="Qualitative: both parts are named as what makes the gain (abstract).",
            measured=f"test accuracy on digits, NaLa cosine minus {arm}, each at its best learning rate",
            measure=_several(_more_accurate(arm)),
            rule=Effect("above", floor=1.0),
            preset="ablation",
            given={"task": "pixels"},
            unit=POINTS,
            resolution=100 / TEST_DIGITS,
            caveat=KERNEL,
        )
        for name, arm, statement in (
            ("norm-helps", FIXED, "The norm of the query in the exponent makes NaLa more accurate."),
            (
                "map-helps",
                CLIPPED,
                "The norm-preserving map is better than setting negative coordinates to zero.",
            ),
        )
    ),
    *(
        Claim(
            id=f"language-beats-{name}",
            paper=PAPER,
            statement=f"As a causal language model NaLa is better than {words}.",
            paper_figure=LANGUAGE,
            measured="validation loss, NaLa cosine minus the rival, nats per character, each at its best learning rate",
            measure=_several(_lower_loss(*rivals)),
            rule=Effect("below", floor=0.01),
            preset="text",
            given={"task": "text"},
            unit="nats",
        )
        for name, words, rivals in (
            ("linear", "linear attention with elu+1 and ReLU features", (ELU, RELU)),
            ("softmax", "softmax attention", (SOFTMAX,)),
        )
    ),
    Claim(
        id="recurrent-equals-parallel",
        paper=PAPER,
        statement="Generating token by token from a state of fixed size gives the same logits as the whole text.",
        paper_figure="Exact by construction.",
        measured="largest difference of the trained network's logits",
        measure=constant("generation_gap", COSINE),
        rule=Identity("below", 1e-2),
        preset="text",
        given={"task": "text"},
        caveat="Rows in which every coordinate has the opposite sign rest on rounding and the 1e-6 in the denominator.",
    ),
    Claim(
        id="linear-time",
        paper=PAPER,
        statement="The time of norm-aware attention grows linearly with the number of tokens.",
        paper_figure="O(N): exponent 1.",
        measured="exponent of the fitted power law, 512 tokens to the longest",
        measure=constant("time_exponent", COSINE),
        rule=Bound("below", 1.1),
        preset="digits",
    ),
    Claim(
        id="quadratic-time",
        paper=PAPER,
        statement="The time of softmax attention grows quadratically with the number of tokens.",
        paper_figure="O(N²): exponent 2.",
        measured="exponent of the fitted power law, softmax that forms its matrix",
        measure=constant("time_exponent", SOFTMAX),
        rule=Bound("above", 1.8),
        preset="digits",
    ),
    Claim(
        id="faster-at-length",
        paper=PAPER,
        statement="On long sequences norm-aware attention is faster than softmax attention.",
        paper_figure="Qualitative.",
        measured="log10 of its time over that of softmax, longest sequence, against both ways to compute softmax",
        measure={
            words: log10(_at_longest("seconds_by_length", COSINE) / _at_longest("seconds_by_length", arm))
            for words, arm in (("softmax with its matrix", SOFTMAX), ("fused softmax", FUSED))
        },
        rule=Effect("below", floor=0.1),
        preset="digits",
        unit="orders of magnitude",
    ),
    Claim(
        id="saves-memory",
        paper=PAPER,
        statement="Norm-aware attention saves most of the memory on long sequences.",
        paper_figure="−92.3 % peak memory in super-resolution with more than 70 000 tokens (abstract of v3).",
        measured="bytes allocated less than by softmax with its matrix, longest sequence",
        measure=(_at_longest("bytes_by_length", COSINE) / _at_longest("bytes_by_length", SOFTMAX) - 1.0)
        * -100.0,
        rule=Identity("above", 92.3),
        preset="digits",
        unit="%",
        caveat="A count of bytes: the attention alone, the sum of what its operators allocate; fused softmax forms no "
        "matrix either. In the paper: a network's peak.",
    ),
)
