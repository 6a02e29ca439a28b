"""What the paper of the page *Schedule refinement* claims, measured here.

Rules, floors and grids were fixed before the first run. A schedule is judged at its own best learning rate of the grid,
found for each seed on the very loss that is compared: all schedules have the same grid, so none gains by it.
"""

from __future__ import annotations

from typing import Any

from normviz.claims import Bound, Claim, Effect, Identity, claims_of
from normviz.experiments.schedule_refinement.knobs import ARMS, FIRST_RUN
from normviz.measures import Measure, constant, scalar

__all__ = ["CLAIMS"]

PAPER = "refined-schedule"

NATS = 0.01
"""Least difference of two losses that counts, in nats."""
SHARE = 0.05
"""Least difference of two gaps that counts, as a share."""
EARLY = 0.01
"""Share of the run after which a maximum of the schedule is a warm-up."""
LATE = 0.5
"""Share of the run after which a maximum is late."""

REFINED, LINEAR, COSINE, FLAT = (ARMS[kind] for kind in ("refined", "linear", "cosine", "flat"))
SQRT, INVERSE = ARMS["inverse_sqrt"], ARMS["inverse_time"]

TWO_RUNS: dict[str, Any] = {"task": "text", "optimizer": "adam", "tau": 0.1, "steps": 300}
RIVALS: dict[str, Any] = {**TWO_RUNS, "rates": 5, "rate_scale": 1.0}
DIGITS: dict[str, Any] = {"task": "digits", "optimizer": "sgd", "rates": 5, "steps": 500, "tau": 0.1}
CLEAN, NOISY = {**DIGITS, "label_noise": 0.0}, {**DIGITS, "label_noise": 0.4}
CONVEX: dict[str, Any] = {"optimizer": "sgd", "rates": 9, "steps": 1000, "tau": 0.1, "rate_scale": 1.0}
WORST, LOGISTIC = {**CONVEX, "task": "absolute"}, {**CONVEX, "task": "logistic"}

TEN = (
    "Ten deep-learning problems, language models and logistic regression; the tables could not be confirmed."
)


def _best(arm: str) -> Measure:
    return scalar("best", arm)


_claim = claims_of(PAPER)


