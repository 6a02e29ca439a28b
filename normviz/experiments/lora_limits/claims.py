"""What the paper of the page *LoRA limits* claims, measured here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normviz.claims import Bound, Claim, Effect, Identity, claims_of
from normviz.experiments.lora_limits.cost_fit import FITTED_SHARE, exponent
from normviz.experiments.lora_limits.knobs import CHEBYSHEV, EXACT, KEPT, TAYLOR, Knobs
from normviz.experiments.lora_limits.recorded import DEGREES
from normviz.frame import Log
from normviz.measures import ArmName, Measure, array, constant, derived, log10, scalar

__all__ = ["CLAIMS"]

Array = NDArray[np.float64]

PAPER = "lora-limits"
QUADRATIC, LINEAR = 1.7, 1.3
"""Least exponent of the exact method's time and largest of the low-rank method's, from the lengths that are fitted."""
CLOSE = 1.0
"""How far the training curves may be apart, in percent."""
ORDER = 1.0
"""Least difference that counts where orders of magnitude are compared."""
TWICE = math.log10(2)
"""The same where a factor of two counts."""
SLACK = 5.0
"""Orders of magnitude between certificate and true error that were seen on random data."""
COMPARED_DEGREE = 6
LONG: dict[str, Any] = {"longest_exact": "4096", "longest": "65536"}
NORMS = "Γ = o(√log L): almost linear time L^(1+o(1)) with error 1/poly(L), special and general case."


def _slope(name: str, arm: ArmName, method: str) -> Measure:
    return array(name, arm, lambda table: exponent(table, FITTED_SHARE[method]), bad=math.nan)


def _cost_at(name: str, arm: ArmName, length: int) -> Measure:
    def pick(table: Array) -> float:
        found = table[table[:, 0] == length, 1]
        return float(found[0]) if len(found) else math.nan

    return array(name, arm, pick, bad=math.nan)


def _at_degree(name: str, arm: ArmName, degree: int) -> Measure:
    def pick(values: Array) -> float:
        return float(values[DEGREES.index(degree)])

    return array(name, arm, pick)


def _apart(arm: str) -> Measure:
    """Largest relative difference of an arm's loss from the exact arm's over all moments, in percent."""

    def compute(log: Log, knobs: Knobs) -> dict[int, float]:
        table = log.scalars("exact_loss")
        found: dict[int, float] = {}
        for seed in knobs.seed_range():
            of_seed = table[table["seed"] == seed]
            ours, exact = (of_seed[of_seed["arm"] == a].set_index("step")["value"] for a in (arm, EXACT))
            if len(ours) and ours.index[-1] >= knobs.steps and ours.index.equals(exact.index):
                found[seed] = 100 * float(((ours - exact).abs() / exact).max())
        return found

    return derived(compute, arms=(arm, EXACT))


def _first(name: str, arm: ArmName) -> Measure:
    return scalar(name, arm, since=0.0, until=0.0)


_claim = claims_of(PAPER)


def _orders(below: Measure, above: Measure) -> Measure:
    """Orders of magnitude between two quantities."""
    return log10(above / below)


CLAIMS: tuple[Claim, ...] = (
    _claim(
        "exact-operations",
        "The exact gradient takes a number of operations that grows with the square of the length.",
        "Every L x L matrix costs L²: by construction.",
        "exponent of the counted operations, 1,024 to 4,096 tokens",
        _slope("operations_by_length", EXACT, "exact"),
        Identity("above", QUADRATIC),
        "long-sequences",
        given=LONG,
    ),
    _claim(
        "lowrank-operations",
        "With a fixed degree the low-rank gradient takes a number of operations that grows with the length itself.",
        "L m d² with m = C(d + g, g) columns: by construction.",
        "exponent of the counted operations, 8,192 to 65,536 tokens",
        _slope("operations_by_length", TAYLOR, "lowrank"),
        Identity("below", LINEAR),
        "long-sequences",
        given=LONG,
    ),
    _claim(
        "exact-time",
        "The time of the exact gradient grows nearly with the square of the length.",
        "L² in theory.",
        "exponent of the time, 1,024 to 4,096 tokens",
        _slope("seconds_by_length", EXACT, "exact"),
        Bound("above", QUADRATIC),
        "long-sequences",
        given=LONG,
    ),
    _claim(
        "lowrank-time",
        "The time of the low-rank gradient grows almost linearly.",
        NORMS,
        "exponent of the time, 8,192 to 65,536 tokens",
        _slope("seconds_by_length", TAYLOR, "lowrank"),
        Bound("below", LINEAR),
        "long-sequences",
        given=LONG,
        caveat="Degree 4 at every length: with growing norms the degree would have to grow too.",
    ),
    _claim(
        "lowrank-is-faster",
        "On long sequences the low-rank gradient is faster.",
        "Almost linear against quadratic time; the paper gives no seconds.",
        "time of the exact gradient over that of the low-rank one at 4,096 tokens, orders of magnitude",
        _orders(_cost_at("seconds_by_length", TAYLOR, 4096), _cost_at("seconds_by_length", EXACT, 4096)),
        Effect("above", floor=TWICE),
        "long-sequences",
        given=LONG,
        caveat="Two channels and degree 4: 15 columns. In a head of 64 channels degree 4 has 814,385.",
    ),
    _claim(
        "curves-agree",
        "Training with low-rank gradients is training with exact ones (special case: queries and values).",
        NORMS,
        "largest distance of the loss from the exact arm's, both computed exactly, in percent of it",
        {arm: _apart(arm) for arm in (TAYLOR, CHEBYSHEV)},
        Bound("below", CLOSE),
        "drift",
        given={"adapt": "qv", "eps": 1e-3},
        unit="%",
    ),
    _claim(
        "curves-agree-general",
        "The same holds in the general case, with adapters on keys too.",
        NORMS,
        "largest distance of the loss from the exact arm's, both computed exactly, in percent of it",
        _apart(TAYLOR),
        Bound("below", CLOSE),
        "all-projections",
        given={"adapt": "qkv", "eps": 1e-3},
        unit="%",
    ),
    _claim(
        "error-falls-with-degree",
        "A higher degree makes the gradient's error as small as one likes.",
        "Polynomial method: error 1/poly(L) with degree o(log L) below the threshold.",
        "true error of the gradient of W_Q at degree 2 over that at degree 10, after training, orders of magnitude",
        _orders(_at_degree("true_error", TAYLOR, 10), _at_degree("true_error", TAYLOR, 2)),
        Effect("above", floor=ORDER),
        "drift",
    ),
    _claim(
        "certificate-holds",
        "The certificate bounds the error of the gradient.",
        "Derived for this page from the paper's definitions; it must hold whenever ε < 1.",
        "least certificate over true error, all moments and degrees",
        {arm: scalar("least_ratio", arm, reduce="min", since=0.0) for arm in (TAYLOR, CHEBYSHEV)},
        Identity("above", 1.0),
        "drift",
    ),
    _claim(
        "certificate-is-a-worst-case",
        "The certificate is a worst case, far above the error that is really made.",
        "1e5 to 1e9 times above it on random data (earlier measurement, not the paper's).",
        "median over degrees of certificate over true error, after training, orders of magnitude",
        log10(scalar("certificate_ratio", TAYLOR)),
        Effect("above", floor=ORDER, bar=SLACK),
        "drift",
    ),
    _claim(
        "chebyshev-certifies-more",
        "At equal degree Chebyshev's polynomial has the smaller largest error, so it certifies more.",
        "56 times smaller at degree 6 in one earlier measurement.",
        "largest relative error of Taylor over that of Chebyshev at degree 6, after training, orders of magnitude",
        _orders(
            _at_degree("eps_by_degree", CHEBYSHEV, COMPARED_DEGREE),
            _at_degree("eps_by_degree", TAYLOR, COMPARED_DEGREE),
        ),
        Effect("above", floor=TWICE),
        "drift",
    ),
    _claim(
        "taylor-errs-less",
        "Its true error is larger nevertheless: most scores are near zero, where Taylor's polynomial is better.",
        "78 times larger at degree 6 in the same measurement.",
        "true error of Chebyshev's gradient over that of Taylor's at degree 6, after training, orders of magnitude",
        _orders(
            _at_degree("true_error", TAYLOR, COMPARED_DEGREE),
            _at_degree("true_error", CHEBYSHEV, COMPARED_DEGREE),
        ),
        Effect("above", floor=TWICE),
        "drift",
    ),
    _claim(
        "training-raises-the-norms",
        "Training can move the adapters towards the threshold: the norms include the adapters.",
        "Γ bounds X(W + BA), not XW alone.",
        "radius of the scores after training over that before",
        scalar("radius", EXACT) / _first("radius", EXACT),
        Effect("above", floor=0.5, null=1.0),
        "drift",
        caveat="The teacher was built with larger norms: this shows that it can happen, not that it always does.",
    ),
    _claim(
        "kept-degree-is-too-low",
        "A degree that was enough at the start is not enough for the norms at the end.",
        "The degree that is needed grows with the radius.",
        "relative error of the gradient with the degree kept over that with the degree chosen anew, after training, "
        "orders of magnitude",
        _orders(scalar("gradient_error", TAYLOR), scalar("gradient_error", KEPT)),
        Effect("above", floor=ORDER),
        "past-the-limit",
        given={"teacher_radius": 9.0},
    ),
    _claim(
        "past-the-limit-no-gain",
        "Above the threshold the low-rank method gains nothing.",
        "Γ = C√log L: no O(L^(2−δ)) algorithm under SETH. Here: the cost of this one algorithm.",
        "counted operations of the low-rank gradient over those of the exact one, after training, orders of magnitude",
        _orders(scalar("operations", EXACT), scalar("operations", TAYLOR)),
        Effect("above", floor=TWICE),
        "past-the-limit",
        given={"teacher_radius": 9.0, "length": 128},
        caveat="Not a lower bound: that no algorithm can do better is a theorem, which no measurement can show.",
    ),
    _claim(
        "limit-moves-out",
        "Longer sequences bear larger norms: the norm at which the factors have L columns grows with L.",
        "Threshold at √log L.",
        "critical norm for 16,384 tokens over that for 256, three channels",
        constant("crossing_growth"),
        Identity("above", 1.0),
        "drift",
        caveat="Computed, not sampled. √log L grows by 1.32 between the two.",
    ),
)
