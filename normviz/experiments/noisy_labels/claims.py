"""What the paper of the page *Noisy labels* claims, measured here."""

from __future__ import annotations

import math
from typing import Any

from normviz.claims import Bound, Claim, Effect, Identity
from normviz.experiments.noisy_labels.knobs import ARM_NAMES, Knobs, arm_name
from normviz.experiments.pools import TEST_DIGITS
from normviz.measures import Measure, constant, scalar

__all__ = ["CLAIMS"]

TAIL = 3
"""Evaluations that are averaged for a final value."""

POINT = 1.0
"""Least difference of a percentage that counts: what STORM may lose where all labels are right."""

FACTOR = 2.0
"""Limit of a small overhead."""

PLAIN = ARM_NAMES["plain"]
NO_NUMBERS = "Its tables were not readable to us, so no number is shown."
NOISY: dict[str, Any] = {"rate": lambda rate: rate > 0}
NOISY_WORDS = "a noise rate above 0"


def _storm(knobs: Knobs) -> str:
    return arm_name("storm", knobs)


def _points(name: str, bad: float) -> Measure:
    """STORM minus Plain at the end, in percentage points."""
    ours, theirs = (scalar(name, arm, window=TAIL, bad=bad) for arm in (_storm, PLAIN))
    return (ours - theirs) * 100.0


GAIN = _points("accuracy", -math.inf)


def _overhead(name: str) -> Measure:
    return scalar(name, _storm, reduce="median", since=0.0) / scalar(name, PLAIN, reduce="median", since=0.0)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="beats-plain",
        paper="meta-rescaling",
        statement="With noisy labels STORM is better than plain training.",
        paper_figure="Consistent gains at 10–40 % random label noise on YouTube and SMS spam, MRPC, CoLA and RTE. "
        + NO_NUMBERS,
        measured="test accuracy of STORM minus Plain",
        measure=GAIN,
        rule=Effect("above", floor=POINT),
        preset="best-rates",
        given=NOISY,
        given_words=NOISY_WORDS,
        unit="points",
        resolution=100 / TEST_DIGITS,
    ),
    Claim(
        id="harmless-on-clean-data",
        paper="meta-rescaling",
        statement="STORM does no harm where all labels are right.",
        paper_figure="Qualitative: robust on clean data.",
        measured="test accuracy of STORM minus Plain at noise rate 0",
        measure=GAIN,
        rule=Bound("above", -POINT),
        preset="right-labels",
        given={"rate": 0.0},
        unit="points",
        resolution=100 / TEST_DIGITS,
    ),
    Claim(
        id="class-imbalance",
        paper="meta-rescaling",
        statement="STORM copes with noisy labels and class imbalance together.",
        paper_figure="Qualitative: robust under class imbalance.",
        measured="test accuracy of STORM minus Plain under noise and imbalance",
        measure=GAIN,
        rule=Effect("above", floor=POINT),
        preset="unequal-classes",
        given={**NOISY, "imbalance": lambda imbalance: imbalance > 1},
        given_words=f"{NOISY_WORDS}; a class imbalance above 1",
        unit="points",
        resolution=100 / TEST_DIGITS,
    ),
    Claim(
        id="instance-noise",
        paper="meta-rescaling",
        statement="STORM is better than plain training where mistakes depend on the sample.",
        paper_figure="Follows from the statement on noisy labels in general; this kind of noise is our construction.",
        measured="test accuracy of STORM minus Plain under instance-dependent noise",
        measure=GAIN,
        rule=Effect("above", floor=POINT),
        preset="plausible-mistakes",
        given={**NOISY, "noise": "instance"},
        given_words=NOISY_WORDS,
        unit="points",
        resolution=100 / TEST_DIGITS,
    ),
    Claim(
        id="no-memorising",
        paper="meta-rescaling",
        statement="STORM does not overfit to wrong labels.",
        paper_figure="Qualitative: no overfitting to the noise.",
        measured="share of wrong labels predicted, STORM minus Plain",
        measure=_points("memorised", math.inf),
        rule=Effect("below", floor=POINT),
        preset="best-rates",
        given=NOISY,
        given_words=NOISY_WORDS,
        unit="points",
    ),
    Claim(
        id="weights-part",
        paper="meta-rescaling",
        statement="Over training the weight of clean samples rises and that of wrong ones falls.",
        paper_figure="Analysis in the paper (curves, not readable to us).",
        measured="mean weight of right minus wrong labels, last third of the run minus first third",
        measure=scalar("weight_gap", _storm, since=2 / 3, bad=-math.inf)
        - scalar("weight_gap", _storm, since=0.0, until=1 / 3, bad=math.inf),
        rule=Effect("above", floor=0.1),
        preset="wrong-labels",
        given=NOISY,
        given_words=NOISY_WORDS,
        unit="of the mean weight",
    ),
    Claim(
        id="calibration-kept",
        paper="meta-rescaling",
        statement="Reweighting does not spoil the calibration.",
        paper_figure="Qualitative: calibration is kept.",
        measured="expected calibration error on test data, STORM minus Plain",
        measure=_points("calibration_error", math.inf),
        rule=Bound("below", 2.0),
        preset="best-rates",
        unit="points",
    ),
    Claim(
        id="small-overhead",
        paper="meta-rescaling",
        statement="The overhead is small.",
        paper_figure="Qualitative: small overhead. The bar of a factor 2 is ours.",
        measured="median time of a STORM update over that of a plain one",
        measure=_overhead("step_ms"),
        rule=Bound("below", FACTOR),
        preset="cheaper",
        unit="times",
        caveat="On a small network Python's own time comes on top of the arithmetic.",
    ),
    Claim(
        id="small-overhead-in-operations",
        paper="meta-rescaling",
        statement="The overhead is small, counted in arithmetic.",
        paper_figure="Qualitative: small overhead. The bar of a factor 2 is ours.",
        measured="operations of a STORM update over those of a plain one, in matrix products",
        measure=constant("operations", _storm) / constant("operations", PLAIN),
        rule=Identity("below", FACTOR),
        preset="cheaper",
        unit="times",
        caveat="A count, the same on every machine: it follows from the algorithm, not from the training.",
    ),
    Claim(
        id="cheap-and-better",
        paper="meta-rescaling",
        statement="A STORM that learns once in four updates, from two passes, is still better than plain training.",
        paper_figure="Joins the two statements: gains under noise, at a small overhead.",
        measured="test accuracy of STORM minus Plain, four inner steps and two passes",
        measure=GAIN,
        rule=Effect("above", floor=POINT),
        preset="cheaper",
        given={**NOISY, "n_inner": 4, "passes": (1, 2)},
        given_words=NOISY_WORDS,
        unit="points",
        resolution=100 / TEST_DIGITS,
    ),
)