CLAIMS: tuple[Claim, ...] = (
    _claim(
        "early-norms-fall",
        "At the beginning of training gradient norms fall fast.",
        "Plots of recorded norms of language models; the reason why a warm-up appears.",
        "l1 norm in the first hundredth of the run over the mean of the second tenth, on text",
        constant("fall", FIRST_RUN),
        Effect("above", floor=1.0, null=1.0),
        "two-runs",
        given=TWO_RUNS,
    ),
    _claim(
        "warm-up-appears",
        "The refined schedule begins with a warm-up, without being told to.",
        "Refined schedules of the paper's language models rise over 28 to 45 % of the run.",
        "where the refined multiplier is largest, as a share of the run, on text",
        constant("peak", REFINED),
        Effect("above", floor=EARLY),
        "two-runs",
        given=TWO_RUNS,
    ),
    _claim(
        "refinement-gains-on-text",
        "Refinement gives a further gain over linear decay.",
        f"Abstract: further improvements by refinement. {TEN}",
        "held-out loss of linear decay minus that of the refined schedule, each at its best of five rates, on text",
        _best(LINEAR) - _best(REFINED),
        Effect("above", floor=NATS),
        "every-rival",
        given=RIVALS,
        unit="nats",
        caveat="300 steps of a small recurrent network. The refined schedule has had a whole run more to learn its "
        "norms from.",
    ),
    _claim(
        "refinement-does-no-harm",
        "The refined schedule is no worse than linear decay.",
        f"Follows from the claim of a further gain. {TEN}",
        "held-out loss of the refined schedule minus that of linear decay, each at its best of five rates, on text",
        _best(REFINED) - _best(LINEAR),
        Bound("below", 2 * NATS),
        "every-rival",
        given=RIVALS,
        unit="nats",
    ),
    _claim(
        "linear-matches-cosine",
        "Linear decay matches the usual schedules, cosine among them.",
        "First version of the abstract: matches or outperforms. A public review reports that cosine was better in a "
        "table at 30 epochs.",
        "held-out loss of linear decay minus that of cosine, each at its best of five rates, on text",
        _best(LINEAR) - _best(COSINE),
        Bound("below", NATS),
        "every-rival",
        given=RIVALS,
        unit="nats",
    ),
    _claim(
        "linear-outperforms-cosine",
        "Linear decay outperforms cosine.",
        "Second version of the abstract: outperforms.",
        "held-out loss of cosine minus that of linear decay, each at its best of five rates, on text",
        _best(COSINE) - _best(LINEAR),
        Effect("above", floor=NATS),
        "every-rival",
        given=RIVALS,
        unit="nats",
    ),
    _claim(
        "linear-beats-no-annealing",
        "Schedules that go down to 0 beat those that do not.",
        f"Practice: the last iterate of a flat or 1/√t schedule is worse. {TEN}",
        "held-out loss of each rival minus that of linear decay, each at its best of five rates, on text",
        {rival: _best(rival) - _best(LINEAR) for rival in (FLAT, SQRT)},
        Effect("above", floor=NATS),
        "every-rival",
        given=RIVALS,
        unit="nats",
    ),
    _claim(
        "vanishing-norms-peak-late",
        "Where gradients shrink to nothing, the refined schedule has its maximum late.",
        "A known limit: weights are largest where norms are smallest.",
        "where the refined multiplier is largest, as a share of the run, on digits without noise",
        constant("peak", REFINED),
        Effect("above", floor=LATE),
        "clean-digits",
        given=CLEAN,
    ),
    _claim(
        "noise-keeps-the-peak-early",
        "Where noise keeps gradients up, the maximum stays in the first half.",
        "Refined schedules of large problems, which are never fitted exactly, end with a long decay.",
        "where the refined multiplier is largest, as a share of the run, on digits with 40 % wrong labels",
        constant("peak", REFINED),
        Bound("below", LATE),
        "noisy-digits",
        given=NOISY,
    ),
    _claim(
        "late-peak-gains",
        "Refinement gives a further gain over linear decay, on clean digits too.",
        f"Abstract: further improvements by refinement. {TEN}",
        "held-out loss of linear decay minus that of the refined schedule, each at its best of five rates, on digits",
        _best(LINEAR) - _best(REFINED),
        Effect("above", floor=NATS),
        "clean-digits",
        given=CLEAN,
        unit="nats",
        caveat="A maximum in the second half of a run is no schedule that anyone would choose: a gain is not expected.",
    ),
    _claim(
        "refinement-gains-under-noise",
        "Refinement gives a further gain over linear decay, with noisy labels too.",
        f"Abstract: further improvements by refinement. {TEN}",
        "held-out loss of linear decay minus that of the refined schedule, each at its best of five rates, on digits "
        "with 40 % wrong labels",
        _best(LINEAR) - _best(REFINED),
        Effect("above", floor=NATS),
        "noisy-digits",
        given=NOISY,
        unit="nats",
    ),
    _claim(
        "linear-keeps-its-guarantee",
        "Linear decay at the theory's rate has a gap of at most D G/√T.",
        "Corollary of Theorem 1: step D/(G√T) (1 − t/T), gap at most DG/√T in expectation.",
        "gap of linear decay at the rate D/(G√T), as a share of DG/√T, in absolute regression",
        scalar("base", LINEAR) / scalar("bound", LINEAR),
        Bound("below", 1.0),
        "worst-case",
        given=WORST,
        caveat="The bound is for the worst loss with these D and G; a random one is much kinder.",
    ),
    _claim(
        "linear-beats-no-end-at-zero",
        "For the last iterate of a convex loss linear decay is better than schedules that do not end at 0.",
        "Linear decay is worst-case optimal; flat and 1/√t lose a logarithm or more.",
        "gap of linear decay as a share of each rival's, each at its best of nine rates, in absolute regression",
        {rival: _best(LINEAR) / _best(rival) for rival in (FLAT, SQRT, INVERSE)},
        Effect("below", floor=SHARE, null=1.0),
        "worst-case",
        given=WORST,
    ),
    _claim(
        "linear-near-cosine",
        "Linear decay is within 5 % of cosine, or better.",
        "First version of the abstract: matches or outperforms cosine.",
        "gap of linear decay as a share of cosine's, each at its best of nine rates, in absolute regression",
        _best(LINEAR) / _best(COSINE),
        Bound("below", 1.0 + SHARE),
        "worst-case",
        given=WORST,
    ),
    _claim(
        "refined-guarantee-is-smaller",
        "Norms that are known give a guarantee that is never larger than the one for constant norms.",
        "Cauchy-Schwarz: D/√(Σ G_t⁻²) is at most D G/√T for G_t ≤ G.",
        "guarantee with the recorded norms as a share of DG/√T, in logistic regression",
        scalar("bound", REFINED) / scalar("bound", LINEAR),
        Identity("below", 1.0 + 1e-9),
        "logistic",
        given=LOGISTIC,
    ),
    _claim(
        "refinement-gains-in-logistic",
        "Refinement gives a further gain over linear decay in logistic regression.",
        f"Abstract: further improvements by refinement. {TEN}",
        "gap of the refined schedule as a share of linear decay's, each at its best of nine rates",
        _best(REFINED) / _best(LINEAR),
        Effect("below", floor=SHARE, null=1.0),
        "logistic",
        given=LOGISTIC,
    ),
)
